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
