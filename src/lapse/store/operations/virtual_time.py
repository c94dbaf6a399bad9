"""Virtual time, for replay: each message at its own time, and every deadline as by a worker that is never late."""

from __future__ import annotations

from collections.abc import Sequence

from lapse.checked_message import CheckedMessage
from lapse.effects import PairState, act_on_deadlines
from lapse.messages import MessageResult
from lapse.models import NEVER
from lapse.store.operations.message_group import Changes, OwnTraces
from lapse.store.operations.recording import record_in_transaction, write
from lapse.store.operations.steps import Query, Steps, Transaction
from lapse.store.rows import row_to_conversation
from lapse.store.statements import Statements
from lapse.store.statements import recording as statements

GROUP = 2_000
"""Messages of one transaction: most dialogues begin and end within one, so that each is read and written once."""


def record_in_virtual_time(sql: Statements, messages: Sequence[CheckedMessage]) -> Steps[list[MessageResult | None]]:
    """Record each message at the time at which it was sent, after what was due of its pair."""
    return record_in_transaction(sql, messages, OwnTraces(), is_virtual=True)


def finish_virtual_time(sql: Statements, idle_timeout_seconds: int, limit: int) -> Steps[int]:
    """Act on all deadlines of up to `limit` open conversations, each at its own time; returns their number."""

    def work() -> Steps[int]:
        rows = yield Query(sql(statements.some_open), {"limit": limit})
        changes = Changes(NEVER)
        for conversation in map(row_to_conversation, rows):
            changes.before[conversation.conv_id] = conversation
            state, events = act_on_deadlines(PairState(conversation), NEVER, idle_timeout_seconds)
            changes.events += events
            changes.note(state)
        yield from write(sql, changes, is_read_back=False)
        return len(rows)

    finished: int = yield Transaction(work)
    return finished
