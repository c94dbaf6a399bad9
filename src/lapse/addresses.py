"""Addresses: normalisation of the spellings that providers use, and the session key of a pair."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from lapse.errors import InvalidAddressError, InvalidInputError, SameAddressError

MAX_ADDRESS_LENGTH = 320
"""Characters: the longest e-mail address (RFC 3696, erratum 1690); phone numbers and handles are far shorter."""

CACHED_PAIRS = 16_384
"""Size of the cache of session keys, for the pairs with recent messages. About 10 MB when full."""

WHATSAPP = "whatsapp"
SEPARATOR = "::"

# Schemes of phone numbers; before anything else they are part of the handle.
_PHONE_SCHEMES = frozenset({"whatsapp", "tel", "sms", "mms", "rcs"})
CHANNELS_BY_SCHEME = frozenset({"whatsapp", "sms", "mms", "rcs", "messenger", "instagram", "telegram", "voice"})
"""Schemes of addresses that say the channel, where the caller does not."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_CHANNEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,31}")
# Separators between digits: spaces, brackets, dots, hyphens and their typographic variants.
_FILLER = re.compile(r"[\s().\-/\u00ad\u2010-\u2015\u2212]")
_E164 = re.compile(r"\+[1-9][0-9]{0,14}")  # ITU-T E.164: at most 15 digits, no country code starts with 0
_AFTER_COUNTRY_CODE = slice(2, 5)
"""Where the digit behind a plus and a country code of one to three digits is."""
# In texts of other programs: a run of digits, a number with a plus and separators, an e-mail address. Not the user
# of a URL, which follows slashes.
_UUID = r"(?P<not_address>\b[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b"
_ADDRESS_IN_TEXT = re.compile(
    _UUID + r")"
    r"|\+?(?<!\d)\d{8,}"
    r"|\+[1-9](?:[\s().\-/\u2010-\u2015]{0,3}\d){7,14}"
    r"|(?<![\w.%+\-/])[\w.%+\-]+@\w[\w\-]*(?:\.\w[\w\-]*)+"
)
# In an unusable value, which may be an address in the wrong place: anything with as many digits as a phone number that
# is not a date, and anything with an @.
_BETWEEN_DIGITS = (
    r"[\s().,_\-/\u00ad\u200b-\u200f\u2010-\u2015\u202a-\u202e\u2060-\u2064\u2066-\u2069\u2212\ufeff]{0,3}"
)
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_DATE = rf"(?<!\d)(?:(?:19|20)\d\d-\d\d-\d\d|{_DAY}[/.]{_DAY}[/.](?:19|20)\d\d)(?!{_BETWEEN_DIGITS}\d{{3}}|\d)"
_ADDRESS_IN_VALUE = re.compile(
    rf"{_UUID}|{_DATE})|\+\d(?:{_BETWEEN_DIGITS}\d){{6,}}|\d(?:{_BETWEEN_DIGITS}\d){{7,}}" r"|[^\s@]+@[^\s@]+|@\w{2,}"
)
_SHOWN_LENGTH = 40
_READ_LENGTH = 1_000
"""Only so many characters of a value are read."""
# Control characters, unpaired surrogates (not UTF-8) and line or paragraph separators (they forge log lines).
_FORBIDDEN_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})

# The spellings that WhatsApp uses for the same subscriber; the right side is canonical.
_WHATSAPP_SPELLINGS = (
    # Brazil's ninth digit (Anatel resolution 553/2010): old mobile numbers begin with 6 to 9.
    (re.compile(r"\+55([1-9][0-9])([6-9][0-9]{7})"), r"+55\g<1>9\g<2>"),
    # Mexico's mobile prefix 1 (ended by the IFT in 2019).
    (re.compile(r"\+521([0-9]{10})"), r"+52\g<1>"),
    # Argentina's mobile prefix 9.
    (re.compile(r"\+549([0-9]{10})"), r"+54\g<1>"),
)


ERRORS_OF_OBJECTS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What converting an arbitrary object to text or to a number may raise. Not all of `Exception`: the call may be
interrupted by one, for example by the time limit of a task queue."""


def normalise_channel(channel: str) -> str:
    """Return the name of a channel in lower case, without surrounding whitespace.

    Raises:
        InvalidInputError: it is not 1 to 32 of a-z, 0-9, `.`, `_` and `-`, the first a letter or digit.
    """
    name = channel.strip().lower() if isinstance(channel, str) else ""
    if not _CHANNEL.fullmatch(name):
        raise InvalidInputError(
            f"channel {shown(channel)} is not a channel's name: use 1 to 32 of a-z, 0-9, '.', '_', '-'"
        )
    return name


def normalise_address(address: str, channel: str = WHATSAPP) -> str:
    """Return the address as lapse stores it: a phone number in E.164, any other handle unchanged.

    A scheme that repeats the channel (`whatsapp:`) is removed. A number with a plus is a phone number on every channel;
    digits alone are one on WhatsApp only, elsewhere they are a handle, such as a short code. Numbers that libraries
    consider invalid are accepted: whatever a provider delivers is an address.

    Raises:
        InvalidAddressError: it is not text, is empty or longer than 320 characters, or has control characters.
        InvalidInputError: `channel` is not the name of a channel.
    """
    return _spellings(address, normalise_channel(channel))[0]


def canonical_address(address: str, channel: str = WHATSAPP) -> str:
    """Return the canonical spelling of an address, for comparisons.

    On WhatsApp some numbers have two spellings (Brazil's ninth digit, Mexico's `521`, Argentina's `549`).

    Raises:
        InvalidAddressError: as `normalise_address`.
    """
    return _spellings(address, normalise_channel(channel))[1]


def session_key(from_address: str, to_address: str, channel: str = WHATSAPP) -> str:
    """Return the key of a pair of addresses: canonical, sorted, joined with `::`, the same for both directions.

    Different pairs have different keys: a colon that could be mistaken for the separator becomes `%3A`, and `%` `%25`.

    Raises:
        InvalidAddressError: as `normalise_address`.
        SameAddressError: both are the same address.
    """
    return address_pair(from_address, to_address, channel).session_key


class AddressPair(NamedTuple):
    """The addresses of a message as they are stored, with their channel and session key."""

    channel: str
    from_number: str
    to_number: str
    session_key: str


def address_pair(from_address: str, to_address: str, channel: str | None = None) -> AddressPair:
    """Return both addresses normalised, with their session key.

    Without a channel it is the one that an address names by its scheme (`sms:+44…`, `messenger:…`), else WhatsApp.

    Raises:
        InvalidAddressError: as `normalise_address`.
        SameAddressError: both are the same address.
        InvalidInputError: `channel` is not the name of a channel.
    """
    try:
        # Not cached: long text would fill the memory, though without its whitespace it may be a valid address.
        is_long = len(from_address) + len(to_address) + len(channel or "") > 2 * MAX_ADDRESS_LENGTH
        return (_cached_pair.__wrapped__ if is_long else _cached_pair)(from_address, to_address, channel)
    except TypeError:  # not text, because it has no length or cannot be hashed; raises the proper error
        return _cached_pair.__wrapped__(from_address, to_address, channel)


@lru_cache(CACHED_PAIRS)
def _cached_pair(from_address: str, to_address: str, channel: str | None) -> AddressPair:
    channel = _channel_of(from_address, to_address) if channel is None else normalise_channel(channel)
    from_number, from_canonical = _spellings(from_address, channel)
    to_number, to_canonical = _spellings(to_address, channel)
    if from_canonical == to_canonical:
        raise SameAddressError(
            f"both addresses are {mask_address(from_canonical)}: a conversation needs two different addresses"
        )
    key = SEPARATOR.join(map(_escape_colons, sorted((from_canonical, to_canonical))))
    return AddressPair(channel, from_number, to_number, key)


def _channel_of(from_address: str, to_address: str) -> str:
    """Return the channel that the addresses' schemes name; WhatsApp where they name none."""
    matches = (_SCHEME.match(one.strip()) for one in (from_address, to_address) if isinstance(one, str))
    named = {match[1].lower() for match in matches if match is not None} & CHANNELS_BY_SCHEME
    if len(named) > 1:
        raise InvalidInputError(f"the addresses name two channels, {' and '.join(sorted(named))}: say which it is")
    return named.pop() if named else WHATSAPP


def mask_address(address: str) -> str:
    """Return the address with its middle masked (`+5511*****9999`), for logs and errors: it is personal data."""
    if len(address) >= 12:
        return f"{address[:5]}*****{address[-4:]}"
    return f"{address[:2]}*****" if len(address) >= 5 else "*****"


def mask_addresses(text: str) -> str:
    """Return the text with all phone numbers and e-mail addresses masked: for messages of other programs."""
    return _masked(_ADDRESS_IN_TEXT, text)


def shown(value: object) -> str:
    """Return an unusable value for an error message: one line, shortened, with addresses masked."""
    if isinstance(value, float):
        return float.__format__(value, "g")
    try:
        text = str(value)[:_READ_LENGTH]
    except ERRORS_OF_OBJECTS:
        # The object's own method failed, or an `int` has more than 4,300 digits, which Python does not convert.
        return "a number of thousands of digits" if isinstance(value, int) else f"an object of {type(value).__name__}"
    return repr(_masked(_ADDRESS_IN_VALUE, text)[:_SHOWN_LENGTH])


def masked(value: object) -> str:
    """Return an id for an error message: complete, unless it may contain an address."""
    return _masked(_ADDRESS_IN_VALUE, str(value))


def _masked(addresses: re.Pattern[str], text: str) -> str:
    return addresses.sub(lambda match: match[0] if match["not_address"] else mask_address(match[0]), text)


def _spellings(address: str, channel: str) -> tuple[str, str]:
    """Return the normalised and the canonical address on a channel, whose name is normalised."""
    if not isinstance(address, str):
        raise InvalidAddressError(f"an address is text, not {type(address).__name__}")
    handle = _checked(address)
    while (bare := _without_scheme(handle, channel)) != handle:
        handle = bare
    if not handle:
        raise InvalidAddressError(f"an address on channel {channel} is empty: it has a scheme and nothing behind it")
    normalised = _phone_number(handle, channel) or handle
    return normalised, _canonical(normalised) if channel == WHATSAPP else normalised


def _canonical(normalised: str) -> str:
    for pattern, canonical in _WHATSAPP_SPELLINGS:
        if pattern.fullmatch(normalised):
            return pattern.sub(canonical, normalised)
    return normalised


def _checked(address: str) -> str:
    handle = address.strip()
    if not handle:
        raise InvalidAddressError("an address is empty")
    if len(handle) > MAX_ADDRESS_LENGTH:
        raise InvalidAddressError(
            f"an address has {len(handle)} characters; the longest allowed has {MAX_ADDRESS_LENGTH}"
        )
    for position, character in enumerate("" if handle.isprintable() else handle):
        if unicodedata.category(character) in _FORBIDDEN_CATEGORIES:
            raise InvalidAddressError(
                f"an address has the control character U+{ord(character):04X} at position {position + 1}"
            )
    return handle


def _without_scheme(handle: str, channel: str) -> str:
    match = _SCHEME.match(handle)
    if not match:
        return handle
    scheme, rest = match[1].lower(), handle[match.end() :].strip()
    if scheme == channel or (scheme in _PHONE_SCHEMES and _phone_number(rest, channel)):
        return rest
    return handle


def _phone_number(handle: str, channel: str) -> str | None:
    """Return the handle in E.164; None: it is not a phone number on this channel."""
    digits = _FILLER.sub("", handle)
    if channel == WHATSAPP and not digits.startswith("+"):
        digits = f"+{digits}"
    if not _E164.fullmatch(digits):
        return None
    return _without_trunk_prefix(digits)


def _without_trunk_prefix(number: str) -> str:
    """Remove the zero after a country code (`+44 (0)20 …`) unless it is part of the number.

    It is the trunk prefix of domestic calls; in some numbering plans (Italy's) it belongs to the number and stays.
    """
    if "0" not in number[_AFTER_COUNTRY_CODE]:
        return number
    import phonenumbers  # takes a fifth of the time of a short command

    try:
        parsed = phonenumbers.parse(number, None)
    except phonenumbers.NumberParseException:
        return number
    formatted = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    with_zero = f"+{parsed.country_code}0{phonenumbers.national_significant_number(parsed)}"
    return formatted if number == with_zero and phonenumbers.is_valid_number(parsed) else number


def _escape_colons(address: str) -> str:
    if ":" not in address and "%" not in address:
        return address
    return re.sub(r"^:|:$|:(?=:)|(?<=:):", "%3A", address.replace("%", "%25"))
