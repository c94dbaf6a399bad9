"""Calls are interrupted at any instruction: what is answered afterwards is committed, and nothing stays open."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from contextlib import closing

import pytest

from lapse import Database
from tests.chaos.noting_process import ROOT
from tests.chaos.outcome import Outcome
from tests.chaos.scale import scaled
from tests.conftest import SERVERS, SQLITE, NewDatabase
from tests.support.commands import environment
from tests.support.invariants import check_invariants

TIMES = scaled(small=15, full=300)
"""How often each of nineteen operations is interrupted."""
PATIENCE_SECONDS = scaled(small=120, full=1_800)


@pytest.fixture(params=[SQLITE, "postgresql"])
def interrupted_url(request: pytest.FixtureRequest, new_database: NewDatabase) -> str:
    if request.param == SQLITE:
        return new_database(SQLITE)
    return new_database(next(iter(request.config.stash[SERVERS].by_name)))


@pytest.mark.parametrize(
    ("kind", "means"),
    [
        ("exception", "alarm"),
        ("base_exception", "alarm"),
        ("exception", "injection"),
        ("cancelled", "cancellation"),  # of the service for event loops
    ],
)
def test_an_interrupted_call_leaves_nothing_behind(
    interrupted_url: str, kind: str, means: str, chance: random.Random, outcome_of_all: Outcome
) -> None:
    orders = {"url": interrupted_url, "kind": kind, "means": means, "times": TIMES, "seed": str(chance.random())}
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.interrupted", json.dumps(orders)],
        env=environment({"PYTHONPATH": str(ROOT)}),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()[-3_000:]
    found = json.loads(done.stdout)
    assert found["complaints"] == []
    assert set(found["interrupted"].values()) == {TIMES}, found
    with closing(Database(interrupted_url)) as database:
        check_invariants(database)
        outcome_of_all.count(
            database,
            **{
                f"calls {database.dialect}": sum(found["made"].values()),
                f"interrupted {database.dialect}": sum(found["interrupted"].values()),
            },
        )
