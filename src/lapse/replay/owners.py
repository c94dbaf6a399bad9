"""The column `owner_id` of a message log: whole numbers, UUIDs or text."""

from __future__ import annotations

import re
from contextlib import suppress
from uuid import UUID

from lapse.addresses import shown
from lapse.errors import InvalidInputError
from lapse.models import AnyId
from lapse.store.table_mapping import IdKind
from lapse.validation import check_id, check_uuid

_NUMBER = re.compile(r"\s*[+-]?[0-9]+\s*")
_WHAT = {
    IdKind.BIGINT: "is not a whole number of at most 64 bits",
    IdKind.UUID: "is not a UUID",
    IdKind.TEXT: "is not printable text of 1 to 500 characters",
}


class Owners:
    """Reads owners of one type: the given one, or that of the log's first message."""

    def __init__(self, kind: IdKind | None) -> None:
        """Read owners of this type; None: the first one says it."""
        self._kind = kind
        self._is_given = kind is not None

    @property
    def kind(self) -> IdKind:
        """Return the type; of a log without messages whole numbers, as in a new database."""
        return self._kind or IdKind.BIGINT

    def check(self, text: str) -> AnyId:
        """Return an owner, and leave open which type the log has.

        Raises:
            InvalidInputError: it is not of the type.
        """
        kind = self._kind or _kind_of(text)
        try:
            return check_id(kind, "owner_id", int(text) if kind is IdKind.BIGINT else text.strip())
        except ValueError:
            hint = "" if self._is_given or self._kind is None else ", as in the first message (see --owner-type)"
            raise InvalidInputError(f"owner_id {shown(text)} {_WHAT[kind]}{hint}") from None

    def read(self, text: str) -> AnyId:
        """Return the owner of a message; errors as `check`."""
        owner = self.check(text)
        self._kind = self._kind or _kind_of(text)
        return owner


def _kind_of(text: str) -> IdKind:
    if _NUMBER.fullmatch(text):
        return IdKind.BIGINT
    with suppress(InvalidInputError):
        check_uuid("owner_id", text.strip())
        return IdKind.UUID
    return IdKind.TEXT


def stored(owner: AnyId) -> int | str:
    """Return an owner as SQLite keeps it."""
    return str(owner) if isinstance(owner, UUID) else owner
