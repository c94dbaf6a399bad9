"""What may be NULL in an application's table, and what lapse takes it for. In lapse's own these are the columns."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from lapse.addresses import WHATSAPP
from lapse.store.layout import IdKind, layout_of
from lapse.store.types import UtcDateTime

CHANNEL_EXPRESSION = f"coalesce(lower(btrim({{column}})), '{WHATSAPP}'::text)"
"""The channel as lapse compares it, of functions that every role may call: it stands in indexes."""
_LEAST = {
    IdKind.BIGINT: f"'{-(2**63)}'::bigint",
    IdKind.UUID: "'00000000-0000-0000-0000-000000000000'::uuid",
    IdKind.TEXT: "''::text",
}


class pair_channel(GenericFunction[str]):  # noqa: N801 - SQL functions are written in lower case
    """The channel, which with owner and session key is unique among what is open. NULL is WhatsApp."""

    type = sa.Text()
    inherit_cache = True


class expiry(GenericFunction[datetime]):  # noqa: N801
    """The moment at which a conversation expires. NULL is never."""

    type = UtcDateTime()
    inherit_cache = True


class latest_activity(GenericFunction[datetime]):  # noqa: N801
    """The moment of the latest activity. NULL is the conversation's start, or else long ago."""

    type = UtcDateTime()
    inherit_cache = True


class look_from(GenericFunction[datetime]):  # noqa: N801
    """The latest activity, from which the next look is armed; arguments are it and now.

    An application may put right what it wrote into the future: there a look is never further away than the timeout.
    """

    type = UtcDateTime()
    inherit_cache = True


class least_owner(GenericFunction[Any]):  # noqa: N801
    """The first of all owners in an index."""

    type = sa.types.NULLTYPE
    inherit_cache = True


def _argument(element: GenericFunction[Any], compiler: Any, options: dict[str, Any]) -> str:
    (column,) = element.clauses
    return str(compiler.process(column, **options))


@compiles(pair_channel)
def _pair_channel(element: pair_channel, compiler: Any, **options: Any) -> str:
    column = _argument(element, compiler, options)
    return CHANNEL_EXPRESSION.format(column=column) if layout_of(compiler.dialect).is_adopted else column


@compiles(expiry)
def _expiry(element: expiry, compiler: Any, **options: Any) -> str:
    column = _argument(element, compiler, options)
    return f"coalesce({column}, 'infinity'::timestamptz)" if layout_of(compiler.dialect).is_adopted else column


@compiles(latest_activity)
def _latest_activity(element: latest_activity, compiler: Any, **options: Any) -> str:
    (updated_at,) = element.clauses
    column = _argument(element, compiler, options)
    if not layout_of(compiler.dialect).is_adopted:
        return column
    started_at = compiler.process(updated_at.table.c.started_at, **options)
    return f"coalesce({column}, {started_at}, 'epoch'::timestamptz)"


@compiles(look_from)
def _look_from(element: look_from, compiler: Any, **options: Any) -> str:
    activity, now = (str(compiler.process(clause, **options)) for clause in element.clauses)
    return f"least({activity}, {now})" if layout_of(compiler.dialect).is_adopted else activity


@compiles(least_owner, "sqlite")
def _least_owner_sqlite(_element: least_owner, _compiler: Any, **_options: Any) -> str:
    return str(-(2**63))


@compiles(least_owner, "postgresql")
def _least_owner(_element: least_owner, compiler: Any, **_options: Any) -> str:
    return _LEAST[layout_of(compiler.dialect).kinds["owner_id"]]
