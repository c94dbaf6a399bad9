"""Parameters that several statements have, and the conditions made of them.

A parameter with the name of a column would be taken for a value to write: hence the prefixes `of_` and `new_`.
"""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa

from lapse.store.tables import Tables
from lapse.store.types import SweepCursor

LIMIT: sa.BindParameter[int] = sa.bindparam("limit", type_=sa.Integer)
IDLE_TIMEOUT: sa.BindParameter[int] = sa.bindparam("idle_timeout", type_=sa.Integer)
CURSOR: sa.BindParameter[datetime] = sa.bindparam("cursor", type_=SweepCursor)
MAX_INTEGER = 2**63 - 1
"""Of either database."""


def of_owner(tables: Tables) -> sa.ColumnElement[bool]:
    """Return the condition that the owner is the parameter `of_owner_id`."""
    return tables.c.owner_id == sa.bindparam("of_owner_id")


def of_id(tables: Tables) -> sa.ColumnElement[bool]:
    """Return the condition that the id is the parameter `of_conv_id`."""
    return tables.c.conv_id == sa.bindparam("of_conv_id", type_=tables.c.conv_id.type)


def of_pair(tables: Tables) -> sa.ColumnElement[bool]:
    """Return the condition that owner, channel and session key are the parameters `of_…`."""
    return (
        of_owner(tables)
        & (tables.normalized_channel == sa.bindparam("of_channel", type_=sa.Text))
        & (tables.c.session_key == sa.bindparam("of_session_key"))
    )
