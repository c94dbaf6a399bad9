"""A proxy that cuts connections around a COMMIT: before it, on its way, before its answer, in the middle of its answer.

It reads of PostgreSQL's protocol what it needs to find the moment: the frames of the client, and the SQL in them. A
statement that writes outside a transaction commits by itself; its last frame (Sync) is the COMMIT then.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from sqlalchemy import make_url

from tests.support.proxy import Proxy

TRANSACTION, STATEMENT = "transaction", "statement"
PLACES = ("unsent", "sent", "unanswered", "half answered")
_WRITES = ("INSERT INTO conversation", "UPDATE conversations")
_LENGTH = struct.Struct("!I")


@dataclass
class _Link:
    """One client's connection: what of the protocol matters, and where its answer will be cut."""

    client: socket.socket
    server: socket.socket
    has_started: bool = False
    in_transaction: bool = False
    commits_at_sync: str | None = None
    cut_answer: str | None = None
    running: int = 2
    lock: threading.Lock = field(default_factory=threading.Lock)

    def commits(self, kind: bytes, payload: bytes) -> str | None:
        """Return what this frame of the client's makes the server commit: a transaction, a statement, nothing."""
        if kind == b"S":
            found, self.commits_at_sync = self.commits_at_sync, None
            return found
        if kind not in (b"Q", b"P"):
            return None
        sql = (payload if kind == b"Q" else payload.partition(b"\0")[2]).rstrip(b"\0").decode(errors="replace")
        verb = sql.split(None, 1)[0].upper() if sql.strip() else ""
        found = None
        if verb == "COMMIT":
            found = TRANSACTION
        elif not self.in_transaction and any(words in sql for words in _WRITES):
            found = STATEMENT
        if verb in ("BEGIN", "COMMIT", "ROLLBACK"):
            self.in_transaction = verb == "BEGIN"
        if kind == b"Q":
            return found
        self.commits_at_sync = found
        return None


class CuttingProxy(Proxy):
    """Forwards, and cuts a share of the commits, up to a number of cuts; `meanwhile` is run before an answer is cut."""

    def __init__(
        self,
        url: str,
        chance: random.Random,
        limit: int,
        *,
        of_transactions: float = 0.3,
        of_statements: float = 0.3,
        places: Sequence[str] = PLACES,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        plain = make_url(url).update_query_dict({"sslmode": "disable", "gssencmode": "disable"})
        super().__init__(plain.render_as_string(hide_password=False))
        self.cuts: Counter[str] = Counter()
        self.commits: Counter[str] = Counter()
        self._chance, self._limit, self._places, self._meanwhile = chance, limit, places, meanwhile
        self._shares = {TRANSACTION: of_transactions, STATEMENT: of_statements}
        self._lock = threading.Lock()

    @property
    def is_done(self) -> bool:
        """Tell whether all cuts have been made."""
        return self.cuts.total() >= self._limit

    def _accept(self, listener: socket.socket) -> None:
        """Let clients through, also after a time without a server."""
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    server = socket.create_connection(self._target)
                except OSError:
                    client.close()
                    continue
                self._open_sockets += [client, server]
                self._connect(client, server)

    def _connect(self, client: socket.socket, server: socket.socket) -> None:
        link = _Link(client, server)
        self._start(self._from_client, link)
        self._start(self._from_server, link)

    def _from_client(self, link: _Link) -> None:
        buffer = b""
        with suppress(OSError):
            while data := link.client.recv(65_536):
                buffer += data
                while (size := _frame_size(link, buffer)) and len(buffer) >= size:
                    frame, buffer = buffer[:size], buffer[size:]
                    if not self._pass_on(link, frame):
                        break
        self._end(link)

    def _pass_on(self, link: _Link, frame: bytes) -> bool:
        """Forward a frame of the client's; tell whether the connection lives on."""
        place = None
        if not link.has_started:
            link.has_started = True
        elif committed := link.commits(frame[:1], frame[5:]):
            place = self._choose(committed)
        if place in PLACES[2:]:
            link.cut_answer = place
        if place != "unsent":
            link.server.sendall(frame)
        if place in PLACES[:2]:
            _cut(link)
            return False
        return True

    def _from_server(self, link: _Link) -> None:
        with suppress(OSError):
            while data := link.server.recv(65_536):
                if link.cut_answer:
                    self._meanwhile()
                    half = self._chance.randrange(1, len(data)) if link.cut_answer == "half answered" else 0
                    link.client.sendall(data[:half])
                    break
                link.client.sendall(data)
        self._end(link)

    def _choose(self, committed: str) -> str | None:
        with self._lock:
            self.commits[committed] += 1
            if self.is_done or self._chance.random() >= self._shares[committed]:
                return None
            place = self._chance.choice(self._places)
            self.cuts[place] += 1
            return place

    def _end(self, link: _Link) -> None:
        """End both directions; whoever is the second one closes."""
        _cut(link)
        with link.lock:
            link.running -= 1
            is_last = not link.running
        if is_last:
            for connected in (link.client, link.server):
                connected.close()


def _frame_size(link: _Link, buffer: bytes) -> int:
    """Return how long the next frame is, 0 while that is not known; only the first one has no type."""
    begin = 1 if link.has_started else 0
    return begin + _LENGTH.unpack_from(buffer, begin)[0] if len(buffer) >= begin + _LENGTH.size else 0


def _cut(link: _Link) -> None:
    for connected in (link.client, link.server):
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)
