"""A job per conversation on Procrastinate: what a general job queue on the same database makes of it.

The jobs are there before the clock starts. A worker with concurrency 10 ends one conversation per job, by its id, with
a conditional UPDATE and its event in one statement, on a pool of asynchronous connections.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import time
from typing import Any

from benchmarks.bench import connect
from benchmarks.peers.rate import Rate

CONCURRENCY = 10
BATCH = 1_000
END = """
    WITH ended AS (
        UPDATE conversations SET status = 'expired', version = version + 1, ended_at = now()
        WHERE owner_id = %s AND conv_id = %s AND status IN ('pending', 'progress', 'idle_timeout')
            AND expires_at < now()
        RETURNING owner_id, conv_id, version, expires_at)
    INSERT INTO conversation_events (
        owner_id, conv_id, version, type, from_status, to_status, reason, actor, deadline, occurred_at, data)
    SELECT owner_id, conv_id, version, 'expired', 'pending', 'expired', 'expired', 'worker', expires_at, now(), '{}'
    FROM ended
"""
DUE = """
    SELECT owner_id, conv_id::text FROM conversations
    WHERE status IN ('pending', 'progress', 'idle_timeout') AND expires_at < now() ORDER BY expires_at
"""


def is_installed() -> bool:
    """Tell whether Procrastinate is here: it comes with `make bench`, and not with the tests."""
    return importlib.util.find_spec("procrastinate") is not None


def prepare(url: str) -> None:
    """Make Procrastinate's tables, and a job for each conversation that is due."""
    with connect(url) as connection:
        due = connection.execute(DUE).fetchall()
    asyncio.run(_defer(url, due))


def end_some(url: str, seconds: float) -> Rate:
    """Run the worker for so many seconds; the rate is that from the first to the last conversation ended."""
    logging.getLogger("procrastinate").setLevel(logging.ERROR)
    asyncio.run(_work(url, seconds))
    with connect(url) as connection:
        moments = [
            float(moment)
            for (moment,) in connection.execute(
                "SELECT extract(epoch FROM occurred_at) FROM conversation_events WHERE type = 'expired' ORDER BY 1"
            )
        ]
    return rate_of(moments)


def rate_of(moments: list[float], points: int = 100) -> Rate:
    """Return the rate at which things happened at these moments, which are in order."""
    if len(moments) < 2:
        return Rate(len(moments), 0.0)
    first = moments[0]
    step = max(len(moments) // points, 1)
    curve = [(round(moments[place] - first, 3), place) for place in range(0, len(moments), step)]
    return Rate(len(moments) - 1, moments[-1] - first, [*curve, (round(moments[-1] - first, 3), len(moments) - 1)])


async def _defer(url: str, due: list[Any]) -> None:
    app, end = _app(url)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        for place in range(0, len(due), BATCH):
            await end.batch_defer_async(
                *({"owner_id": owner_id, "conv_id": conv_id} for owner_id, conv_id in due[place : place + BATCH])
            )


async def _work(url: str, seconds: float) -> None:
    from psycopg_pool import AsyncConnectionPool

    pool = AsyncConnectionPool(url, min_size=CONCURRENCY, max_size=CONCURRENCY, kwargs={"autocommit": True}, open=False)
    app, _ = _app(url, pool)
    async with pool, app.open_async():
        worker = asyncio.create_task(
            app.run_worker_async(concurrency=CONCURRENCY, wait=False, install_signal_handlers=False)
        )
        begin = time.monotonic()
        while not worker.done() and time.monotonic() - begin < seconds:
            await asyncio.sleep(0.05)
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


def _app(url: str, pool: Any = None) -> tuple[Any, Any]:
    import procrastinate

    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=url, max_size=CONCURRENCY + 2))

    @app.task(name="end_conversation")  # type: ignore[untyped-decorator]
    async def end_conversation(owner_id: int, conv_id: str) -> None:
        async with pool.connection() as connection:
            await connection.execute(END, [owner_id, conv_id])

    return app, end_conversation
