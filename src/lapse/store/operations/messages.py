"""Operations that record messages: each opens, continues, answers or reactivates a conversation, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from lapse.addresses import masked
from lapse.checked_message import CheckedMessage, opening
from lapse.errors import ConversationAlreadyOpenError, ConversationRefusedError, DatabaseUnavailableError, LapseError
from lapse.lifecycle import Sender
from lapse.messages import MessageResult, Outcome
from lapse.models import AnyId, Conversation
from lapse.store.operations.activities import OpenPairs, is_activity, is_plural, record_activities, with_repeated_ids
from lapse.store.operations.id_generation import new_conv_id
from lapse.store.operations.message_group import OwnTraces, places_by_pair
from lapse.store.operations.recording import record_in_transaction
from lapse.store.operations.steps import Query, Steps
from lapse.store.rows import row_to_conversation
from lapse.store.statements import Statements
from lapse.store.statements import conversations as conversation_statements
from lapse.store.statements import messages as statements

MAX_GROUP = 500
"""Messages of one statement. More fill the pages of the table before the rows that they leave can be pruned."""


# --- one message ----------------------------------------------------------------------------------------------------


def record(sql: Statements, message: CheckedMessage, is_known: bool) -> Steps[MessageResult]:
    """Record a message: one statement where it means no transition, else a transaction with the transition.

    Args:
        sql: the statements.
        message: the message.
        is_known: the pair had an open conversation a moment ago: a guess at which statement to try first.

    Raises:
        ConversationRefusedError: the database refused.
        DatabaseUnavailableError: the pair's conversation kept beginning and ending.
    """
    ids = OwnTraces()
    try:
        return (yield from _record_alone(sql, message, is_known, ids))
    except ConversationRefusedError:
        if (opened := (yield from _opened_before(sql, message, ids))) is not None:
            return opened
        if not sql.shape.mapping.is_adopted:
            raise
    # Perhaps by a unique index of the application's, which ON CONFLICT does not go by: its row can be seen by now.
    return (yield from _record_alone(sql, message, is_known, ids))


def _opened_before(sql: Statements, message: CheckedMessage, ids: OwnTraces) -> Steps[MessageResult | None]:
    """Return what an attempt had opened whose answer was lost, and that has ended since: the id is this call's own."""
    conv_id = ids.get(message.key)
    if conv_id is None:
        return None
    key = {"of_conv_id": conv_id, "of_owner_id": message.owner_id}
    rows = yield Query(sql(conversation_statements.by_owner_and_id), key)
    return MessageResult(Outcome.OPENED, row_to_conversation(rows[0])) if rows else None


def _record_alone(sql: Statements, message: CheckedMessage, is_known: bool, ids: OwnTraces) -> Steps[MessageResult]:
    # Citus takes `now()` in an INSERT only.
    if is_known and message.is_plain and not sql.shape.is_distributed:
        rows = yield Query(sql(statements.record_activity, message.sender), _pair_values(message))
        if rows:
            return MessageResult(Outcome.CONTINUED, row_to_conversation(rows[0]))
    elif is_known and is_plural(sql) and message.is_activity:
        results: list[MessageResult | None] = [None]
        yield from record_activities(sql, {message.key: [0]}, [message], results, ids)
        if results[0] is not None:
            return results[0]
    if message.is_plain and message.sender is Sender.USER:
        # The id is given before the row is inserted: the repeat of an attempt whose answer was lost must know its own.
        conv_id = ids[message.key] = ids.get(message.key) or (yield from new_conv_id(sql))
        rows = yield Query(sql(statements.open_or_continue), _new_values(message, conv_id))
        if rows:
            outcome = Outcome.OPENED if rows[0].conv_id == conv_id else Outcome.CONTINUED
            return MessageResult(outcome, row_to_conversation(rows[0]))
    return (yield from _record_waiting(sql, message, ids))


def _record_waiting(sql: Statements, message: CheckedMessage, ids: OwnTraces) -> Steps[MessageResult]:
    (result,) = yield from record_in_transaction(sql, [message], ids)
    return cast(MessageResult, result)  # alone, it waits for whoever has the row locked


def _pair_values(message: CheckedMessage) -> dict[str, Any]:
    owner_id, channel, session_key = message.key
    return {"of_owner_id": owner_id, "of_channel": channel, "of_session_key": session_key}


def _new_values(message: CheckedMessage, conv_id: AnyId) -> dict[str, Any]:
    return {
        "new_owner_id": message.owner_id,
        "new_conv_id": conv_id,
        "new_channel": message.pair.channel,
        "new_session_key": message.pair.session_key,
        "new_from_number": message.pair.from_number,
        "new_to_number": message.pair.to_number,
        "new_user_id": message.user_id,
        "new_context": message.context,
        "new_metadata": message.metadata,
        "expiration": message.expiration_seconds,
        "idle_timeout": message.idle_timeout_seconds,
    }


def create_conversation(sql: Statements, message: CheckedMessage) -> Steps[Conversation]:
    """Open the conversation that a message would open; errors as `record`, and one more.

    Raises:
        ConversationAlreadyOpenError: the pair has an open one, which is left unchanged.
    """
    result = yield from _open(sql, message)
    conversation = cast(Conversation, result.conversation)
    if result.outcome is not Outcome.OPENED:
        raise ConversationAlreadyOpenError(conversation.conv_id, masked(conversation.conv_id))
    return conversation


def get_or_create_conversation(sql: Statements, message: CheckedMessage) -> Steps[Conversation]:
    """Return the pair's live conversation, or open the one that a message would open; errors as `record`."""
    return cast(Conversation, (yield from _open(sql, message)).conversation)


def _open(sql: Statements, message: CheckedMessage) -> Steps[MessageResult]:
    message, ids = opening(message), OwnTraces()
    try:
        return (yield from _record_waiting(sql, message, ids))
    except ConversationRefusedError:
        opened = yield from _opened_before(sql, message, ids)
        if opened is None and not sql.shape.mapping.is_adopted:
            raise
        return opened or (yield from _record_waiting(sql, message, ids))


# --- messages together ----------------------------------------------------------------------------------------------


def record_group(
    sql: Statements, messages: Sequence[CheckedMessage], known: OpenPairs
) -> Steps[list[MessageResult | LapseError | None]]:
    """Record messages together: those that mean no transition in one statement, all others in one transaction.

    Args:
        sql: the statements.
        messages: at most `MAX_GROUP`; those of one pair count in this order.
        known: pairs that had an open conversation a moment ago: a guess.

    Returns:
        A result for each message, in order; the error where the database refused it; None where it has to be recorded
        alone, and nothing was done: another session has the pair's conversation locked, and who is alone waits for it.

    Raises:
        DatabaseUnavailableError: the database cannot be reached; what was recorded by then stays recorded.
    """
    results: list[MessageResult | LapseError | None] = [None] * len(messages)
    ids = OwnTraces()
    pairs = places_by_pair(messages)
    strangers = [places[0] for key, places in pairs.items() if key not in known]
    if is_plural(sql):
        tries_all, repeated = known.strangers_are_open, with_repeated_ids(messages)
        candidates = {
            key: places
            for key, places in pairs.items()
            if (tries_all or key in known) and key not in repeated and is_activity(messages, places)
        }
        if candidates:
            try:
                done = yield from record_activities(sql, candidates, messages, results, ids)
            except ConversationRefusedError:
                done = []  # one of them, and the transaction below finds out which
            for key in done:
                del pairs[key]
    rest = sorted(place for places in pairs.values() for place in places)
    yield from _record_rest(sql, messages, rest, ids, results)
    known.learn([results[place] for place in strangers])
    return results


def record_list(
    sql: Statements, messages: Sequence[CheckedMessage | LapseError], known: OpenPairs
) -> Steps[list[MessageResult | LapseError]]:
    """Record any number of messages, group after group, and return a result for each; errors among them stay.

    Those whose conversation another session has locked are waited for when all others are done.
    """
    results: list[Any] = list(messages)
    places = [place for place, message in enumerate(messages) if not isinstance(message, LapseError)]
    locked: list[int] = []
    done = 0
    try:
        for begin in range(0, len(places), MAX_GROUP):
            part = places[begin : begin + MAX_GROUP]
            group: list[Any] = [messages[place] for place in part]
            for place, result in zip(part, (yield from record_group(sql, group, known)), strict=True):
                results[place] = result
                if result is None:
                    locked.append(place)
            known.note(group)
            done += len(part)
        for place in locked:
            try:
                results[place] = yield from record(sql, cast(CheckedMessage, messages[place]), is_known=True)
            except ConversationRefusedError as error:
                results[place] = error
    except DatabaseUnavailableError as error:
        for place in [*(place for place in locked if results[place] is None), *places[done:]]:
            results[place] = error
    return results


def _record_rest(
    sql: Statements,
    messages: Sequence[CheckedMessage],
    places: Sequence[int],
    ids: OwnTraces,
    results: list[MessageResult | LapseError | None],
) -> Steps[None]:
    """Record these messages in one transaction; in two halves where the database refuses one of them."""
    if not places:
        return
    chosen = [messages[place] for place in places]
    try:
        if len(messages) == 1:
            recorded: Sequence[MessageResult | None] = [(yield from record(sql, chosen[0], is_known=False))]
        else:  # even one: in a group it waits for nobody, since the others would wait with it
            recorded = yield from record_in_transaction(sql, chosen, ids, is_group=True)
    except ConversationRefusedError as error:
        if len(places) == 1:
            opened = yield from _opened_before(sql, chosen[0], ids)
            is_final = len(messages) == 1 or not sql.shape.mapping.is_adopted  # else `record` tries once more
            results[places[0]] = opened or (error if is_final else None)
            return
        half, earlier = len(places) // 2, ids.results
        for part in slice(half), slice(half, None):
            ids.results = earlier[part]
            yield from _record_rest(sql, messages, places[part], ids, results)
        return
    ids.note_answer(chosen)
    for place, result in zip(places, recorded, strict=True):
        results[place] = result
