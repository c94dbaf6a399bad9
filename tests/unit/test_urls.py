"""Database URLs: every usual spelling is taken, no secret is shown."""

from __future__ import annotations

import pytest

from lapse import SettingsError
from lapse.store.urls import parse_url, safe_url


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_a_postgresql_url_uses_the_same_driver(scheme: str) -> None:
    url = parse_url(f"{scheme}://me:pw@db:6543/chat?sslmode=require")
    assert (url.drivername, url.host, url.port, url.database) == ("postgresql+psycopg", "db", 6543, "chat")
    assert url.query["sslmode"] == "require"


@pytest.mark.parametrize(
    ("text", "path"),
    [("sqlite:///lapse.db", "lapse.db"), ("sqlite:////var/lib/lapse.db", "/var/lib/lapse.db")],
)
def test_a_sqlite_url_names_a_file(text: str, path: str) -> None:
    assert parse_url(text).database == path


@pytest.mark.parametrize(
    "text",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file.db?mode=memory",
        "mysql://me:hunter2@db/chat",
        "postgresql+asyncpg://me:hunter2@db/chat",
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


def test_a_url_is_shown_without_password_and_query() -> None:
    shown = safe_url(parse_url("postgres://me:hunter2@db:6543/chat?password=hunter3&sslkey=/k"))
    assert shown == "postgresql+psycopg://me:***@db:6543/chat"


def test_the_url_of_a_hosted_pooler_is_taken_as_it_is() -> None:
    url = parse_url("postgres://postgres.abcdefgh:hunter2@aws-0-eu.pooler.example.com:6543/postgres?sslmode=require")
    assert (url.username, url.password, url.port) == ("postgres.abcdefgh", "hunter2", 6543)


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
