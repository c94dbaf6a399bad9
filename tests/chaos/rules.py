"""The rules of `tests.support.invariants`, three of them as they are since a message is more than an activity.

A conversation that was never answered comes back from a pause as pending; a new one takes over when the customer last
wrote; and what arrives at the same moment may be of a moment before the other one opened the conversation.
"""

from __future__ import annotations

from lapse import Database
from tests.support import invariants
from tests.support.invariants import ACTIVE, OPEN, SHOWN
from tests.support.sql import run_sql

_IS_TAKEN_OVER = f"""(c.opened_by <> 'user' AND EXISTS (
    SELECT 1 FROM conversations AS before WHERE before.owner_id = c.owner_id AND before.channel = c.channel
    AND before.session_key = c.session_key AND before.conv_id <> c.conv_id AND before.status NOT IN {OPEN}
    AND before.last_inbound_at >= c.last_inbound_at))"""

RULES = invariants.RULES | {
    "an event's type says what happened": f"""
        SELECT conv_id, version, type, from_status, to_status FROM conversation_events WHERE type <> CASE
            WHEN from_status = 'pending' AND to_status = 'progress' THEN 'activated'
            WHEN from_status = 'idle_timeout' AND to_status IN {ACTIVE} THEN 'reactivated'
            WHEN from_status IN {ACTIVE} AND to_status = 'idle_timeout' THEN 'paused'
            WHEN from_status IN {OPEN} AND to_status = 'expired' THEN 'expired'
            WHEN from_status IN {OPEN} AND to_status = 'failed' THEN 'failed'
            WHEN from_status IN {OPEN} AND to_status IN ('agent_closed', 'support_closed', 'user_closed') THEN 'closed'
            ELSE 'no such transition' END""",
    "a paused conversation comes back to where its answers say": """
        SELECT e.conv_id, e.version, e.to_status, e.occurred_at, c.first_answered_at
        FROM conversation_events AS e JOIN conversations AS c ON c.owner_id = e.owner_id AND c.conv_id = e.conv_id
        WHERE e.type = 'reactivated' AND e.to_status <> CASE
            WHEN c.first_answered_at <= e.occurred_at THEN 'progress' ELSE 'pending' END""",
    "only a customer's or your side's activity brings back, a worker only pauses and expires": """
        SELECT conv_id, version, type, actor FROM conversation_events
        WHERE (type IN ('activated', 'reactivated') AND actor IN ('worker', 'system'))
        OR (type = 'paused' AND actor <> 'worker')""",
    "activity comes after the beginning": f"""
        SELECT c.conv_id, started_at, updated_at, last_inbound_at, opened_by FROM conversations AS c
        WHERE updated_at < started_at
        OR (last_inbound_at > updated_at AND NOT {_IS_TAKEN_OVER})
        OR (last_inbound_at < started_at AND coalesce(opened_by, 'user') = 'user')""",
    "an answer is activity of your side": """
        SELECT conv_id, first_answered_at, last_outbound_at, updated_at FROM conversations
        WHERE last_outbound_at > updated_at OR first_answered_at > last_outbound_at
        OR (first_answered_at IS NOT NULL AND last_outbound_at IS NULL)""",
    "a receipt's conversation is one of its owner's": """
        SELECT r.owner_id, r.message_id, r.conv_id FROM message_receipts AS r LEFT JOIN conversations AS c
        ON c.owner_id = r.owner_id AND c.conv_id = r.conv_id WHERE r.conv_id IS NOT NULL AND c.conv_id IS NULL""",
}


def check_invariants(database: Database) -> None:
    """Fail with the broken rules and the first rows that break them."""
    broken = [
        f"{rule}: {len(rows)} rows break it, such as {[tuple(row) for row in rows[:SHOWN]]}"
        for rule, query in RULES.items()
        if (rows := run_sql(database, query))
    ]
    assert not broken, "\n".join(broken)
