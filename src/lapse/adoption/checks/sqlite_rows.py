"""Check the rows of a SQLite file, which does not enforce types: times, statuses, JSON, duplicates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from lapse.adoption.checks.rows import unknown_statuses
from lapse.adoption.checks.sqlite_schema import File
from lapse.adoption.findings import Finding, counted, error
from lapse.lifecycle import ConversationStatus
from lapse.store.sqlite_reading import IS_READABLE_FUNCTION
from lapse.store.tables import OWN_TABLES
from lapse.store.types import UtcDateTime

TIMES = [column.name for column in OWN_TABLES.conversations.columns if isinstance(column.type, UtcDateTime)]
_OBJECTS = ("context", "metadata")
_OPEN = ", ".join(f"'{status}'" for status in ConversationStatus.open_statuses())
_DATE = "[0-9][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9]"
_TIMES_OF_DAY = ("", " [0-2][0-9]:[0-5][0-9]", " [0-2][0-9]:[0-5][0-9]:[0-5][0-9]")
_MAX_SHOWN = 20
_PAIRS = f"""
    SELECT count(*), coalesce(sum(n - 1), 0) FROM (SELECT count(*) AS n FROM conversations WHERE status IN ({_OPEN})
        GROUP BY owner_id, channel, session_key HAVING count(*) > 1)"""  # noqa: S608 - of constants
_WHICH_PAIRS = (
    "SELECT owner_id, channel, session_key, group_concat(conv_id) FROM conversations "  # noqa: S608 - of constants
    f"WHERE status IN ({_OPEN}) GROUP BY 1, 2, 3 HAVING count(*) > 1;"
)


def check_duplicates(file: File) -> Iterator[Finding]:
    """Yield the number of pairs with several open conversations."""
    if (
        not file.is_current
        or ("index", str(OWN_TABLES.open_session.name)) in file.objects
        or not file.has(OWN_TABLES.conversations.name)
    ):
        return
    pairs, surplus = file.driver.execute(_PAIRS).fetchone()
    if pairs:
        several = counted(pairs, "pair of addresses has", "pairs of addresses have")
        yield error(
            "duplicates",
            f"{several} several open conversations: {surplus:,} too many. The unique index that prevents this is "
            "missing.",
            f"End all but one of each, then create the index. Which: {_WHICH_PAIRS}",
        )


def check_rows(file: File) -> Iterator[Finding]:
    """Yield values that lapse cannot read or compare, counted in one pass."""
    if not (file.is_current and "status" in file.columns):
        return
    times, objects = ([name for name in names if name in file.columns] for names in (TIMES, _OBJECTS))
    unreadable = _any(map(_is_unreadable, times))
    not_objects = _any(f"NOT {_is_object(name)}" for name in objects)
    misspelled_ones = [f"({_is_misspelled(name)} AND NOT {_is_unreadable(name)})" for name in times]
    conditions = [unreadable, not_objects, *misspelled_ones]
    sums = ", ".join(f"coalesce(sum({condition}), 0)" for condition in conditions)
    groups = file.driver.execute(f"SELECT status, count(*), {sums} FROM conversations GROUP BY status").fetchall()  # noqa: S608
    yield from unknown_statuses({str(row[0]): row[1] for row in groups})
    number, other, *misspelled = [sum(row[place] for row in groups) for place in range(2, 2 + len(conditions))]
    if number:
        yield error(
            "unreadable-time",
            f"{counted(number, 'conversation')} with an invalid time: lapse cannot read them.",
            f"Set a valid time (YYYY-MM-DD HH:MM:SS, in UTC). Which: {_which(file, unreadable)}",
        )
    for name, number in zip(times, misspelled, strict=True):
        if number:
            yield error(
                "time-form",
                f"{counted(number, 'conversation')} with {name} in a format that compares wrongly with other times: "
                "such a deadline is reached too early or too late. The format is YYYY-MM-DD HH:MM:SS, in UTC.",
                f"UPDATE conversations SET {name} = strftime('%Y-%m-%d %H:%M:%f000', {name}) WHERE "  # noqa: S608
                f"{_is_misspelled(name)};",
            )
    if other:
        yield error(
            "unreadable-object",
            f"{counted(other, 'conversation')} whose context or metadata is not a JSON object: lapse cannot read them.",
            f"Set a JSON object, such as '{{}}'. Which: {_which(file, not_objects)}",
        )


def _is_well_spelled(name: str) -> str:
    """Return the condition that a time has the format in which texts sort chronologically, possibly truncated."""
    times = " OR ".join(f"substr({name}, 11) GLOB '{time}'" for time in _TIMES_OF_DAY)
    fraction = f"substr({name}, 11, 9) GLOB '{_TIMES_OF_DAY[-1]}' AND substr({name}, 20) GLOB '.[0-9]*'"
    return (
        f"(typeof({name}) = 'text' AND substr({name}, 1, 10) GLOB '{_DATE}' AND ({times} OR {fraction} "
        f"AND substr({name}, 20) NOT GLOB '.*[^0-9]*'))"
    )


def _is_unreadable(name: str) -> str:
    # The function comes last: it calls Python.
    is_plain = f"({_is_well_spelled(name)} AND {name} >= '0001' AND date({name}, '+0 days') IS substr({name}, 1, 10))"
    return f"({name} IS NOT NULL AND NOT {is_plain} AND NOT {IS_READABLE_FUNCTION}({name}))"


def _is_misspelled(name: str) -> str:
    return f"(typeof({name}) = 'text' AND NOT {_is_well_spelled(name)} AND strftime('%s', {name}) IS NOT NULL)"


def _is_object(name: str) -> str:
    return f"(CASE WHEN json_valid({name}) THEN json_type({name}) = 'object' ELSE false END)"


def _any(conditions: Iterable[str]) -> str:
    return f"({' OR '.join(conditions) or 'false'})"


def _which(file: File, condition: str) -> str:
    """Return a query of the first of these rows, without functions that only lapse defines."""
    query = f"SELECT rowid FROM conversations WHERE {condition} LIMIT {_MAX_SHOWN}"  # noqa: S608 - of constants
    ids = ", ".join(str(row[0]) for row in file.driver.execute(query))
    return f"SELECT * FROM conversations WHERE rowid IN ({ids});"  # noqa: S608 - of numbers
