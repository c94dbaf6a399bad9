"""A TCP proxy in front of a database, which can cut every connection and refuse new ones: a database that is away."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from sqlalchemy import make_url


class Proxy:
    """Forwards a port of 127.0.0.1 to the database of a URL; `url` is the database seen through it."""

    def __init__(self, url: str) -> None:
        """Listen, but let nobody through until `open`."""
        target = make_url(url)
        self._target = (target.host or "127.0.0.1", target.port or 5432)
        with socket.create_server(("127.0.0.1", 0)) as reserved:
            self._port = reserved.getsockname()[1]
        self._listener: socket.socket | None = None
        self._open_sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.url = target.set(host="127.0.0.1", port=self._port).render_as_string(hide_password=False)

    def open(self) -> None:
        """Let connections through."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._start(self._accept, self._listener)

    def close(self) -> None:
        """Cut what is connected and refuse what comes."""
        if self._listener is not None:
            # Closing alone would leave `accept` waiting.
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for connected in self._open_sockets:
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for connected in self._open_sockets:
            connected.close()
        self._open_sockets.clear()
        self._threads.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
                self._open_sockets += [client, server]
                self._connect(client, server)

    def _connect(self, client: socket.socket, server: socket.socket) -> None:
        self._start(self._forward, client, server)
        self._start(self._forward, server, client)

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()
