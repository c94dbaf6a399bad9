"""An adopted table gets what lapse has had since it was adopted: columns, functions, triggers and a table of receipts.

What is added is constant for the rows that are there. Who opened and who answered them stays unknown: an application's
own changes of the status have no events.
"""

from __future__ import annotations

from lapse.adoption.bounded_queries import apply_session_settings
from lapse.adoption.install import repair_statements
from lapse.adoption.lock_retries import with_lock_retries
from lapse.adoption.pooling import require_own_session
from lapse.adoption.state import read_state
from lapse.store.online_steps import OnlineSteps


def upgrade_adopted(steps: OnlineSteps) -> None:
    """Add what is missing, in one transaction that has the table for itself for some milliseconds.

    Raises:
        AdoptionError: there is a table `message_receipts` that lapse did not make, the table stayed locked, or a pooler
            in transaction mode shares the session.
        psycopg.Error: the database refused, or the connection is lost.
    """
    require_own_session(steps.driver)
    apply_session_settings(steps.driver, is_local=False)  # what the catalog says is executed as SQL
    state = read_state(steps.driver, keep=None, idle_timeout_seconds=0)
    if state.is_installed:
        return
    with steps.progress.step("add the new columns, and replace functions and triggers"):
        with_lock_retries(
            steps.driver, state.names.conversations, repair_statements(state), message=steps.progress.message
        )
