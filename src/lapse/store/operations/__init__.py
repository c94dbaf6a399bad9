"""Operations on a database, each written once: generators that yield steps and receive their results.

An operation takes the database's `Statements`. It knows no connection, no retry and no event loop: `store.database` and
`store.async_database` do the steps, and repeat a step from its start after a transient failure.
"""

from lapse.store.operations.steps import CLOCK, REPEATS, Query, Step, Steps, Transaction, answer_of_nothing

__all__ = ["CLOCK", "REPEATS", "Query", "Step", "Steps", "Transaction", "answer_of_nothing"]
