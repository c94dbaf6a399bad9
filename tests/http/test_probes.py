"""The worker's HTTP server: what probes and Prometheus are told, in good and in bad times."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import waitress.trigger

from lapse import Database
from lapse.http import ROUTES, WorkerApp, serving
from lapse.worker import liveness
from tests.support.backlog import insert_conversations
from tests.support.commands import RunningLapse, error_line, run_lapse, running_lapse
from tests.support.http_client import ask, request, samples
from tests.support.proxy import Proxy
from tests.support.sql import run_sql, transaction
from tests.support.workers import EXPIRED, IDLE, in_background, worker_on

FAST_SECONDS = 1.0


@contextmanager
def serving_lapse(url: str, *arguments: str, env: dict[str, str] | None = None) -> Iterator[tuple[RunningLapse, int]]:
    """Run a worker with an HTTP server and hand it out with its port."""
    options = ("--http", "127.0.0.1:0", "--database-url", url, *arguments)
    with running_lapse("worker", *options, env=env) as worker:
        yield worker, worker.wait_for("http server listening")["port"]
        assert worker.stop(signal.SIGTERM) < FAST_SECONDS
        assert (worker.process.returncode, worker.stderr) == (0, "")


def status_once_it_is(wanted: int, port: int, path: str) -> str:
    """Ask until the answer has this status, and return its text."""
    deadline = time.monotonic() + 20
    while (answer := request(port, path)).status != wanted:
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
    return answer.text


def test_a_worker_answers_probes_and_shows_what_it_did(database_url: str, database: Database) -> None:
    insert_conversations(database, range(3), expires_in=-timedelta(minutes=1))
    insert_conversations(database, range(3, 5), silent_for=timedelta(minutes=31))
    insert_conversations(database, range(5, 9))
    with serving_lapse(database_url) as (worker, port):
        assert {worker.wait_for("task processed")["count"] for _ in range(2)} == {2, 3}
        assert request(port, "/livez").status == 200
        assert status_once_it_is(200, port, "/readyz").startswith("ready: ")
        health = json.loads(request(port, "/health").text)
        assert (health["status"], health["running"]) == ("healthy", True)
        found = samples(port)
        assert found["background_conversations_processed_total", EXPIRED] == 3
        assert found["background_conversations_processed_total", IDLE] == 2
        assert found["lapse_transition_lag_seconds_count", EXPIRED] == 3
        assert found["lapse_transition_lag_seconds_sum", EXPIRED] == pytest.approx(180, abs=60)
        assert found["background_task_duration_seconds_count", IDLE] >= 1
        assert found["lapse_task_last_success_timestamp_seconds", IDLE] == pytest.approx(time.time(), abs=60)
        while samples(port)["active_conversations", None] != 4:  # counted once the cycle is over
            time.sleep(0.05)
        assert samples(port)["lapse_oldest_due_seconds", EXPIRED] == 0


def test_metrics_begin_at_zero_where_an_application_keeps_its_own_in_files(
    database_url: str, database: Database, tmp_path: Path
) -> None:
    insert_conversations(database, range(3), expires_in=-timedelta(minutes=1))
    (tmp_path / "metrics").mkdir()
    for folder in ("metrics", "missing"):
        env = {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / folder)}
        with serving_lapse(database_url, env=env) as (worker, port):
            if folder == "metrics":
                worker.wait_for("task processed")
            assert samples(port)["background_conversations_processed_total", IDLE] == 0
    assert not list((tmp_path / "metrics").iterdir())


def test_there_is_nothing_else_and_nothing_to_change(database_url: str) -> None:
    with serving_lapse(database_url) as (_, port):
        assert request(port, "/").status == 404
        assert request(port, "/metrics/../etc").status == 404
        for path in ROUTES:
            assert request(port, path, "POST").status == 405
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                with connection.makefile("rb") as answer:
                    head, _, body = answer.read().partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert body == b""
        with socket.create_connection(("127.0.0.1", port)) as enemy:
            enemy.sendall(b"\x00\xff\x16\x03 \r\n\r\n")
            assert b" 400 " in enemy.recv(4_096)
        with socket.create_connection(("127.0.0.1", port)) as enemy:
            enemy.sendall(b"GET /livez HTTP/1.1\r\nX: " + b"x" * 100_000)
            assert b" 431 " in enemy.recv(4_096)
        assert request(port, "/livez").status == 200


def test_it_answers_while_a_batch_takes_long(postgres_url: str) -> None:
    with closing(Database(postgres_url)) as database:
        insert_conversations(database, range(3), expires_in=-timedelta(minutes=1))
        with transaction(database) as connection:
            connection.execute(sa.text("LOCK TABLE conversation_events IN ACCESS EXCLUSIVE MODE"))
            with serving_lapse(postgres_url) as (worker, port):
                while samples(port)["lapse_oldest_due_seconds", EXPIRED] < 60:
                    time.sleep(0.05)
                for path in ROUTES:
                    begin = time.monotonic()
                    assert request(port, path).status == 200, path
                    assert time.monotonic() - begin < FAST_SECONDS
                assert "asking the database" in request(port, "/livez").text
                connection.rollback()
                assert worker.wait_for("task processed")["count"] == 3


def test_it_answers_while_the_database_is_away(postgres_url: str) -> None:
    proxy = Proxy(postgres_url)
    proxy.open()
    try:
        with serving_lapse(proxy.url) as (worker, port):
            status_once_it_is(200, port, "/readyz")
            proxy.close()
            assert "not ready: the database is not available" in status_once_it_is(503, port, "/readyz")
            assert request(port, "/livez").status == 200
            assert samples(port)["active_conversations", None] == 0
            proxy.open()
            status_once_it_is(200, port, "/readyz")
            assert worker.process.poll() is None
    finally:
        proxy.close()


def test_a_silent_database_makes_a_live_worker_unready_in_limited_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/chat?connect_timeout=30"
        with serving_lapse(url) as (_, port):
            begin = time.monotonic()
            with ThreadPoolExecutor(10) as clients:  # more than the server has threads
                answers = [clients.submit(request, port, "/readyz") for _ in range(10)]
                assert request(port, "/livez").status == 200
                assert request(port, "/metrics").status == 200
                assert time.monotonic() - begin < 1.5, "while all of them wait"
            assert 1.9 < time.monotonic() - begin < 4
            assert {answer.result().status for answer in answers} == {503}
            assert "has not answered within 2 seconds" in request(port, "/readyz").text


def test_another_schema_makes_unready(database_url: str, database: Database) -> None:
    with serving_lapse(database_url) as (_, port):
        status_once_it_is(200, port, "/readyz")
        run_sql(database, "UPDATE lapse_schema_version SET version_num = '0001'")
        assert "run `lapse migrate`" in status_once_it_is(503, port, "/readyz")
        assert request(port, "/livez").status == 200


def test_a_loop_that_stands_still_is_not_alive(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "STEP_SECONDS", 0.1)
    stuck, go_on = threading.Event(), threading.Event()

    def report(_status: str) -> None:
        stuck.set()
        go_on.wait(20)

    with worker_on(database_url, report=report, interval_seconds=0.2) as worker:
        app = WorkerApp(worker)
        with in_background(worker):
            assert stuck.wait(20)
            assert ask(app, "/livez")[0] == 200
            time.sleep(0.5)
            status, text = ask(app, "/livez")
            assert (status, text.split(" for ")[0]) == (503, "the loop stands still: working")
            assert ask(app, "/readyz")[0] == 200, "that is another question"
            go_on.set()
            deadline = time.monotonic() + 20
            while ask(app, "/livez")[0] != 200:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_a_loop_that_died_is_not_alive_however_long_it_wanted_to_wait(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_seconds: float) -> None:
        raise OSError("no file descriptor left to wait with")

    with worker_on(database_url, interval_seconds=86_400) as worker:
        monkeypatch.setattr(worker.stop_event, "wait", fail)
        app = WorkerApp(worker)
        assert ask(app, "/livez")[0] == 200
        with pytest.raises(OSError, match="no file descriptor"):
            worker.run()
        assert ask(app, "/livez") == (503, "the loop has ended\n")


def test_a_server_that_is_busy_when_it_is_to_stop_stops(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pull = getattr(waitress.trigger.trigger, "_physical_pull")  # noqa: B009 - mypy

    def pull_twice(trigger: waitress.trigger.trigger) -> None:
        pull(trigger)  # somebody else wakes the server just before
        time.sleep(0.1)
        pull(trigger)

    with worker_on(database_url) as worker, serving(WorkerApp(worker), "127.0.0.1:0") as (_, port):
        assert request(port, "/livez").status == 200
        monkeypatch.setattr(waitress.trigger.trigger, "_physical_pull", pull_twice)
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_a_worker_that_stops_is_not_ready(database_url: str) -> None:
    with worker_on(database_url) as worker:
        app = WorkerApp(worker)
        assert ask(app, "/readyz")[0] == 200
        worker.stop()
        assert ask(app, "/readyz") == (503, "stopping\n")


@pytest.mark.parametrize("way", ["option", "variable"])
def test_metrics_can_be_switched_off_and_the_worker_still_works(
    database_url: str, database: Database, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_conversations(database, range(3), expires_in=-timedelta(minutes=1))
    if way == "variable":
        Path(".env").write_text("BACKGROUND_TASK_ENABLE_METRICS=false\n", encoding="utf-8")
    with serving_lapse(database_url, *(["--no-metrics"] if way == "option" else [])) as (worker, port):
        assert worker.wait_for("task processed")["count"] == 3
        answer = request(port, "/metrics")
        assert (answer.status, "switched off" in answer.text) == (404, True)
        assert request(port, "/livez").status == 200


def _failure(listen: str, **more: Any) -> str:
    result = run_lapse("worker", "--http", listen, "--database-url", "sqlite:///never.db", **more)
    line = error_line(result, 2)
    assert not Path("never.db").exists(), "nothing is half-started"
    return line


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        assert _failure(listen) == f"cannot listen at {listen}: address already in use"


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ("8080", "--http 8080 is not usable"),
        ("localhost:99999", "--http localhost:99999 is not usable"),
        ("192.0.2.1:8080", "cannot listen at 192.0.2.1:8080: cannot assign requested address"),
        ("no.such.host.invalid:8080", "cannot listen at no.such.host.invalid:8080: "),
        ("256.1.1.1:8080", "cannot listen at 256.1.1.1:8080: "),
    ],
)
def test_an_address_to_listen_at_that_cannot_be_is_one_clear_line(listen: str, said: str) -> None:
    line = _failure(listen)
    assert line.startswith(said)
    assert "unknown" not in line


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_every_address_of_ipv6_means_those_of_ipv4_as_well(database_url: str) -> None:
    with running_lapse("worker", "--http", "[::]:0", "--database-url", database_url) as worker:
        port = worker.wait_for("http server listening")["port"]
        assert request(port, "/livez").status == 200
        with socket.create_connection(("::1", port)):
            pass


def test_a_single_cycle_has_no_server(database_url: str) -> None:
    assert "--once" in error_line(run_lapse("worker", "--once", "--http", "127.0.0.1:0"), 2)
    # A container has the variable in any case.
    result = run_lapse("worker", "--once", "--database-url", database_url, env={"LAPSE_HTTP": "127.0.0.1:1"})
    assert (result.returncode, result.stderr) == (0, "")
