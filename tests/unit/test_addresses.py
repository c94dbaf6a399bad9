"""Addresses as providers spell them, case by case: what is one address, what is two, and what is none."""

from __future__ import annotations

from typing import Any

import pytest

from lapse import InvalidAddressError, InvalidInputError, LapseError, SameAddressError, normalise_address, session_key
from lapse.addresses import MAX_ADDRESS_LENGTH, canonical_address, normalise_channel

NORMALISED = [
    # channel, as given, as kept
    ("whatsapp", "whatsapp:+55 (11) 99999-9999", "+5511999999999"),
    ("whatsapp", "+5511999999999", "+5511999999999"),
    ("whatsapp", "5511999999999", "+5511999999999"),
    ("whatsapp", "  WhatsApp:+5511999999999 ", "+5511999999999"),
    ("whatsapp", "tel:+55-11-99999-9999", "+5511999999999"),
    ("whatsapp", "+55\u00a011\u00a099999\u20119999", "+5511999999999"),  # no-break space and hyphen, as pasted
    ("whatsapp", "12345", "+12345"),
    ("whatsapp", "+44 (0)20 7946 0018", "+442079460018"),  # the zero is for callers from inside the country
    ("whatsapp", "+390612345678", "+390612345678"),  # Italy's zero belongs to the number
    ("whatsapp", "1203630253456789012", "1203630253456789012"),  # longer than any number: a group
    ("whatsapp", "US.13491208655302741918", "US.13491208655302741918"),
    ("sms", "sms:+15005550006", "+15005550006"),
    ("sms", "whatsapp:+15005550006", "+15005550006"),
    ("sms", "+1 (500) 555-0006", "+15005550006"),
    ("sms", "12345", "12345"),
    ("sms", "5511999999999", "5511999999999"),
    ("sms", "LAPSE", "LAPSE"),
    ("webchat", "visitor-7F3a", "visitor-7F3a"),
    ("webchat", "7a::B", "7a::B"),
    ("webchat", "webchat:visitor-7F3a", "visitor-7F3a"),
    ("webchat", "urn:visitor:7", "urn:visitor:7"),
    ("webchat", "tel:visitor", "tel:visitor"),
    ("webchat", "42", "42"),
    ("webchat", "Zoë Müller", "Zoë Müller"),
    ("webchat", "Ana.Silva+tag@Example.COM", "Ana.Silva+tag@Example.COM"),
    ("email", "Ana.Silva+tag@Example.COM", "Ana.Silva+tag@Example.COM"),
    ("whatsapp", "Ana.Silva+tag@Example.COM", "Ana.Silva+tag@Example.COM"),
]

# Well formed, and called invalid by the library: test numbers, fiction, ranges that it does not know.
UNKNOWN_NUMBERS = [
    "+15005550006",
    "+15005550001",
    "+12025550100",
    "+5511000000000",
    "+99912345",
    "+1",
    "+999999999999999",
]

ONE_ADDRESS_ON_WHATSAPP = [
    ("whatsapp:+55 (11) 99999-9999", "+5511999999999"),
    ("+5511999999999", "5511999999999"),
    # Brazil's ninth digit
    ("+5511999999999", "+551199999999"),
    ("+5585987654321", "558587654321"),
    ("+55 31 9 6123-4567", "+55 31 6123-4567"),
    # Mexico's 1
    ("+5215512345678", "+525512345678"),
    ("whatsapp:+521 55 1234 5678", "52 55 1234 5678"),
    # Argentina's 9
    ("+5491123456789", "+541123456789"),
    ("whatsapp:5493511234567", "+543511234567"),
]

TWO_ADDRESSES = [
    ("whatsapp", "+5511999999999", "+5511999999998"),
    ("whatsapp", "+551133334444", "+5511933334444"),  # 8 digits from 2 to 5 on: a land line has no ninth digit
    ("whatsapp", "+5511999999999", "+5521999999999"),
    ("whatsapp", "+5215512345678", "+5215512345679"),
    ("whatsapp", "+12025550100", "+112025550100"),
    ("sms", "+5511999999999", "+551199999999"),
    ("sms", "+5491123456789", "+541123456789"),
    ("sms", "+12345", "12345"),
    ("webchat", "+5511999999999", "+551199999999"),
    ("webchat", "ana", "Ana"),
    ("email", "ana@example.com", "Ana@example.com"),
]

UNUSABLE = {
    "empty": "",
    "blank": " \t ",
    "nothing behind the scheme": "CHANNEL: ",
    "schemes only": "CHANNEL:CHANNEL:",
    "oversized": "secret" + "a" * 315,
    "a NUL": "secret\x00handle",
    "a line break": "secret\nhandle",
    "an escape sequence": "secret\x1b[2Jhandle",
    "a delete": "secret\x7fhandle",
    "a C1 control": "secret\x85handle",
    "a line separator": "secret\u2028handle",
    "half a surrogate pair": "secret\ud800handle",
}

SAME_ADDRESS = [
    ("whatsapp", "+5511999999999", "+5511999999999"),
    ("whatsapp", "whatsapp:+55 (11) 99999-9999", "5511999999999"),
    ("whatsapp", "+5511999999999", "+551199999999"),
    ("whatsapp", "+5215512345678", "+525512345678"),
    ("sms", "+15005550006", "sms:+1 500 555 0006"),
    ("webchat", "ana.silva@example.com", "  ana.silva@example.com"),
]

HANDLES_WITH_COLONS = [
    "a",
    "b",
    "a:",
    ":a",
    "a::",
    "::a",
    "a::b",
    "a:b",
    ":",
    "::",
    ":::",
    "%3A",
    "a%3A",
    "a%",
    "%253A",
    "b:",
]


@pytest.mark.parametrize(("channel", "given", "kept"), NORMALISED)
def test_an_address_is_kept_in_one_spelling(channel: str, given: str, kept: str) -> None:
    assert normalise_address(given, channel) == kept
    assert normalise_address(kept, channel) == kept


@pytest.mark.parametrize("channel", ["whatsapp", "sms"])
@pytest.mark.parametrize("number", UNKNOWN_NUMBERS)
def test_a_well_formed_number_that_the_library_calls_invalid_is_an_address(number: str, channel: str) -> None:
    assert normalise_address(number, channel) == number
    assert number in session_key(number, "+5511999999999", channel).split("::")


def test_the_channel_of_an_address_is_whatsapp_unless_said() -> None:
    assert normalise_address("5511999999999") == "+5511999999999"
    assert session_key("+5511999999999", "12345") == session_key("+5511999999999", "12345", "whatsapp")


def test_a_channel_may_be_spelled_in_any_case() -> None:
    assert normalise_channel(" WhatsApp ") == "whatsapp"
    assert normalise_address("5511999999999", "WhatsApp") == "+5511999999999"
    assert session_key("+551199999999", "12345", "WHATSAPP") == session_key("+5511999999999", "+12345", "whatsapp")


@pytest.mark.parametrize("channel", ["", " ", "-sms", "whats app", "a" * 33, "sms\n!", "canal-ç", None, 7])
def test_what_is_no_name_of_a_channel_is_refused(channel: Any) -> None:
    for refused in (normalise_channel, lambda name: normalise_address("+15005550006", name)):
        with pytest.raises(InvalidInputError, match="channel"):
            refused(channel)


def test_a_session_key_is_both_addresses_sorted_and_joined() -> None:
    assert session_key("whatsapp:+55 (11) 99999-9999", "+14155238886") == "+14155238886::+5511999999999"
    assert session_key("visitor:7", "ana@example.com", "webchat") == "ana@example.com::visitor:7"


@pytest.mark.parametrize(("channel", "one", "other"), TWO_ADDRESSES)
def test_both_directions_have_one_key(channel: str, one: str, other: str) -> None:
    assert session_key(one, other, channel) == session_key(other, one, channel)


@pytest.mark.parametrize(("one", "other"), ONE_ADDRESS_ON_WHATSAPP)
def test_two_spellings_of_one_whatsapp_number_have_one_key(one: str, other: str) -> None:
    assert session_key(one, "+14155238886") == session_key(other, "+14155238886")
    assert canonical_address(one) == canonical_address(other)


@pytest.mark.parametrize(("channel", "one", "other"), TWO_ADDRESSES)
def test_two_addresses_have_two_keys(channel: str, one: str, other: str) -> None:
    assert session_key(one, "+14155238886", channel) != session_key(other, "+14155238886", channel)


def test_joints_inside_handles_never_make_two_pairs_one() -> None:
    pairs = {(one, other) for one in HANDLES_WITH_COLONS for other in HANDLES_WITH_COLONS if one < other}
    assert len({session_key(one, other, "webchat") for one, other in pairs}) == len(pairs)


@pytest.mark.parametrize("channel", ["whatsapp", "sms", "webchat"])
@pytest.mark.parametrize("address", [pytest.param(text, id=name) for name, text in UNUSABLE.items()])
def test_an_unusable_address_is_a_clear_error_that_does_not_repeat_it(address: str, channel: str) -> None:
    with pytest.raises(InvalidAddressError) as caught:
        session_key("+15005550006", address.replace("CHANNEL", channel), channel)
    message = str(caught.value)
    assert isinstance(caught.value, LapseError | ValueError)
    assert "address" in message
    assert message.isprintable()
    assert "secret" not in message


@pytest.mark.parametrize("address", [None, 5511999999999, b"+5511999999999", ["+5511999999999"]])
def test_an_address_that_is_no_text_is_an_error(address: Any) -> None:
    with pytest.raises(InvalidAddressError, match="text") as caught:
        normalise_address(address)
    assert "5511999999999" not in str(caught.value)


def test_the_longest_address_has_320_characters() -> None:
    assert MAX_ADDRESS_LENGTH == 320
    assert normalise_address(f"  {'a' * 320}  ", "webchat") == "a" * 320
    with pytest.raises(InvalidAddressError, match="321 characters"):
        normalise_address("a" * 321, "webchat")


@pytest.mark.parametrize(("channel", "one", "other"), SAME_ADDRESS)
def test_twice_the_same_address_is_an_error_that_does_not_show_it(channel: str, one: str, other: str) -> None:
    with pytest.raises(SameAddressError, match="different") as caught:
        session_key(one, other, channel)
    shown = str(caught.value)
    for spelling in (one, other, canonical_address(one, channel), canonical_address(one, channel).lstrip("+")):
        assert spelling.strip() not in shown


def test_an_address_on_two_channels_is_one_address_only_by_chance() -> None:
    assert session_key("12345", "+15005550006", "whatsapp") != session_key("12345", "+15005550006", "sms")
