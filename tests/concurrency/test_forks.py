"""A service that was used before a fork: no process gets an answer that was meant for another."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing
from typing import NoReturn

from lapse import ConversationService, Database
from tests.support.backlog import BUSINESS, customer
from tests.support.invariants import check_invariants

CHILDREN, MESSAGES = 4, 100
PATIENCE_SECONDS = 30


def talk(service: ConversationService, owner_id: int) -> NoReturn:
    """Send messages of one owner, and end the process: with 0 if every answer was that owner's."""
    status = 1
    try:
        found = {service.record_message(owner_id, customer(owner_id), BUSINESS).owner_id for _ in range(MESSAGES)}
        status = 0 if found == {owner_id} else 2
    finally:
        os._exit(status)


def test_a_service_may_be_used_before_a_fork(database: Database, database_url: str) -> None:
    with closing(ConversationService(database_url)) as service:
        service.record_message(1, customer(1), BUSINESS)
        children = []
        for owner_id in range(2, 2 + CHILDREN):
            child = os.fork()
            if not child:
                talk(service, owner_id)
            children.append(child)
        statuses = [wait_for(child) for child in children]
        assert statuses == [0] * CHILDREN
        assert service.record_message(1, customer(1), BUSINESS).owner_id == 1, (
            "the parent's connection is its own still"
        )
    check_invariants(database)


def wait_for(child: int) -> int:
    """Return how the process ended; one that hangs is killed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL
