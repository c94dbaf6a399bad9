"""Addresses are personal data: masked where they are shown, absent from every repr."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from lapse import Conversation, ConversationStatus, Sender
from lapse.addresses import mask_address, mask_addresses, shown


@pytest.mark.parametrize(
    ("address", "masked"),
    [
        ("+5511999999999", "+5511*****9999"),
        ("+15005550006", "+1500*****0006"),
        ("ana@example.com", "ana@e*****.com"),
        ("visitor-7", "vi*****"),
        ("12345", "12*****"),
        ("ana", "*****"),
        ("", "*****"),
    ],
)
def test_a_masked_address_hides_its_middle(address: str, masked: str) -> None:
    assert mask_address(address) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("not +5511999999999!", "not +5511*****9999!"),
        ("not (+55 11 99999-9999)", "not (+55 1*****9999)"),
        ("+44 (0)20 7946 0958.", "+44 (*****0958."),
        ("group 120363021234567890@g.us", "group 12036*****7890@g.us"),
        ("ana.maria+x@example.com::desk@example.org", "ana.m*****.com::desk@*****.org"),
        ("Key (from_number)=(josé@example.com) is there", "Key (from_number)=(josé@*****.com) is there"),
    ],
)
def test_addresses_in_what_others_wrote_are_masked(text: str, masked: str) -> None:
    assert mask_addresses(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "at 2026-01-05 12:00:00.123456+00, 2026-01-05T12:00:00+10:00",
        "postgresql+psycopg://lapse@db.example.com:5432/chat",
        "postgresql+psycopg://lapse:***@db.example.com:5432/chat",
        "01a21452-988c-744d-b051-021b7ea11683",
        "there is no conversation 0b6c1f3e-0000-4000-8000-000000000001",
        "port 5432, line 1234567",
        "operator does not exist: jsonb @> text",
    ],
)
def test_what_is_no_address_stays(text: str) -> None:
    assert mask_addresses(text) == text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("(11) 99000-0001", "'(11) 9*****0001'"),
        ("12/12/2020 99000-0001", "'12/12*****0001'"),
        ("11.99.1999.0001", "'11.99*****0001'"),
        ("@ana_maria", "'@a*****'"),
        (5511990000001.0, "5.51199e+12"),
        (float("nan"), "nan"),
        ("0b6c1f3e-0000-4000-8000-000000000001", "'0b6c1f3e-0000-4000-8000-000000000001'"),
        ("2020-02-30T12:00:00Z", "'2020-02-30T12:00:00Z'"),
        ("31/01/2020 12:00", "'31/01/2020 12:00'"),
        (5256001, "'5256001'"),
        ("line\nbreak", "'line\\nbreak'"),
        ("x" * 100, repr("x" * 40)),
        pytest.param(10**5_000, "a number of thousands of digits", id="long"),
    ],
)
def test_a_value_that_is_no_use_is_shown_masked(value: object, expected: str) -> None:
    assert shown(value) == expected


def test_a_conversation_is_shown_without_its_addresses_and_its_contents() -> None:
    moment = datetime(2026, 1, 5, 12, tzinfo=UTC)
    conversation = Conversation(
        conv_id=UUID(int=7),
        owner_id=1,
        channel="whatsapp",
        session_key="+14155238886::+5511999999999",
        from_number="+5511999999999",
        to_number="+14155238886",
        user_id=None,
        status=ConversationStatus.PENDING,
        version=0,
        opened_by=Sender.USER,
        started_at=moment,
        updated_at=moment,
        last_inbound_at=moment,
        last_outbound_at=None,
        first_answered_at=None,
        ended_at=None,
        expires_at=moment,
        idle_check_at=moment,
        idle_timeout_seconds=1800,
        context={"name": "Ana"},
        metadata={"mail": "ana@example.com"},
    )
    shown = repr(conversation)
    assert str(conversation.conv_id) in shown
    for secret in ("5511999999999", "4155238886", "Ana", "example.com"):
        assert secret not in shown
