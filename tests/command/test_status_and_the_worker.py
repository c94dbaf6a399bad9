"""`lapse status` and `preview` say what the worker then does, for every combination of the columns' values."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from lapse import BackgroundWorker, ConversationService, Database
from lapse.settings import load_settings
from lapse.store.types import utc_text
from tests.adoption.adoption_helpers import adopt
from tests.adoption.legacy_table import Form, connect, create_legacy_table
from tests.support.commands import run_here
from tests.support.sql import run_sql, transaction
from tests.support.workers import EXPIRED, IDLE

Row = dict[str, Any]

STATUSES = ("pending", "progress", "idle_timeout", "user_closed", "expired")
# Minutes from now; beside each timeout on both sides.
TIMES: Mapping[str, Sequence[float]] = {
    "updated_at": (-1500, -61, -31, -6, 0, 10),
    "expires_at": (-3000, -1, 1, 1440),
    "idle_check_at": (-90, -1, 1, 60),
}
ARMED_SECONDS = (300, 1800, 3600)
# What others may have written in place of a time: no time, and times in other forms.
ODD_TEXTS = ("", 0, 1.5, "garbage", "2020-13-45", "2099-13-45", "1", b"\0", "2020-01-01T00:00:00Z", "2020-01-01")
FAR_TIMES = ("infinity", "-infinity", "0044-03-15 BC", "20000-01-01")
INSERT = """INSERT INTO conversations (owner_id, conv_id, channel, session_key, from_number, to_number, status,
        started_at, updated_at, expires_at, idle_check_at, idle_timeout_seconds)
    VALUES (:owner_id, :conv_id, 'sms', :key, 'a', 'b', :status, {started_at}, {updated_at}, {expires_at},
        {idle_check_at}, :idle_timeout_seconds)"""


def combinations(**values: Iterable[Any]) -> list[Row]:
    """Return every combination: of these values, and of the usual ones for the other columns."""
    now = datetime.now(UTC)
    all_values: dict[str, Iterable[Any]] = {
        "status": STATUSES,
        "idle_timeout_seconds": ARMED_SECONDS,
        **{name: [now + timedelta(minutes=each) for each in minutes] for name, minutes in TIMES.items()},
        **values,
    }
    return [dict(zip(all_values, each, strict=True)) for each in itertools.product(*all_values.values())]


def with_odd_values(odd: Sequence[Any]) -> list[Row]:
    """Return rows in which one column, or two, hold what others wrote: none so many that a worker gives up."""
    few = {"status": ("pending", "idle_timeout"), "idle_timeout_seconds": (1800,)}
    now = datetime.now(UTC)
    rows = [
        row
        for column in TIMES
        for row in combinations(**{**few, **{name: _ends(now, name) for name in TIMES}, column: odd})
    ]
    return rows + [row for value in odd for row in combinations(**few, **{name: [value] for name in TIMES})]


def _ends(now: datetime, name: str) -> list[datetime]:
    return [now + timedelta(minutes=each) for each in (TIMES[name][0], TIMES[name][-1])]


def insert(database: Database, rows: list[Row]) -> None:
    is_sqlite = database.dialect == "sqlite"
    moment = "{}" if is_sqlite else "CAST({} AS timestamptz)"
    statement = INSERT.format(**{name: moment.format(f":{name}") for name in (*TIMES, "started_at")})
    started = datetime.now(UTC) - timedelta(days=3)

    def written(value: Any) -> Any:
        return utc_text(value) if is_sqlite and isinstance(value, datetime) else value

    with transaction(database) as connection:
        connection.execute(
            sa.text(statement),
            [
                {
                    "owner_id": 1 + number % 3,
                    "conv_id": str(uuid4()),
                    "key": f"{number:05}",
                    "started_at": written(started),
                    **{name: written(value) for name, value in row.items()},
                }
                for number, row in enumerate(rows)
            ],
        )


def said(command: str, url: str, monkeypatch: pytest.MonkeyPatch, idle_minutes: float) -> dict[str, Any]:
    monkeypatch.setenv("CONVERSATION_IDLE_TIMEOUT_MINUTES", str(idle_minutes))
    result = run_here(command, "--json", "--database-url", url)
    assert (result.returncode, result.stderr) == (0, "")
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def check_that_the_worker_does_what_was_said(
    url: str, monkeypatch: pytest.MonkeyPatch, idle_minutes: float
) -> BackgroundWorker:
    status = said("status", url, monkeypatch, idle_minutes)
    preview = said("preview", url, monkeypatch, idle_minutes)
    settings = load_settings(idle_timeout_minutes=idle_minutes)
    worker = BackgroundWorker(service=ConversationService(url, settings=settings), accept_backlog=True)
    runs = {name: Counter[str]() for name in worker.tasks}
    for name, runner in worker.tasks.items():

        def counted(*arguments: Any, name: str = name, run_of: Any = runner.run) -> Any:
            run = run_of(*arguments)
            assert run.error is None, (name, run.error)
            runs[name] += Counter(ended=run.ended, rearmed=run.rearmed, refused=run.refused)
            return run

        monkeypatch.setattr(runner, "run", counted)
    worker.run_once()
    assert status["due"] == {name: runs[name]["ended"] for name in (IDLE, EXPIRED)}
    with closing(Database(url)) as database:
        events = run_sql(database, "SELECT from_status, to_status, count(*) FROM conversation_events GROUP BY 1, 2")
    assert sorted(map(tuple, preview["by_status"])) == sorted(map(tuple, events))
    assert preview["conversations"] == sum(preview["histogram"]) == sum(preview["by_age"].values())
    is_due = status["next_deadline"] is not None and status["next_deadline"] <= preview["now"]
    assert is_due == any(run.total() for run in runs.values())
    assert said("status", url, monkeypatch, idle_minutes)["due"] == {IDLE: 0, EXPIRED: 0}
    return worker


@pytest.mark.parametrize("idle_minutes", [5, 30, 60])
def test_the_worker_ends_what_status_and_preview_say(
    database_url: str, monkeypatch: pytest.MonkeyPatch, idle_minutes: float
) -> None:
    with closing(Database(database_url)) as database:
        insert(database, combinations())
        check_that_the_worker_does_what_was_said(database_url, monkeypatch, idle_minutes)
        (left,) = run_sql(
            database,
            """SELECT min(CASE WHEN status IN ('pending', 'progress') THEN idle_check_at END), min(expires_at)
            FROM conversations WHERE status IN ('pending', 'progress', 'idle_timeout')""",
        )
    after = said("status", database_url, monkeypatch, idle_minutes)
    first = min(left) if isinstance(left[0], str) else utc_text(min(left))
    assert after["next_deadline"].replace("T", " ") == f"{first}Z"
    assert after["next_deadline"] > datetime.now(UTC).isoformat()


def test_what_is_no_time_is_due_for_status_as_for_the_worker(
    new_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for idle_minutes in (5, 30):
        url = new_database("sqlite")
        with closing(Database(url)) as database:
            insert(database, with_odd_values(ODD_TEXTS))
        check_that_the_worker_does_what_was_said(url, monkeypatch, idle_minutes)


@pytest.mark.parametrize("column", ["expires_at", "idle_check_at"])
@pytest.mark.parametrize("text", ["", "garbage", "2020-13-45", "2099-13-45"])
def test_a_time_that_is_none_hides_no_other_deadline(
    new_database: Callable[..., str], monkeypatch: pytest.MonkeyPatch, column: str, text: Any
) -> None:
    url = new_database("sqlite")
    now = datetime.now(UTC)
    later = {"updated_at": now, "expires_at": now + timedelta(hours=2), "idle_check_at": now + timedelta(hours=1)}
    base = {"status": "pending", "idle_timeout_seconds": 1800, **later}
    with closing(Database(url)) as database:
        insert(database, [{**base, column: text}])
        said("status", url, monkeypatch, 30)
        run_sql(database, "UPDATE conversations SET session_key = 'another'")
        insert(database, [base])
    both = said("status", url, monkeypatch, 30)
    assert both["next_deadline"] <= later["idle_check_at"].isoformat().replace("+00:00", "Z")


@pytest.mark.parametrize("idle_minutes", [5, 30])
def test_in_an_adopted_table_it_is_so_whatever_the_application_left_out(
    empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch, idle_minutes: float
) -> None:
    url = empty_postgres_url
    form = Form(updated_at_trigger=False, messages=False, extra_statuses=("human_handoff",))
    odd: list[Any] = [None, *FAR_TIMES]
    rows = combinations(status=(*STATUSES, None, "human_handoff"), idle_timeout_seconds=(300, 1800, 3600))
    few: dict[str, Any] = {"status": ("pending", "idle_timeout"), "idle_timeout_seconds": (1800,)}
    rows += combinations(**few, updated_at=odd, expires_at=odd)
    rows += combinations(**few, updated_at=odd, idle_check_at=odd[1:])
    with connect(url) as owner:
        create_legacy_table(owner, form)
        adopt(url)
        with owner.cursor() as cursor:
            cursor.execute(
                "CREATE TEMP TABLE wanted (n int, status text, updated_at timestamptz, expires_at timestamptz,"
                " idle_check_at timestamptz, seconds int)"
            )
            cursor.executemany(
                "INSERT INTO wanted VALUES (%s, %s, %s, %s, %s, %s)",
                [
                    [n, *(row[name] for name in ("status", *TIMES, "idle_timeout_seconds"))]
                    for n, row in enumerate(rows)
                ],
            )
        owner.execute(
            """INSERT INTO conversations (conv_id, owner_id, from_number, to_number, status, started_at, updated_at,
                expires_at)
            SELECT n, 1 + n % 3, 'a' || n, 'b', status, CASE WHEN n % 7 > 0 THEN now() - interval '3 days' END,
                updated_at, expires_at FROM wanted"""
        )
        owner.execute(
            """UPDATE conversations AS c SET idle_check_at = w.idle_check_at, idle_timeout_seconds = w.seconds
            FROM wanted AS w WHERE w.n = c.conv_id"""
        )
    check_that_the_worker_does_what_was_said(url, monkeypatch, idle_minutes)
