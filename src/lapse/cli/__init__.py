"""The command `lapse`. Whatever is heavy is imported by the command that needs it: help must be quick."""

from lapse.cli.app import main

__all__ = ["main"]
