"""Check the settings of the role, the database and the server: those with which lapse fails, or works worse."""

from __future__ import annotations

from collections.abc import Iterator

from lapse.adoption.findings import Finding, error, warning
from lapse.adoption.inspection import Inspection, Kind
from lapse.adoption.names import quoted

SHORT_MS = {"statement_timeout": 1_000, "transaction_timeout": 1_000, "lock_timeout": 100}
"""In milliseconds. A batch takes 100 ms, and waits for no row; a slower one is retried with fewer conversations."""
_UTF8 = "UTF8"


def check_settings(inspection: Inspection) -> Iterator[Finding]:
    """Yield settings with which this session started and that impair lapse."""
    server, settings = inspection.server, inspection.server.settings
    if server.is_read_only and not server.is_standby:
        yield error(
            "read-only",
            f"default_transaction_read_only is on for role {server.login} here: nothing can be written.",
            _change(inspection, "default_transaction_read_only", "off"),
        )
    if settings["session_replication_role"] == "replica":
        yield error(
            "replication-role",
            "session_replication_role is replica here: foreign keys are not checked, and ordinary triggers do not "
            "fire, including those that protect an adopted table from stale writes.",
            _change(inspection, "session_replication_role", "origin"),
        )
    tables = (inspection.table, *inspection.tables_beside)
    filtered = [table.name for table in tables if table and table.is_row_security_active]
    if settings["row_security"] == "off" and filtered:
        yield error(
            "row-security-off",
            f"row_security is off here, and policies apply to role {server.role} in {', '.join(filtered)}: each "
            "statement on them fails.",
            _change(inspection, "row_security", "on"),
        )
    isolation = settings["default_transaction_isolation"]
    if isolation not in ("read committed", "read uncommitted"):  # which are the same
        yield warning(
            "isolation",
            f"default_transaction_isolation is {isolation} here: lapse's statements are designed for read "
            "committed; with this level some fail and are retried when others write the same row.",
            _change(inspection, "default_transaction_isolation", "read committed"),
        )
    for name, shortest in SHORT_MS.items():
        if 0 < int(settings.get(name, 0)) < shortest:
            yield warning(
                "short-timeout",
                f"{name} is {int(settings[name])} ms here: a batch, or a message that waits for another one, may take "
                "longer, and is then cancelled.",
                _change(inspection, name, f"{5 * shortest}ms"),
            )


def check_encoding(inspection: Inspection) -> Iterator[Finding]:
    """Yield an encoding, of the database or of the session, that cannot represent every text."""
    if inspection.kind is Kind.OTHER:
        return
    server, settings = inspection.server, inspection.server.settings
    if server.encoding == "SQL_ASCII":
        effect = "it stores bytes unchecked: lapse cannot read what others write in an encoding other than UTF-8."
    else:
        effect = "a message with a character that it cannot represent (an emoji in a handle, say) is refused."
    if server.encoding != _UTF8:
        yield warning(
            "encoding",
            f"The database's encoding is {server.encoding}: {effect}",
            f"CREATE DATABASE {quoted(f'{server.database}_utf8')} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'; (or "
            "with another locale), then copy the data: `pg_dump` of this database, `psql` into the new one.",
        )
    elif settings["client_encoding"] not in (_UTF8, "UNICODE"):
        yield warning(
            "encoding",
            f"client_encoding is {settings['client_encoding']} here: a message with a character that it cannot "
            "represent is refused.",
            _change(inspection, "client_encoding", _UTF8),
        )


def _change(inspection: Inspection, name: str, value: str) -> str:
    """Return the hint that changes the setting, wherever it comes from."""
    server = inspection.server
    if name in server.options:
        return f"Remove {name} from `options` in DATABASE_URL, or from PGOPTIONS."
    # A setting of a role in a database overrides those of the role, of the database and of the server.
    return f"ALTER ROLE {quoted(server.login)} IN DATABASE {quoted(server.database)} SET {name} = '{value}';"
