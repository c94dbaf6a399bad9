"""`lapse health`: a probe for images without curl. Imports little, because probes must be fast."""

from __future__ import annotations

import http.client
import os
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

import typer

from lapse.addresses import shown
from lapse.cli.options import option
from lapse.errors import InvalidInputError

TIMEOUT_SECONDS = 5.0
"""Longer than a worker takes for any response."""
DEFAULT_PORT = 8080
PATH = "/livez"
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - reaches a server that listens on all interfaces


def health(
    url: Annotated[
        str | None,
        option(
            "URL",
            f"URL of the probe, with the path {PATH}, /readyz, /health or /metrics.",
            "LAPSE_HTTP",
            f"http://127.0.0.1:{DEFAULT_PORT}{PATH}",
        ),
    ] = None,
) -> None:
    """Probe a running worker: exit with 0 if it is healthy, else with 1; print one line with the reason."""
    is_healthy, reason = _probe(_parsed(_default_url() if url is None else url))
    typer.echo(reason)
    if not is_healthy:
        raise typer.Exit(1)


def _default_url() -> str:
    # Not `Settings`: importing it takes longer than the probe.
    from dotenv import dotenv_values

    from lapse.validation import parse_listen_address

    listen = os.environ.get("LAPSE_HTTP") or dotenv_values(".env").get("LAPSE_HTTP") or f"127.0.0.1:{DEFAULT_PORT}"
    try:
        host, port = parse_listen_address(listen)
    except InvalidInputError as error:
        raise InvalidInputError(f"LAPSE_HTTP={listen[:60]!r} is not usable: {error}") from None
    host = _LOOPBACK.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"


def _parsed(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0 and url.isprintable()
        (parts.hostname or "").encode("idna")
    except ValueError:  # a port that is not a number, an unclosed bracket, a label of the host that is too long
        is_usable = False
    if not is_usable or " " in url or not url.isascii():
        raise InvalidInputError(f"{shown(url)} is no URL to ask: use http://HOST:PORT{PATH}")
    return parts


def _probe(url: SplitResult) -> tuple[bool, str]:
    """Return whether the worker responded with 200, and one line that says why."""
    server = f"{url.hostname}:{url.port or http.client.HTTP_PORT}"  # the URL may contain a password
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", (url.path or PATH) + (f"?{url.query}" if url.query else ""))
        response = connection.getresponse()
        lines = response.read(4_096).decode(errors="replace").splitlines()
        # No control characters from an unknown server to the terminal.
        reason = "".join(filter(str.isprintable, lines[0] if lines else "")) or f"status {response.status}"
        return response.status == http.client.OK, reason
    except TimeoutError:
        return False, f"no answer from {server} within {TIMEOUT_SECONDS:g} seconds"
    except OSError as error:
        return False, f"no answer from {server}: {(error.strerror or str(error)).lower()}"
    except http.client.HTTPException as error:
        return False, f"{server} does not answer in HTTP: {type(error).__name__}"
    finally:
        connection.close()
