"""The tables for one shape of database, and the expressions that differ between shapes.

A message changes no indexed column, so that it is a HOT update on PostgreSQL. In an adopted table columns may have
other names and types, and NULLs, whose meaning is defined here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from lapse.addresses import WHATSAPP
from lapse.lifecycle import ConversationStatus
from lapse.models import Conversation
from lapse.store.table_mapping import IdKind, Shape
from lapse.store.types import UTC_TEXT_PATTERN, JsonObject, UtcDateTime, id_list_type, id_type, owner_type

FILLFACTOR = 85
"""Per cent of a page that inserts fill: an update is HOT only if the page has room for the new version of the row."""
CHANNEL_EXPRESSION = f"coalesce(lower(btrim({{column}})), '{WHATSAPP}'::text)"
"""The normalized channel of an adopted table. Used in indexes, so only with functions that every role may call."""

Moment = sa.ColumnElement[datetime]
BOUND_NOW: sa.BindParameter[datetime] = sa.bindparam("now", type_=UtcDateTime)
"""The present as a bound value: the driver supplies it unless the operation does."""
_MIN_ID = {
    IdKind.BIGINT: f"'{-(2**63)}'::bigint",
    IdKind.UUID: "'00000000-0000-0000-0000-000000000000'::uuid",
    IdKind.TEXT: "''::text",
}
_NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "pk": "pk_%(table_name)s",
}


def status_in(column: sa.ColumnElement[str], statuses: Iterable[str]) -> sa.ColumnElement[bool]:
    """Return `column IN (…)` with the statuses as literals: a partial index only matches literals."""
    return column.in_([sa.literal_column(f"'{status}'") for status in statuses])


def constant(sql: str, type_: Any = None) -> sa.ColumnClause[Any]:
    """Return a constant that is written into the statement."""
    return sa.literal_column(sql, type_)


class Tables:
    """The tables `conversations`, `conversation_events` and `message_receipts` of databases of one shape."""

    def __init__(self, shape: Shape) -> None:
        """Build the tables with the column names and types of this shape."""
        self.shape = shape
        self._is_sqlite = shape.dialect == "sqlite"
        self.metadata = sa.MetaData(naming_convention=_NAMES)
        self.conversations = self._make_conversations()
        self.events = self._make_events()
        self.receipts = self._make_receipts()
        self.c = c = self.conversations.c
        self.conversation = [c[field.name] for field in fields(Conversation)]
        """The columns of `lapse.Conversation`, in the order of its fields."""
        self.is_active = status_in(c.status, ConversationStatus.active_statuses())
        self.is_open = status_in(c.status, ConversationStatus.open_statuses())
        self.is_closed = status_in(c.status, ConversationStatus.closed_statuses())
        self.now: Moment = (
            sa.func.now(type_=UtcDateTime) if shape.has_server_clock and not self._is_sqlite else BOUND_NOW
        )
        """PostgreSQL's `now()`, the start of the transaction and so never late; otherwise a bound value."""
        self._make_indexes()

    # --- tables ---------------------------------------------------------------------------------------------------

    def id_type(self, name: str) -> sa.types.TypeEngine[Any]:
        """Return the type of `conv_id`, `owner_id` or `user_id`."""
        make = owner_type if name == "owner_id" else id_type
        return make(self.shape.mapping.kinds[name], self.shape.dialect)

    def _column(self, name: str, type_: Any, **options: Any) -> sa.Column[Any]:
        return sa.Column(self.shape.mapping.renamed.get(name, name), type_, key=name, **options)

    def _make_conversations(self) -> sa.Table:
        column = self._column
        return sa.Table(
            "conversations",
            self.metadata,
            column("owner_id", self.id_type("owner_id"), nullable=False),
            column("conv_id", self.id_type("conv_id"), nullable=False),
            column("channel", sa.Text, nullable=False),
            column("session_key", sa.Text, nullable=False),
            column("from_number", sa.Text, nullable=False),
            column("to_number", sa.Text, nullable=False),
            column("user_id", self.id_type("user_id")),
            column("status", sa.Text, nullable=False),
            column("version", sa.BigInteger, nullable=False, server_default=sa.text("0")),
            column("policy_id", sa.BigInteger),
            # The sender of the message that opened it; NULL: not known.
            column("opened_by", sa.Text),
            column("started_at", UtcDateTime, nullable=False),
            column("updated_at", UtcDateTime, nullable=False),
            column("last_inbound_at", UtcDateTime),
            column("last_outbound_at", UtcDateTime),
            column("first_answered_at", UtcDateTime),
            column("ended_at", UtcDateTime),
            column("expires_at", UtcDateTime, nullable=False),
            # When the idle sweep checks the conversation next, and the idle timeout from which that was computed: by it
            # a sweep with a shorter timeout finds the rows that it would otherwise check too late.
            column("idle_check_at", UtcDateTime, nullable=False),
            column("idle_timeout_seconds", sa.BigInteger, nullable=False),
            column("hold_until", UtcDateTime),
            column("reminders_sent", sa.BigInteger, nullable=False, server_default=sa.text("0")),
            column("reminded_at", UtcDateTime),
            column("context", JsonObject, nullable=False, server_default=sa.text("'{}'")),
            column("metadata", JsonObject, nullable=False, server_default=sa.text("'{}'")),
            # With owner_id, as every unique key: the table can be distributed by it. After conv_id, so that it serves
            # look-ups by the id alone.
            sa.PrimaryKeyConstraint("conv_id", "owner_id"),
            sa.CheckConstraint(status_in(sa.column("status"), ConversationStatus), name="status"),
            postgresql_with={"fillfactor": FILLFACTOR},
        )

    def _make_events(self) -> sa.Table:
        return sa.Table(
            "conversation_events",
            self.metadata,
            sa.Column("owner_id", self.id_type("owner_id"), nullable=False),
            sa.Column("conv_id", self.id_type("conv_id"), nullable=False),
            self._column("version", sa.BigInteger, nullable=False),
            sa.Column("type", sa.Text, nullable=False),
            sa.Column("from_status", sa.Text, nullable=False),
            sa.Column("to_status", sa.Text, nullable=False),
            sa.Column("reason", sa.Text),
            sa.Column("actor", sa.Text),
            sa.Column("deadline", UtcDateTime),
            sa.Column("occurred_at", UtcDateTime, nullable=False),
            sa.Column("data", JsonObject, nullable=False, server_default=sa.text("'{}'")),
            sa.PrimaryKeyConstraint("owner_id", "conv_id", "version"),
        )

    def _make_receipts(self) -> sa.Table:
        # No index on seen_at, for which every message would pay: retention walks through the table.
        return sa.Table(
            "message_receipts",
            self.metadata,
            sa.Column("owner_id", self.id_type("owner_id"), nullable=False),
            sa.Column("channel", sa.Text, nullable=False),
            sa.Column("message_id", sa.Text, nullable=False),
            sa.Column("conv_id", self.id_type("conv_id")),
            sa.Column("seen_at", UtcDateTime, nullable=False),
            sa.PrimaryKeyConstraint("owner_id", "channel", "message_id"),
        )

    def _make_indexes(self) -> None:
        session = ("owner_id", "channel", "session_key")
        self.open_session = self._partial_index(
            "uq_conversations_open_session", *session, where=self.is_open, unique=True
        )
        self._partial_index("ix_conversations_expires_at_open", "expires_at", where=self.is_open)
        self.idle_check_index = self._partial_index(
            "ix_conversations_idle_check_at_active", "idle_check_at", where=self.is_active
        )
        self._partial_index(
            "ix_conversations_idle_timeout_seconds_active", "idle_timeout_seconds", where=self.is_active
        )
        self._partial_index("ix_conversations_ended_at_closed", "ended_at", where=self.is_closed)
        # What is open stands in the unique index: a conversation is entered here once, when it ends.
        self._partial_index("ix_conversations_session_history_not_open", *session, "started_at", where=~self.is_open)

    def _partial_index(self, name: str, *columns: str, where: sa.ColumnElement[bool], unique: bool = False) -> sa.Index:
        return sa.Index(
            name, *(self.c[column] for column in columns), unique=unique, postgresql_where=where, sqlite_where=where
        )

    # --- what differs between the databases -------------------------------------------------------------------------

    def plus_seconds(self, moment: Moment, seconds: Any) -> Moment:
        """Return the moment so many whole seconds later (or earlier, where it is a negative number)."""
        if not self._is_sqlite:
            # `timestamptz + interval` is only STABLE, for a day's length is a matter of the session's zone; Citus
            # refuses that where it writes rows. Without a zone it is IMMUTABLE, and seconds are the same in either.
            zeros = [constant("0")] * 6
            interval = sa.func.make_interval(*zeros, seconds, type_=sa.Interval)
            utc = constant("'UTC'")
            return sa.func.timezone(utc, sa.func.timezone(utc, moment) + interval, type_=UtcDateTime)
        # Of whole seconds, so the fraction stays as it is: SQLite itself counts in milliseconds. Not a function in
        # Python: an exception that interrupts the call would come out of it as an error of the database's. What others
        # wrote in another form is read as SQLite does. NULL, for what is no time, is never due, and where it is written
        # the row is refused.
        modifier = sa.func.printf(constant("'%d seconds'"), seconds)
        whole = sa.func.strftime(
            constant("'%Y-%m-%d %H:%M:%S'"), sa.func.substr(moment, constant("1"), constant("19")), modifier
        )
        read = sa.func.strftime(constant("'%Y-%m-%d %H:%M:%f'"), moment, modifier)
        is_ours = moment.op("GLOB", is_comparison=True)(constant(f"'{UTC_TEXT_PATTERN}'"))
        later = sa.case(
            (is_ours, whole.op("||")(sa.func.substr(moment, constant("20")))), else_=read.op("||")(constant("'000'"))
        )
        return sa.type_coerce(later, UtcDateTime)

    def is_time(self, column: Moment) -> sa.ColumnElement[bool]:
        """Return whether the value is a time that a sweep can compare.

        In SQLite others may have written a number or an empty text, which come before all times, or a word, which comes
        after them. `2026-13-45` lies between them, and only its reader can tell.
        """
        if not self._is_sqlite:
            return sa.true()
        return column.between(constant("'0001-01-01 00:00:00.000000'"), constant("'9999-12-31 23:59:59.999999'"))

    def latest(self, one: Moment, other: Moment) -> Moment:
        """Return the later of two moments, or the one that is not NULL."""
        if not self._is_sqlite:
            return sa.func.greatest(one, other, type_=UtcDateTime)
        return sa.func.max(sa.func.coalesce(one, other), sa.func.coalesce(other, one), type_=UtcDateTime)

    def earliest(self, one: Moment, other: Moment) -> Moment:
        """Return the earlier of two moments, or the one that is not NULL."""
        if not self._is_sqlite:
            return sa.func.least(one, other, type_=UtcDateTime)
        return sa.func.min(sa.func.coalesce(one, other), sa.func.coalesce(other, one), type_=UtcDateTime)

    def id_in(self, ids: str) -> sa.ColumnElement[bool]:
        """Return whether a conversation's id is in the list that is the parameter of this name, whatever its length."""
        bound: sa.BindParameter[Any] = sa.bindparam(
            ids, type_=id_list_type(self.shape.mapping.kinds["conv_id"], self.shape.dialect)
        )
        if not self._is_sqlite:
            return self.c.conv_id == sa.any_(bound)
        # In lower case, as lapse spells ids: others may have written them in capitals.
        listed = sa.func.json_each(bound).table_valued("value")
        return sa.func.lower(self.c.conv_id, type_=sa.Text).in_(sa.select(listed.c.value))

    @property
    def min_owner_id(self) -> sa.ColumnElement[Any]:
        """Return a value that sorts before all owners in an index."""
        return constant(str(-(2**63)) if self._is_sqlite else _MIN_ID[self.shape.mapping.kinds["owner_id"]])

    # --- what NULL means in an adopted table: in lapse's own these are the columns ------------------------------------

    @property
    def normalized_channel(self) -> sa.ColumnElement[str]:
        """Return the channel, which with owner and session key is unique among what is open. NULL is WhatsApp."""
        if not self.shape.mapping.is_adopted:
            return self.c.channel
        trimmed = sa.func.lower(sa.func.btrim(self.c.channel))
        return sa.func.coalesce(trimmed, constant(f"'{WHATSAPP}'::text"), type_=sa.Text)

    @property
    def effective_expires_at(self) -> Moment:
        """Return the moment at which a conversation expires. NULL is never."""
        if not self.shape.mapping.is_adopted:
            return self.c.expires_at
        return sa.func.coalesce(self.c.expires_at, constant("'infinity'::timestamptz"), type_=UtcDateTime)

    @property
    def latest_activity(self) -> Moment:
        """Return the moment of the latest activity. NULL is the conversation's start, or else long ago."""
        if not self.shape.mapping.is_adopted:
            return self.c.updated_at
        return sa.func.coalesce(
            self.c.updated_at, self.c.started_at, constant("'epoch'::timestamptz"), type_=UtcDateTime
        )

    def rearm_from(self, now: Moment) -> Moment:
        """Return the moment from which the next idle check is computed: the latest activity.

        An application may correct a time that it wrote into the future: there the next check is never further away than
        the timeout.
        """
        if not self.shape.mapping.is_adopted:
            return self.latest_activity
        return sa.func.least(self.latest_activity, now, type_=UtcDateTime)


OWN_TABLES = Tables(Shape(dialect="postgresql"))
"""As migrations create them on PostgreSQL; an adopted table is compared with them."""
