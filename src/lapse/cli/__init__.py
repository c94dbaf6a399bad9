"""The command `lapse`. Heavy modules are imported inside the commands that need them, so that help is fast."""

from lapse.cli.app import main

__all__ = ["main"]
