"""The standard streams of the command: they may be closed, full, or read by nobody."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import typer

_STREAMS = ("stdin", "stdout", "stderr")


def open_closed_streams() -> None:
    """Take the places of standard streams that were closed (`>&-`): the next file, the database say, would get them.

    Reading finds nothing, what is written to standard output fails as before, what is said on standard error is lost.
    """
    for number, name in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)  # gets the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


def tell(line: str) -> None:
    """Write a line to standard error, if that is possible: nothing fails for want of somebody who reads it."""
    with suppress(OSError):
        typer.echo(line, err=True)


def discard_unwritten() -> None:
    """Throw away what cannot be written: Python would try again at its exit, and make that a failure."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
