"""An index by which a purge finds closed conversations: written once, when a conversation ends."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

CLOSED = "status IN ('agent_closed', 'support_closed', 'user_closed', 'expired', 'failed')"


def upgrade() -> None:
    """Create the index."""
    op.create_index(
        "ix_conversations_ended_at_closed",
        "conversations",
        ["ended_at"],
        postgresql_where=sa.text(CLOSED),
        sqlite_where=sa.text(CLOSED),
    )
