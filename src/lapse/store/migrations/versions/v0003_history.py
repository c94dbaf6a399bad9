"""The index of a pair's history without what is open, which stands in another one: opening writes one entry less."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

NOT_OPEN = "(status NOT IN ('pending', 'progress', 'idle_timeout'))"


def upgrade() -> None:
    """Create the new index, then drop the old one."""
    op.create_index(
        "ix_conversations_session_history_not_open",
        "conversations",
        ["owner_id", "channel", "session_key", "started_at"],
        postgresql_where=sa.text(NOT_OPEN),
        sqlite_where=sa.text(NOT_OPEN),
    )
    op.drop_index("ix_conversations_session_history", "conversations")
