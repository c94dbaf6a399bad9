"""What must hold in every database of lapse at every moment, whoever wrote to it and in whichever order.

Written in SQL, apart from lapse's own statements: each rule is a query for what breaks it.
"""

from __future__ import annotations

from lapse.store import Database
from tests.support.sql import run_sql

ACTIVE = "('pending', 'progress')"
OPEN = "('pending', 'progress', 'idle_timeout')"
SHOWN = 5

_STEPS = """(
    SELECT *,
        lag(to_status) OVER life AS to_status_before,
        lag(occurred_at) OVER life AS occurred_at_before,
        row_number() OVER life AS place
    FROM conversation_events
    WINDOW life AS (PARTITION BY owner_id, conv_id ORDER BY version)
) AS steps"""
_LAST_EVENTS = """conversations AS c LEFT JOIN conversation_events AS e
    ON e.owner_id = c.owner_id AND e.conv_id = c.conv_id AND e.version = c.version"""

_IS_TAKEN_OVER = f"""(c.opened_by <> 'user' AND EXISTS (
    SELECT 1 FROM conversations AS before WHERE before.owner_id = c.owner_id AND before.channel = c.channel
    AND before.session_key = c.session_key AND before.conv_id <> c.conv_id AND before.status NOT IN {OPEN}
    AND before.last_inbound_at >= c.last_inbound_at))"""

RULES = {
    "a pair has at most one open conversation": f"""
        SELECT owner_id, channel, session_key, count(*) FROM conversations WHERE status IN {OPEN}
        GROUP BY owner_id, channel, session_key HAVING count(*) > 1""",
    "an event belongs to a conversation": """
        SELECT e.conv_id FROM conversation_events AS e LEFT JOIN conversations AS c
        ON c.owner_id = e.owner_id AND c.conv_id = e.conv_id WHERE c.conv_id IS NULL""",
    "events are numbered 1, 2, 3, … without a gap": f"SELECT conv_id, version FROM {_STEPS} WHERE version <> place",
    "a conversation's version is the number of its events": """
        SELECT conv_id, version FROM conversations AS c WHERE version <> (
            SELECT count(*) FROM conversation_events AS e WHERE e.owner_id = c.owner_id AND e.conv_id = c.conv_id)""",
    "an event goes on from where the one before it led": f"""
        SELECT conv_id, version, from_status, to_status_before FROM {_STEPS} WHERE from_status <> to_status_before""",
    "a conversation begins active": f"""
        SELECT conv_id, from_status FROM {_STEPS} WHERE place = 1 AND from_status NOT IN {ACTIVE}
        UNION ALL SELECT conv_id, status FROM conversations WHERE version = 0 AND status NOT IN {ACTIVE}""",
    "a conversation is where its last event led": f"""
        SELECT c.conv_id, c.status, e.to_status FROM {_LAST_EVENTS} WHERE c.status <> e.to_status""",
    "an event's type says what happened": f"""
        SELECT conv_id, version, type, from_status, to_status FROM conversation_events WHERE type <> CASE
            WHEN from_status = 'pending' AND to_status = 'progress' THEN 'activated'
            WHEN from_status = 'idle_timeout' AND to_status IN {ACTIVE} THEN 'reactivated'
            WHEN from_status IN {ACTIVE} AND to_status = 'idle_timeout' THEN 'paused'
            WHEN from_status IN {OPEN} AND to_status = 'expired' THEN 'expired'
            WHEN from_status IN {OPEN} AND to_status = 'failed' THEN 'failed'
            WHEN from_status IN {OPEN} AND to_status IN ('agent_closed', 'support_closed', 'user_closed') THEN 'closed'
            ELSE 'no such transition' END""",
    "a closed conversation ended with its last event, an open one has not ended": f"""
        SELECT c.conv_id, c.status, c.ended_at, e.occurred_at FROM {_LAST_EVENTS}
        WHERE CASE WHEN c.status IN {OPEN} THEN c.ended_at IS NOT NULL
            ELSE c.ended_at IS NULL OR c.ended_at <> e.occurred_at END""",
    "nothing ends before its deadline": """
        SELECT conv_id, version, type, deadline, occurred_at FROM conversation_events WHERE deadline >= occurred_at""",
    "a pause has a deadline": """
        SELECT conv_id, version FROM conversation_events WHERE type = 'paused' AND deadline IS NULL""",
    "what expires does so for its expires_at": """
        SELECT c.conv_id, e.deadline, c.expires_at FROM conversations AS c JOIN conversation_events AS e
        ON e.owner_id = c.owner_id AND e.conv_id = c.conv_id WHERE e.type = 'expired' AND e.deadline <> c.expires_at""",
    "events follow each other in time": f"""
        SELECT conv_id, version, occurred_at_before, occurred_at FROM {_STEPS}
        WHERE occurred_at < occurred_at_before""",
    "activity comes after the beginning": f"""
        SELECT c.conv_id, started_at, updated_at, last_inbound_at, opened_by FROM conversations AS c
        WHERE updated_at < started_at
        OR (last_inbound_at > updated_at AND NOT {_IS_TAKEN_OVER})
        OR (last_inbound_at < started_at AND coalesce(opened_by, 'user') = 'user')""",
    "a paused conversation comes back to where its answers say": """
        SELECT e.conv_id, e.version, e.to_status, e.occurred_at, c.first_answered_at
        FROM conversation_events AS e JOIN conversations AS c ON c.owner_id = e.owner_id AND c.conv_id = e.conv_id
        WHERE e.type = 'reactivated' AND e.to_status <> CASE
            WHEN c.first_answered_at <= e.occurred_at THEN 'progress' ELSE 'pending' END""",
    "only a customer's or your side's activity brings back, a worker only pauses and expires": """
        SELECT conv_id, version, type, actor FROM conversation_events
        WHERE (type IN ('activated', 'reactivated') AND actor IN ('worker', 'system'))
        OR (type = 'paused' AND actor <> 'worker')""",
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
