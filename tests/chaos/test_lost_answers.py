"""The answer to a COMMIT is lost, and by the time of the repeat the world has moved on."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing

import pytest

from lapse import Conversation, ConversationService, Database, Message, MessageResult
from tests.chaos.cutting_proxy import CuttingProxy
from tests.support.backlog import BUSINESS, customer
from tests.support.invariants import check_invariants
from tests.support.sql import count, run_sql

CALLS: dict[str, Callable[[ConversationService], Conversation]] = {
    "record_message": lambda service: service.record_message(1, customer(1), BUSINESS),
    "create_conversation": lambda service: service.create_conversation(1, customer(1), BUSINESS),
    "get_or_create_conversation": lambda service: service.get_or_create_conversation(1, customer(1), BUSINESS),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_ended_before_its_opener_heard_of_it_is_the_answer(
    postgres_url: str, chance: random.Random, call: str
) -> None:
    with closing(Database(postgres_url)) as database:

        def close_it() -> None:
            ((conv_id,),) = run_sql(database, "SELECT conv_id FROM conversations")
            with closing(ConversationService(postgres_url)) as other:
                other.close_conversation(conv_id, "agent_closed")

        proxy = CuttingProxy(
            postgres_url,
            chance,
            limit=1,
            of_transactions=1,
            of_statements=1,
            places=["unanswered"],
            meanwhile=close_it,
        )
        with closing(proxy), closing(ConversationService(proxy.url)) as service:
            proxy.open()
            found = CALLS[call](service)
        assert proxy.cuts.total() == 1
        assert found.status == "agent_closed"
        assert count(database, "conversations") == 1
        check_invariants(database)


def test_of_one_pair_only_the_message_that_opened_says_so(postgres_url: str, chance: random.Random) -> None:
    """The receipt of the first tells that it was recorded: the one behind it, without an id, is not the opener."""
    messages = [Message(1, customer(1), BUSINESS, message_id="a"), Message(1, customer(1), BUSINESS)]
    proxy = CuttingProxy(postgres_url, chance, limit=1, of_transactions=1, of_statements=0, places=["unanswered"])
    with closing(proxy), closing(ConversationService(proxy.url)) as service:
        proxy.open()
        results = service.record_messages(messages)
        assert proxy.cuts.total() == 1
    assert [result.outcome for result in results if isinstance(result, MessageResult)] == ["opened", "continued"]
