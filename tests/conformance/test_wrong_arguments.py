"""Whatever is given to a public call is used, or is one clear error that changes nothing and shows no address."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from fractions import Fraction
from typing import Any, get_type_hints
from uuid import UUID

import pytest
import structlog

from lapse import BackgroundWorker, ConversationService, InvalidInputError, LapseError, Message
from lapse.messages import MessageOptions, OpeningOptions
from tests.support.clock import ManualClock
from tests.support.sql import run_sql

CUSTOMER, BUSINESS = "+5511990000001", "+14155238886"


class Unspeakable:
    """Can be spelled in no way."""

    def __str__(self) -> str:
        raise RuntimeError(CUSTOMER)

    __repr__ = __str__


class ZoneWithoutOffset(tzinfo):
    """Was never finished."""

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        raise NotImplementedError

    def dst(self, moment: datetime | None) -> timedelta | None:
        raise NotImplementedError

    def tzname(self, moment: datetime | None) -> str | None:
        raise NotImplementedError


class SevenLikeNumPy:
    """A whole number that is no `int`, as NumPy's are."""

    def __index__(self) -> int:
        return 7


VALUES: dict[str, Any] = {
    "None": None,
    "text": "thing",
    "empty": "",
    "address": "+5511990000002",
    "surrogate": "\ud800",
    "bytes": b"5",
    "float": 1.5,
    "seven": 7,
    "seven like NumPy's": SevenLikeNumPy(),
    "decimal": Decimal("7.5"),
    "fraction": Fraction(15, 2),
    "nan": float("nan"),
    "inf": float("inf"),
    "minus": -1,
    "zero": 0,
    "decimal nan": Decimal("sNaN"),
    "huge": 10**400,
    "unspeakably huge": 10**5_000,
    "huge fraction": Fraction(10**400),
    "bool": True,
    "list": [1],
    "dict": {"a": 1},
    "bad dict": {1: 2},
    "set": {1},
    "naive": datetime(2026, 1, 5, 12),  # noqa: DTZ001 - that is the point
    "date": date(2026, 1, 5),
    "later": datetime(2026, 2, 5, 12, tzinfo=UTC),
    "beyond the calendar": datetime.min.replace(tzinfo=UTC).astimezone(UTC).replace(tzinfo=None),
    "zone without offset": datetime(2026, 2, 5, 12, tzinfo=ZoneWithoutOffset()),
    "time": time(12, tzinfo=UTC),
    "timedelta": timedelta(1),
    "uuid": UUID(int=7),
    "object": object(),
    "unspeakable": Unspeakable(),
    "function": lambda _said: None,
}
NUMBERS = {"float", "seven", "seven like NumPy's", "decimal", "fraction"}
WHOLE = {"seven", "seven like NumPy's"}
USABLE: dict[str, set[str]] = {
    "owner_id": WHOLE | {"minus", "zero"},
    "user_id": WHOLE | {"minus", "zero"},
    "from_number": {"text", "address"},
    "to_number": {"text", "address"},
    "channel": {"text"},
    "message_id": {"text", "address"},
    "sent_at": {"later"},
    "opens": {"bool"},
    "messages": {"list", "set"},
    "metadata": {"dict"},
    "context": {"dict"},
    "reason": {"text", "empty", "address"},
    "actor": {"text", "empty", "address"},
    "limit": WHOLE,
    "minutes": NUMBERS,
    "idle_minutes": NUMBERS,
    "until": {"later"},
    "if_updated_at": {"later"},
    "retry": set(VALUES),
    # Of the worker and the purge.
    "interval_seconds": NUMBERS,
    "min_wait_seconds": NUMBERS | {"zero"},
    "max_rate": NUMBERS,
    "batch_size": WHOLE,
    "backlog_limit": WHOLE | {"zero"},
    "enable_metrics": {"bool"},
    "accept_backlog": {"bool"},
    "expire_silently": {"bool"},
    "closed_before_days": NUMBERS,
    "report": {"function"},
    "on_batch": {"function"},
}
"""By the name of a parameter, the values of these that it may take; None where it is the default."""
FIELDS = {"record_message": MessageOptions, "create_conversation": OpeningOptions}
FIELDS["get_or_create_conversation"] = OpeningOptions
"""Calls that take fields of a message by name."""
CALLS = [
    name
    for name, member in inspect.getmembers(ConversationService, inspect.isfunction)
    if not name.startswith("_") and name != "close"
]


def parameters_of(call: Callable[..., Any]) -> dict[str, Any]:
    """Return the default of each parameter, by its name."""
    parameters = inspect.signature(call).parameters.values()
    found = {one.name: one.default for one in parameters if one.kind is not one.VAR_KEYWORD}
    return found | dict.fromkeys(get_type_hints(FIELDS.get(call.__name__, object)))


def good_arguments(call: Callable[..., Any], conv_id: object) -> dict[str, Any]:
    """Return arguments with which the call succeeds: those that it needs."""
    good = {
        "owner_id": 1,
        "from_number": CUSTOMER,
        "to_number": BUSINESS,
        "conv_id": conv_id,
        "status": "agent_closed",
        "closed_before_days": 30,
        "message": Message(1, CUSTOMER, BUSINESS),
        "messages": [],
    }
    return {name: good[name] for name, default in parameters_of(call).items() if default is inspect.Parameter.empty}


def contents(service: ConversationService) -> list[Any]:
    conversations = run_sql(service.database, "SELECT * FROM conversations ORDER BY conv_id")
    return [str(row) for row in conversations + run_sql(service.database, "SELECT * FROM conversation_events")]


def attempts(call: Callable[..., Any], conv_id: object = None) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield every argument of a call with every value, in the place of a good one or of none."""
    for name in parameters_of(call):
        for label, value in VALUES.items():
            yield name, label, good_arguments(call, conv_id) | {name: value}


def is_usable(call: Callable[..., Any], name: str, label: str) -> bool:
    return label in USABLE.get(name, set()) or (label == "None" and parameters_of(call)[name] is None)


def problem_of(call: Callable[..., Any], name: str, label: str, arguments: dict[str, Any]) -> str | None:
    """Call it, and say what is wrong with what it did, if anything."""
    try:
        call(**arguments)
    except LapseError as error:
        text = str(error)
        if is_usable(call, name, label):
            return f"refused: {text}" if isinstance(error, InvalidInputError) else None
        if not isinstance(error, InvalidInputError) and (name, label) != ("conv_id", "uuid"):
            return f"{type(error).__name__}: {text}"
        return None if text.isprintable() and len(text) < 300 else f"not one clear line: {text[:400]}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None if is_usable(call, name, label) else "taken"


@pytest.mark.parametrize("name", CALLS)
def test_an_argument_of_any_type_is_used_or_refused(service: ConversationService, name: str) -> None:
    call = getattr(service, name)

    def live() -> object:
        return service.get_or_create_conversation(1, CUSTOMER, BUSINESS).conv_id

    problems: dict[tuple[str, str], str] = {}
    wrong = [attempt for attempt in attempts(call, live()) if not is_usable(call, *attempt[:2])]
    before = contents(service)
    for argument, label, arguments in wrong:
        if problem := problem_of(call, argument, label, arguments):
            problems[argument, label] = problem
    assert contents(service) == before
    for argument in parameters_of(call):
        for label in [label for label in VALUES if is_usable(call, argument, label)]:
            arguments = good_arguments(call, live()) | {argument: VALUES[label]}
            if problem := problem_of(call, argument, label, arguments):
                problems[argument, label] = problem
    assert problems == {}


def test_an_argument_of_a_purge_of_any_type_is_used_or_refused(service: ConversationService) -> None:
    service.next_deadlines()
    purger, problems = service.conversation_repo.purger, {}
    for call in (purger.purge, purger.preview):
        for argument, label, arguments in attempts(call):
            if problem := problem_of(call, argument, label, arguments):
                problems[argument, label] = problem
    assert problems == {}


def test_an_argument_of_a_worker_of_any_type_is_used_or_refused(service: ConversationService) -> None:
    problems = {}
    for argument, label, arguments in attempts(BackgroundWorker):
        if problem := problem_of(BackgroundWorker, argument, label, {"service": service} | arguments):
            problems[argument, label] = problem
    assert problems == {}


@pytest.mark.parametrize(("argument", "kind"), [("settings", "a Settings"), ("clock", "a function")])
def test_an_argument_of_a_service_of_any_other_type_is_refused(
    service: ConversationService, argument: str, kind: str
) -> None:
    url = service.database.engine.url.render_as_string(hide_password=False)
    for value in VALUES.values():
        if value is not None and not callable(value):
            with pytest.raises(InvalidInputError, match=f"^{argument} must be {kind}, not "):
                ConversationService(url, **{argument: value})


def test_a_worker_names_no_task_that_is_none(service: ConversationService) -> None:
    worker = BackgroundWorker(service=service)
    for value in VALUES.values():
        with pytest.raises(InvalidInputError, match="there is no task"):
            worker.run_task(value)


# --- addresses in the wrong place ---------------------------------------------------------------------------------

ADDRESSES = [
    "+5511990000001",
    "5511990000001",
    "11990000001",
    "+55 (11) 99000-0001",
    "(11) 99000-0001",
    "11 9 9000 0001",
    "11.99000.0001",
    "+55\u00a011\u20119900\u20110001",
    "\u202a+5511990000001\u202c",
    "\uff0b\uff15\uff15\uff11\uff11\uff19\uff19\uff10\uff10\uff10\uff10\uff10\uff11",
    "\u0665\u0665\u0661\u0661\u0669\u0669\u0660\u0660\u0660\u0660\u0660\u0661",
    "whatsapp:+5511990000001",
    "tel:+55-11-99000-0001",
    "5511990000001@s.whatsapp.net",
    "ana.maria@example.com",
    "mailto:/ana.maria@example.com",
    "@ana_maria",
    "BR.13490000000000000001",
    "x" * 60 + "+5511990000001",
    "reason: call +5511990000001 or 5511990000001",
    "2026-01-05 5511990000001",
    "12/12/2020 99000-0001",
    b"+5511990000001",
    ["+5511990000001"],
    {"number": "+5511990000001"},
    ("5511990000001",),
    5511990000001,
    5511990000001.0,
    Decimal(5511990000001),
]
SECRETS = [
    "5511990000001",
    "11990000001",
    "99000-0001",
    "9 9000 0001",
    "11.99000.0001",
    "9900\u20110001",
    "\uff11\uff11\uff19\uff19\uff10\uff10\uff10",
    "\u0661\u0661\u0669\u0669\u0660\u0660",
    "ana.maria@",
    "ana_maria",
    "13490000000000000001",
]


@pytest.mark.parametrize("name", CALLS)
def test_an_address_in_the_place_of_any_argument_is_shown_nowhere(
    service: ConversationService, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    call = getattr(service, name)
    shown: list[str] = []
    with structlog.testing.capture_logs() as logged:
        for parameter in parameters_of(call):
            conv_id = service.get_or_create_conversation(1, CUSTOMER, BUSINESS).conv_id
            for address in ADDRESSES:
                try:
                    call(**good_arguments(call, conv_id) | {parameter: address})
                except LapseError as error:
                    shown += [f"{parameter}: {error}", repr(error), str(vars(error)), str(error.__context__)]
    captured = capfd.readouterr()
    everywhere = [*shown, *map(str, logged), captured.out, captured.err]
    assert [text for text in everywhere if any(secret in text for secret in SECRETS)] == []


def test_an_address_in_the_place_of_a_workers_argument_is_shown_nowhere(service: ConversationService) -> None:
    shown: list[str] = []
    for parameter in inspect.signature(BackgroundWorker).parameters:
        for address in ADDRESSES:
            arguments: dict[str, Any] = {"service": service, parameter: address}
            try:
                BackgroundWorker(**arguments)
            except LapseError as error:
                shown += [str(error), repr(error)]
    assert [text for text in shown if any(secret in text for secret in SECRETS)] == []


def test_an_id_stays_readable(service: ConversationService, clock: ManualClock) -> None:
    """Though the end of it is digits only."""
    missing = "0b6c1f3e-0000-4000-8000-000000000001"
    with pytest.raises(LapseError, match=f"there is no conversation {missing}$"):
        service.get_conversation_by_id(missing)
