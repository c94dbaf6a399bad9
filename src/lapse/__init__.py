"""lapse: one live conversation per pair of addresses; idle and expired ones end on time, exactly once.

The names here are the public interface; everything else may move. They are loaded on first use, so that
`import lapse` and `lapse --help` stay fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lapse.addresses import normalise_address, session_key
    from lapse.errors import (
        CallTimeoutError,
        ConversationAlreadyOpenError,
        ConversationExpiredError,
        ConversationNotFoundError,
        DatabaseError,
        DatabaseUnavailableError,
        ForeignTableError,
        InvalidAddressError,
        InvalidInputError,
        InvalidTransitionError,
        LapseError,
        NaiveDatetimeError,
        ReplayError,
        SameAddressError,
        SchemaError,
        SchemaMissingError,
        SchemaVersionError,
        SettingsError,
    )
    from lapse.lifecycle import ConversationStatus, EventType, Sender
    from lapse.models import Conversation, ConversationEvent, NextDeadlines, PurgeResult, SweepResult
    from lapse.service import ConversationService
    from lapse.settings import Settings, load_settings
    from lapse.store import ConversationRepository, Database, migrate
    from lapse.worker import BackgroundWorker, TaskMetrics

_MODULES = {
    "lapse.addresses": ("normalise_address", "session_key"),
    "lapse.errors": (
        "CallTimeoutError",
        "ConversationAlreadyOpenError",
        "ConversationExpiredError",
        "ConversationNotFoundError",
        "DatabaseError",
        "DatabaseUnavailableError",
        "ForeignTableError",
        "InvalidAddressError",
        "InvalidInputError",
        "InvalidTransitionError",
        "LapseError",
        "NaiveDatetimeError",
        "ReplayError",
        "SameAddressError",
        "SchemaError",
        "SchemaMissingError",
        "SchemaVersionError",
        "SettingsError",
    ),
    "lapse.lifecycle": ("ConversationStatus", "EventType", "Sender"),
    "lapse.models": ("Conversation", "ConversationEvent", "NextDeadlines", "PurgeResult", "SweepResult"),
    "lapse.service": ("ConversationService",),
    "lapse.settings": ("Settings", "load_settings"),
    "lapse.store": ("ConversationRepository", "Database", "migrate"),
    "lapse.worker": ("BackgroundWorker", "TaskMetrics"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__version__ = "0.1.0"
__all__ = [
    "BackgroundWorker",
    "CallTimeoutError",
    "Conversation",
    "ConversationAlreadyOpenError",
    "ConversationEvent",
    "ConversationExpiredError",
    "ConversationNotFoundError",
    "ConversationRepository",
    "ConversationService",
    "ConversationStatus",
    "Database",
    "DatabaseError",
    "DatabaseUnavailableError",
    "EventType",
    "ForeignTableError",
    "InvalidAddressError",
    "InvalidInputError",
    "InvalidTransitionError",
    "LapseError",
    "NaiveDatetimeError",
    "NextDeadlines",
    "PurgeResult",
    "ReplayError",
    "SameAddressError",
    "SchemaError",
    "SchemaMissingError",
    "SchemaVersionError",
    "Sender",
    "Settings",
    "SettingsError",
    "SweepResult",
    "TaskMetrics",
    "load_settings",
    "migrate",
    "normalise_address",
    "session_key",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'lapse' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
