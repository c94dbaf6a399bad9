"""docs/specification.md: every name of the specification is on it, and what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lapse import (
    BackgroundWorker,
    ConversationRepository,
    ConversationService,
    ConversationStatus,
    Settings,
    TaskMetrics,
)
from lapse.store.operations import sweeps
from tests.support.documents import leads_somewhere, links

PAGE = Path(__file__).parents[2] / "docs" / "specification.md"
TEXT = PAGE.read_text(encoding="utf-8")
ROWS = [re.split(r" *\| *", line.strip("| ")) for line in TEXT.splitlines() if re.match(r"\| (?!point|---)", line)]
FORMS = ("as specified", "in another form, because ")

# --- the names of the specification, which is no part of this repository --------------------------------------------

VARIABLES = [
    "BACKGROUND_TASK_INTERVAL",
    "BACKGROUND_TASK_BATCH_SIZE",
    "BACKGROUND_TASK_ENABLE_METRICS",
    "DATABASE_URL",
    "LOG_LEVEL",
]
FLAGS = ["--once", "--interval", "--batch-size"]
METRICS = [
    "background_conversations_processed_total",
    "background_task_duration_seconds",
    "background_task_failures_total",
    "active_conversations",
]
ALERTS = ["BackgroundTaskFailureRate", "BackgroundTaskSlow"]
TASKS = ["idle_conversations", "expired_conversations"]
KEPT = {
    BackgroundWorker: ["get_health_status"],
    ConversationService: ["process_idle_conversations", "process_expired_conversations", "get_conversation_by_id"],
    ConversationRepository: ["find_idle_conversations", "find_expired_conversations"],
    ConversationStatus: ["active_statuses", "EXPIRED"],
    TaskMetrics: [
        "total_runs",
        "successful_runs",
        "failed_runs",
        "total_items_processed",
        "last_run_at",
        "total_execution_time_seconds",
        "record_success",
        "record_failure",
    ],
}
ATTRIBUTES = ["metrics", "task_config", "started_at", "running", "cycle_count", "interval_seconds", "batch_size"]
ATTRIBUTES_WITHIN = ["conversation_service", "conversation_repo", "enabled", "interval_multiplier", "limit"]
HEALTH = ["status", "running", "uptime_seconds", "cycle_count", "tasks", "healthy", "degraded", "stopped"]
LOG_FIELDS = ["count", "idle_minutes", "execution_time_seconds", "cycle"]
COLUMNS = ["status", "updated_at", "expires_at", "session_key", "from_number", "to_number", "conv_id"]
ARGUMENTS = ["owner_id", "from_number", "to_number", "channel", "user_id", "metadata"]
DEPLOYMENTS = [
    "Type=simple",
    "User",
    "WorkingDirectory",
    "Restart=always",
    "RestartSec=10",
    "TimeoutStopSec=30",
    "KillMode=mixed",
    "KillSignal=SIGTERM",
    "WantedBy=multi-user.target",
    "depends_on",
    "sys.exit(0)",
    "replicas: 1",
]
OTHERS = ["pending", "progress", "task_type", "quantile", "PYTHONPATH"]
NOT_KEPT = [
    "background_tasks",
    "idx_conversations_expires",
    "_interruptible_sleep",
    "_run_idle_conversations_task",
    "_run_expired_conversations_task",
    "_create_new_conversation",
    "_shutdown",
    "get_db",
    "client.close",
    "TestBackgroundWorker",
]
TESTS = ["test_idle_conversations", "test_health_status", "test_background_task_integration"]
NAMES = {
    *VARIABLES, *FLAGS, *METRICS, *ALERTS, *TASKS, *ATTRIBUTES, *ATTRIBUTES_WITHIN, *HEALTH, *LOG_FIELDS, *COLUMNS,
    *ARGUMENTS, *OTHERS, *DEPLOYMENTS, *NOT_KEPT, *TESTS, *(owner.__name__ for owner in KEPT),
    *(name for names in KEPT.values() for name in names),
}  # fmt: skip

# --- the page -------------------------------------------------------------------------------------------------------


def code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_name_of_the_specification_is_on_the_page(name: str) -> None:
    whole = re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])")
    assert any(whole.search(shown) for shown in code(TEXT))


def test_the_names_that_are_kept_are_those_of_the_code() -> None:
    for owner, names in KEPT.items():
        for name in names:
            assert hasattr(owner, name) or name in getattr(owner, "__annotations__", {}), f"{owner.__name__}.{name}"
    worker = BackgroundWorker()
    for name in ATTRIBUTES:
        assert hasattr(worker, name), name
    assert list(worker.tasks)[:2] == list(sweeps.TASKS) == TASKS
    assert set(VARIABLES) <= {field.alias for field in Settings.model_fields.values()}


def test_every_row_says_where_and_in_which_form() -> None:
    assert len(ROWS) > 70
    for row in ROWS:
        assert len(row) == 3, row
        assert row[2].strip().startswith(FORMS), row


def test_every_link_leads_to_a_file_and_to_a_heading_in_it() -> None:
    found = links(TEXT)
    assert len(found) > 70
    for target in found:
        assert leads_somewhere(target, PAGE), target


def test_every_test_that_a_row_names_is_in_a_file_that_it_links_to() -> None:
    named = 0
    for row in ROWS:
        sources = [PAGE.parent / target for target in links(row[1]) if target.endswith(".py")]
        for name in re.findall(r"`(test_\w+)`(?!\])", row[1]):
            named += 1
            assert any(f"\ndef {name}(" in source.read_text(encoding="utf-8") for source in sources), name
    assert named > 25
