"""Halving by itself, on sweeps whose answers are written down: moments that a database hands out once in a thousand."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lapse.errors import ConversationRefusedError, ConversationUnchangedError
from lapse.models import AnyId, SweepResult
from lapse.store.operations.batch_bisector import BatchBisector

STAYED = SweepResult(claimed=1)
REARMED = SweepResult(claimed=1, rearmed=1)
NOT_DUE = SweepResult()


@pytest.mark.parametrize(("second", "is_refused"), [(STAYED, True), (REARMED, False), (NOT_DUE, False)])
def test_a_conversation_that_stayed_as_it_was_gets_a_second_chance(second: SweepResult, is_refused: bool) -> None:
    conv_id = uuid4()
    bisector = BatchBisector([conv_id])
    outcomes: list[SweepResult | Exception] = [ConversationUnchangedError(), second]
    reasons = [bisector.record(part, outcomes.pop(0)) for part in bisector]
    assert outcomes == []
    assert reasons[0] is None
    assert isinstance(reasons[1], ConversationUnchangedError) is is_refused


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_exactly_those_to_blame_are_refused_and_all_others_swept_once(to_blame: list[bool]) -> None:
    ids: list[AnyId] = [UUID(int=number) for number in range(len(to_blame))]
    bad = {conv_id for conv_id, is_bad in zip(ids, to_blame, strict=True) if is_bad}
    bisector, refused, swept = BatchBisector(ids), list[AnyId](), list[AnyId]()

    def sweep(part: Sequence[AnyId]) -> SweepResult | Exception:
        if bad & set(part):
            return ConversationRefusedError()
        swept.extend(part)
        return SweepResult(claimed=len(part), ended=len(part))

    for part in bisector:
        if bisector.record(part, sweep(part)) is not None:
            refused += part
    assert refused == [conv_id for conv_id in ids if conv_id in bad]
    assert swept == [conv_id for conv_id in ids if conv_id not in bad]
    assert bisector.ended == len(swept)


def test_a_batch_of_nothing_has_no_parts() -> None:
    assert list(BatchBisector([])) == []
