"""The server behind `lapse worker --http`: it listens before the worker starts, and never holds up its stop."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher, WSGITask

from lapse.errors import ListenError
from lapse.http.app import ASKED_AT, LIVENESS, READINESS, WsgiApp
from lapse.logs import EventLogger
from lapse.validation import parse_listen_address

THREADS = 1
"""For all paths but those of the probes, which have a thread each: however many ask for the rest, a probe waits for
none of them, and `/readyz`, which waits for the database, holds up nobody but itself. More would be in the way of the
one that accepts: they are Python, of which one runs at a time."""
MOST_CONNECTIONS = 100
"""Probes and scrapes need a handful. Beyond, an old connection is closed for each new one."""
ACCEPTED_AT_ONCE = 20
"""Between two looks at all connections: in a crowd, who comes waits for as many looks as there are before it."""
SECONDS_TO_ASK = 1.0
"""In a crowd, who has not asked for so long is the first to go."""
MOST_SECONDS = 10
"""So long a connection may take for its request, and then for its answer."""
MOST_REQUEST_BYTES = 16 * 1024
REST_SECONDS = 0.05
"""Before the server tries again to accept where the process has no file descriptor left, and it holds none itself."""

log = EventLogger(__name__)


class _Request(HTTPRequestParser):
    """One request for each connection: what a client sends without waiting for its answer is not looked at."""

    def received(self, data: bytes) -> int:
        taken: int = super().received(data)
        return len(data) if self.completed else taken


class _Answer(WSGITask):
    """One answer for each connection."""

    channel: Any

    def start(self) -> None:
        super().start()
        self.set_close_on_finish()

    def get_environment(self) -> dict[str, Any]:
        environment: dict[str, Any] = super().get_environment()
        environment[ASKED_AT] = self.channel.asked_at
        return environment


class _Connection(HTTPChannel):
    """A connection, for one request."""

    parser_class = _Request
    task_class = _Answer
    asked_at = 0.0


class _Server(TcpWSGIServer):
    """A server of which no client can take more than its share: not of connections, threads, time or memory."""

    channel_class = _Connection
    active_channels: Any
    trigger: Any

    def __init__(
        self, app: WsgiApp, listener: socket.socket, channels: dict[int, Any], adjustments: Adjustments
    ) -> None:
        of_socket = (listener.family, listener.type, listener.proto, listener.getsockname())
        super().__init__(app, channels, _sock=listener, adj=adjustments, bind_socket=False, sockinfo=of_socket)
        self._for_liveness, self._for_readiness = ThreadedTaskDispatcher(), ThreadedTaskDispatcher()
        for dispatcher in (self._for_liveness, self._for_readiness):
            dispatcher.set_thread_count(1)
        self._closing, self._is_closed = threading.Lock(), False
        of_process, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        is_limited = of_process != resource.RLIM_INFINITY
        # The database needs some as well.
        self._most = min(MOST_CONNECTIONS, of_process // 4) if is_limited else MOST_CONNECTIONS

    def add_task(self, task: Any) -> None:
        """Let the thread of its path answer a request."""
        task.asked_at = time.monotonic()
        path = "/" + getattr(task.requests[0], "path", "").lstrip("/")  # as the application will see it
        of_probes = {LIVENESS: self._for_liveness, READINESS: self._for_readiness}
        of_probes.get(path, self.task_dispatcher).add_task(task)

    def readable(self) -> bool:
        """Take no new connection while there are too many, all of which are about to be told that the loop moves."""
        return bool(super().readable()) and len(self.active_channels) <= self._most

    def accept(self) -> Any:
        """Accept a connection, where there is a file descriptor for it; else make room for the next try."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        if not self._close_one():
            time.sleep(REST_SECONDS)  # or it would try without a pause
        return None

    def handle_accept(self) -> None:
        """Take new connections, then close old ones where there are too many.

        In this order: a closed one's file number would be a new one's, and the same look at all of them may have found
        something to be done there for the old one.
        """
        for _ in range(ACCEPTED_AT_ONCE):
            before = len(self.active_channels)
            super().handle_accept()
            if len(self.active_channels) <= before:
                break
        while len(self.active_channels) > self._most and self._close_one():
            pass

    def maintenance(self, now: float) -> None:
        """Close what grows old, whatever it says, and also where it cannot be written to."""
        for channel in list(self.active_channels.values()):
            if not channel.requests and channel.creation_time < now - MOST_SECONDS:
                channel.handle_close()

    def stop(self) -> None:
        """Let the threads end, once they have nothing to do."""
        for dispatcher in (self.task_dispatcher, self._for_liveness, self._for_readiness):
            dispatcher.set_thread_count(0)

    def pull_trigger(self) -> None:
        """Wake the server's thread, as a thread does that has an answer; not once all is closed.

        What is written to wake it goes to a bare file number, which may be another file's by then.
        """
        with self._closing:
            if not self._is_closed:
                super().pull_trigger()

    def close_all(self, channels: dict[int, Any]) -> None:
        """Close every connection and the trigger, in the server's own thread."""
        with self._closing:
            self._is_closed = True
            wasyncore.close_all(channels)

    def _close_one(self) -> bool:
        """Close one that has not asked in a second, or whose answer takes time, or that has not asked; False: none.

        The oldest of its kind. Who has just come has not had the time to ask: last only the older half is looked at.
        """
        channels = list(self.active_channels.values())
        silent = next((one for one in channels if not one.requests), None)
        found = silent if silent is not None and silent.creation_time < time.time() - SECONDS_TO_ASK else None
        for dispatcher in (self.task_dispatcher, self._for_readiness):
            with dispatcher.lock:
                if found is None and dispatcher.queue:
                    found = dispatcher.queue.popleft()
        if found is None and silent in channels[: (len(channels) + 1) // 2]:
            found = silent
        if found is not None:
            found.handle_close()
        return found is not None


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
        adjustments = Adjustments(
            sockets=[listener],
            threads=THREADS,
            connection_limit=2 * MOST_CONNECTIONS,  # never reached
            cleanup_interval=MOST_SECONDS // 2,
            max_request_header_size=MOST_REQUEST_BYTES,
            max_request_body_size=MOST_REQUEST_BYTES,
            asyncore_use_poll=True,
            ident=None,
        )
        server = _Server(app, listener, channels, adjustments)
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
                server.trigger.thunks.append(partial(server.close_all, channels))
                server.pull_trigger()
            server.stop()


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
