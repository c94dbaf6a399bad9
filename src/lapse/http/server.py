"""The server behind `lapse worker --http`: it listens before the worker starts, and never holds up its stop."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from waitress import wasyncore
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.task import WSGITask

from lapse.arguments import parse_listen_address
from lapse.errors import ListenError
from lapse.http.app import WsgiApp
from lapse.logs import EventLogger

THREADS = 4
MOST_CONNECTIONS = 100
"""Probes and scrapes need a handful. Beyond, new ones wait until old ones are closed. Few enough for any limit of open
files: without one left to accept with, the server would try again and again, and write a line each time."""
MOST_SECONDS = 10
"""So long a connection may take for its request, and then for its answer."""
MOST_REQUEST_BYTES = 16 * 1024

log = EventLogger(__name__)


class _Answer(WSGITask):
    """One answer for each connection: what a client sends without waiting for it is not looked at."""

    def start(self) -> None:
        super().start()
        self.set_close_on_finish()


class _Connection(HTTPChannel):
    """A connection that grows old whatever it says: one byte now and then does not keep it."""

    task_class = _Answer

    @property
    def last_activity(self) -> float:
        return self.creation_time

    @last_activity.setter
    def last_activity(self, moment: float) -> None:
        pass


@contextmanager
def serving(app: WsgiApp, listen: str) -> Iterator[tuple[str, int]]:
    """Serve `app` in threads of their own while what is inside runs; yields host and port.

    Args:
        app: is called by several threads.
        listen: `HOST:PORT`.

    Raises:
        InvalidInputError: `listen` is something else.
        ListenError: nobody can listen there: the port is in use, say.
    """
    with _listening(listen) as listener:
        channels: dict[int, Any] = {}
        server: Any = create_server(
            app,
            map=channels,
            sockets=[listener],
            threads=THREADS,
            connection_limit=MOST_CONNECTIONS,
            channel_timeout=MOST_SECONDS,
            cleanup_interval=MOST_SECONDS // 2,
            max_request_header_size=MOST_REQUEST_BYTES,
            max_request_body_size=MOST_REQUEST_BYTES,
            asyncore_use_poll=True,
            ident=None,
        )
        server.channel_class = _Connection
        # Daemons, all of them: whoever is still being answered at the end of the process is not waited for.
        threading.Thread(target=server.run, name="lapse-http", daemon=True).start()
        host, port = listener.getsockname()[:2]
        log.info("http server listening", host=host, port=port)
        try:
            yield host, port
        finally:
            # In the server's own thread: nobody else may close what it polls. Under the lock of the trigger: awake by
            # itself, the server would close it before it is pulled.
            with server.trigger.lock:
                server.trigger.thunks.append(partial(wasyncore.close_all, channels))
                server.pull_trigger()
            server.task_dispatcher.set_thread_count(0)


def _listening(listen: str) -> socket.socket:
    host, port = parse_listen_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        is_for_both = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(found[0][4][:2], family=family, dualstack_ipv6=is_for_both)
    except socket.gaierror as error:
        reason = error.strerror
    except OSError as error:
        reason = os.strerror(error.errno or 0)  # Python's own text holds the address once more
    raise ListenError(f"cannot listen at {listen}: {str(reason).lower()}")
