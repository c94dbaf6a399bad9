"""What lapse does to a database, each thing written once: generators that yield steps and receive their results.

An operation is a function of the database's `Statements`. It knows no connection, no retry and no event loop: a driver
(`store.database`, `store.async_database`) does the steps, each again from its start where the database was away.
"""

from lapse.store.operations.steps import CLOCK, Query, Step, Steps, Transaction

__all__ = ["CLOCK", "Query", "Step", "Steps", "Transaction"]
