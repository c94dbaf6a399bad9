"""Settings from keywords, the environment and `.env`, validated once."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

from dotenv import dotenv_values
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from lapse.addresses import masked, shown
from lapse.errors import InvalidIdleTimeoutError, InvalidInputError, SettingsError
from lapse.validation import (
    MAX_BACKLOG,
    MAX_LIMIT,
    MAX_RATE,
    MAX_RECEIPT_DAYS,
    check_timeout_minutes,
    parse_listen_address,
    parse_log_level,
)

DEFAULT_DATABASE_URL = "sqlite:///lapse.db"
OWN_URL_VARIABLE, URL_VARIABLE = "LAPSE_DATABASE_URL", "DATABASE_URL"
"""The first takes precedence, wherever either is set: the second may be the application's own."""
_ENV_FILE = ".env"
_DAY_SECONDS = 24 * 60 * 60


def _refuse_bool(value: object) -> object:
    # As in `lapse.validation.real_number`; pydantic would take True for 1.
    if isinstance(value, bool):
        raise InvalidInputError("input should be a number")
    return value


def _refuse_infinite(value: object) -> object:
    # Here and not by `allow_inf_nan`, which speaks only after the bounds.
    try:
        is_finite = math.isfinite(float(value))  # type: ignore[arg-type]  # raises for what is no number
    except (OverflowError, TypeError, ValueError):
        return value  # pydantic says what is wrong with it
    if not is_finite:
        raise InvalidInputError("input should be a finite number")
    return value


def _known_level(value: object) -> object:
    try:
        return parse_log_level(value)
    except InvalidInputError:
        return "" if value is None else str(value)  # not "None", which is a synonym of a level


def _check_listen_address(value: str) -> str:
    parse_listen_address(value)
    return value


LogLevel = Annotated[str, BeforeValidator(_known_level)]
ListenAddress = Annotated[str, AfterValidator(_check_listen_address)]
Number = Annotated[float, BeforeValidator(_refuse_infinite), BeforeValidator(_refuse_bool)]
WholeNumber = Annotated[int, BeforeValidator(_refuse_bool)]
Minutes = Annotated[float, BeforeValidator(_refuse_bool), AfterValidator(check_timeout_minutes)]


class Settings(BaseSettings):
    """All settings of lapse; each field's alias is its environment variable.

    Keywords are names of fields (`expiration_minutes=5`) or of variables (`CONVERSATION_EXPIRATION_MINUTES=5`). They
    take precedence over the environment, the environment over `.env`, and that over the defaults.

    Raises:
        SettingsError: a value is not usable, a keyword is not a setting, or `.env` is not UTF-8 text; one line that
            names what is wrong.
    """

    # Not `populate_by_name`: it would also read variables named like fields; BATCH_SIZE may be another program's.
    model_config = SettingsConfigDict(env_file=_ENV_FILE, extra="ignore", frozen=True, env_ignore_empty=True)

    database_url: str = Field(DEFAULT_DATABASE_URL, alias="DATABASE_URL", repr=False)
    # DEBUG, INFO, WARNING, ERROR or CRITICAL; any other text is kept as it is. An application may use LOG_LEVEL in its
    # own way, so only the commands, which configure logging with it, refuse such a text (`check_log_level`).
    log_level: LogLevel = Field("INFO", alias="LOG_LEVEL")
    interval_seconds: Number = Field(60, alias="BACKGROUND_TASK_INTERVAL", gt=0, le=_DAY_SECONDS)
    min_wait_seconds: Number = Field(1, alias="BACKGROUND_TASK_MIN_WAIT", ge=0, le=_DAY_SECONDS)
    # Conversations per transaction; None: adapted to the duration of the previous batches.
    batch_size: WholeNumber | None = Field(None, alias="BACKGROUND_TASK_BATCH_SIZE", ge=1, le=MAX_LIMIT)
    # Conversations per second; None: no limit.
    max_rate: Number | None = Field(None, alias="BACKGROUND_TASK_MAX_RATE", gt=0, le=MAX_RATE)
    # Due conversations that the first cycle on an adopted table ends without confirmation.
    backlog_limit: WholeNumber = Field(10_000, alias="BACKGROUND_TASK_BACKLOG_LIMIT", ge=0, le=MAX_BACKLOG)
    enable_metrics: bool = Field(True, alias="BACKGROUND_TASK_ENABLE_METRICS")
    # HOST:PORT; None: no HTTP server.
    http: ListenAddress | None = Field(None, alias="LAPSE_HTTP")
    idle_timeout_minutes: Minutes = Field(30, alias="CONVERSATION_IDLE_TIMEOUT_MINUTES")
    # Seconds for a call of the service in total. Less than a provider waits for the response of a webhook (Twilio: 15).
    call_timeout_seconds: Number = Field(10, alias="LAPSE_CALL_TIMEOUT", ge=3, le=_DAY_SECONDS)
    # Days for which message ids are kept. Longer than a provider tries again (Meta: 7).
    receipt_days: Number = Field(8, alias="LAPSE_RECEIPT_DAYS", gt=0, le=MAX_RECEIPT_DAYS)
    expiration_minutes: Minutes = Field(1440, alias="CONVERSATION_EXPIRATION_MINUTES")

    def __init__(self, *, _names: Mapping[str, str] | None = None, **values: Any) -> None:
        """Accept keywords by the name of field or variable; `_names` maps fields to their names in error messages."""
        variables: dict[str, Any] = {}
        names: dict[str, str] = {}
        for name, value in values.items():
            if name.startswith("_"):  # an argument of pydantic-settings, such as `_env_file`
                variables[name] = value
                continue
            variable = _variable(name)
            if variable in names:
                raise SettingsError(f"{names[variable]} and {name} are the same setting: give one of them")
            variables[variable], names[variable] = value, (_names or {}).get(name, name)
        try:
            super().__init__(**variables)
        except ValidationError as error:
            raise SettingsError("; ".join(_explain(problem, names) for problem in error.errors())) from None
        except UnicodeDecodeError:
            raise SettingsError("the file .env is not UTF-8 text") from None
        if "LOG_LEVEL" in names:
            check_log_level(self, names["LOG_LEVEL"])

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[Any, ...]:
        """Return the sources of values in order of precedence: keywords, lapse's own URL, all other variables."""

        def own_url() -> dict[str, Any]:
            sources = (env_settings, dotenv_settings)
            urls = (getattr(source, "env_vars", {}).get(OWN_URL_VARIABLE.lower()) for source in sources)
            return next(({URL_VARIABLE: url} for url in urls if url), {})

        return (init_settings, own_url, env_settings, dotenv_settings)

    @property
    def expiration(self) -> timedelta:
        """Return the time from the start of a conversation to its expiry."""
        return timedelta(minutes=self.expiration_minutes)


def load_settings(**overrides: Any) -> Settings:
    """Return the settings; `overrides` are keywords of `Settings`, and None means that one is not given.

    Raises:
        SettingsError: as `Settings`.
    """
    return Settings(**{name: value for name, value in overrides.items() if value is not None})


def check_log_level(settings: Settings, name: str = "LOG_LEVEL") -> None:
    """Raise a `SettingsError` about the setting `name` unless its text is a log level."""
    try:
        parse_log_level(settings.log_level)
    except InvalidInputError as error:
        raise SettingsError(f"{_given(name, settings.log_level)} is not usable: {error}") from None


def check_setting(name: str, value: Any) -> Any:
    """Return a value for the field `name` of the settings; one that they would refuse is an `InvalidInputError`."""
    field = Settings.model_fields[name]
    annotated: Any = Annotated[field.annotation, *field.metadata]
    try:
        return TypeAdapter(annotated).validate_python(value)
    except ValidationError as error:
        raise InvalidInputError(f"{_given(name, value)} is not usable: {_reason(error.errors()[0])}") from None


def url_variable() -> str:
    """Return the variable that the database URL comes from, unless it is a keyword or the default."""
    is_own = any(
        name.upper() == OWN_URL_VARIABLE and value
        for variables in (os.environ, dotenv_values(_ENV_FILE))
        for name, value in variables.items()
    )
    return OWN_URL_VARIABLE if is_own else URL_VARIABLE


def idle_timeout_seconds(minutes: float) -> int:
    """Return an idle timeout in whole seconds, the unit in which it is stored.

    Raises:
        InvalidIdleTimeoutError: it is not a number, or not from one second to ten years.
    """
    try:
        return round(check_timeout_minutes(minutes) * 60)
    except InvalidInputError as error:
        raise InvalidIdleTimeoutError(f"an idle timeout of {shown(minutes)} minutes is not usable: {error}") from None


def _variable(name: str) -> str:
    """Return the variable of a setting; `name` is that of its field or of its variable."""
    variable_of = {field: info.alias or field for field, info in Settings.model_fields.items()}
    variable_of[OWN_URL_VARIABLE] = URL_VARIABLE
    if name not in variable_of and name not in variable_of.values():
        raise SettingsError(f"there is no setting {name[:60]!r}: the settings are {', '.join(Settings.model_fields)}")
    return variable_of.get(name, name)


def _explain(problem: Any, names: Mapping[str, str]) -> str:
    variable = str(problem["loc"][0]) if problem["loc"] else "settings"
    name = names.get(variable, variable)
    given = name if variable == URL_VARIABLE else _given(name, problem["input"])  # a URL may hold a password
    return f"{given} is not usable: {_reason(problem)}"


def _given(name: str, value: object) -> str:
    """Return an assignment as the user wrote it: `NAME='0'`, `argument=0.5`, `--option 0`."""
    text = masked(str(value).removesuffix(".0") if isinstance(value, float) else str(value)[:60])
    if name.startswith("-"):
        return f"{name} {shlex.quote(text) if text.isprintable() else repr(text)}"
    return f"{name}={repr(text) if isinstance(value, str) or not text.isprintable() else text}"


def _reason(problem: Any) -> str:
    return str(problem["msg"]).removeprefix("Value error, ").lower()
