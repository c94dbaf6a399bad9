"""The exceptions of lapse, all derived from `LapseError`. A class's docstring is its default message."""

from __future__ import annotations

import re
from typing import Any


class LapseError(Exception):
    """lapse could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        """`message` is one line for people; None: the class's docstring."""
        # `python -OO` removes docstrings; the class's name is left.
        super().__init__(message or (self.__doc__ or re.sub("(?<!^)(?=[A-Z])", " ", type(self).__name__)).strip())

    def __reduce__(self) -> tuple[Any, ...]:
        """Support copying and pickling: by default, `__init__` would be called with the formatted message."""
        return type(self).__new__, (type(self), *self.args), vars(self)


class InvalidInputError(LapseError, ValueError):
    """An argument is not usable."""


class InvalidAddressError(InvalidInputError):
    """An address is empty, too long, or holds characters that no address has."""


class SameAddressError(InvalidInputError):
    """A conversation needs two different addresses."""


class NaiveDatetimeError(InvalidInputError):
    """A datetime has no time zone; lapse takes aware datetimes only."""


class InvalidTransitionError(LapseError):
    """A conversation cannot go from its status to the one asked for."""

    def __init__(self, from_status: str, to_status: str, message: str | None = None) -> None:
        """The message names both statuses, which are also attributes."""
        self.from_status = from_status
        self.to_status = to_status
        super().__init__(message or f"a conversation cannot go from {from_status} to {to_status}")


class ConversationNotFoundError(LapseError):
    """There is no such conversation."""


class ConversationAlreadyOpenError(LapseError):
    """This pair of addresses already has an open conversation."""

    def __init__(self, conv_id: object, shown_id: str | None = None) -> None:
        """`conv_id` is the open conversation; `shown_id` is its id in the message, None: `conv_id` itself."""
        self.conv_id = conv_id
        super().__init__(f"this pair of addresses already has an open conversation: {shown_id or conv_id}")


class ConversationExpiredError(LapseError):
    """The conversation is past its expiry: it can end, but not be extended."""


class ConversationChangedError(LapseError):
    """There was activity in the conversation since it was read."""


class SettingsError(LapseError):
    """A setting is not usable."""


class InvalidIdleTimeoutError(InvalidInputError, SettingsError):
    """An idle timeout is not usable, be it an argument or a setting."""


class ListenError(LapseError):
    """Nobody can listen at that address."""


class SchemaError(LapseError):
    """The database does not have the schema that this version of lapse needs."""


class SchemaMissingError(SchemaError):  # noqa: D101 - assigned, because `python -OO` removes docstrings, and this one says what to do
    __doc__ = "The database has no lapse schema yet: run `lapse migrate`."


class SchemaVersionError(SchemaError):
    """The database's schema is of another version than this lapse."""


class ForeignTableError(SchemaError):
    """The database has a table of that name that lapse did not make."""


class AdoptionError(SchemaError):
    """The table cannot be adopted."""


class BacklogError(LapseError):
    """More conversations are due on a table that was adopted than a worker may end unasked."""

    def __init__(self, message: str | None = None, preview: Any = None) -> None:
        """`preview` is the backlog, a `lapse.models.Preview`; None: it could not be counted."""
        self.preview = preview
        super().__init__(message)


class DistributionError(SchemaError):
    """The tables cannot be distributed over the nodes of a Citus cluster."""


class DatabaseError(LapseError):
    """The database refused a statement."""


class DatabaseUnavailableError(DatabaseError):
    """The database cannot be reached, or is too busy to answer."""


class CallTimeoutError(DatabaseUnavailableError):
    """The call took longer than it may; whether it was done is not known."""


class StatementTimeoutError(DatabaseError):
    """The database gave up a statement that took too long."""


class ConversationRefusedError(DatabaseError):
    """The database refused to write a conversation: a trigger or a constraint of the application's, say."""


class ConversationUnchangedError(ConversationRefusedError):  # noqa: D101 - as above
    __doc__ = "The database left a conversation as it was: a trigger or a policy of the application's, say."


class ReplayError(LapseError):
    """The message log cannot be replayed."""
