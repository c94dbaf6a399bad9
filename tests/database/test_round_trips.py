"""How often a message waits for PostgreSQL, counted on the wire: libpq notes what it sends and what it gets."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

from lapse import ConversationService
from tests.support.backlog import BUSINESS, customer


def round_trips(service: ConversationService, trace: Path, call: Callable[[], Any]) -> int:
    """Return how many times the server said that it was ready for more, while the call went on."""
    with trace.open("wb") as file:
        pgconn = pooled_connection(service).pgconn
        pgconn.trace(file.fileno())
        try:
            call()
        finally:
            pgconn.untrace()
        assert pooled_connection(service).pgconn is pgconn
    return sum("\tReadyForQuery\t" in line for line in trace.read_text().splitlines())


def pooled_connection(service: ConversationService) -> psycopg.Connection[Any]:
    """Return the connection that the next call will use: there is only one."""
    driver = service.database.autocommit(lambda connection: connection.driver)
    assert isinstance(driver, psycopg.Connection)
    return driver


def test_a_message_without_a_transition_is_one_round_trip(postgres_url: str, tmp_path: Path) -> None:
    with closing(ConversationService(postgres_url)) as service:
        for _ in range(2):  # looks once at the schema, and once whether there is a cluster
            service.record_message(1, customer(0), BUSINESS)

        def message(sender: str = "user") -> int:
            return round_trips(
                service, tmp_path / "trace", lambda: service.record_message(1, customer(1), BUSINESS, sender=sender)
            )

        assert message() == 1
        assert message() == 1
        assert message("agent") > 1  # the answer is a transition: if this were 1, the count would be of something else
        assert message("agent") == 1
        assert message() == 1
        (live,) = (found for found in service.get_active_conversations(1) if found.from_number == customer(1))
        service.close_conversation(live.conv_id, "user_closed")
        assert message() == 2  # the pair is known, but its conversation has ended
        assert message() == 1
