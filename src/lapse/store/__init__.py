"""The store: schema, statements, operations, and the databases that they run on."""

from lapse.store.database import Database
from lapse.store.migrate import MigrationResult, check_schema, ensure_schema, has_schema, migrate, schema_version
from lapse.store.readiness import check_ready
from lapse.store.repository import ConversationRepository

__all__ = [
    "ConversationRepository",
    "Database",
    "MigrationResult",
    "check_ready",
    "check_schema",
    "ensure_schema",
    "has_schema",
    "migrate",
    "schema_version",
]
