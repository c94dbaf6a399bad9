"""The table that applications have before they move in, in all the forms it is met in, and filled with years of use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import make_url

STATUSES = (
    "pending",
    "progress",
    "agent_closed",
    "support_closed",
    "user_closed",
    "expired",
    "failed",
    "idle_timeout",
)
_CONV_ID = {"bigint": "BIGSERIAL PRIMARY KEY", "text": "TEXT PRIMARY KEY", "uuid": "UUID PRIMARY KEY"}
# A ULID is 26 letters and digits; these are made of a number, and in its order.
_NEW_ID = {
    "bigint": "n",
    "text": "'01JQ' || lpad(upper(to_hex(n)), 22, '0')",
    "uuid": "md5('conversation' || n)::uuid",
}
_OWNER = {"bigint": "1 + n % 20", "uuid": "md5('owner' || n % 20)::uuid"}


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of the legacy table."""

    conv_id: str = "bigint"
    owner_id: str = "bigint"
    session_key: bool = False
    """Generated: both numbers sorted, joined with `::`."""
    unique_index: bool = False
    """At most one active conversation per owner and session key."""
    updated_at_trigger: bool = True
    messages: bool = True
    """Another table with a foreign key."""
    row_security: bool = False
    extra_columns: tuple[str, ...] = ()
    extra_statuses: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The form as part of a test's name."""
        names = [f"{self.conv_id}-of-{self.owner_id}"]
        names += [name for name in ("session_key", "unique_index", "row_security") if getattr(self, name)]
        names += ["extra"] if self.extra_columns or self.extra_statuses else []
        return "-".join(names)


PLAIN = Form()
KEYED = Form(session_key=True)
GUARDED = Form(session_key=True, unique_index=True)
FORMS = (
    PLAIN,
    KEYED,
    GUARDED,
    Form(conv_id="text", session_key=True),
    Form(conv_id="uuid", owner_id="uuid", row_security=True),
    Form(
        conv_id="bigint",
        owner_id="uuid",
        extra_columns=("assigned_to text", "version integer DEFAULT 1", "tags text[] NOT NULL DEFAULT '{}'"),
        extra_statuses=("human_handoff",),
    ),
)
"""Each variant of the table at least once."""


def connect(url: str, **options: Any) -> psycopg.Connection[Any]:
    """Open a connection as the legacy application does: plain psycopg, in autocommit mode."""
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True, **options)


def create_legacy_table(connection: psycopg.Connection[Any], form: Form = PLAIN) -> None:
    """Create the legacy table, with what stands around it."""
    statuses = ", ".join(f"'{status}'" for status in (*STATUSES, *form.extra_statuses))
    columns = [
        f"conv_id {_CONV_ID[form.conv_id]}",
        f"owner_id {form.owner_id.upper()} NOT NULL",
        "user_id BIGINT",
        "from_number TEXT NOT NULL",
        "to_number TEXT NOT NULL",
        f"status TEXT CHECK (status IN ({statuses})) DEFAULT 'pending'",
        "started_at TIMESTAMPTZ DEFAULT now()",
        "ended_at TIMESTAMPTZ",
        "updated_at TIMESTAMPTZ DEFAULT now()",
        "expires_at TIMESTAMPTZ",
        "channel TEXT DEFAULT 'whatsapp'",
        "phone_number TEXT",
        "context JSONB DEFAULT '{}'",
        "metadata JSONB DEFAULT '{}'",
        *form.extra_columns,
    ]
    if form.session_key:
        columns.append(
            "session_key TEXT GENERATED ALWAYS AS (LEAST(from_number, to_number) || '::' || "
            "GREATEST(from_number, to_number)) STORED"
        )
    _run(connection, f"CREATE TABLE conversations ({', '.join(columns)})")
    if form.unique_index:
        _run(
            connection,
            "CREATE UNIQUE INDEX idx_conversations_active_session ON conversations (owner_id, session_key) "
            "WHERE status IN ('pending', 'progress')",
        )
    elif form.session_key:
        _run(connection, "CREATE INDEX idx_conversations_session ON conversations (session_key)")
    _run(
        connection,
        "CREATE INDEX idx_conversations_expires ON conversations (expires_at) WHERE status IN ('pending', 'progress')",
    )
    if form.updated_at_trigger:
        _run(
            connection,
            """CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS
                'BEGIN NEW.updated_at := now(); RETURN NEW; END';
            CREATE TRIGGER set_updated_at BEFORE UPDATE ON conversations
                FOR EACH ROW EXECUTE FUNCTION set_updated_at()""",
        )
    if form.messages:
        _run(
            connection,
            f"""CREATE TABLE messages (message_id BIGSERIAL PRIMARY KEY,
                conv_id {form.conv_id.upper()} NOT NULL REFERENCES conversations (conv_id), body TEXT)""",
        )
    if form.row_security:
        _run(connection, "ALTER TABLE conversations ENABLE ROW LEVEL SECURITY")


def fill(
    connection: psycopg.Connection[Any],
    rows: int,
    form: Form = PLAIN,
    *,
    open_share: float = 0.2,
    is_dirty: bool = True,
) -> None:
    """Fill the table with conversations of two years; about half of the open ones are another one of their pair.

    Args:
        connection: its role may switch the table's triggers off for itself.
        rows: how many.
        form: of the table.
        open_share: how many of them are open, the newest ones. Where the table's unique index allows only one active
            conversation per pair, the others of a pair are paused.
        is_dirty: with NULL in channel, expires_at and context, with `whatsapp:` before some numbers, and with statuses
            of the form's own.
    """
    pair = "(n / 2)"  # two neighbours are of one pair
    is_open = f"n > {round(rows * (1 - open_share))}"
    second_of_pair = "idle_timeout" if form.unique_index else "progress"
    dirty = "true" if is_dirty else "false"
    own = "".join(f" WHEN {dirty} AND n % 97 = 0 THEN '{status}'" for status in form.extra_statuses)
    _run(connection, "SET session_replication_role = replica")  # no triggers, to write old times
    _run(
        connection,
        f"""INSERT INTO conversations
            (conv_id, owner_id, user_id, from_number, to_number, status, started_at, ended_at, updated_at, expires_at,
                channel, context)
        SELECT {_NEW_ID[form.conv_id]}, {_OWNER[form.owner_id].replace("n % 20", f"{pair} % 20")}, n,
            CASE WHEN {dirty} AND n % 10 = 1 THEN 'whatsapp:' ELSE '' END || '+55119' || lpad({pair}::text, 8, '0'),
            CASE WHEN {dirty} AND n % 10 = 1 THEN 'whatsapp:' ELSE '' END || '+14155238886',
            CASE {own} WHEN {is_open} AND n % 2 = 0 THEN 'pending' WHEN {is_open} THEN '{second_of_pair}'
                ELSE ('{{agent_closed,support_closed,user_closed,expired,failed}}'::text[])[1 + n % 5] END,
            begun, CASE WHEN NOT ({is_open}) THEN begun + interval '2 hours' END, begun + interval '1 hour',
            CASE WHEN {dirty} AND n % 11 = 0 THEN NULL ELSE begun + interval '1 day' END,
            CASE WHEN {dirty} AND n % 13 = 0 THEN NULL ELSE 'whatsapp' END,
            CASE WHEN {dirty} AND n % 17 = 0 THEN NULL ELSE '{{}}'::jsonb END
        FROM (SELECT n, now() - interval '2 years' + interval '2 years' * (n::float / {rows}) AS begun
            FROM generate_series(1, {rows}) AS n) AS numbers""",
    )
    _run(connection, "SET session_replication_role = origin")
    if form.conv_id == "bigint":
        _run(connection, f"SELECT setval('conversations_conv_id_seq', {rows})")
    if form.messages:
        _run(connection, "INSERT INTO messages (conv_id, body) SELECT conv_id, 'hello' FROM conversations")
    _run(connection, "ANALYZE conversations")


def _run(connection: psycopg.Connection[Any], statement: str) -> None:
    connection.execute(statement.encode())
