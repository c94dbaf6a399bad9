"""The session key that PostgreSQL computes is the one that lapse computes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lapse import LapseError, normalise_address
from lapse.addresses import MAX_ADDRESS_LENGTH, address_pair
from lapse.adoption.names import Names
from lapse.adoption.session_key_sql import session_key_function
from tests.adoption.installed_functions import Connection, run
from tests.adoption.legacy_table import connect

Pair = tuple[str, str, str | None]

DIGITS = "0123456789"
BLANKS = " \t\n\v\f\r\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2000\u2007\u200a\u2028\u2029\u202f\u205f\u3000"
FILLERS = "().-/\u00ad\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
AGENT = "+14155238886"

by_hand: list[Pair] = [
    ("+5511999999999", AGENT, None),
    (AGENT, "+5511999999999", "whatsapp"),
    ("whatsapp:+55 (11) 99999-9999", "whatsapp:+14155238886", ""),
    ("WhatsApp: tel:\u00a0+55 11 9 9999\u20119999", AGENT, " \t"),
    ("whatsapp:whatsapp:whatsapp:5511999999999", "14155238886", "WHATSAPP"),
    ("sms:whatsapp:tel:+15005550006", "rcs:12345", "sms"),
    ("sms:12345", "12345x", "sms"),
    ("12345", "+12345", "sms"),
    ("tel:visitor", "urn:visitor:7", "webchat"),
    ("webchat:WebChat:visitor", "webchat", "webchat"),
    ("mailto:ana@example.com", "email:Ana@example.com", "email"),
    ("a.b-c:x", "A1:x", "a.b-c"),
    ("kik:ana", "bob", "\u212ai\u212a"),
    ("visitor", "agent", "\u3000WebChat\u2028"),
    # Spellings of one number.
    ("+551199999999", AGENT, None),
    ("551133334444", AGENT, None),
    ("+550199999999", AGENT, None),
    ("+5215512345678", AGENT, None),
    ("+525512345678", AGENT, None),
    ("+5491123456789", AGENT, None),
    ("+541123456789", AGENT, None),
    ("+551199999999", AGENT, "sms"),
    # Digits that are no number.
    ("0123", "+0123", None),
    ("+1234567890123456", "1234567890123456", None),
    ("+", "++1", None),
    ("+1+", "1+1", None),
    ("12\u0663", "\uff11\uff12", None),
    # Colons, and other signs that have a meaning in keys, patterns and SQL.
    (":", "::", "webchat"),
    ("a:", ":b", "webchat"),
    ("a::b", "a:::b", "webchat"),
    ("%3A", ":%", "webchat"),
    ("a:b", "a%3Ab%25", "webchat"),
    (r"\1\&", "$re$'\"\\", "webchat"),
    # In the order of code points, whatever the database's language.
    ("a", "B", "webchat"),
    ("\xe9", "z", "webchat"),
    ("\U0001f600", "\uff5e", "webchat"),
    ("\ue000", "\U00010000", "webchat"),
    ("-1", "+1", "webchat"),
    *((f"{blank}ana{blank}", f"{blank}web:\u2003bob", "web") for blank in BLANKS),
    *((f"+55{filler}11{filler}99999{filler}9999", AGENT, "sms") for filler in FILLERS + " \u3000\u200a"),
    ("+55\u200b1199999999", "+55\u20161199999999", "sms"),  # no fillers
    # Long.
    ("x" * MAX_ADDRESS_LENGTH, "\U0001f600" * MAX_ADDRESS_LENGTH, "webchat"),
    (":" * MAX_ADDRESS_LENGTH, "whatsapp:" * 35 + "12345", None),
]

refused: list[Pair] = [
    ("", "", None),
    ("", AGENT, None),
    (" \t ", AGENT, None),
    ("whatsapp:", "whatsapp:whatsapp:", None),
    (AGENT, AGENT, None),
    (AGENT, "whatsapp:14155238886", None),
    ("a\nb", "a\x1bb", "webchat"),
    ("x" * 100_000, "x" * 100_000 + "y", None),
    ("1" * 100_000, ":" * 100_000, None),
    (AGENT, "+5511999999999", "no channel: at all"),
    (AGENT, "+5511999999999", "x" * 100_000),
]

texts = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
    | st.text(":%3A25ab", min_size=1, max_size=8)
    | st.builds(
        "{}{}{}".format,
        st.sampled_from(["", " ", "+", "whatsapp:", "tel: +", "sms:whatsapp:", "WEB:", "+55", "+52", "+54", "+44(0)"]),
        st.text(DIGITS + BLANKS + FILLERS + "+", max_size=20),
        st.sampled_from(["", " ", ":", "@c.us"]),
    )
    | st.builds("{}{}".format, st.sampled_from(["+55119", "5511", "+521", "+549"]), st.text(DIGITS, max_size=10))
)
channels = st.sampled_from([None, "", " ", "whatsapp", " WhatsApp\n", "sms", "web", "a.b-c_d", "\u212ai\u212a"])
pairs = st.tuples(texts, texts, channels)


@pytest.fixture
def connection(empty_postgres_url: str) -> Iterator[Connection]:
    with connect(empty_postgres_url) as opened:
        run(opened, session_key_function(Names()))
        yield opened


def test_the_key_of_a_pair_is_the_one_that_lapse_computes(connection: Connection) -> None:
    assert {pair: None for pair in by_hand if expected(pair) is None} == {}
    assert computed(connection, by_hand) == [expected(pair) for pair in by_hand]


def test_what_lapse_refuses_has_a_key_too_and_one_that_fits_into_an_index(connection: Connection) -> None:
    assert [pair for pair in refused if expected(pair) is not None] == []
    keys = computed(connection, refused)
    assert all(key is not None and len(key.encode()) <= 2_600 for key in keys)
    one, other = computed(connection, [("x" * 400 + "y", "a", None), ("x" * 400 + "z", "a", None)])
    assert one != other


def test_null_is_an_address_too(connection: Connection) -> None:
    [found] = connection.execute("SELECT lapse_session_key(NULL, NULL, NULL)")
    assert found == ("::",)


def test_any_pair_has_the_key_that_lapse_computes(connection: Connection) -> None:
    @settings(max_examples=25)
    @given(st.lists(pairs, min_size=50, max_size=200))
    def check(drawn: list[Pair]) -> None:
        for pair, key in zip(drawn, computed(connection, drawn), strict=True):
            assert key is not None
            assert expected(pair) in (key, None) or has_trunk_zero(pair), pair

    check()


def test_the_zero_after_a_country_code_is_left_to_lapse(connection: Connection) -> None:
    pair = ("+44 (0)20 7946 0018", AGENT, None)
    assert expected(pair) == f"{AGENT}::+442079460018"
    assert computed(connection, [pair]) == [f"{AGENT}::+4402079460018"]


def test_no_setting_of_a_session_changes_a_key(connection: Connection) -> None:
    keys = computed(connection, by_hand)
    run(
        connection,
        """CREATE SCHEMA hostile;
        CREATE FUNCTION hostile.lower(text) RETURNS text LANGUAGE sql AS 'SELECT ''hostile''';
        CREATE FUNCTION hostile.same(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
        CREATE OPERATOR hostile.~ (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.same);
        SET search_path = hostile, public, pg_catalog;
        SET standard_conforming_strings = off; SET escape_string_warning = off""",
    )
    assert computed(connection, by_hand) == keys


def test_no_collation_of_a_column_changes_a_key(connection: Connection) -> None:
    try:  # blind to accents and capitals
        run(connection, "CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level1', deterministic = false)")
    except psycopg.errors.FeatureNotSupported:  # a server built without ICU
        run(connection, "CREATE COLLATION blind (locale = 'POSIX')")
    run(
        connection, 'CREATE TABLE pairs (one text COLLATE blind, other varchar COLLATE "C", channel text COLLATE blind)'
    )
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO pairs VALUES (%s, %s, %s)", by_hand)
        cursor.execute("SELECT lapse_session_key(one, other, channel) FROM pairs ORDER BY ctid")
        assert [key for (key,) in cursor] == [expected(pair) for pair in by_hand]


def computed(connection: Connection, drawn: Sequence[Pair]) -> list[str | None]:
    query = """SELECT public.lapse_session_key(one, other, channel)
        FROM unnest(%s::text[], %s::text[], %s::text[]) WITH ORDINALITY AS pair(one, other, channel, place)
        ORDER BY place"""
    columns = [list(column) for column in zip(*drawn, strict=True)]
    return [key for (key,) in connection.execute(query, columns)]


def expected(pair: Pair) -> str | None:
    """Return the key as lapse computes it, or None where it refuses."""
    one, other, channel = pair
    try:
        return address_pair(one, other, (channel or "").strip() or "whatsapp").session_key
    except LapseError:
        return None


def has_trunk_zero(pair: Pair) -> bool:
    """Tell whether lapse drops a digit of one of both numbers."""
    *addresses, channel = pair
    kept = [normalise_address(address or "", (channel or "").strip() or "whatsapp") for address in addresses]
    return any(
        bool(re.fullmatch(r"\+[0-9]+", number)) and re.sub("[^0-9]", "", address or "") != number[1:]
        for address, number in zip(addresses, kept, strict=True)
    )
