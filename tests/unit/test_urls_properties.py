"""Secrets in URLs, whatever is in them and however written: read as the rules have it, or refused; never shown."""

from __future__ import annotations

import string
from contextlib import closing
from urllib.parse import quote, unquote, unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lapse import Database, DatabaseUnavailableError, SettingsError

TOKENS = ("s3cr3t", "90417", "Hunter2x")
"""Parts that a secret can be known by; one could be a port."""
NOWHERE = "127.0.0.1:1"
"""Nobody listens there, so libpq says at once what it was asked for."""
between = st.text(string.punctuation + " ", max_size=3)
SECRETS = st.tuples(between, between, between, between).map(
    lambda gaps: gaps[0] + "".join(token + gap for token, gap in zip(TOKENS, gaps[1:], strict=True))
)
FORMS = (
    "postgresql://me:{}@" + NOWHERE + "/chat",
    "postgresql+asyncpg://me:{}@" + NOWHERE + "/chat?ssl=disable",
    "postgres://:{}@" + NOWHERE + "/chat",
    "postgresql://me:{}@" + NOWHERE,
    "postgresql://" + NOWHERE + "/chat?password={}",
    "postgresql://me@" + NOWHERE + "/chat?sslmode=disable&password={}&application_name=mine",
    "postgresql:///chat?host=127.0.0.1&port=1&password={}",
    "postgresql://me:other@" + NOWHERE + "/chat?password={}",
    "postgresql://me@" + NOWHERE + "/chat?sslpassword={}",
)


@given(secret=SECRETS, form=st.sampled_from(FORMS))
def test_a_secret_as_it_is_is_read_by_the_rules_or_refused_and_never_shown(secret: str, form: str) -> None:
    try:
        database = Database(form.format(secret))
    except SettingsError as error:
        assert_shows_nothing(str(error))
        return
    is_of_query = "password={}" in form
    # A query's value ends at an &, and a + is a space in it.
    assert_knows(database, unquote_plus(secret.partition("&")[0]) if is_of_query else unquote(secret))


@given(secret=SECRETS, form=st.sampled_from(FORMS))
def test_an_escaped_secret_is_taken_and_never_shown(secret: str, form: str) -> None:
    assert_knows(Database(form.format(quote(secret, safe=""))), secret)


@given(secret=SECRETS, form=st.sampled_from(["postgresql://{}@h/chat", "postgresql://{}", "postgresql://me@h/{}"]))
def test_a_secret_in_the_place_of_another_part_is_not_shown(secret: str, form: str) -> None:
    url = form.format(f"me:{secret}@there")
    try:
        database = Database(url)
    except SettingsError as error:
        assert_shows_nothing(str(error))
    else:
        with closing(database):
            assert_shows_nothing(database.safe_url + repr(database.engine))


def assert_knows(database: Database, secret: str) -> None:
    """Check that the driver is told the secret, and nobody else, libpq's own error included."""
    with closing(database):
        arguments = database.engine.dialect.create_connect_args(database.engine.url)[1]
        assert secret in (arguments.get("password"), arguments.get("sslpassword"))
        assert (arguments["host"], str(arguments["port"])) == ("127.0.0.1", "1")
        with pytest.raises(DatabaseUnavailableError) as caught:
            database.autocommit(lambda connection: None, retry=False)
        assert_shows_nothing(f"{database.safe_url} {database.engine!r} {database.engine.url} {caught.value}")


def assert_shows_nothing(text: str) -> None:
    assert not any(token in text for token in TOKENS), text
    assert text.isprintable()
