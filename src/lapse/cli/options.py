"""Options shared by several commands. The settings read the variables that the help texts name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from lapse.errors import InvalidInputError

T = TypeVar("T")


def option(metavar: str, text: str, variable: str | None = None, default: str | None = None) -> Any:
    """Return an option with a value; its help is the text, with its environment variable and default, if given."""
    notes = {"env": variable, "default": default}
    shown_notes = [f"[{name}: {note}]" for name, note in notes.items() if note]
    return typer.Option(metavar=metavar, show_default=False, help=" ".join([text, *shown_notes]))


def check_option(option: str, value: T, check: Callable[[T], object]) -> None:
    """Check the value of an option that is not a setting, and name the option in the `InvalidInputError` of `check`."""
    try:
        check(value)
    except InvalidInputError as error:
        text = str(value).removesuffix(".0") if isinstance(value, float) else value
        raise InvalidInputError(f"{option} {text} is not usable: {error}") from None


DatabaseUrl = Annotated[
    str | None, option("URL", "Database to use.", "LAPSE_DATABASE_URL, DATABASE_URL", "sqlite:///lapse.db")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
IdleMinutes = Annotated[
    float | None, option("N", "Idle timeout in minutes.", "CONVERSATION_IDLE_TIMEOUT_MINUTES", "30")
]
