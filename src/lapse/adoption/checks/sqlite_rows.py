"""Check the rows of a SQLite file, which takes what others write: times, statuses, JSON, duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lapse.adoption.checks.rows import unknown_statuses
from lapse.adoption.checks.sqlite_schema import File
from lapse.adoption.findings import Finding, counted, trouble
from lapse.lifecycle import ConversationStatus
from lapse.store.schema import conversations, open_session
from lapse.store.sqlite_reading import IS_READABLE_FUNCTION
from lapse.store.types import UtcDateTime

TIMES = [column.name for column in conversations.columns if isinstance(column.type, UtcDateTime)]
_OBJECTS = ("context", "metadata")
_OPEN = ", ".join(f"'{status}'" for status in ConversationStatus.open_statuses())
_DATE = "[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]"
_TIMES_OF_DAY = ("", " [0-2][0-9]:[0-5][0-9]", " [0-2][0-9]:[0-5][0-9]:[0-5][0-9]")
_MOST_SHOWN = 20
_PAIRS = f"""
    SELECT count(*), coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM conversations WHERE status IN ({_OPEN})
        GROUP BY owner_id, channel, session_key HAVING count(*) > 1)"""  # noqa: S608 - of constants
_WHICH_PAIRS = (
    "SELECT owner_id, channel, session_key, group_concat(conv_id) FROM conversations "  # noqa: S608 - of constants
    f"WHERE status IN ({_OPEN}) GROUP BY 1, 2, 3 HAVING count(*) > 1;"
)


def check_duplicates(file: File) -> Iterator[Finding]:
    """Yield how many pairs have several open conversations."""
    if not file.is_current or ("index", str(open_session.name)) in file.objects or not file.has(conversations.name):
        return
    pairs, surplus = file.driver.execute(_PAIRS).fetchone()
    if pairs:
        several = counted(pairs, "pair of addresses has", "pairs of addresses have")
        yield trouble(
            "duplicates",
            f"{several} several open conversations: {surplus:,} too many. The unique index that forbids it is missing.",
            f"End all but one of each, then make the index. Which: {_WHICH_PAIRS}",
        )


def check_rows(file: File) -> Iterator[Finding]:
    """Yield what the rows hold that lapse cannot read, or cannot compare. All is counted in one pass."""
    if not (file.is_current and "status" in file.columns):
        return
    times, objects = ([name for name in names if name in file.columns] for names in (TIMES, _OBJECTS))
    unreadable = _any(map(_is_unreadable, times))
    not_objects = _any(f"NOT {_is_object(name)}" for name in objects)
    misspelled_ones = [f"({_is_misspelled(name)} AND NOT {_is_unreadable(name)})" for name in times]
    conditions = [unreadable, not_objects, *misspelled_ones]
    sums = ", ".join(f"coalesce(sum({condition}), 0)" for condition in conditions)
    found = file.driver.execute(f"SELECT status, count(*), {sums} FROM conversations GROUP BY status").fetchall()  # noqa: S608
    yield from unknown_statuses({str(row[0]): row[1] for row in found})
    number, other, *misspelled = [sum(row[place] for row in found) for place in range(2, 2 + len(conditions))]
    if number:
        yield trouble(
            "unreadable-time",
            f"{counted(number, 'conversation')} with a time that is none: lapse cannot read them.",
            f"Give them another time (YYYY-MM-DD HH:MM:SS, in UTC). Which: {_which(file, unreadable)}",
        )
    for name, number in zip(times, misspelled, strict=True):
        if number:
            yield trouble(
                "time-form",
                f"{counted(number, 'conversation')} with {name} in a form that compares wrongly with other times: such "
                "a deadline is seen too early or too late. The form is YYYY-MM-DD HH:MM:SS, in UTC.",
                f"UPDATE conversations SET {name} = strftime('%Y-%m-%d %H:%M:%f000', {name}) WHERE "  # noqa: S608
                f"{_is_misspelled(name)};",
            )
    if other:
        yield trouble(
            "unreadable-object",
            f"{counted(other, 'conversation')} whose context or metadata is no JSON object: lapse cannot read them.",
            f"Give them another one: '{{}}', say. Which: {_which(file, not_objects)}",
        )


def _is_well_spelled(name: str) -> str:
    """Return the condition that a time is in the form in which texts compare as moments do; an end may be missing."""
    times = " OR ".join(f"substr({name}, 11) GLOB '{time}'" for time in _TIMES_OF_DAY)
    fraction = f"substr({name}, 11, 9) GLOB '{_TIMES_OF_DAY[-1]}' AND substr({name}, 20) GLOB '.[0-9]*'"
    return (
        f"(typeof({name}) = 'text' AND substr({name}, 1, 10) GLOB '{_DATE}' AND ({times} OR {fraction} "
        f"AND substr({name}, 20) NOT GLOB '.*[^0-9]*'))"
    )


def _is_unreadable(name: str) -> str:
    # The function is asked last: it is Python's.
    is_plain = f"({_is_well_spelled(name)} AND {name} >= '0001' AND date({name}, '+0 days') IS substr({name}, 1, 10))"
    return f"({name} IS NOT NULL AND NOT {is_plain} AND NOT {IS_READABLE_FUNCTION}({name}))"


def _is_misspelled(name: str) -> str:
    return f"(typeof({name}) = 'text' AND NOT {_is_well_spelled(name)} AND strftime('%s', {name}) IS NOT NULL)"


def _is_object(name: str) -> str:
    return f"(CASE WHEN json_valid({name}) THEN json_type({name}) = 'object' ELSE false END)"


def _any(conditions: Iterable[str]) -> str:
    return f"({' OR '.join(conditions) or 'false'})"


def _which(file: File, condition: str) -> str:
    """Return a query of the rows that anybody can run, for the first of them."""
    query = f"SELECT rowid FROM conversations WHERE {condition} LIMIT {_MOST_SHOWN}"  # noqa: S608 - of constants
    found = ", ".join(str(row[0]) for row in file.driver.execute(query))
    return f"SELECT * FROM conversations WHERE rowid IN ({found});"  # noqa: S608 - of numbers
