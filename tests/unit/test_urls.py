"""Database URLs: every usual spelling is taken, no secret is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url

from lapse import Database, SettingsError
from lapse.store.urls import parse_url, safe_url


@pytest.mark.parametrize(
    "scheme",
    [
        "postgres",
        "postgresql",
        "POSTGRESQL",
        "pgsql",
        "postgres+asyncpg",
        *(
            f"postgresql+{driver}"
            for driver in ("psycopg", "psycopg_async", "psycopg2", "psycopg2cffi", "asyncpg", "pg8000", "aiopg")
        ),
    ],
)
def test_every_spelling_of_a_postgresql_url_uses_the_same_driver(scheme: str) -> None:
    url = parse_url(f"{scheme}://me:pw@db:6543/chat?sslmode=require")
    assert (url.drivername, url.host, url.port, url.database) == ("postgresql+psycopg", "db", 6543, "chat")
    assert url.query["sslmode"] == "require"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("sqlite:///lapse.db", "lapse.db"),
        ("sqlite:////var/lib/lapse.db", "/var/lib/lapse.db"),
        ("sqlite+pysqlite:///lapse.db", "lapse.db"),
        ("sqlite+aiosqlite:////var/lib/lapse.db", "/var/lib/lapse.db"),
        ("sqlite:////var/my%20files/100%.db", "/var/my files/100%.db"),
        (" sqlite:///lapse.db\n", "lapse.db"),
    ],
)
def test_a_sqlite_url_names_a_file(text: str, path: str) -> None:
    url = parse_url(text)
    assert (url.drivername, url.database) == ("sqlite", path)


@pytest.mark.parametrize(
    "file",
    [
        "/data/a?b.db",
        "/data/a#b.db",
        "/data/a%3Fb.db",
        "/data/a%23b.db",
        "a.db?",
        "a.db?mode=ro",
        "file:a.db",
        "FILE:/data/a.db?uri=true",
        "/file:a.db?vfs=unix",
        ":memory:",
        ":MEMORY:",
        "/data/:memory:",
        "%3Amemory%3A",
        " ",
        "",
        "a%00b.db",
        "a%0Ab.db",
    ],
)
def test_a_sqlite_url_that_means_another_file_is_refused(file: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"use sqlite:///lapse\.db") as caught:
        Database(f"sqlite:///{file}")
    assert str(caught.value).isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file.db?mode=memory",
        "mysql://me:hunter2@db/chat",
        "oracle+asyncpg://me:hunter2@db/chat",
        "sqlite+pysqlcipher://:hunter2@/chat.db",
        "hunter2",
        "",
        "postgresql://me:hunter2@db:port/chat",
        "https://db.example.com/hunter2",
    ],
)
def test_an_unusable_url_is_a_clear_error_without_its_secret(text: str) -> None:
    with pytest.raises(SettingsError, match=r"sqlite:///lapse\.db") as caught:
        parse_url(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://u:p@s3cr3t/x@127.0.0.1/db",
        "postgresql://u:p@s3cr3t?x@127.0.0.1/db",
        "postgresql://u:p@s3cr3t?x=s3cr3t@127.0.0.1/db",
        "postgresql://u:p@s3cr3t#x@127.0.0.1/db",
        "postgresql://u:5432/s3cr3t@127.0.0.1/db",
        "postgresql://u:p?s3cr3t@127.0.0.1/db",
        "postgresql://u:p#s3cr3t@127.0.0.1/db",
        "postgresql://h:5432/db?password=p@s3cr3t",
        "postgresql://h?password=p@s3cr3t",
        "postgresql://h:5432?password=p@s3cr3t",
        "postgresql://u:p@h/db&password=s3cr3t",
        "postgresql://u%3As3cr3t@h/db",
        "postgresql://u%3As3cr3t%40h/db",
        "postgresql://s3cr3t/en@h/db",
        "postgresql://h/db:s3cr3t",
        "postgresql://h/db#s3cr3t",
        "postgresql://h/u%3As3cr3t%40db",
        "postgresql://u@h:pw:s3cr3t/db",
        "postgresql://[::1]s3cr3t/db",
        "postgresql://[s3cr3t h]/db",
        "postgresql://host=h password=s3cr3t",
        "postgresql://u:p@h:99999/s3cr3t",
        "postgresql://u:p%00s3cr3t@h/db",
        "postgresql://u:s3cr3t\x00@h/db",
        "postgresql://u:s3cr3t\udcff@h/db",
        "postgresql://u@h/db?password=p&s3cr3t=1",
        "postgresql://u@h/db?sslpassword=p&s3cr3t",
        "postgresql://u@h/db?password=s3cr3t&password=p",
    ],
)
def test_a_url_that_can_be_read_in_two_ways_is_not_shown(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Database(text)
    assert "s3cr3t" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("login", "username", "password"),
    [
        ("me:pa:ss", "me", "pa:ss"),
        ("me:ab/cd+ef==", "me", "ab/cd+ef=="),  # base64, which SQLAlchemy takes as it is
        ("me:p%40%2F%3F%23", "me", "p@/?#"),
        ("me:p w%", "me", "p w%"),
        ("me%40server:pw", "me@server", "pw"),
        (":pw", "", "pw"),
    ],
)
def test_a_login_that_can_be_read_in_one_way_is_taken(login: str, username: str, password: str) -> None:
    url = parse_url(f"postgresql://{login}@db/chat")
    assert (url.username, url.password, url.host, url.database) == (username, password, "db", "chat")


def test_no_secret_is_in_what_is_printed_of_a_database() -> None:
    database = Database("postgresql://me:hunter2@db/chat?password=hunter3&sslpassword=hunter4&sslmode=require")
    driver_arguments = database.engine.dialect.create_connect_args(database.engine.url)[1]
    assert (driver_arguments["password"], driver_arguments["sslpassword"]) == ("hunter3", "hunter4")
    for shown in (database.safe_url, repr(database.engine), str(database.engine.url), repr(database), vars(database)):
        assert "hunter" not in str(shown)


def test_a_url_is_shown_without_password_and_query() -> None:
    shown = safe_url(parse_url("postgres://me:hunter2@db:6543/chat?password=hunter3&sslkey=/k"))
    assert shown == "postgresql+psycopg://me:***@db:6543/chat"


def test_the_url_of_a_hosted_pooler_is_taken_as_it_is() -> None:
    url = parse_url("postgres://postgres.abcdefgh:hunter2@aws-0-eu.pooler.example.com:6543/postgres?sslmode=require")
    assert (url.username, url.password, url.port) == ("postgres.abcdefgh", "hunter2", 6543)


@pytest.mark.parametrize(
    ("query", "taken"),
    [
        ("ssl=require", {"sslmode": "require"}),
        ("ssl=verify-full&prepared_statement_cache_size=0", {"sslmode": "verify-full"}),
        ("statement_cache_size=100", {}),
        ("application_name=mine", {"application_name": "mine"}),
    ],
)
def test_what_asyncpg_calls_otherwise_or_needs_alone_is_translated(query: str, taken: dict[str, str]) -> None:
    assert dict(parse_url(f"postgresql+asyncpg://me:pw@db/chat?{query}").query) == taken


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sslmode=require&pgbouncer=true", r"'pgbouncer' .* remove it: lapse works behind a transaction pooler"),
        ("connection_limit=1", r"'connection_limit' that PostgreSQL does not know; remove it$"),
        ("ssl=true", r"'ssl' .* write sslmode=require"),
        ("prepare_threshold=5", r"'prepare_threshold'"),
        ("hunter2%20hunter2=1", r"a parameter with a name that"),
        ("sslmode=on", r"sslmode='on'; use one of disable, allow, prefer, require, verify-ca, verify-full"),
        ("channel_binding=1", r"channel_binding='1'"),
        ("target_session_attrs=master", r"target_session_attrs='master'"),
        ("sslmode=require&sslmode=require", r"'sslmode' more than once"),
        ("connect_timeout=soon", r"connect_timeout='soon'; use a whole number"),
        ("ssl=require&sslmode=disable", r"'ssl' .* write sslmode=require"),
        ("timeout=10", r"'timeout' .* write connect_timeout"),
        ("command_timeout=10", r"'command_timeout' .* remove it"),
        ("unix_sock=/run/.s.PGSQL.5432", r"'unix_sock' .* write host"),
        ("hunter2=1", r"a parameter with a name that"),  # after an & in the password it is a part of that
        ("hunter2", r"something after its \? that is no parameter"),
    ],
)
def test_a_parameter_that_cannot_work_is_named_without_a_secret(query: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        parse_url(f"postgres://me:hunter2@db:6543/chat?password=hunter2&{query}")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=verify-full&sslrootcert=system",
        "channel_binding=require&target_session_attrs=read-write",
        "host=one:5432&host=other:5433",
        "host=/var/run/postgresql",
        "connect_timeout=3&keepalives_idle=30&application_name=mine",
    ],
)
def test_a_parameter_that_the_driver_understands_is_taken(query: str) -> None:
    assert parse_url(f"postgresql://me:pw@/chat?{query}").query


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("host=one&port=x", "write one port for each host, a whole number"),
        ("host=one,other&port=5432", "write one port for each host"),
        ("host=one,other&port=1,2,3", "write one port for each host"),
        ("port=99999", "a port in the database URL is none: use 1 to 65535"),
        ("host=one&port=0", "a port in the database URL is none"),
        ("host=one:5432,other:y", "a host in the database URL is none"),
    ],
)
def test_servers_that_cannot_be_are_refused_at_once(query: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse_url(f"postgresql://me:pw@/chat?{query}")


@pytest.mark.parametrize("query", ["host=::1&port=5432", "host=fe80::1%25eth0", "host=one,other&port=5432,5433"])
def test_servers_that_can_be_are_taken(query: str) -> None:
    assert parse_url(f"postgresql://me:pw@/chat?{query}").query


@pytest.mark.parametrize("url", [None, 5, b"sqlite:///lapse.db", Path("lapse.db"), make_url("sqlite:///lapse.db")])
def test_what_is_no_text_is_refused(url: Any) -> None:
    with pytest.raises(SettingsError, match=r"^a database is named by its URL as text, not by a \w+; use sqlite"):
        Database(url)
