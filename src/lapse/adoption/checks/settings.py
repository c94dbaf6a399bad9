"""Check what the role, the database and the server have set: that with which lapse fails, or works worse."""

from __future__ import annotations

from collections.abc import Iterator

from lapse.adoption.findings import Finding, note, trouble
from lapse.adoption.names import quoted
from lapse.adoption.subject import Kind, Subject

SHORT_MS = {"statement_timeout": 1_000, "transaction_timeout": 1_000, "lock_timeout": 100}
"""A batch takes 100 ms, and waits for no row; what is slower is tried again with fewer conversations."""
_UTF8 = "UTF8"


def check_settings(subject: Subject) -> Iterator[Finding]:
    """Yield settings that this session began with and that go against lapse."""
    server, settings = subject.server, subject.server.settings
    if server.is_read_only and not server.is_standby:
        yield trouble(
            "read-only",
            f"default_transaction_read_only is on for role {server.login} here: nothing can be written.",
            _change(subject, "default_transaction_read_only", "off"),
        )
    if settings["session_replication_role"] == "replica":
        yield trouble(
            "replication-role",
            "session_replication_role is replica here: no foreign key is checked, and ordinary triggers do not fire, "
            "those by which an adopted table refuses an old write included.",
            _change(subject, "session_replication_role", "origin"),
        )
    tables = (subject.table, subject.events, subject.version_table)
    filtered = [table.name for table in tables if table and table.is_row_security_active]
    if settings["row_security"] == "off" and filtered:
        yield trouble(
            "row-security-off",
            f"row_security is off here, and policies apply to role {server.role} in {', '.join(filtered)}: each "
            "statement there is an error.",
            _change(subject, "row_security", "on"),
        )
    isolation = settings["default_transaction_isolation"]
    if isolation not in ("read committed", "read uncommitted"):  # which are one
        yield note(
            "isolation",
            f"default_transaction_isolation is {isolation} here: lapse's statements are made for read committed, and "
            "with this one some are refused and tried again when others write the same row.",
            _change(subject, "default_transaction_isolation", "read committed"),
        )
    for name, shortest in SHORT_MS.items():
        if 0 < int(settings.get(name, 0)) < shortest:
            yield note(
                "short-timeout",
                f"{name} is {int(settings[name])} ms here: a batch, or a message that waits for another one, may take "
                "longer, and is then given up.",
                _change(subject, name, f"{5 * shortest}ms"),
            )


def check_encoding(subject: Subject) -> Iterator[Finding]:
    """Yield whether there are texts that this database, or this session, cannot hold."""
    if subject.kind is Kind.OTHER:
        return
    server, settings = subject.server, subject.server.settings
    if server.encoding == "SQL_ASCII":
        what = "which keeps bytes as they come: what others write in another encoding than UTF-8 lapse cannot read."
    else:
        what = "a message with a character that it has not got (an emoji in a handle, say) is refused."
    if server.encoding != _UTF8:
        yield note(
            "encoding",
            f"The database's encoding is {server.encoding}: {what}",
            f"CREATE DATABASE {quoted(f'{server.database}_utf8')} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C'; (or "
            "with another locale), then copy all into it: `pg_dump` of this one, `psql` into that one.",
        )
    elif settings["client_encoding"] not in (_UTF8, "UNICODE"):
        yield note(
            "encoding",
            f"client_encoding is {settings['client_encoding']} here: a message with a character that it has not got is "
            "refused.",
            _change(subject, "client_encoding", _UTF8),
        )


def _change(subject: Subject, name: str, value: str) -> str:
    """Return how the setting is changed, wherever it comes from."""
    server = subject.server
    if name in server.options:
        return f"Take {name} out of `options` in DATABASE_URL, or out of PGOPTIONS."
    # What is set for a role in a database goes before what is set for either, and for the server.
    return f"ALTER ROLE {quoted(server.login)} IN DATABASE {quoted(server.database)} SET {name} = '{value}';"
