"""Halving by itself, on sweeps whose answers are written down: moments that a database hands out once in a thousand."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import uuid4

import pytest

from lapse.errors import ConversationUnchangedError
from lapse.models import AnyId, SweepResult
from lapse.worker.halving import Halving

STAYED = SweepResult(claimed=1)
REARMED = SweepResult(claimed=1, rearmed=1)
NOT_DUE = SweepResult()


class AnswersInOrder:
    """A sweep of one conversation."""

    def __init__(self, *answers: SweepResult) -> None:
        self.answers = list(answers)

    def sweep_only(self, ids: Sequence[AnyId]) -> SweepResult:
        return self.answers.pop(0)

    def sweep(self, limit: int, after: datetime = ..., without: Sequence[AnyId] = ...) -> SweepResult:
        raise NotImplementedError

    def look(self, limit: int, after: datetime = ..., without: Sequence[AnyId] = ...) -> list[AnyId]:
        raise NotImplementedError


@pytest.mark.parametrize(("second", "is_refused"), [(STAYED, True), (REARMED, False), (NOT_DUE, False)])
def test_a_conversation_that_stayed_as_it_was_gets_a_second_chance(second: SweepResult, is_refused: bool) -> None:
    conv_id, refused = uuid4(), list[AnyId]()
    sweep = AnswersInOrder(second)
    halving = Halving(sweep, lambda _: None, lambda found, _: refused.append(found), lambda: False)
    halving.run([conv_id], ConversationUnchangedError())
    assert refused == [conv_id] * is_refused
    assert sweep.answers == []
