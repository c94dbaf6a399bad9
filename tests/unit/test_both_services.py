"""What threads call and what an event loop calls is one interface."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from lapse import AsyncConversationService, ConversationService


def methods(service: type) -> dict[str, Any]:
    return {
        name: method for name, method in inspect.getmembers(service, inspect.isfunction) if not name.startswith("_")
    }


FOR_THREADS, FOR_LOOPS = methods(ConversationService), methods(AsyncConversationService)
WITHOUT_A_DATABASE = {"idle_timeout"}


def test_both_services_have_the_same_methods() -> None:
    assert set(FOR_THREADS) == set(FOR_LOOPS)


@pytest.mark.parametrize("name", sorted(set(FOR_THREADS) - WITHOUT_A_DATABASE))
def test_a_method_is_awaited_by_loops_alone(name: str) -> None:
    assert inspect.iscoroutinefunction(FOR_LOOPS[name])
    assert not inspect.iscoroutinefunction(FOR_THREADS[name])


@pytest.mark.parametrize("name", sorted(FOR_THREADS))
def test_a_method_takes_and_returns_the_same_in_both(name: str) -> None:
    assert inspect.signature(FOR_THREADS[name]) == inspect.signature(FOR_LOOPS[name])


@pytest.mark.parametrize("name", sorted(set(FOR_THREADS) - {"close"}))
def test_a_method_is_described_alike_in_both(name: str) -> None:
    assert FOR_THREADS[name].__doc__
    assert FOR_THREADS[name].__doc__ == FOR_LOOPS[name].__doc__
