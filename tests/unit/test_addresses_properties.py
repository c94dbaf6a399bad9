"""Addresses, whatever the text: what holds for all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from urllib.parse import unquote

import phonenumbers
from hypothesis import assume, example, given
from hypothesis import strategies as st

from lapse import InvalidAddressError, InvalidInputError, normalise_address, session_key
from lapse.addresses import MAX_ADDRESS_LENGTH, canonical_address

CHANNELS = st.sampled_from(["whatsapp", "sms", "webchat", "email"])
DIGITS = "0123456789"

any_text = st.text(st.characters())  # control characters and halves of surrogate pairs, too
joint_text = st.text(":%3A25ab", min_size=1, max_size=8)
phone_text = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", " ", "+", "whatsapp:", "tel: +", "sms:whatsapp:", "+55", "+52", "+54", "+44(0)"]),
    st.text(f"{DIGITS} ()-./+\u2011\u00a0", max_size=20),
    st.sampled_from(["", " ", ":", "@c.us"]),
)
texts = any_text | phone_text | joint_text


# --- valid numbers, and what is one slip away from them ----------------------------------------------------------


@cache
def example_numbers() -> list[str]:
    """Return an example of each kind of number of each region, for the library's metadata has them all."""
    found = (
        phonenumbers.example_number_for_type(region, kind)
        for region in phonenumbers.SUPPORTED_REGIONS
        for kind in phonenumbers.PhoneNumberType.values()
    )
    return sorted(
        {phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164) for number in found if number}
    )


def is_valid_e164(text: str) -> bool:
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        return False
    written = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    return phonenumbers.is_valid_number(number) and written == text


def slips(number: str) -> list[str]:
    """Return the valid numbers that come of one digit more, less, or another, among the first after the plus."""
    positions = range(2, 8)
    slipped = {number[:at] + number[at + 1 :] for at in positions}
    slipped |= {number[:at] + digit + number[at:] for at in positions for digit in "0159"}
    return sorted(filter(is_valid_e164, slipped | {number[:-1] + digit for digit in DIGITS} | {number}))


@st.composite
def valid_numbers(draw: st.DrawFn) -> str:
    chosen = draw(st.deferred(lambda: st.sampled_from(example_numbers()) | st.sampled_from(_of_spelled_countries())))
    changed = draw(st.text(DIGITS, min_size=3, max_size=3))
    return changed_number if is_valid_e164(changed_number := chosen[:-3] + changed) else chosen


def _of_spelled_countries() -> list[str]:
    return [number for number in example_numbers() if number.startswith(("+55", "+52", "+54"))]


def are_listed_spellings(one: str, other: str) -> bool:
    """Tell, from the specification alone, whether WhatsApp hands both out for one subscriber."""
    short, long = sorted((one, other), key=len)
    if len(short) != len("+551187654321"):
        return False
    return (
        (short.startswith("+55") and short[5] in "6789" and long == f"{short[:5]}9{short[5:]}")
        or (short.startswith("+52") and long == f"+521{short[3:]}")
        or (short.startswith("+54") and long == f"+549{short[3:]}")
    )


@given(valid_numbers(), st.data())
def test_only_two_spellings_of_whatsapp_are_one_address(number: str, data: st.DataObject) -> None:
    other = data.draw(st.sampled_from(slips(number)))
    one_key = session_key(number, "customer-care") == session_key(other, "customer-care")
    assert one_key == (number == other or are_listed_spellings(number, other))


@given(valid_numbers(), valid_numbers())
def test_two_valid_numbers_are_two_addresses_elsewhere(number: str, other: str) -> None:
    for channel in ("sms", "webchat"):
        one_key = session_key(number, "customer-care", channel) == session_key(other, "customer-care", channel)
        assert one_key == (number == other)


@given(valid_numbers(), CHANNELS)
def test_a_valid_number_is_kept_as_it_is(number: str, channel: str) -> None:
    assert normalise_address(number, channel) == number
    assert normalise_address(f"whatsapp:{number}", channel) == number


@given(st.from_regex(r"[1-9][1-9][6-9][0-9]{7}", fullmatch=True), st.from_regex(r"[2-9][0-9]{9}", fullmatch=True))
def test_each_listed_spelling_is_one_address_on_whatsapp(brazilian: str, national: str) -> None:
    spellings = [
        (f"+55{brazilian}", f"+55{brazilian[:2]}9{brazilian[2:]}"),
        (f"+52{national}", f"+521{national}"),
        (f"+54{national}", f"+549{national}"),
    ]
    for one, other in spellings:
        assert are_listed_spellings(one, other)
        assert session_key(one, "customer-care") == session_key(other, "customer-care")


# --- any text ----------------------------------------------------------------------------------------------------


@given(texts, CHANNELS)
@example("whatsapp:whatsapp:", "whatsapp")
@example("+" + "9" * 5000, "sms")
def test_any_text_is_an_address_or_one_clear_error(text: str, channel: str) -> None:
    kept = _outcome(normalise_address, text, channel)
    if isinstance(kept, str):
        assert 0 < len(kept) <= MAX_ADDRESS_LENGTH + 1  # digits alone get a plus
    else:
        assert isinstance(kept, InvalidAddressError)
        assert str(kept).isprintable()


@given(texts, CHANNELS)
def test_normalising_twice_is_normalising_once(text: str, channel: str) -> None:
    for rule in (normalise_address, canonical_address):
        kept = _outcome(rule, text, channel)
        assume(isinstance(kept, str))
        assert rule(str(kept), channel) == kept


@given(texts, texts, CHANNELS)
def test_both_directions_have_one_key_or_none(one: str, other: str, channel: str) -> None:
    there, back = _outcome(session_key, one, other, channel), _outcome(session_key, other, one, channel)
    assert there == back or (isinstance(there, InvalidInputError) and isinstance(back, InvalidInputError))


@given(texts, texts, CHANNELS)
def test_a_key_can_be_taken_apart_into_its_two_addresses(one: str, other: str, channel: str) -> None:
    key = _outcome(session_key, one, other, channel)
    assume(isinstance(key, str))
    assert [unquote(part) for part in str(key).split("::")] == sorted(
        (canonical_address(one, channel), canonical_address(other, channel))
    )


@given(joint_text, joint_text, joint_text, joint_text)
def test_two_pairs_of_handles_never_share_a_key(a: str, b: str, c: str, d: str) -> None:
    assume(a != b and c != d)
    one_key = session_key(a, b, "webchat") == session_key(c, d, "webchat")
    assert one_key == ({a, b} == {c, d})


def _outcome(rule: Callable[..., str], *arguments: str) -> str | InvalidInputError:
    try:
        return rule(*arguments)
    except InvalidInputError as error:
        return error
