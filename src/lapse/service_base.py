"""What the services for threads and for event loops have in common: settings, and arguments checked by themselves.

Nothing here waits for a database. Ids are checked by the operations, which know the database's types of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from lapse.addresses import shown
from lapse.checked_message import CheckedMessage, check_message
from lapse.errors import InvalidInputError, LapseError
from lapse.json_objects import check_json_object
from lapse.lifecycle import ConversationStatus, parse_closed_status, require_utc, whole_seconds
from lapse.messages import Message
from lapse.settings import Settings, idle_timeout_seconds, load_settings
from lapse.store.table_mapping import IdKind
from lapse.validation import check_extension, check_text


class ServiceBase:
    """A service without its database."""

    def __init__(self, settings: Settings | None) -> None:
        """Prepare what needs no database.

        Raises:
            SettingsError: a setting is not usable; InvalidInputError: `settings` are none.
        """
        if settings is not None and not isinstance(settings, Settings):
            raise InvalidInputError(f"settings must be a Settings, not {shown(settings)}")
        self.settings = load_settings() if settings is None else settings
        self.call_timeout_seconds = self.settings.call_timeout_seconds
        """How long a call may take; sweeps may take longer."""
        self._has_schema = False
        self._expiration_seconds = whole_seconds(self.settings.expiration)
        self._idle_timeout_seconds = self._idle_seconds()

    def idle_timeout(self, minutes: float | None = None) -> timedelta:
        """Return the idle timeout of so many minutes, or of the setting, in whole seconds as it is stored."""
        return timedelta(seconds=self._idle_seconds(minutes))

    def _idle_seconds(self, minutes: float | None = None) -> int:
        return idle_timeout_seconds(self.settings.idle_timeout_minutes if minutes is None else minutes)

    def _check(self, message: Message, kinds: Mapping[str, IdKind]) -> CheckedMessage:
        """Return a message with its fields checked, for a database with ids of these kinds."""
        return check_message(message, kinds, self._expiration_seconds, self._idle_timeout_seconds)

    def _check_each(
        self, messages: Iterable[Message], kinds: Mapping[str, IdKind]
    ) -> list[CheckedMessage | LapseError]:
        """Return each message checked, or why it cannot be used.

        Raises:
            InvalidInputError: they are no messages at all.
        """
        if not isinstance(messages, Iterable) or isinstance(messages, str | bytes | Mapping):
            raise InvalidInputError(f"messages must be a list of lapse.Message, not {type(messages).__name__}")
        checked: list[CheckedMessage | LapseError] = []
        for message in messages:
            try:
                checked.append(self._check(message, kinds))
            except InvalidInputError as error:
                checked.append(error.with_traceback(None))
        return checked

    def _extension(self, minutes: float | None, until: datetime | None) -> tuple[float | None, datetime | None]:
        """Return by how many minutes, or else until when, an expiry is extended."""
        if until is None:
            return check_extension(self.settings.expiration_minutes if minutes is None else minutes), None
        if minutes is not None:
            raise InvalidInputError("extend_expiration takes minutes or until, not both")
        return None, require_utc(until)


def closing(
    status: str, reason: str | None, actor: str | None, if_updated_at: datetime | None
) -> tuple[ConversationStatus, str | None, str | None, datetime | None]:
    """Return how a conversation is to be closed, checked."""
    unless_later = None if if_updated_at is None else require_utc(if_updated_at)
    return parse_closed_status(status), check_text("reason", reason), check_text("actor", actor), unless_later


def changes(context: dict[str, Any] | None, metadata: dict[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is to be merged into a conversation's JSON objects, checked."""
    return check_json_object("context", context), check_json_object("metadata", metadata)
