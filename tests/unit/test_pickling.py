"""Errors and values leave the process that they arise in: a process pool hands them on as they were."""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import multiprocessing
import pickle
import pkgutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

import lapse
from lapse import (
    Conversation,
    ConversationAlreadyOpenError,
    ConversationEvent,
    ConversationStatus,
    EventType,
    InvalidTransitionError,
    LapseError,
    Message,
    MessageResult,
    NextDeadlines,
    Outcome,
    PurgeResult,
    Settings,
    SweepResult,
    TaskMetrics,
    load_settings,
)
from lapse.errors import BacklogError
from lapse.models import Preview

ID = UUID(int=7)
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
PREVIEW = Preview(
    now=NOON,
    is_before_adoption=False,
    idle_minutes=30,
    expiration_minutes=None,
    conversations=2,
    by_status=[("pending", "expired", 2)],
    by_age={"minutes": 2},
    by_owner=[("1", 2)],
    owners=1,
    oldest=NOON,
    newest=NOON,
    histogram_begin=NOON,
    histogram_end=NOON,
    histogram=[2],
)
ARGUMENTS: dict[type[LapseError], list[tuple[Any, ...]]] = {
    InvalidTransitionError: [("pending", "pending"), ("expired", "progress", "a text of its own")],
    ConversationAlreadyOpenError: [(ID,), ("01JQ",)],
    BacklogError: [(), ("2 are due", PREVIEW)],
}
"""Of the errors that take other arguments than a text, or none."""


def all_errors() -> list[type[LapseError]]:
    """Return every error of lapse, wherever in the package it stands."""
    for module in pkgutil.walk_packages(lapse.__path__, "lapse."):
        if not module.name.startswith(("lapse.store.migrations.", "lapse.__main__")):
            importlib.import_module(module.name)

    def tree(error: type[LapseError]) -> set[type[LapseError]]:
        return {error}.union(*(tree(below) for below in error.__subclasses__()))

    return sorted((e for e in tree(LapseError) if e.__module__.startswith("lapse.")), key=lambda e: e.__qualname__)


ERRORS = [
    pytest.param(error, arguments, id=f"{error.__name__}-{number}")
    for error in all_errors()
    for number, arguments in enumerate(ARGUMENTS.get(error, [(), ("a text of its own",)]))
]


def pickled(protocol: int, value: Any) -> Any:
    """Return what a pickle of the value brings back."""
    return pickle.loads(pickle.dumps(value, protocol))


WAYS: dict[str, Callable[[Any], Any]] = {
    **{f"pickle-{protocol}": functools.partial(pickled, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


def raised(error: type[LapseError], arguments: tuple[Any, ...]) -> None:
    """Raise an error, in whatever process this runs."""
    raise error(*arguments)


def assert_same(found: BaseException, error: LapseError) -> None:
    assert type(found) is type(error)
    assert (str(found), found.args) == (str(error), error.args)
    assert {name: value for name, value in vars(found).items() if name != "__notes__"} == vars(error)


def test_the_errors_of_the_whole_package_are_found() -> None:
    assert len(ERRORS) > 50
    assert {error.__name__ for error in all_errors()} >= {"LapseError", "SqliteBusyError", "AdoptionError"}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("error", "arguments"), ERRORS)
def test_a_copy_of_an_error_is_the_same_error(error: type[LapseError], arguments: tuple[Any, ...], way: str) -> None:
    original = error(*arguments)
    twice = WAYS[way](WAYS[way](original))
    assert_same(twice, original)


def test_a_copy_of_an_error_keeps_what_was_added_to_it() -> None:
    original = InvalidTransitionError("expired", "progress")
    original.add_note("at the third try")
    vars(original)["task"] = 7
    found = pickle.loads(pickle.dumps(original))
    assert (found.__notes__, vars(found)["task"], found.to_status) == (["at the third try"], 7, "progress")


def test_an_applications_own_error_with_arguments_of_its_own_is_copied_too() -> None:
    found = pickle.loads(pickle.dumps(OwnError(7, name="seven")))
    assert (str(found), found.number, found.name) == ("number 7 is seven", 7, "seven")


class OwnError(LapseError):
    """An application's own."""

    def __init__(self, number: int, *, name: str) -> None:
        self.number, self.name = number, name
        super().__init__(f"number {number} is {name}")


@pytest.mark.parametrize("pool", ["ProcessPoolExecutor", "multiprocessing.Pool"])
def test_every_error_comes_back_from_a_process_pool(pool: str) -> None:
    calls: list[tuple[type[LapseError], tuple[Any, ...]]] = [tuple(parameter.values) for parameter in ERRORS]  # type: ignore[misc]
    spawn = multiprocessing.get_context("spawn")
    if pool == "ProcessPoolExecutor":
        with ProcessPoolExecutor(1, mp_context=spawn) as executor:
            futures = [executor.submit(raised, *call) for call in calls]
            found = [future.exception(60) for future in futures]
    else:
        with spawn.Pool(1) as processes:
            results = [processes.apply_async(raised, call) for call in calls]
            found = [_error_of(functools.partial(result.get, 60)) for result in results]
    for (error, arguments), came_back in zip(calls, found, strict=True):
        assert came_back is not None
        assert_same(came_back, error(*arguments))


def _error_of(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except LapseError as error:
        return error
    return None


CONVERSATION = Conversation(
    conv_id=ID,
    owner_id=1,
    channel="whatsapp",
    session_key="+14155238886::+5511990000001",
    from_number="+5511990000001",
    to_number="+14155238886",
    user_id=None,
    status=ConversationStatus.PENDING,
    version=0,
    opened_by=lapse.Sender.USER,
    started_at=NOON,
    updated_at=NOON,
    last_inbound_at=NOON,
    last_outbound_at=None,
    first_answered_at=None,
    ended_at=None,
    expires_at=NOON,
    idle_check_at=NOON,
    idle_timeout_seconds=1800,
    context={"name": "Ana"},
    metadata={},
)
EVENT = ConversationEvent(
    owner_id=1,
    conv_id=ID,
    version=1,
    type=EventType.ACTIVATED,
    from_status=ConversationStatus.PENDING,
    to_status=ConversationStatus.PROGRESS,
    reason="message",
    actor="agent",
    deadline=None,
    occurred_at=NOON,
    data={},
)
VALUES: list[Any] = [
    CONVERSATION,
    EVENT,
    Message(1, "+5511999999999", "+14155238886", message_id="SM1", sent_at=NOON, context={"a": [1]}),
    MessageResult(Outcome.OPENED, CONVERSATION, ID),
    SweepResult(claimed=1, lags_seconds=[0.5]),
    NextDeadlines(due_at={"idle_conversations": NOON, "expired_conversations": None}, now=NOON),
    PurgeResult(closed_before=NOON, oldest=NOON),
    PREVIEW,
    TaskMetrics(total_runs=1, last_run_at=NOON, last_error="the database refused"),
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_copy_of_a_value_is_equal_to_it(value: Any, way: str) -> None:
    assert WAYS[way](value) == value
    assert type(WAYS[way](value)) is type(value)


@pytest.mark.parametrize("way", WAYS)
def test_settings_are_copied_too(way: str) -> None:
    settings = load_settings(idle_timeout_minutes=7)
    assert WAYS[way](settings) == settings


def test_no_public_value_is_forgotten_here() -> None:
    values = {type(value) for value in VALUES} | {Settings}
    public = {getattr(lapse, name) for name in lapse.__all__}  # type: ignore[attr-defined]
    data = {kind for kind in public if inspect.isclass(kind) and hasattr(kind, "__dataclass_fields__")}
    assert data - values == set()
