"""`lapse health`: exit 0 or 1 and one line why, at once; 2 for what is no URL."""

from __future__ import annotations

import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lapse.cli import health_command
from tests.support.commands import LAPSE, environment, error_line, run_here, run_lapse, run_program, running_lapse
from tests.support.http_client import request

LIMIT_SECONDS = 0.3
LIMIT_TIMES = 2
"""On a slow machine: times what Python takes to start and to read the two libraries alone that the command needs."""
LIBRARIES = "import http.client, pydantic, typer.main"


def test_it_says_how_a_running_worker_is(database_url: str) -> None:
    with running_lapse("worker", "--http", "127.0.0.1:0", "--database-url", database_url) as worker:
        listen = f"127.0.0.1:{worker.wait_for('http server listening')['port']}"
        worker.wait_for("worker started")
        for arguments, env in (
            ([], {"LAPSE_HTTP": listen}),
            ([], {"LAPSE_HTTP": listen.replace("127.0.0.1", "0.0.0.0")}),
            (["--url", f"http://{listen}"], {}),
            (["--url", f"http://{listen}/livez"], {}),
        ):
            result = run_lapse("health", *arguments, env=env)
            assert (result.returncode, result.stderr) == (0, ""), result
            assert result.stdout.startswith("alive: ")
            assert result.stdout.count("\n") == 1
        Path(".env").write_text(f"LAPSE_HTTP={listen}\n", encoding="utf-8")
        assert run_lapse("health").returncode == 0, "a .env file works here, too"
        assert request(int(listen.split(":")[1]), "/readyz").status == 200
        ready = run_lapse("health", "--url", f"http://{listen}/readyz")
        assert (ready.returncode, ready.stdout.startswith("ready: ")) == (0, True)
        wrong = run_lapse("health", "--url", f"http://{listen}/nothing")
        assert (wrong.returncode, wrong.stdout.count("\n")) == (1, 1)
        worker.stop(signal.SIGTERM)
    after = run_lapse("health", "--url", f"http://{listen}")
    assert (after.returncode, after.stdout) == (1, f"no answer from {listen}: connection refused\n")


def test_a_worker_that_is_not_ready_is_a_failure_with_its_reason() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as reserved,
        running_lapse(
            "worker",
            "--http",
            "127.0.0.1:0",
            "--database-url",
            f"postgresql://me@127.0.0.1:{reserved.getsockname()[1]}/chat",
        ) as worker,
    ):
        port = worker.wait_for("http server listening")["port"]
        result = run_lapse("health", "--url", f"http://127.0.0.1:{port}/readyz")
        assert (result.returncode, result.stdout.startswith("not ready: ")) == (1, True)
        assert run_lapse("health", "--url", f"http://127.0.0.1:{port}").returncode == 0, "alive all the same"


@pytest.mark.alone
def test_it_takes_0_3_seconds_at_most_where_python_itself_is_not_slow() -> None:
    with running_lapse("worker", "--http", "127.0.0.1:0") as worker:
        url = f"http://127.0.0.1:{worker.wait_for('http server listening')['port']}"
        bare, whole = [], []
        for _ in range(5):
            begin = time.monotonic()
            subprocess.run([sys.executable, "-c", LIBRARIES], env=environment(), check=True)
            bare.append(time.monotonic() - begin)
            begin = time.monotonic()
            assert run_program(*LAPSE, "health", "--url", url).returncode == 0
            whole.append(time.monotonic() - begin)
    assert statistics.median(whole) < max(LIMIT_SECONDS, LIMIT_TIMES * statistics.median(bare)), (bare, whole)


def test_a_worker_that_does_not_answer_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_command, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asked = f"127.0.0.1:{silent.getsockname()[1]}"
        result = run_here("health", "--url", f"http://me:secret@{asked}")
    assert (result.returncode, result.stdout) == (1, f"no answer from {asked} within 0.2 seconds\n")


def test_something_else_that_answers_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asked = f"127.0.0.1:{listener.getsockname()[1]}"

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(b"220 mail ready\r\n")
                connection.recv(4_096)

        threading.Thread(target=answer, daemon=True).start()
        result = run_here("health", "--url", f"http://{asked}")
    assert (result.returncode, result.stdout) == (1, f"{asked} does not answer in HTTP: BadStatusLine\n")


@pytest.mark.parametrize(
    "url",
    ["", "8080", "localhost:8080", "https://localhost", "ftp://localhost", "http://", "http://:80", "http://[::1",
     "http://localhost:http", "http://localhost:0", "http://localhost:99999", "http://lo cal", "http://a\nb", "http://é",
     "http://a..b", f"http://{'a' * 64}.com"],
)  # fmt: skip
def test_what_is_no_url_is_one_clear_line(url: str) -> None:
    assert "is no URL to ask: use http://HOST:PORT/livez" in error_line(run_here("health", "--url", url), 2)


def test_an_answer_has_no_say_over_the_terminal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_answer, args=(listener, b"\x1b[31mred\x00\n"), daemon=True).start()
        result = run_here("health", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}")
    assert (result.returncode, result.stdout) == (0, "[31mred\n")


def _answer(listener: socket.socket, body: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(4_096)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + body)


def test_a_variable_that_is_no_address_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAPSE_HTTP", "everywhere")
    assert "use HOST:PORT" in error_line(run_here("health"), 2)
