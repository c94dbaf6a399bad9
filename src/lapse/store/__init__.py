"""The store: schema, statements, and the database behind them."""

from lapse.store.database import Database
from lapse.store.migrate import MigrationResult, ensure_schema, migrate
from lapse.store.readiness import check_ready
from lapse.store.repository import ConversationRepository
from lapse.store.schema_version import check_schema, schema_version

__all__ = [
    "ConversationRepository",
    "Database",
    "MigrationResult",
    "check_ready",
    "check_schema",
    "ensure_schema",
    "migrate",
    "schema_version",
]
