"""Times as they stand in SQLite: lapse's own form, and what others write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from lapse.store.types import from_utc_text, utc_text

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-05 12:00:00.000000", NOON),
        ("2026-01-05 12:00:00", NOON),
        ("2026-01-05T12:00", NOON),
        ("2026-01-05 09:00:00-03:00", NOON),
        ("2026-01-05T12:00:00Z", NOON),
        ("2026-01-05", NOON - timedelta(hours=12)),
        (None, None),
    ],
)
def test_a_time_of_any_usual_form_is_read_as_utc(text: str | None, moment: datetime | None) -> None:
    assert from_utc_text(text) == moment


def test_a_time_is_read_as_it_was_written() -> None:
    moment = NOON + timedelta(microseconds=1)
    assert from_utc_text(utc_text(moment)) == moment


@pytest.mark.parametrize("text", ["", "soon", "2026", "1767614400"])
def test_what_is_no_time_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="isoformat"):
        from_utc_text(text)
