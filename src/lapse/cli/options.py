"""Options that several commands share. Settings read the environment; the help only names the variables."""

from __future__ import annotations

from typing import Annotated

import typer


def help_with_variable(text: str, variable: str, default: str | None = None) -> str:
    """Return a help text that names the option's environment variable and default."""
    return f"{text} [env: {variable}]" + (f" [default: {default}]" if default else "")


DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url",
        metavar="URL",
        show_default=False,
        help=help_with_variable("Database to use.", "DATABASE_URL", "sqlite:///lapse.db"),
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
