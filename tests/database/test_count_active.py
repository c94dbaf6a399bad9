"""Counting what is active: only for those who look."""

from __future__ import annotations

from unittest import mock

import pytest

from lapse import ConversationRepository
from lapse.worker import poller
from tests.support.waiting import until
from tests.support.workers import in_background, worker_on


def test_nobody_scrapes_nobody_counts(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poller, "COUNT_ACTIVE_EVERY_SECONDS", 0.0)
    with (
        mock.patch.object(ConversationRepository, "count_active", return_value=7) as count_active,
        worker_on(database_url, interval_seconds=0.05, min_wait_seconds=0) as worker,
        in_background(worker),
    ):
        registry = worker.instrumentation.registry
        assert registry is not None
        until(lambda: worker.cycle_count >= 10)
        assert count_active.call_count == 1, "so that the first scrape finds it"
        assert registry.get_sample_value("active_conversations") == 7
        cycle = worker.cycle_count
        until(lambda: worker.cycle_count >= cycle + 3)
        assert count_active.call_count == 2
