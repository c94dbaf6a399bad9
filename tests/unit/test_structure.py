"""The shape that a newcomer finds: no import circle, few files, few hands between a call and its driver."""

from __future__ import annotations

import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

import lapse
from lapse import BackgroundWorker, ConversationService
from lapse.store.drivers.sqlite import SqliteConnection

SOURCES = Path(lapse.__file__).parent
MAX_FRAMES_OF_A_MESSAGE = 7
MAX_FRAMES_OF_A_SWEEP = 10
MAX_FILES_OF_THE_WORKER = 11


def test_no_module_imports_what_imports_it() -> None:
    graph = grimp.build_graph("lapse", exclude_type_checking_imports=True, cache_dir=None)
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imported) > 100
    graphlib.TopologicalSorter(imported).prepare()  # raises where there is a circle, and names it


def test_the_worker_is_few_files() -> None:
    assert len(list((SOURCES / "worker").glob("**/*.py"))) <= MAX_FILES_OF_THE_WORKER


# --- frames of lapse between a call and the driver ------------------------------------------------------------------


@pytest.fixture
def depths(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Return the most frames of lapse, its driver's connection included, by the first word of the statement."""
    deepest: dict[str, int] = {}
    run = SqliteConnection.run

    def counted(connection: SqliteConnection, sql: str, values: object) -> object:
        frame, frames = sys._getframe(0), 0
        while frame.f_back is not None:
            frame = frame.f_back
            frames += Path(frame.f_code.co_filename).is_relative_to(SOURCES)
        word = sql.split()[0]
        deepest[word] = max(deepest.get(word, 0), frames + 1)  # and the connection's own, which this stands for
        return run(connection, sql, values)  # type: ignore[arg-type]

    monkeypatch.setattr(SqliteConnection, "run", counted)
    return deepest


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ConversationService]:
    with_database = ConversationService(f"sqlite:///{tmp_path / 'lapse.db'}")
    yield with_database
    with_database.close()


def test_a_message_goes_through_few_hands(service: ConversationService, depths: dict[str, int]) -> None:
    service.record_message(1, "+5511999999999", "+14155238886")
    depths.clear()
    service.record_message(1, "+5511999999999", "+14155238886")
    assert set(depths) == {"UPDATE"}, "one statement"
    assert depths["UPDATE"] <= MAX_FRAMES_OF_A_MESSAGE


def test_a_sweep_goes_through_few_hands(
    service: ConversationService, depths: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    service.record_message(1, "+5511999999999", "+14155238886")
    worker = BackgroundWorker(service=service)
    monkeypatch.setattr(worker, "_poll", lambda: None)  # the database does not say what is due: every task sweeps
    wait = worker.heartbeat.wait

    def stop_instead(seconds: float, stop_event: object) -> None:
        if seconds > 0:
            worker.stop()
        else:
            wait(seconds, worker.stop_event)

    monkeypatch.setattr(worker.heartbeat, "wait", stop_instead)
    worker._poller.check_ready()
    depths.clear()
    worker.run()
    assert worker.cycle_count == 1
    assert {"BEGIN", "WITH", "COMMIT"} <= set(depths)
    assert max(depths.values()) <= MAX_FRAMES_OF_A_SWEEP
