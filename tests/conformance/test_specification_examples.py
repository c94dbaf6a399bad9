"""The examples of the specification that lapse began with: they work with the import path changed."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from lapse import BackgroundWorker, ConversationRepository, ConversationService, TaskMetrics
from tests.support.sql import run_sql


@pytest.fixture
def _database_of_the_environment(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)


pytestmark = pytest.mark.usefixtures("_database_of_the_environment")


def test_a_run_of_the_idle_task_is_counted() -> None:
    worker = BackgroundWorker(interval_seconds=1)
    worker.started_at = datetime.now(UTC)
    worker.cycle_count = 1
    worker.run_task("idle_conversations")
    assert worker.metrics["idle_conversations"].total_runs == 1
    assert worker.metrics["idle_conversations"].successful_runs == 1
    assert worker.metrics["idle_conversations"].failed_runs == 0
    worker.conversation_service.close()


def test_a_running_worker_is_healthy() -> None:
    worker = BackgroundWorker(interval_seconds=60)
    assert worker.get_health_status()["status"] == "not_started"
    worker.started_at = datetime.now(UTC)
    worker.running = True
    health = worker.get_health_status()
    assert health["status"] == "healthy"
    assert {"status", "running", "uptime_seconds", "cycle_count", "tasks"} <= set(health)
    assert health["running"] is True
    assert 0 <= health["uptime_seconds"] < 60
    assert {"idle_conversations", "expired_conversations"} <= set(health["tasks"])
    json.dumps(health)
    worker.running = False
    assert worker.get_health_status()["status"] == "stopped"


def test_an_expired_conversation_is_expired_after_one_run() -> None:
    worker = BackgroundWorker(interval_seconds=1)
    service = ConversationService()
    conversation = service.create_conversation(
        owner_id=1, from_number="whatsapp:+5511999999999", to_number="whatsapp:+5511888888888", channel="whatsapp"
    )
    run_sql(
        service.database,
        "UPDATE conversations SET expires_at = '2020-01-01T00:00:00Z' WHERE conv_id = :id",
        id=str(conversation.conv_id),
    )
    worker.run_task("expired_conversations")
    assert service.get_conversation_by_id(conversation.conv_id).status == "expired"
    assert worker.metrics["expired_conversations"].total_items_processed == 1
    service.close()
    worker.conversation_service.close()


def test_the_classes_and_attributes_have_the_names_of_the_specification() -> None:
    worker = BackgroundWorker(60, 100)
    assert (worker.interval_seconds, worker.batch_size) == (60, 100)
    assert (worker.running, worker.cycle_count, worker.started_at) == (False, 0, None)
    assert worker.task_config == {
        "idle_conversations": {"enabled": True, "interval_multiplier": 1},
        "expired_conversations": {"enabled": True, "interval_multiplier": 1},
        "receipts": {"enabled": True, "interval_multiplier": 1},
    }
    assert all(isinstance(metrics, TaskMetrics) for metrics in worker.metrics.values())
    assert isinstance(worker.conversation_service, ConversationService)
    assert isinstance(worker.conversation_service.conversation_repo, ConversationRepository)
