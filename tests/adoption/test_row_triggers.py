"""What the old application writes fits lapse's rules, and the application notices nothing of it."""

from __future__ import annotations

import pytest

from tests.adoption.old_table import FORMS, Form, connect
from tests.adoption.routines_installed import install, run

KEY = "+14155238886::+5511999999999"
PAIR = "'+14155238886', '+5511999999999'"


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_an_insert_of_the_old_application_gets_a_key_and_ends_the_other_conversation_of_its_pair(
    empty_postgres_url: str, form: Form
) -> None:
    owner = "md5('a')::uuid" if form.owner_id == "uuid" else "1"
    new_id = {"bigint": "DEFAULT", "text": "'01JQ%s'", "uuid": "md5('%s')::uuid"}[form.conv_id]
    with connect(empty_postgres_url) as application:
        names = install(application, form)
        for turn, status in enumerate(("idle_timeout", "pending", "progress")):
            run(
                application,
                f"""INSERT INTO conversations (conv_id, owner_id, from_number, to_number, status)
                VALUES ({new_id.replace("%s", str(turn))}, {owner}, {PAIR}, '{status}')"""
                + (" ON CONFLICT DO NOTHING" if form.unique_index else ""),
            )
        found = application.execute(
            f"""SELECT status, ended_at IS NOT NULL, {names.column("version")}, {names.column("session_key")},
                {names.column("idle_check_at")} = updated_at + interval '30 minutes'
            FROM conversations ORDER BY started_at""".encode()
        ).fetchall()
        events = application.execute("SELECT type, from_status, reason, actor FROM conversation_events").fetchall()
    ended = ("expired", "duplicate_session", "application")
    if form.unique_index:
        # The second is ended by nobody: the application's own index lets the third not in.
        assert found == [("expired", True, 1, KEY, True), ("pending", False, 0, KEY, True)]
        assert events == [("expired", "idle_timeout", *ended[1:])]
    else:
        assert found == [
            ("expired", True, 1, KEY, True),
            ("expired", True, 1, KEY, True),
            ("progress", False, 0, KEY, True),
        ]
        assert events == [("expired", "idle_timeout", *ended[1:]), ("expired", "pending", *ended[1:])]


def test_a_whole_row_written_back_keeps_what_lapse_has_done_since(empty_postgres_url: str) -> None:
    insert = f"INSERT INTO conversations (owner_id, from_number, to_number, status) VALUES (1, {PAIR}, 'progress')"
    with connect(empty_postgres_url) as application:
        install(application)
        run(application, insert, "CREATE TEMP TABLE read AS SELECT * FROM conversations")
        run(application, "UPDATE conversations SET status = 'idle_timeout', version = 3, idle_check_at = 'infinity'")
        run(
            application,
            """UPDATE conversations AS c SET (status, session_key, version, idle_check_at, updated_at) =
            (r.status, r.session_key, r.version, r.idle_check_at, r.updated_at) FROM read AS r""",
        )
        found = application.execute(
            """SELECT c.status, c.version, c.idle_check_at = 'infinity', c.updated_at > r.updated_at
            FROM conversations AS c CROSS JOIN read AS r"""
        ).fetchall()
    assert found == [("progress", 3, True, True)]
