"""One cycle of a `BackgroundWorker`, as `lapse worker --once` runs it."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout

from benchmarks.helpers import answer, database_url, wait_for_go
from lapse import BackgroundWorker, ConversationService
from lapse.store import ensure_schema

EXPIRED_CONVERSATIONS = "expired_conversations"
"""The name of the task in every version, wherever it stands."""


def main() -> None:
    """Drain what is due, and say how long the task took by the worker's own account."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int)
    arguments = parser.parse_args()
    service = ConversationService(database_url())
    worker = BackgroundWorker(service=service, batch_size=arguments.batch_size)
    ensure_schema(service.database)
    wait_for_go()
    with redirect_stdout(sys.stderr):  # an older version writes its log there, too
        succeeded = worker.run_once()
    expired = worker.metrics[EXPIRED_CONVERSATIONS]
    answer(
        {
            "succeeded": succeeded,
            "ended": expired.total_items_processed,
            "seconds": expired.total_execution_time_seconds,
        }
    )


if __name__ == "__main__":
    main()
