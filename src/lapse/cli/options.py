"""Options shared by several commands. The settings read the variables that the help texts name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from lapse.errors import InvalidInputError

T = TypeVar("T")


def help_with_variable(text: str, variable: str, default: str | None = None) -> str:
    """Return the help text of an option with its environment variable and default (None: not shown)."""
    return f"{text} [env: {variable}]" + (f" [default: {default}]" if default else "")


def check_option(option: str, value: T, check: Callable[[T], object]) -> None:
    """Check the value of an option that is not a setting.

    Raises:
        InvalidInputError: `check` refuses it; the message names the option.
    """
    try:
        check(value)
    except InvalidInputError as error:
        text = str(value).removesuffix(".0") if isinstance(value, float) else value
        raise InvalidInputError(f"{option} {text} is not usable: {error}") from None


DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        metavar="URL",
        show_default=False,
        help=help_with_variable("Database to use.", "LAPSE_DATABASE_URL, DATABASE_URL", "sqlite:///lapse.db"),
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
IdleMinutes = Annotated[
    float | None,
    typer.Option(
        "--idle-minutes",
        metavar="N",
        show_default=False,
        help=help_with_variable("Idle timeout in minutes.", "CONVERSATION_IDLE_TIMEOUT_MINUTES", "30"),
    ),
]
