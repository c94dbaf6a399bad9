"""The server behind `lapse worker --http`: it listens before the worker starts, and never delays its stop."""

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
from typing import TYPE_CHECKING, Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import TcpWSGIServer
from waitress.task import ThreadedTaskDispatcher, WSGITask

from lapse.errors import ListenError
from lapse.http.app import ASKED_AT, LIVENESS, READINESS
from lapse.logs import EventLogger
from lapse.validation import parse_listen_address

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

THREADS = 1
"""For all paths but those of the two probes, which have one thread each, so that nothing delays them. More threads
would slow down the one that accepts connections, because only one thread runs Python code at a time."""
MAX_CONNECTIONS = 100
"""Probes and scrapes need a handful. Above this, an old connection is closed for each new one."""
ACCEPTS_PER_POLL = 20
"""Connections accepted between two polls: under load, a new connection waits one poll per so many before it."""
REQUEST_GRACE_SECONDS = 1.0
"""Under load, connections that have not sent a request within this time are closed first."""
CONNECTION_TIMEOUT_SECONDS = 10
"""For receiving a request, and again for sending its response."""
MAX_REQUEST_BYTES = 16 * 1024
ACCEPT_RETRY_SECONDS = 0.05
"""Pause before the next attempt to accept when the process has no free file descriptor and nothing can be closed."""

log = EventLogger(__name__)


class _Request(HTTPRequestParser):
    """Reads one request per connection; pipelined requests are ignored."""

    def received(self, data: bytes) -> int:
        consumed: int = super().received(data)
        return len(data) if self.completed else consumed


class _Answer(WSGITask):
    """Sends one response per connection."""

    channel: Any

    def start(self) -> None:
        super().start()
        self.set_close_on_finish()

    def get_environment(self) -> dict[str, Any]:
        environment: dict[str, Any] = super().get_environment()
        environment[ASKED_AT] = self.channel.asked_at
        return environment


class _Connection(HTTPChannel):
    """A connection for one request."""

    parser_class = _Request
    task_class = _Answer
    asked_at = 0.0


class _Server(TcpWSGIServer):
    """Limits the connections, threads, time and memory that clients can use."""

    channel_class = _Connection
    active_channels: Any
    trigger: Any

    def __init__(
        self, app: WSGIApplication, listener: socket.socket, channels: dict[int, Any], adjustments: Adjustments
    ) -> None:
        of_socket = (listener.family, listener.type, listener.proto, listener.getsockname())
        super().__init__(app, channels, _sock=listener, adj=adjustments, bind_socket=False, sockinfo=of_socket)
        self._probe_dispatchers = {path: ThreadedTaskDispatcher() for path in (LIVENESS, READINESS)}
        for dispatcher in self._probe_dispatchers.values():
            dispatcher.set_thread_count(1)
        self._closing, self._is_closed = threading.Lock(), False
        self._max_connections = MAX_CONNECTIONS
        file_limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if file_limit != resource.RLIM_INFINITY:
            self._max_connections = min(MAX_CONNECTIONS, file_limit // 4)  # the database needs some as well

    def add_task(self, task: Any) -> None:
        """Queue a request for the thread of its path."""
        task.asked_at = time.monotonic()
        path = "/" + getattr(task.requests[0], "path", "").lstrip("/")  # as the application gets it
        self._probe_dispatchers.get(path, self.task_dispatcher).add_task(task)

    def readable(self) -> bool:
        """Return whether to accept: not above the limit, where all connections are about to get their response."""
        return bool(super().readable()) and len(self.active_channels) <= self._max_connections

    def accept(self) -> Any:
        """Accept a connection; without a free file descriptor, close one for the next attempt, and return None."""
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        if not self._close_one():
            time.sleep(ACCEPT_RETRY_SECONDS)  # else the server would retry in a busy loop
        return None

    def handle_accept(self) -> None:
        """Accept new connections, then close old ones above the limit.

        In this order: a new connection could reuse the descriptor of a closed one, for which the same poll may have
        reported events.
        """
        for _ in range(ACCEPTS_PER_POLL):
            before = len(self.active_channels)
            super().handle_accept()
            if len(self.active_channels) <= before:
                break
        while len(self.active_channels) > self._max_connections and self._close_one():
            pass

    def maintenance(self, now: float) -> None:
        """Close connections without a complete request in time, also those that cannot be written to."""
        for channel in list(self.active_channels.values()):
            if not channel.requests and channel.creation_time < now - CONNECTION_TIMEOUT_SECONDS:
                channel.handle_close()

    def stop(self) -> None:
        """Let the threads end once their queues are empty."""
        for dispatcher in (self.task_dispatcher, *self._probe_dispatchers.values()):
            dispatcher.set_thread_count(0)

    def pull_trigger(self) -> None:
        """Wake the server's thread, unless all is closed: the trigger's descriptor may be another file's by then."""
        with self._closing:
            if not self._is_closed:
                super().pull_trigger()

    def close_all(self, channels: dict[int, Any]) -> None:
        """Close every connection and the trigger, in the server's own thread."""
        with self._closing:
            self._is_closed = True
            wasyncore.close_all(channels)

    def _close_one(self) -> bool:
        """Close one connection; return whether there was one to close.

        The first of these: the oldest without a request for a second; the oldest that waits for a slow response; the
        oldest without a request, if it is in the older half: the newer ones had no time to send one.
        """
        channels = list(self.active_channels.values())
        silent = next((one for one in channels if not one.requests), None)
        victim = silent if silent is not None and silent.creation_time < time.time() - REQUEST_GRACE_SECONDS else None
        for dispatcher in (self.task_dispatcher, self._probe_dispatchers[READINESS]):
            with dispatcher.lock:
                if victim is None and dispatcher.queue:
                    victim = dispatcher.queue.popleft()
        if victim is None and silent in channels[: (len(channels) + 1) // 2]:
            victim = silent
        if victim is not None:
            victim.handle_close()
        return victim is not None


@contextmanager
def serving(app: WSGIApplication, listen: str) -> Iterator[tuple[str, int]]:
    """Serve `app`, called from several threads, at `HOST:PORT` during the block; yield host and port.

    Raises:
        InvalidInputError: `listen` does not have this form.
        ListenError: the address cannot be used: for example, the port is in use.
    """
    with _listening(listen) as listener:
        channels: dict[int, Any] = {}
        adjustments = Adjustments(
            sockets=[listener],
            threads=THREADS,
            connection_limit=2 * MAX_CONNECTIONS,  # never reached
            cleanup_interval=CONNECTION_TIMEOUT_SECONDS // 2,
            max_request_header_size=MAX_REQUEST_BYTES,
            max_request_body_size=MAX_REQUEST_BYTES,
            asyncore_use_poll=True,
            ident=None,
        )
        server = _Server(app, listener, channels, adjustments)
        # Daemon threads: the end of the process does not wait for pending responses.
        threading.Thread(target=server.run, name="lapse-http", daemon=True).start()
        host, port = listener.getsockname()[:2]
        log.info("http server listening", host=host, port=port)
        try:
            yield host, port
        finally:
            # In the server's thread, because only that may close what it polls. Under the trigger's lock: else a server
            # that wakes by itself could close the trigger before it is pulled.
            with server.trigger.lock:
                server.trigger.thunks.append(partial(server.close_all, channels))
                server.pull_trigger()
            server.stop()


def _listening(listen: str) -> socket.socket:
    host, port = parse_listen_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        addresses = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        is_dual_stack = host == "::" and socket.has_dualstack_ipv6()
        return socket.create_server(addresses[0][4][:2], family=family, dualstack_ipv6=is_dual_stack)
    except socket.gaierror as error:
        reason = error.strerror
    except OSError as error:
        reason = os.strerror(error.errno or 0)  # Python's own text repeats the address
    raise ListenError(f"cannot listen at {listen}: {str(reason).lower()}")
