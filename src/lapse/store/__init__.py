"""The store: schema, statements, and the database behind them."""

from lapse.store.database import Database
from lapse.store.migrate import (
    MigrationResult,
    check_schema,
    ensure_schema,
    migrate,
    schema_version,
)
from lapse.store.repository import ConversationRepository

__all__ = [
    "ConversationRepository",
    "Database",
    "MigrationResult",
    "check_schema",
    "ensure_schema",
    "migrate",
    "schema_version",
]
