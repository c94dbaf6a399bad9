"""Where PostgreSQL says that an error came from: a row's own reason is told from the server's, in any language."""

from __future__ import annotations

import pytest

from lapse.store.driver_errors import context_of_function

SERVERS_OWN = [
    'while updating tuple (0,1) in relation "conversations"',
    'while locking tuple (12,34) in relation "conversations"',
    'while inserting index tuple (0,3) in relation "uq_conversations_open_session"',
    'while rechecking updated tuple (0,2) in relation "conversations"',
    'ao atualizar tupla (0,1) na relação "conversations"',
    "lors de la mise à jour de la ligne (0,1) dans la relation « conversations »",
    "beim Aktualisieren von Tupel (0,1) in Relation „conversations“",
    "parallel worker",
    "unnamed portal with parameters: $1 = '+5511…'",
    "while executing command on localhost:9701",
]
OF_A_FUNCTION = [
    "PL/pgSQL function note_activity() line 3 at RAISE",
    "função PL/pgSQL note_activity() linha 3 em RAISE",
    'SQL statement "UPDATE other SET place = (1,2)"',
    'SQL function "f" statement 1',
]


@pytest.mark.parametrize("context", SERVERS_OWN)
def test_the_servers_own_words_are_no_functions(context: str) -> None:
    assert context_of_function(context) == ""


@pytest.mark.parametrize("context", OF_A_FUNCTION)
def test_what_a_function_says_is_kept(context: str) -> None:
    assert context_of_function(f"{SERVERS_OWN[0]}\n{context}") == context
