"""Counting what is active: only for those who look."""

from __future__ import annotations

import time
from collections.abc import Callable
from unittest import mock

import pytest

from lapse import ConversationRepository
from lapse.worker import outlook
from tests.workers import in_background, worker_on


def test_nobody_scrapes_nobody_counts(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outlook, "COUNT_ACTIVE_EVERY_SECONDS", 0.0)
    with (
        mock.patch.object(ConversationRepository, "count_active", return_value=7) as count_active,
        worker_on(database_url, interval_seconds=0.05, min_wait_seconds=0) as worker,
        in_background(worker),
    ):
        registry = worker.observer.registry
        assert registry is not None
        _until_cycle(worker.cycle_count + 10, lambda: worker.cycle_count)
        assert count_active.call_count == 1, "so that the first scrape finds it"
        assert registry.get_sample_value("active_conversations") == 7
        _until_cycle(worker.cycle_count + 3, lambda: worker.cycle_count)
        assert count_active.call_count == 2


def _until_cycle(wanted: int, cycle_count: Callable[[], int]) -> None:
    deadline = time.monotonic() + 20
    while cycle_count() < wanted:
        assert time.monotonic() < deadline
        time.sleep(0.01)
