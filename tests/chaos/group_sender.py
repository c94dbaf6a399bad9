"""An application whose calls are recorded in groups, as a process: `python -m tests.chaos.group_sender '{…}'`.

So many threads, or tasks of an event loop, send messages with ids without end, until SIGTERM. A line of JSON goes out
before each call and one after it, at once, so that a kill loses none.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import threading
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any

from lapse import AsyncConversationService, ConversationService, LapseError, Message, MessageResult
from tests.support.backlog import BUSINESS, customer

CLOSINGS = 0.02
_numbers = count()


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What one process does: with pairs that are everybody's."""

    url: str
    name: str
    kind: str
    callers: int
    pairs: int


def message_of(sent: dict[str, Any]) -> Message:
    """Return the message of a line of the journal."""
    addresses = (customer(sent["pair"]), BUSINESS)
    by_user = sent["sender"] == "user"
    return Message(1, *(addresses if by_user else addresses[::-1]), "sms", sent["sender"], message_id=sent["id"])


def drawn(orders: Orders, chance: random.Random) -> dict[str, Any]:
    """Draw a message, and note that it is about to be sent."""
    line = {
        "id": f"{orders.name}-{next(_numbers)}",
        "pair": chance.randrange(orders.pairs),
        "sender": chance.choice(["user", "user", "agent"]),
        "begins": datetime.now(UTC).isoformat(),
    }
    write(line)
    return line


def note(line: dict[str, Any], answer: MessageResult | LapseError) -> None:
    """Note what came of it."""
    if isinstance(answer, LapseError):
        write({"id": line["id"], "error": type(answer).__name__, "text": str(answer)})
        return
    conv_id = None if answer.conversation is None else str(answer.conversation.conv_id)
    write({"id": line["id"], "outcome": answer.outcome.value, "conv_id": conv_id})


def write(line: dict[str, Any]) -> None:
    """Write a line in one piece, past every buffer."""
    os.write(sys.stdout.fileno(), (json.dumps(line) + "\n").encode())


def send_from_threads(orders: Orders, stopping: threading.Event) -> None:
    """Send until told to stop."""

    def send(place: int, service: ConversationService) -> None:
        chance = random.Random(f"{orders.name}/{place}")
        while not stopping.is_set():
            line = drawn(orders, chance)
            answer: MessageResult | LapseError
            try:
                answer = service.record(message_of(line))
            except LapseError as error:
                answer = error
            note(line, answer)
            if isinstance(answer, MessageResult) and answer.conversation and chance.random() < CLOSINGS:
                with suppress(LapseError):  # another one was faster, or the database is away
                    service.close_conversation(answer.conversation.conv_id, "agent_closed", owner_id=1)

    with closing(ConversationService(orders.url)) as service:
        threads = [threading.Thread(target=send, args=(place, service)) for place in range(orders.callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


async def send_from_tasks(orders: Orders, stopping: threading.Event) -> None:
    """Send until told to stop."""

    async def send(place: int, service: AsyncConversationService) -> None:
        chance = random.Random(f"{orders.name}/{place}")
        while not stopping.is_set():
            line = drawn(orders, chance)
            answer: MessageResult | LapseError
            try:
                answer = await service.record(message_of(line))
            except LapseError as error:
                answer = error
            note(line, answer)
            if isinstance(answer, MessageResult) and answer.conversation and chance.random() < CLOSINGS:
                with suppress(LapseError):  # another one was faster, or the database is away
                    await service.close_conversation(answer.conversation.conv_id, "agent_closed", owner_id=1)

    async with AsyncConversationService(orders.url) as service:
        await asyncio.gather(*(send(place, service) for place in range(orders.callers)))


def spelled(orders: Orders) -> str:
    """Return the orders as the process takes them."""
    return json.dumps(asdict(orders))


def main() -> None:
    """Send until SIGTERM."""
    orders, stopping = Orders(**json.loads(sys.argv[1])), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    if orders.kind == "threads":
        send_from_threads(orders, stopping)
    else:
        asyncio.run(send_from_tasks(orders, stopping))


if __name__ == "__main__":
    main()
