"""Who opened a conversation and when your side first answered it, as far as older versions of the schema tell.

Of open conversations only: nothing asks it of closed ones. The status in which one began is that from which its first
event led away, or its present one where it has none.

- Began as `pending`: the customer opened it. It was answered with its first event `activated` whose actor is `agent` or
  `support`, or NULL, which the earliest versions wrote; one by `system` is a notice, no answer.
- Began as `progress`: your side opened it, and so answered it when it began. Who of your side, an agent, support or
  `system`, was not recorded: `agent` stands for all of them.
- `last_outbound_at` becomes the first answer, the only one that has a time.
- A conversation whose events do not reach its version tells nothing: it is being changed at this moment, or others
  deleted its history. What is not known stays NULL.
"""

from __future__ import annotations

_OPEN = "('pending', 'progress', 'idle_timeout')"
IS_UNFILLED = f"status IN {_OPEN} AND opened_by IS NULL AND first_answered_at IS NULL AND last_outbound_at IS NULL"

_OF_ROW = "FROM conversation_events AS e WHERE e.owner_id = r.owner_id AND e.conv_id = r.conv_id"
_FACTS = f"""
    SELECT r.*,
        coalesce((SELECT e.from_status {_OF_ROW} ORDER BY e.version LIMIT 1), r.status) AS began_as,
        (SELECT e.occurred_at {_OF_ROW} AND e.type = 'activated' AND coalesce(e.actor, 'agent') IN ('agent', 'support')
            ORDER BY e.version LIMIT 1) AS answered_at,
        coalesce((SELECT max(e.version) {_OF_ROW}), 0) AS last_version
    FROM {{rows}} AS r"""  # noqa: S608 - of constants
_KNOWN = f"""
    SELECT f.owner_id, f.conv_id,
        CASE WHEN f.began_as = 'pending' THEN 'user'
            WHEN f.began_as = 'progress' AND coalesce(f.last_inbound_at > f.started_at, true) THEN 'agent'
        END AS opened_by,
        CASE WHEN f.began_as = 'progress' THEN f.started_at ELSE f.answered_at END AS answered_at
    FROM ({_FACTS}) AS f WHERE f.last_version = f.version"""  # noqa: S608 - as well
_SET = """
    SET opened_by = k.opened_by, first_answered_at = k.answered_at, last_outbound_at = k.answered_at"""
_COLUMNS = "owner_id, conv_id, status, version, started_at, last_inbound_at"
_ROWS = f"(SELECT {_COLUMNS} FROM conversations WHERE {IS_UNFILLED})"  # noqa: S608 - as well

FILL_ALL = f"""
    UPDATE conversations AS c {_SET} FROM ({_KNOWN.format(rows=_ROWS)}) AS k
    WHERE c.owner_id = k.owner_id AND c.conv_id = k.conv_id"""
"""For both databases: one statement, which waits for rows that others have locked."""

IS_ANY_LEFT = f"""
    SELECT EXISTS (SELECT FROM ({_KNOWN.format(rows=_ROWS)}) AS k
        WHERE k.opened_by IS NOT NULL OR k.answered_at IS NOT NULL)"""  # noqa: S608 - as well
"""PostgreSQL: whether a batch has left out a row because others had locked it."""


def batch_statement(first: int, end: int) -> str:
    """Return the statement for PostgreSQL that fills unlocked rows of the pages from `first` to `end`, exclusive."""
    pages = "{0}ctid >= '({1},0)'::tid AND {0}ctid < '({2},0)'::tid"
    # The range of pages is repeated: whichever join the planner chooses, it reads no others.
    return f"""
        WITH batch AS MATERIALIZED (
            SELECT {_COLUMNS} FROM conversations
            WHERE {pages.format("", first, end)} AND {IS_UNFILLED} FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE conversations AS c {_SET} FROM ({_KNOWN.format(rows="batch")}) AS k
        WHERE c.owner_id = k.owner_id AND c.conv_id = k.conv_id AND {pages.format("c.", first, end)}
            AND (k.opened_by IS NOT NULL OR k.answered_at IS NOT NULL)"""  # noqa: S608 - of numbers and constants
