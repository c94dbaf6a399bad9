"""Each setting has one bound, wherever its value is given: in the environment, as keyword, option or argument."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from lapse import BackgroundWorker, ConversationService, InvalidInputError, Settings, SettingsError, load_settings
from lapse.worker.throttle import MAX_SIZE, MIN_SIZE
from tests.support.commands import error_line, run_here

EXAMPLE = str(Path(__file__).parents[2] / "examples/customer_care.csv")
UNUSABLE: dict[str, tuple[Any, ...]] = {
    "interval_seconds": (0, -1, 86_401, float("nan"), float("inf")),
    "min_wait_seconds": (-1, 86_401, float("nan"), float("inf")),
    "batch_size": (0, -1, 10_001),
    "max_rate": (0, -1, 1_000_001, float("nan"), float("inf")),
    "backlog_limit": (-1, 1_000_000_001),
    "idle_timeout_minutes": (0, -1, 0.016, 5_256_001, float("nan"), float("inf")),
    "expiration_minutes": (0, -1, 0.016, 5_256_001, float("nan"), float("inf")),
}
WORKER = ("worker", "--once")
OPTIONS: dict[str, list[tuple[tuple[str, ...], str]]] = {
    "interval_seconds": [(WORKER, "--interval")],
    "min_wait_seconds": [(WORKER, "--min-wait")],
    "batch_size": [(WORKER, "--batch-size"), (("purge", "--closed-before", "1"), "--batch-size")],
    "max_rate": [(WORKER, "--max-rate"), (("purge", "--closed-before", "1"), "--max-rate")],
    "backlog_limit": [(WORKER, "--backlog-limit")],
    "idle_timeout_minutes": [(("preview",), "--idle-minutes"), (("replay", EXAMPLE), "--idle-minutes")],
    "expiration_minutes": [(("preview",), "--expiration-minutes"), (("replay", EXAMPLE), "--expiration-minutes")],
}
ARGUMENTS: dict[str, list[Callable[[ConversationService, Any], object]]] = {
    **{
        name: [lambda service, value, name=name: BackgroundWorker(service=service, **{name: value})]  # type: ignore[misc]
        for name in ("interval_seconds", "min_wait_seconds", "backlog_limit")
    },
    "batch_size": [
        lambda service, value: BackgroundWorker(service=service, batch_size=value),
        lambda service, value: service.process_idle_conversations(limit=value),
        lambda service, value: service.process_expired_conversations(limit=value),
        lambda service, value: service.conversation_repo.purger.purge(1, batch_size=value),
    ],
    "max_rate": [
        lambda service, value: BackgroundWorker(service=service, max_rate=value),
        lambda service, value: service.conversation_repo.purger.purge(1, max_rate=value),
    ],
    "idle_timeout_minutes": [
        lambda service, value: service.idle_timeout(value),
        lambda service, value: service.find_idle_conversations(value),
        lambda service, value: service.process_idle_conversations(value),
    ],
    "expiration_minutes": [],
}
CASES = [(name, value) for name, values in UNUSABLE.items() for value in values]


@pytest.fixture
def service() -> Iterator[ConversationService]:
    with closing(ConversationService("sqlite:///chat.db", settings=Settings())) as made:
        yield made


def test_every_number_that_is_given_in_several_ways_is_judged_here() -> None:
    numbers = {name for name, field in Settings.model_fields.items() if re.search("int|float", str(field.annotation))}
    assert numbers - set(UNUSABLE) == {"call_timeout_seconds", "receipt_days"}
    assert set(UNUSABLE) == set(OPTIONS) == set(ARGUMENTS)


@pytest.mark.parametrize(("name", "value"), CASES)
def test_an_unusable_value_is_refused_as_setting_keyword_and_argument(
    name: str, value: Any, service: ConversationService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for call in ARGUMENTS[name]:
        with pytest.raises(InvalidInputError):
            call(service, value)
    for make in (Settings, load_settings):
        with pytest.raises(SettingsError, match=f"^{name}="):
            make(**{name: value})
    variable = str(Settings.model_fields[name].alias)
    monkeypatch.setenv(variable, str(value))
    with pytest.raises(SettingsError, match=f"^{variable}="):
        load_settings()


@pytest.mark.parametrize(("name", "value"), CASES)
def test_an_unusable_value_is_refused_as_an_option_of_every_command(name: str, value: Any) -> None:
    for command, option in OPTIONS[name]:
        line = error_line(run_here(*command, f"{option}={value}"), 2)
        assert re.match(rf"{option} \S+ is not usable: ", line), line  # a long number is masked


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_bool_is_no_number(name: str, service: ConversationService) -> None:
    for call in ARGUMENTS[name]:
        with pytest.raises(InvalidInputError):
            call(service, True)
    with pytest.raises(SettingsError, match=f"^{name}=True is not usable: input should be a number$"):
        load_settings(**{name: True})


def test_an_extension_has_the_upper_bound_of_a_timeout(service: ConversationService) -> None:
    conversation = service.record_message(1, "+5511990000001", "+14155238886")
    for minutes in (0, -1, 5_256_001, float("nan"), True):
        with pytest.raises(InvalidInputError):
            service.extend_expiration(conversation.conv_id, minutes)
    assert service.extend_expiration(conversation.conv_id, 0.001).expires_at > conversation.expires_at


@pytest.mark.parametrize("name", OPTIONS)
def test_a_help_text_names_the_default_of_the_setting(name: str) -> None:
    default = Settings.model_fields[name].default
    for command, option in OPTIONS[name]:
        if command[0] == "purge" or (command[0], option) == ("preview", "--expiration-minutes"):
            continue  # these options are not settings, or have a default of their own
        text = " ".join(run_here(command[0], "--help").stdout.split())
        described = text[text.index(f" {option} ") :]
        expected = {"batch_size": f"adapted to take 0.1 seconds, {MIN_SIZE} to {MAX_SIZE}", "max_rate": "no limit"}
        assert f"[default: {expected.get(name, default)}]" in described[:400]
