"""The example of a web application does what it says, served by a real server on a real database."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from lapse import Database
from tests.support.commands import environment
from tests.support.invariants import check_invariants
from tests.support.sql import count, run_sql

EXAMPLES = Path(__file__).parents[2] / "examples"
CUSTOMER, BUSINESS = "+5511999999999", "+14155238886"
START_SECONDS = 20

Ask = Callable[..., tuple[int, Any]]


@pytest.fixture
def ask(database_url: str) -> Iterator[Ask]:
    """Serve the example, and return what asks it: with method, path and body, for status and answer."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port: int = reserved.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "fastapi_app:app", "--port", str(port), "--log-level", "warning"]
    served = subprocess.Popen(
        command, cwd=EXAMPLES, env=environment({"DATABASE_URL": database_url}), stderr=subprocess.PIPE, text=True
    )

    def request(method: str, path: str, body: object = None) -> tuple[int, Any]:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())

    try:
        give_up_at = time.monotonic() + START_SECONDS
        while True:
            try:
                request("GET", "/openapi.json")
                break
            except ConnectionRefusedError:
                assert served.poll() is None, served.communicate()[1]
                assert time.monotonic() < give_up_at
                time.sleep(0.05)
        yield request
    finally:
        served.terminate()
        _, complaints = served.communicate(timeout=20)
    assert complaints == ""


def message(**fields: str) -> dict[str, str]:
    return {"from_number": CUSTOMER, "to_number": BUSINESS} | fields


def test_messages_open_and_continue_a_conversation_until_an_agent_closes_it(ask: Ask, database: Database) -> None:
    status, opened = ask("POST", "/owners/1/messages", message())
    assert (status, opened["status"]) == (200, "pending")
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ask("POST", "/owners/1/messages", message()), range(40)))
    assert {(status, answer["conv_id"]) for status, answer in answers} == {(200, opened["conv_id"])}
    answer = message(from_number=BUSINESS, to_number=CUSTOMER, sender="agent")
    assert ask("POST", "/owners/1/messages", answer)[1]["status"] == "progress"

    status, (found,) = ask("GET", "/owners/1/conversations")
    assert status == 200
    path = f"/owners/1/conversations/{found['conv_id']}"
    assert ask("PATCH", path, {"step": 2})[1]["context"] == {"step": 2}
    ask("POST", "/owners/1/messages", message())
    status, refused = ask("POST", f"{path}/close", {"if_updated_at": found["updated_at"]})
    assert (status, CUSTOMER in str(refused)) == (409, False)
    (found,) = ask("GET", "/owners/1/conversations")[1]
    status, closed = ask("POST", f"{path}/close", {"if_updated_at": found["updated_at"], "agent": "agent:7"})
    assert (status, closed["status"]) == (200, "agent_closed")
    assert ask("POST", f"{path}/close", {})[0] == 409
    assert ask("GET", "/owners/1/conversations") == (200, [])
    assert count(database, "conversations") == 1
    assert ask("POST", "/owners/1/messages", message(sender="system", message_id="s1")) == (200, None)
    assert run_sql(database, "SELECT actor FROM conversation_events WHERE type = 'closed'") == [("agent:7",)]
    check_invariants(database)


def test_what_is_wrong_is_one_line_with_its_status(ask: Ask, database: Database) -> None:
    for status, method, path, body in (
        (404, "POST", f"/owners/1/conversations/{UUID(int=1)}/close", {}),
        (422, "POST", "/owners/1/messages", message(to_number=CUSTOMER)),
        (422, "POST", "/owners/1/messages", message(sender="nobody")),
        (422, "POST", f"/owners/{2**63}/messages", message()),
    ):
        found, answer = ask(method, path, body)
        assert (found, list(answer)) == (status, ["error"]), (path, body)
        assert CUSTOMER not in answer["error"]
    assert count(database, "conversations") == 0
