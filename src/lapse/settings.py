"""Settings from the environment and `.env`, validated once."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from lapse.addresses import shown
from lapse.arguments import MAX_BACKLOG, MAX_LIMIT, parse_listen_address, real_number
from lapse.errors import InvalidIdleTimeoutError, InvalidInputError, SettingsError

DEFAULT_DATABASE_URL = "sqlite:///lapse.db"
TEN_YEARS_MINUTES = 10 * 365 * 24 * 60
_DAY_SECONDS = 24 * 60 * 60

# Whole seconds at least, and short enough that no deadline leaves the calendar.
Minutes = Annotated[float, Field(ge=1 / 60, le=TEN_YEARS_MINUTES, allow_inf_nan=False)]


class Settings(BaseSettings):
    """All settings of lapse; each field's alias is its environment variable."""

    # Not `populate_by_name`: it would read variables of the fields' names, and BATCH_SIZE may be another program's.
    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True)

    database_url: str = Field(DEFAULT_DATABASE_URL, alias="DATABASE_URL", repr=False)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field("INFO", alias="LOG_LEVEL")
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
    expiration_minutes: Minutes = Field(1440, alias="CONVERSATION_EXPIRATION_MINUTES")

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

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
    """Return the settings: `overrides` by field name (None means not given), then environment, `.env`, default.

    Raises:
        SettingsError: a value is not usable; the message names the variable and what it allows, on one line.
    """
    given = {_variable(name): value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(problem) for problem in error.errors())) from None
    except UnicodeDecodeError:
        raise SettingsError("the file .env is not UTF-8 text") from None


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
    field = Settings.model_fields.get(name)
    return field.alias or name if field else name


def _explain(problem: Any) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else "settings"
    variable = _variable(name)
    value = "" if variable == "DATABASE_URL" else f"={shown(problem['input'])}"
    return f"{variable}{value} is not usable: {problem['msg'].removeprefix('Value error, ').lower()}"
