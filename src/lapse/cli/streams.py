"""Standard streams of the command, which may be closed, full, or without a reader."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import typer


def open_closed_streams() -> None:
    """Reopen closed standard streams (`>&-`) on /dev/null: the next file opened would get their file descriptors.

    Standard input is then empty, writing to standard output fails as before, and standard error is discarded.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)  # gets the lowest free descriptor
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


def tell(line: str) -> None:
    """Write a line to standard error; a failure to write it is ignored."""
    with suppress(OSError):
        typer.echo(line, err=True)


def discard_unwritten() -> None:
    """Discard buffered output that cannot be written: Python would retry at exit, and change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
