"""What a worker asks before its first cycle on an adopted table: has one worked here before, and how much is due?"""

from __future__ import annotations

from datetime import datetime, timedelta

import sqlalchemy as sa

from lapse.store import sweep_statements
from lapse.store.database import Database
from lapse.store.schema import conversation_events as events
from lapse.store.sweep_statements import SILENT, WORKER
from lapse.store.types import UtcDateTime

# A worker that ended its backlog silently, and was stopped half-way, has not begun: the next one must not end the rest
# aloud because of it.
_ENDED_ALOUD = (
    sa.select(events.c.version).where(events.c.actor == WORKER, events.c.data[SILENT].as_string().is_(None)).limit(1)
)
_BEGINNING = sa.select(
    sa.func.coalesce(
        sa.func.min(events.c.occurred_at), sa.func.clock_timestamp(type_=UtcDateTime), type_=UtcDateTime
    ).label("moment")
).where(events.c.actor == WORKER)


def has_begun(database: Database) -> bool:
    """Tell whether a worker has ended anything here, other than silently.

    Raises:
        DatabaseError: the database refused, or cannot be reached.
    """
    return bool(database.autocommit(lambda connection: connection.execute(_ENDED_ALOUD), retry=False))


def count_due(database: Database, idle_timeout: timedelta, most: int) -> int:
    """Return how many conversations a first cycle would end; where they are more than `most`, any number above it.

    Raises:
        DatabaseError: the database refused, or cannot be reached.
    """
    statement = sweep_statements.count_due_up_to(database.now_expression)
    values = {"idle_timeout": round(idle_timeout.total_seconds()), "limit": most + 1, **database.now_parameters}
    row = database.autocommit(lambda connection: connection.execute(statement, values), retry=False).one()
    return int(row.expired + row.idle + row.armed_longer)


def beginning(database: Database) -> datetime:
    """Return when a worker first ended something here; where none has, the present moment.

    Raises:
        DatabaseError: the database refused, or cannot be reached.
    """
    row = database.autocommit(lambda connection: connection.execute(_BEGINNING), retry=False).one()
    moment: datetime = row.moment
    return moment
