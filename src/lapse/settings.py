"""Settings from the environment and `.env`, validated once."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

from dotenv import dotenv_values
from pydantic import Field, TypeAdapter, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from lapse.addresses import masked, shown
from lapse.errors import InvalidIdleTimeoutError, InvalidInputError, SettingsError
from lapse.validation import MAX_BACKLOG, MAX_LIMIT, parse_listen_address, parse_log_level, real_number

DEFAULT_DATABASE_URL = "sqlite:///lapse.db"
OWN_URL_VARIABLE, URL_VARIABLE = "LAPSE_DATABASE_URL", "DATABASE_URL"
"""The first one counts before the second, wherever either is set: that one may be of the application around lapse."""
_ENV_FILE = ".env"
TEN_YEARS_MINUTES = 10 * 365 * 24 * 60
_DAY_SECONDS = 24 * 60 * 60

# Whole seconds at least, and short enough that no deadline leaves the calendar.
Minutes = Annotated[float, Field(ge=1 / 60, le=TEN_YEARS_MINUTES, allow_inf_nan=False)]


class Settings(BaseSettings):
    """All settings of lapse; each field's alias is its environment variable.

    Keywords are names of fields (`expiration_minutes=5`) or of variables (`CONVERSATION_EXPIRATION_MINUTES=5`), and
    count before the environment, that before `.env`, that before the defaults.

    Raises:
        SettingsError: a value is not usable, or a keyword is no setting: one line that names it.
    """

    # Not `populate_by_name`: it would read variables of the fields' names, and BATCH_SIZE may be another program's.
    model_config = SettingsConfigDict(env_file=_ENV_FILE, extra="ignore", frozen=True, env_ignore_empty=True)

    database_url: str = Field(DEFAULT_DATABASE_URL, alias="DATABASE_URL", repr=False)
    # DEBUG, INFO, WARNING, ERROR or CRITICAL. Anything else is what an application means by LOG_LEVEL: only a command,
    # which logs by it, refuses that (`check_log_level`).
    log_level: str = Field("INFO", alias="LOG_LEVEL")
    interval_seconds: float = Field(60, alias="BACKGROUND_TASK_INTERVAL", gt=0, le=_DAY_SECONDS, allow_inf_nan=False)
    min_wait_seconds: float = Field(1, alias="BACKGROUND_TASK_MIN_WAIT", ge=0, le=_DAY_SECONDS, allow_inf_nan=False)
    # None: the size follows the time that batches take.
    batch_size: int | None = Field(None, alias="BACKGROUND_TASK_BATCH_SIZE", ge=1, le=MAX_LIMIT)
    # Conversations a second; None: as fast as the database goes.
    max_rate: float | None = Field(None, alias="BACKGROUND_TASK_MAX_RATE", gt=0, le=1_000_000, allow_inf_nan=False)
    # Conversations that may be due at a worker's first cycle on an adopted table without anybody's word.
    backlog_limit: int = Field(10_000, alias="BACKGROUND_TASK_BACKLOG_LIMIT", ge=0, le=MAX_BACKLOG)
    enable_metrics: bool = Field(True, alias="BACKGROUND_TASK_ENABLE_METRICS")
    # HOST:PORT; None: no HTTP server.
    http: str | None = Field(None, alias="LAPSE_HTTP")
    idle_timeout_minutes: Minutes = Field(30, alias="CONVERSATION_IDLE_TIMEOUT_MINUTES")
    # Seconds for a call of the service altogether. Less than a provider waits for its webhook's answer (Twilio: 15).
    call_timeout_seconds: float = Field(10, alias="LAPSE_CALL_TIMEOUT", ge=3, le=_DAY_SECONDS, allow_inf_nan=False)
    expiration_minutes: Minutes = Field(1440, alias="CONVERSATION_EXPIRATION_MINUTES")

    def __init__(self, *, _names: Mapping[str, str] | None = None, **values: Any) -> None:
        """Take keywords by the name of field or variable; `_names` says how errors call a field that is given."""
        variables: dict[str, Any] = {}
        names: dict[str, str] = {}
        for name, value in values.items():
            if name.startswith("_"):  # of pydantic-settings: `_env_file`
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
        """Return where values come from, the first before the others: keywords, lapse's own URL, all variables."""

        def own_url() -> dict[str, Any]:
            found = (getattr(source, "env_vars", {}).get(OWN_URL_VARIABLE.lower()) for source in sources)
            return next(({URL_VARIABLE: url} for url in found if url), {})

        sources = (env_settings, dotenv_settings)
        return (init_settings, own_url, *sources)

    @field_validator("log_level", mode="before")
    @classmethod
    def _level(cls, value: object) -> object:
        try:
            return parse_log_level(value)
        except InvalidInputError:
            return "" if value is None else str(value)  # not the word "none", which is one of a level

    @field_validator("http")
    @classmethod
    def _listen_address(cls, value: str | None) -> str | None:
        if value is not None:
            parse_listen_address(value)
        return value

    @property
    def expiration(self) -> timedelta:
        """Return how long after its start a conversation expires."""
        return timedelta(minutes=self.expiration_minutes)


def load_settings(**overrides: Any) -> Settings:
    """Return the settings: `overrides` as `Settings` takes them (None means not given), environment, `.env`, default.

    Raises:
        SettingsError: as `Settings`.
    """
    return Settings(**{name: value for name, value in overrides.items() if value is not None})


def check_log_level(settings: Settings, name: str = "LOG_LEVEL") -> None:
    """Check that one can log by the level.

    Raises:
        SettingsError: it is no level; the line calls it by this name.
    """
    try:
        parse_log_level(settings.log_level)
    except InvalidInputError as error:
        raise SettingsError(f"{_given(name, settings.log_level)} is not usable: {error}") from None


def check_setting(name: str, value: Any) -> Any:
    """Return a value as the setting of this name (a field's) takes it, wherever it was given.

    Raises:
        InvalidInputError: the setting would not take it.
    """
    field = Settings.model_fields[name]
    annotated: Any = Annotated[field.annotation, *field.metadata]
    try:
        return TypeAdapter(annotated).validate_python(value)
    except ValidationError as error:
        raise InvalidInputError(f"{_given(name, value)} is not usable: {_reason(error.errors()[0])}") from None


def url_variable() -> str:
    """Return the variable that the database's URL comes from, if from one."""
    is_own = any(
        name.upper() == OWN_URL_VARIABLE and value
        for variables in (os.environ, dotenv_values(_ENV_FILE))
        for name, value in variables.items()
    )
    return OWN_URL_VARIABLE if is_own else URL_VARIABLE


def idle_timeout_seconds(minutes: float) -> int:
    """Return an idle timeout in whole seconds, the unit in which it is stored.

    Raises:
        InvalidIdleTimeoutError: it is no number, or not between one second and ten years.
    """
    number = real_number(minutes)
    if number is None or not 1 / 60 <= number <= TEN_YEARS_MINUTES:
        raise InvalidIdleTimeoutError(
            f"an idle timeout of {shown(minutes)} minutes is not usable: use one second to ten years "
            f"({TEN_YEARS_MINUTES} minutes)"
        )
    return round(number * 60)


def check_extension(minutes: float) -> float:
    """Return by how many minutes an expiry is to be later.

    Raises:
        InvalidInputError: it is not more than 0 and at most ten years.
    """
    number = real_number(minutes)
    if number is None or not 0 < number <= TEN_YEARS_MINUTES:
        raise InvalidInputError(f"cannot extend by {shown(minutes)} minutes: use a number of up to {TEN_YEARS_MINUTES}")
    return number


def _variable(name: str) -> str:
    """Return the variable of a setting that is called by its field's name or by its variable's."""
    variable_of = {field: info.alias or field for field, info in Settings.model_fields.items()}
    variable_of[OWN_URL_VARIABLE] = URL_VARIABLE
    if name in variable_of:
        return variable_of[name]
    if name in variable_of.values():
        return name
    raise SettingsError(f"there is no setting {name[:60]!r}: the settings are {', '.join(Settings.model_fields)}")


def _explain(problem: Any, names: Mapping[str, str]) -> str:
    variable = str(problem["loc"][0]) if problem["loc"] else "settings"
    name = names.get(variable, variable)
    given = name if variable == URL_VARIABLE else _given(name, problem["input"])  # a URL may hold a password
    return f"{given} is not usable: {_reason(problem)}"


def _given(name: str, value: object) -> str:
    """Return what was set to what, as one writes it: `NAME='0'`, `argument=0.5`, `--option 0`."""
    text = masked(str(value).removesuffix(".0") if isinstance(value, float) else str(value)[:60])
    if name.startswith("-"):
        return f"{name} {shlex.quote(text) if text.isprintable() else repr(text)}"
    return f"{name}={repr(text) if isinstance(value, str) or not text.isprintable() else text}"


def _reason(problem: Any) -> str:
    return str(problem["msg"]).removeprefix("Value error, ").lower()
