"""Settings: names, defaults, where they come from, and one clear line for what is not usable."""

from __future__ import annotations

import logging
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lapse import BackgroundWorker, ConversationService, Settings, SettingsError, load_settings
from lapse.settings import check_log_level, idle_timeout_seconds, url_variable

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
    "LAPSE_RECEIPT_DAYS": ("receipt_days", 8),
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
    "LAPSE_RECEIPT_DAYS": ("14.5", 14.5),
    "CONVERSATION_IDLE_TIMEOUT_MINUTES": ("0.5", 0.5),
    "CONVERSATION_EXPIRATION_MINUTES": ("5256000", 5_256_000),
}
UNUSABLE = [
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
    ("LAPSE_RECEIPT_DAYS", "0"),
    ("LAPSE_RECEIPT_DAYS", "3651"),
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
    monkeypatch.setenv("BACKGROUND_TASK_INTERVAL", "0")
    monkeypatch.setenv("BACKGROUND_TASK_BATCH_SIZE", "0")
    with pytest.raises(SettingsError, match=r"BACKGROUND_TASK_INTERVAL.*; BACKGROUND_TASK_BATCH_SIZE"):
        load_settings()


@pytest.mark.parametrize("variable", DEFAULTS)
def test_a_keyword_is_the_name_of_the_field_or_of_the_variable(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, _ = DEFAULTS[variable]
    text, value = USABLE[variable]
    monkeypatch.setenv(variable, {"DATABASE_URL": "sqlite:///other.db", "LAPSE_HTTP": "localhost:1"}.get(variable, "1"))
    monkeypatch.setenv("LAPSE_DATABASE_URL", "sqlite:///another.db")
    makers: list[Any] = [Settings, load_settings]
    for make in makers:
        assert getattr(make(**{name: value}), name) == value
        assert getattr(make(**{variable: text}), name) == value
        with pytest.raises(SettingsError, match=f"^{name} and {variable} are the same setting"):
            make(**{name: value, variable: text})


def test_a_keyword_that_is_no_setting_is_an_error_that_names_it() -> None:
    for make in (Settings, load_settings):
        with pytest.raises(SettingsError, match=r"^there is no setting 'expiration_minute': .*expiration_minutes"):
            make(expiration_minute=5)


@pytest.mark.parametrize("name", ["max_rate", "interval_seconds"])
def test_a_number_that_is_not_finite_is_refused_as_such(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}=nan is not usable: input should be a finite number$"):
        load_settings(**{name: float("nan")})


def test_an_unusable_keyword_is_one_line_that_names_it_as_it_was_given() -> None:
    for name in ("interval_seconds", "BACKGROUND_TASK_INTERVAL"):
        with pytest.raises(SettingsError, match=f"^{name}=-1 is not usable: input should be greater than 0$"):
            load_settings(**{name: -1})
    with pytest.raises(SettingsError, match=r"^log_level='LOUD' is not usable: use DEBUG, INFO"):
        Settings(log_level="LOUD")


@pytest.mark.parametrize("level", [None, True, 1.5, ["INFO"]])
def test_a_log_level_is_a_word_or_a_number(level: Any) -> None:
    with pytest.raises(SettingsError, match=r"^log_level=.* is not usable: use DEBUG, INFO"):
        Settings(log_level=level)
    with pytest.raises(SettingsError, match=r"^database_url is not usable") as caught:
        Settings(database_url=["postgresql://me:hunter2@db/chat"])
    assert "hunter2" not in str(caught.value)


OWN, OTHER = "sqlite:///lapses.db", "postgresql://me:pw@db/the_applications"


@pytest.mark.parametrize("own_in", ["environment", "file"])
@pytest.mark.parametrize("other_in", ["environment", "file", "nowhere"])
def test_the_url_of_lapse_goes_before_that_of_the_application(
    own_in: str, other_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, url, place in (("LAPSE_DATABASE_URL", OWN, own_in), ("DATABASE_URL", OTHER, other_in)):
        if place == "environment":
            monkeypatch.setenv(variable, url)
        elif place == "file":
            with Path(".env").open("a", encoding="utf-8") as file:
                file.write(f"{variable}={url}\n")
    assert load_settings().database_url == OWN
    assert url_variable() == "LAPSE_DATABASE_URL"
    assert load_settings(database_url=OTHER).database_url == OTHER
    monkeypatch.setenv("LAPSE_DATABASE_URL", "")
    Path(".env").unlink(missing_ok=True)
    assert load_settings().database_url == (OTHER if other_in == "environment" else "sqlite:///lapse.db")
    assert url_variable() == "DATABASE_URL"


@pytest.mark.parametrize(
    ("word", "level"),
    [
        *((word, "DEBUG") for word in ("debug", "trace", "NOTSET", "verbose", "0", "10", 9, "1")),
        *((word, "INFO") for word in ("Info", "notice", "20", logging.INFO - 1, "11", " info ")),
        *((word, "WARNING") for word in ("warn", "WARNING", "30", "25")),
        *((word, "ERROR") for word in ("err", "error", "40")),
        *((word, "CRITICAL") for word in ("fatal", "crit", "Critical", "50", "60", "off")),
    ],
)
def test_a_level_is_understood_as_other_loggers_say_it(
    word: str | int, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_LEVEL", str(word))
    settings = load_settings()
    check_log_level(settings)
    assert settings.log_level == Settings(log_level=word).log_level == level


@pytest.mark.parametrize("text", ["LOUD", "-1", "1e1", "debug,myapp=info", "a\nb"])
def test_a_level_that_is_none_is_an_error_only_for_who_logs_by_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", text)
    with pytest.raises(SettingsError, match=r"^LOG_LEVEL='.*' is not usable: use DEBUG, INFO") as caught:
        check_log_level(load_settings())
    assert str(caught.value).isprintable()
    with closing(ConversationService("sqlite:///chat.db", settings=Settings(expiration_minutes=5))) as service:
        message = service.record_message(1, "+5511990000001", "+14155238886")
    assert message.expires_at - message.started_at == timedelta(minutes=5)
    with closing(ConversationService("sqlite:///chat.db")) as service:
        assert BackgroundWorker(service=service).run_once()


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
def test_an_idle_timeout_is_a_second_to_ten_years(minutes: float) -> None:
    with pytest.raises(SettingsError, match="idle timeout"):
        idle_timeout_seconds(minutes)
