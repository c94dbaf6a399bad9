"""Arguments of the public calls: what fits the databases passes, anything else is one clear error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from lapse import InvalidInputError
from lapse.json_objects import check_json_object
from lapse.validation import (
    check_bigint,
    check_limit,
    check_text,
    check_text_id,
    check_uuid,
)

ID = "0198c5ac-9f00-7b3e-8a51-6f1d2c3b4a59"
CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE


def bigint(value: Any) -> Any:
    return check_bigint("owner_id", value)


def uuid(value: Any) -> Any:
    return check_uuid("conv_id", value)


def text_id(value: Any) -> Any:
    return check_text_id("conv_id", value)


def text(value: Any) -> Any:
    return check_text("reason", value)


def json_object(value: Any) -> Any:
    return check_json_object("context", value)


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (bigint, 0),
        (bigint, -(2**63)),
        (bigint, 2**63 - 1),
        (check_limit, 1),
        (check_limit, 10_000),
        (text, None),
        (text, ""),
        (text, "ação concluída ✓"),
        (text, "x" * 500),
        (json_object, {"a": [1, 2.5, None, {"b": "ç\\u0000"}]}),
    ],
)
def test_what_fits_passes_unchanged(check: Callable[[Any], Any], value: Any) -> None:
    assert check(value) == value


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (bigint, 2**63),
        (bigint, -(2**63) - 1),
        pytest.param(bigint, 10**5000, id="thousands of digits"),
        (bigint, True),
        (bigint, "1"),
        (bigint, 1.0),
        (bigint, None),
        (check_limit, 0),
        (check_limit, -1),
        (check_limit, 10_001),
        (check_limit, True),
        (check_limit, "100"),
        (uuid, "conversation-1"),
        (uuid, ""),
        (uuid, None),
        (uuid, 7),
        (text_id, ""),
        (text_id, "x" * 501),
        (text_id, "01\n"),
        (text_id, 7),
        (text, "x" * 501),
        (text, "line\nbreak"),
        (text, "\x00"),
        (text, 5),
        (json_object, []),
        (json_object, "{}"),
        (json_object, {"a": object()}),
        (json_object, {"a": float("nan")}),
        (json_object, {"a": "\x00"}),
        (json_object, {"\x00": 1}),
        (json_object, {"a": "\\\x00"}),
        (json_object, {"a": "\ud800"}),
        (json_object, CYCLE),
    ],
)
def test_what_does_not_fit_is_one_clear_error(check: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        check(value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


def test_an_id_may_be_text() -> None:
    assert check_uuid("conv_id", ID) == check_uuid("conv_id", UUID(ID)) == UUID(ID)
    assert check_text_id("conv_id", "01JQ") == "01JQ"


def test_an_object_may_be_left_out() -> None:
    assert check_json_object("context", None) == {}
