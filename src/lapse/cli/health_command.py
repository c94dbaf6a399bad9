"""`lapse health`: a probe for those without curl. Imports little, for it must answer fast."""

from __future__ import annotations

import http.client
import os
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

import typer

from lapse.addresses import shown
from lapse.cli.options import help_with_variable
from lapse.errors import InvalidInputError

TIMEOUT_SECONDS = 5.0
"""More than a worker takes for any of its answers."""
DEFAULT_PORT = 8080
PATH = "/livez"
_EVERY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what a server listens at, and where to find it


def health(
    url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            show_default=False,
            help=help_with_variable(
                f"What to ask; of {PATH}, /readyz, /health and /metrics the first one is the default.",
                "LAPSE_HTTP",
                f"http://127.0.0.1:{DEFAULT_PORT}{PATH}",
            ),
        ),
    ] = None,
) -> None:
    """Ask a running worker how it is: exit 0 if it answers that all is well, else 1, with one line that says why."""
    is_well, line = _ask(_parsed(_default_url() if url is None else url))
    typer.echo(line)
    if not is_well:
        raise typer.Exit(1)


def _default_url() -> str:
    # Not `Settings`, which would take longer than the answer.
    from dotenv import dotenv_values

    from lapse.validation import parse_listen_address

    listen = os.environ.get("LAPSE_HTTP") or dotenv_values(".env").get("LAPSE_HTTP") or f"127.0.0.1:{DEFAULT_PORT}"
    try:
        host, port = parse_listen_address(listen)
    except InvalidInputError as error:
        raise InvalidInputError(f"LAPSE_HTTP={listen[:60]!r} is not usable: {error}") from None
    host = _EVERY_ADDRESS.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"


def _parsed(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and url.isprintable()
        (parts.hostname or "").encode("idna")
    except ValueError:  # a port that is no number, brackets that do not close, a host with a part that is too long
        is_usable = False
    if not is_usable or " " in url or not url.isascii():
        raise InvalidInputError(f"{shown(url)} is no URL to ask: use http://HOST:PORT{PATH}")
    return parts


def _ask(url: SplitResult) -> tuple[bool, str]:
    asked = f"{url.hostname}:{url.port or http.client.HTTP_PORT}"  # without a password that the URL may hold
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", (url.path or PATH) + (f"?{url.query}" if url.query else ""))
        response = connection.getresponse()
        lines = response.read(4_096).decode(errors="replace").splitlines()
        # Whatever answers there, it has no say over a terminal.
        reason = "".join(filter(str.isprintable, lines[0] if lines else "")) or f"status {response.status}"
        return response.status == http.client.OK, reason
    except TimeoutError:
        return False, f"no answer from {asked} within {TIMEOUT_SECONDS:g} seconds"
    except OSError as error:
        return False, f"no answer from {asked}: {(error.strerror or str(error)).lower()}"
    except http.client.HTTPException as error:
        return False, f"{asked} does not answer in HTTP: {type(error).__name__}"
    finally:
        connection.close()
