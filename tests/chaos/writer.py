"""An application under load, as a process: messages, closings and extensions without end, each noted with its answer.

`python -m tests.chaos.writer '{…}'` runs until SIGTERM and writes one line of JSON before each call and one after it.
The lines go out at once, so that a kill loses none: what was answered is known, and so is what was under way.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

from lapse import (
    Conversation,
    ConversationExpiredError,
    ConversationService,
    InvalidTransitionError,
    LapseError,
    load_settings,
)
from lapse.messages import OpeningSender
from tests.support.backlog import BUSINESS, customer

EXTENSION_MINUTES = 0.05
# What may meet a conversation that another writer, or a worker, has ended meanwhile.
_TOO_LATE = (InvalidTransitionError, ConversationExpiredError)


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What one writer does: its own pairs are nobody else's, the shared ones everybody's."""

    url: str
    name: str
    first_pair: int
    pairs: int
    first_shared_pair: int = 0
    shared_pairs: int = 0
    per_second: float = 200
    idle_seconds: int = 1
    expiration_seconds: int = 4
    closings: float = 0.05
    extensions: float = 0.03


class Writer:
    """Makes one call after the other, by chance, and knows the latest conversation of each pair."""

    def __init__(self, service: ConversationService, orders: Orders) -> None:
        self._service = service
        self._orders = orders
        self._chance = random.Random(orders.name)
        self._latest: dict[int, Conversation] = {}
        self._calls = 0

    def call(self) -> None:
        """Make one call, and note what came of it."""
        self._calls += 1
        orders, kind = self._orders, self._chance.random()
        own = range(orders.first_pair, orders.first_pair + orders.pairs)
        if orders.shared_pairs and self._chance.random() < 0.3:
            pair = orders.first_shared_pair + self._chance.randrange(orders.shared_pairs)
        else:
            pair = self._chance.choice(own)
        if pair not in self._latest or kind >= orders.closings + orders.extensions:
            self._note(pair, "message")
        elif kind < orders.closings:
            self._note(pair, "close")
        else:
            # Own pairs only: what the expiry must be afterwards is known only where nobody else extends.
            self._note(pair, "extend" if pair in own else "message")

    def _note(self, pair: int, kind: str) -> None:
        write({"begins": kind, "pair": pair})
        begin = time.monotonic()
        try:
            answer = self._do(pair, kind)
        except _TOO_LATE as error:
            answer = {"refused": type(error).__name__, "reason": self._reason}
            del self._latest[pair]
        except LapseError as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        write({"did": kind, "pair": pair, "seconds": round(time.monotonic() - begin, 4), **answer})

    @property
    def _reason(self) -> str:
        """Return the reason that this call would close with: no other call has it."""
        return f"{self._orders.name}-{self._calls}"

    def _do(self, pair: int, kind: str) -> dict[str, Any]:
        known = self._latest.get(pair)
        more: dict[str, Any] = {}
        if kind == "message" or known is None:
            senders: list[OpeningSender] = ["user", "user", "agent"]
            sender = self._chance.choice(senders)
            addresses = (customer(pair), BUSINESS) if sender == "user" else (BUSINESS, customer(pair))
            found = self._service.record_message(1, *addresses, "sms", sender)
            more["sender"] = sender
        elif kind == "close":
            more["reason"] = self._reason
            status = self._chance.choice(["agent_closed", "support_closed", "user_closed", "failed"])
            found = self._service.close_conversation(known.conv_id, status, more["reason"], self._orders.name)
        else:
            found = self._service.extend_expiration(known.conv_id, EXTENSION_MINUTES)
        self._latest[pair] = found
        if kind == "close":
            del self._latest[pair]
        return more | {
            "conv_id": str(found.conv_id),
            "version": found.version,
            "status": found.status,
            "updated_at": found.updated_at.isoformat(),
            "expires_at": found.expires_at.isoformat(),
        }


def write(line: dict[str, Any]) -> None:
    """Write a line in one piece, past every buffer."""
    os.write(sys.stdout.fileno(), (json.dumps(line) + "\n").encode())


def main() -> None:
    """Write until SIGTERM."""
    orders = Orders(**json.loads(sys.argv[1]))
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    settings = load_settings(
        idle_timeout_minutes=orders.idle_seconds / 60, expiration_minutes=orders.expiration_seconds / 60
    )
    with closing(ConversationService(orders.url, settings=settings)) as service:
        writer, due = Writer(service, orders), time.monotonic()
        while not stopping:
            writer.call()
            # After a time without a database it goes on at its pace, and does not catch up.
            due = max(due + 1 / orders.per_second, time.monotonic() - 0.1)
            time.sleep(max(due - time.monotonic(), 0))


def spelled(orders: Orders) -> str:
    """Return the orders as the process takes them."""
    return json.dumps(asdict(orders))


if __name__ == "__main__":
    main()
