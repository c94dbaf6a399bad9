"""Halving by itself, on sweeps whose answers are written down: moments that a database hands out once in a thousand."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

import pytest

from lapse.errors import ConversationUnchangedError
from lapse.models import AnyId, SweepResult
from lapse.worker.quarantine import BatchBisector

STAYED = SweepResult(claimed=1)
REARMED = SweepResult(claimed=1, rearmed=1)
NOT_DUE = SweepResult()


class AnswersInOrder:
    """A sweep of one conversation."""

    def __init__(self, *answers: SweepResult) -> None:
        self.answers = list(answers)

    def __call__(self, ids: Sequence[AnyId]) -> SweepResult:
        return self.answers.pop(0)


@pytest.mark.parametrize(("second", "is_refused"), [(STAYED, True), (REARMED, False), (NOT_DUE, False)])
def test_a_conversation_that_stayed_as_it_was_gets_a_second_chance(second: SweepResult, is_refused: bool) -> None:
    conv_id, sweep_ids = uuid4(), AnswersInOrder(second)
    (found,) = BatchBisector(sweep_ids).run([conv_id], ConversationUnchangedError())
    assert (found is not None) is is_refused
    assert found is None or found[0] == conv_id
    assert sweep_ids.answers == []
