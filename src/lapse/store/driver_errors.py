"""Translation of the drivers' errors into lapse's, without the row values that their details hold."""

from __future__ import annotations

import re
import sqlite3

from sqlalchemy.exc import DBAPIError

from lapse.addresses import mask_addresses
from lapse.errors import (
    CallTimeoutError,
    ConversationRefusedError,
    DatabaseError,
    DatabaseUnavailableError,
    LapseError,
    SchemaMissingError,
    StatementTimeoutError,
)

# Connection lost, out of resources, shutting down, serialization failure, deadlock: the next try may succeed.
_READ_ONLY = "25006"
_TRANSIENT_SQLSTATES = ("08", "40", "53", "57P", "55P03", "25P03", _READ_ONLY)
# Whatever ran: the session has ended, the transaction lost to another one, or there is no memory or no disk left.
_ALWAYS_TRANSIENT_SQLSTATES = ("40", "53", "57P")
_UNDEFINED_TABLE = "42P01"
_TIMEOUTS = ("57014", "25P04")  # of a statement (or cancelled by hand), of a transaction
_FEATURE_NOT_SUPPORTED = "0A000"
_INSUFFICIENT_PRIVILEGE = "42501"
"""Also what a policy of row level security refuses."""
# The value, a constraint, a RAISE, a view's check option: the row's own reason. So is any error inside a function.
_ROW_SQLSTATES = ("22", "23", "P0", "44")

_CITUS_CONTEXT = "while executing command on"
"""Where Citus says on which node it was; no function's."""
# PostgreSQL's own words on where it was, in whatever language: a row's place, beside the name of its table; the values
# of a statement; or no name and no number at all, as a worker of a parallel query says.
_QUOTED = re.compile(r"""\"[^"]*"|«[^»]*»|»[^«]*«|“[^”]*”|”[^”]*”|„[^“]*“""")
_PLACE = re.compile(r"""[^"«»“”„]*\d+, ?\d+[^"«»“”„]*""")
_VALUES = re.compile(r"""(unnamed )?portal .*|extended query .*|[^"“”„]*: ?(« )?\$1 = .*""")
_FOREIGN_KEY = re.compile(r".*SELECT 1 FROM ONLY .* FOR KEY SHARE OF x\W*")
"""The statement by which PostgreSQL itself looks for the row that a foreign key names."""
_NOTHING_NAMED = re.compile(r"""[^"«»“”„(\d]*""")

_BUSY_SQLITE = ("SQLITE_BUSY", "SQLITE_LOCKED")
_TRANSIENT_SQLITE = ("SQLITE_FULL", "SQLITE_IOERR")
_ROW_SQLITE = "SQLITE_CONSTRAINT"


class SqliteBusyError(DatabaseUnavailableError):
    """Another write went on."""


class UnsupportedStatementError(DatabaseError):
    """The database cannot run such a statement: Citus refuses some that PostgreSQL takes."""


def translate(error: Exception) -> LapseError:
    """Return the driver's error, or SQLAlchemy's around it, as one of lapse's."""
    origin = (error.orig or error) if isinstance(error, DBAPIError) else error
    return _of_sqlite(origin) if isinstance(origin, sqlite3.Error) else _of_postgresql(origin)


def _of_sqlite(origin: sqlite3.Error) -> LapseError:
    name = getattr(origin, "sqlite_errorname", "") or ""
    reason = _first_line(origin)
    if reason.startswith(("no such table: conversation", "no such table: lapse_")):
        return SchemaMissingError()
    if name.startswith("SQLITE_CANTOPEN"):
        reason = "the SQLite file cannot be opened: does its folder exist, and may you write there?"
    if name.startswith(_BUSY_SQLITE):
        return SqliteBusyError(f"the database is not available: {reason}")
    if name.startswith(_TRANSIENT_SQLITE):
        return DatabaseUnavailableError(f"the database is not available: {reason}")
    return (ConversationRefusedError if name.startswith(_ROW_SQLITE) else DatabaseError)(
        f"the database refused: {reason}"
    )


def context_of_function(context: str) -> str:
    """Return the lines of an error's context that speak of a function or of its statements, if there are any."""
    if context.startswith(_CITUS_CONTEXT):
        return ""
    return "\n".join(line for line in context.splitlines() if not _is_servers_own(line))


def _is_servers_own(line: str) -> bool:
    is_place = _PLACE.fullmatch(_QUOTED.sub("", line))
    return bool(is_place or _FOREIGN_KEY.fullmatch(line) or _VALUES.fullmatch(line) or _NOTHING_NAMED.fullmatch(line))


def _of_postgresql(origin: BaseException) -> LapseError:
    from psycopg import InterfaceError, OperationalError

    from lapse.store.drivers.postgresql import OverdueError

    if isinstance(origin, OverdueError):
        return CallTimeoutError(str(origin).partition("\n")[0])
    sqlstate = getattr(origin, "sqlstate", None) or ""
    diagnostics = getattr(origin, "diag", None)
    reason = mask_addresses(getattr(diagnostics, "message_primary", None) or _first_line(origin))
    context = context_of_function(getattr(diagnostics, "context", None) or "")
    if sqlstate == _UNDEFINED_TABLE and not context:
        return SchemaMissingError()
    # Without an SQLSTATE it was the connection that failed, not a statement.
    is_lost = not sqlstate and isinstance(origin, (OperationalError, InterfaceError))
    # Raised inside a function, by a trigger's own wait for a lock, say, it is about the row and not the database.
    is_transient = sqlstate.startswith(_ALWAYS_TRANSIENT_SQLSTATES if context else _TRANSIENT_SQLSTATES)
    if is_lost or is_transient:
        return DatabaseUnavailableError(f"the database is not available: {reason}")
    return _of_statement(sqlstate, context, reason)


def _of_statement(sqlstate: str, context: str, reason: str) -> LapseError:
    """Return the error of a statement that would be refused again."""
    if sqlstate in _TIMEOUTS:
        return StatementTimeoutError(f"the database gave up: {reason}")
    if sqlstate == _FEATURE_NOT_SUPPORTED and not context:
        return UnsupportedStatementError(f"the database refused: {reason}")
    # Who may not create in a schema is told all by that.
    if sqlstate == _INSUFFICIENT_PRIVILEGE and not context and " schema " not in reason:
        return DatabaseError(f"the database refused: {reason}: run `lapse doctor`, which says what this role lacks")
    kind = ConversationRefusedError if sqlstate.startswith(_ROW_SQLSTATES) or context else DatabaseError
    return kind(f"the database refused: {reason}")


def _first_line(error: BaseException) -> str:
    return mask_addresses(str(error).strip().partition("\n")[0])
