"""Settings: names, defaults, where they come from, and one clear line for what is not usable."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from lapse import Settings, SettingsError, load_settings
from lapse.settings import idle_timeout_seconds

DEFAULTS = {
    "DATABASE_URL": ("database_url", "sqlite:///lapse.db"),
    "LOG_LEVEL": ("log_level", "INFO"),
    "BACKGROUND_TASK_INTERVAL": ("interval_seconds", 60),
    "BACKGROUND_TASK_MIN_WAIT": ("min_wait_seconds", 1),
    "BACKGROUND_TASK_BATCH_SIZE": ("batch_size", None),
    "BACKGROUND_TASK_MAX_RATE": ("max_rate", None),
    "BACKGROUND_TASK_BACKLOG_LIMIT": ("backlog_limit", 10_000),
    "BACKGROUND_TASK_ENABLE_METRICS": ("enable_metrics", True),
    "LAPSE_HTTP": ("http", None),
    "LAPSE_CALL_TIMEOUT": ("call_timeout_seconds", 10),
    "CONVERSATION_IDLE_TIMEOUT_MINUTES": ("idle_timeout_minutes", 30),
    "CONVERSATION_EXPIRATION_MINUTES": ("expiration_minutes", 1440),
}
USABLE = {
    "DATABASE_URL": ("postgresql://db/chat", "postgresql://db/chat"),
    "LOG_LEVEL": ("debug", "DEBUG"),
    "BACKGROUND_TASK_INTERVAL": ("0.5", 0.5),
    "BACKGROUND_TASK_MIN_WAIT": ("0", 0),
    "BACKGROUND_TASK_BATCH_SIZE": ("10000", 10_000),
    "BACKGROUND_TASK_MAX_RATE": ("0.5", 0.5),
    "BACKGROUND_TASK_BACKLOG_LIMIT": ("0", 0),
    "BACKGROUND_TASK_ENABLE_METRICS": ("false", False),
    "LAPSE_HTTP": ("[::1]:8080", "[::1]:8080"),
    "LAPSE_CALL_TIMEOUT": ("3", 3),
    "CONVERSATION_IDLE_TIMEOUT_MINUTES": ("0.5", 0.5),
    "CONVERSATION_EXPIRATION_MINUTES": ("5256000", 5_256_000),
}
UNUSABLE = [
    ("LOG_LEVEL", "LOUD"),
    ("BACKGROUND_TASK_INTERVAL", "0"),
    ("BACKGROUND_TASK_INTERVAL", "-1"),
    ("BACKGROUND_TASK_INTERVAL", "nan"),
    ("BACKGROUND_TASK_INTERVAL", "inf"),
    ("BACKGROUND_TASK_INTERVAL", "86401"),
    ("BACKGROUND_TASK_INTERVAL", "soon"),
    ("BACKGROUND_TASK_MIN_WAIT", "-1"),
    ("BACKGROUND_TASK_BATCH_SIZE", "0"),
    ("BACKGROUND_TASK_BATCH_SIZE", "10001"),
    ("BACKGROUND_TASK_BATCH_SIZE", "1.5"),
    ("BACKGROUND_TASK_MAX_RATE", "0"),
    ("BACKGROUND_TASK_MAX_RATE", "inf"),
    ("BACKGROUND_TASK_BACKLOG_LIMIT", "-1"),
    ("BACKGROUND_TASK_BACKLOG_LIMIT", "1000000001"),
    ("BACKGROUND_TASK_ENABLE_METRICS", "maybe"),
    ("LAPSE_CALL_TIMEOUT", "2.9"),
    ("LAPSE_CALL_TIMEOUT", "inf"),
    ("LAPSE_HTTP", "8080"),
    ("LAPSE_HTTP", ":8080"),
    ("LAPSE_HTTP", "localhost"),
    ("LAPSE_HTTP", "localhost:65536"),
    ("LAPSE_HTTP", "http://localhost:8080"),
    ("LAPSE_HTTP", "::1:8080"),
    ("LAPSE_HTTP", "localhost:http"),
    ("CONVERSATION_IDLE_TIMEOUT_MINUTES", "0"),
    ("CONVERSATION_IDLE_TIMEOUT_MINUTES", "-30"),
    ("CONVERSATION_IDLE_TIMEOUT_MINUTES", "5256001"),
    ("CONVERSATION_EXPIRATION_MINUTES", "inf"),
    ("CONVERSATION_EXPIRATION_MINUTES", "a day\nor two"),
]


def test_every_setting_has_its_variable_and_its_default() -> None:
    assert {field.alias: name for name, field in Settings.model_fields.items()} == {
        variable: name for variable, (name, _) in DEFAULTS.items()
    }
    settings = load_settings()
    assert {name: getattr(settings, name) for name, _ in DEFAULTS.values()} == dict(DEFAULTS.values())
    assert settings.expiration == timedelta(days=1)


@pytest.mark.parametrize("variable", DEFAULTS)
def test_a_setting_comes_from_the_call_the_environment_or_the_file_in_this_order(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, default = DEFAULTS[variable]
    text, value = USABLE[variable]
    Path(".env").write_text(f"{variable}={text}\nSOMETHING_ELSE=1\n", encoding="utf-8")
    assert getattr(load_settings(), name) == value
    other = {"http": "localhost:80"}.get(name, 7) if default is None else default
    monkeypatch.setenv(variable, str(other))
    assert getattr(load_settings(), name) == other
    assert getattr(load_settings(**{name: value}), name) == value
    assert getattr(load_settings(**{name: None}), name) == other


def test_an_empty_variable_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    defaults = load_settings()
    for variable in DEFAULTS:
        monkeypatch.setenv(variable, "")
    assert load_settings() == defaults


def test_variables_that_only_look_alike_are_somebody_elses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SIZE", "7")
    monkeypatch.setenv("INTERVAL_SECONDS", "7")
    assert load_settings().batch_size is None
    assert load_settings().interval_seconds == 60


@pytest.mark.parametrize(("variable", "text"), UNUSABLE)
def test_an_unusable_setting_is_one_line_that_names_the_variable(
    variable: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(SettingsError, match=variable) as caught:
        load_settings()
    assert str(caught.value).isprintable()


def test_several_unusable_settings_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "LOUD")
    monkeypatch.setenv("BACKGROUND_TASK_BATCH_SIZE", "0")
    with pytest.raises(SettingsError, match=r"LOG_LEVEL.*; BACKGROUND_TASK_BATCH_SIZE"):
        load_settings()


def test_a_file_that_is_no_text_is_a_clear_error() -> None:
    Path(".env").write_bytes(b"LOG_LEVEL=\xff\xfe")
    with pytest.raises(SettingsError, match=r"\.env is not UTF-8"):
        load_settings()


def test_the_password_of_the_database_is_not_in_the_repr() -> None:
    assert "hunter2" not in repr(load_settings(database_url="postgresql://me:hunter2@db/chat"))


@pytest.mark.parametrize(("minutes", "seconds"), [(1 / 60, 1), (0.5, 30), (30, 1800), (5_256_000, 315_360_000)])
def test_an_idle_timeout_is_kept_in_whole_seconds(minutes: float, seconds: int) -> None:
    assert idle_timeout_seconds(minutes) == seconds


@pytest.mark.parametrize("minutes", [0, -1, 0.01, 5_256_001, float("nan"), float("inf")])
def test_an_idle_timeout_of_less_than_a_second_or_more_than_ten_years_is_an_error(minutes: float) -> None:
    with pytest.raises(SettingsError, match="idle timeout"):
        idle_timeout_seconds(minutes)
