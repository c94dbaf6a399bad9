"""`record_messages` in lists of 500, beside `record_message` of 52276e8, from before messages were recorded in groups.

Each version has a database of its own, with its own schema and the same 10,000 open conversations, among 100,000 on
PostgreSQL. In turns of half a second, one process each: 52276e8 sends messages one by one on one connection; this
version sends lists, lists whose results are read as well (which is when the conversations are made of the rows), and
lists of messages with ids that nobody has seen; the bare driver, psycopg in autocommit without prepared statements,
sends for each list one `UPDATE … FROM unnest(…)` of owner, channel and session key that sets `updated_at` and
`last_inbound_at` in the same table. After that, both versions open conversations of pairs that nobody has seen. What is
sent is made while the clock stands still. The order changes from round to round, the processes begin anew after eight
rounds, and a ratio is the median over rounds. On SQLite the same, without the bare driver.
"""

from __future__ import annotations

from itertools import product

from benchmarks.bench import Bench
from benchmarks.results import Figure, Outcome
from benchmarks.turns import (
    Found,
    compared,
    contestants,
    in_seconds,
    nothing_found,
    rate_of,
    take_turns,
    times,
    turn_of,
)

TITLE = "Lists of messages"
CONVERSATIONS = 10_000
SLICE_SECONDS = 0.5
LIVES, SLICES = 3, 8
PROFILED = 40
"""Lists."""
SIDES = {
    "before": "one by one by 52276e8",
    "lists": "lists of 500",
    "read": "lists of 500, each result read",
    "ids": "lists of 500 with ids",
    "bare": "bare UNNEST",
}


def run(bench: Bench) -> Outcome:
    """Let them take turns on both databases."""
    number, seconds = bench.rows(CONVERSATIONS, least=1_000), bench.seconds(SLICE_SECONDS, least=0.05)
    existing: dict[str, Found] = {}
    opening: dict[str, Found] = {}
    texts: dict[str, str] = {}
    for dialect, life in product(("postgresql", "sqlite"), bench.rounds(LIVES)):
        with contestants(bench, dialect, number, f"lists{life}") as processes:
            before, groups = processes["before"], processes["groups"]
            sides = [side for side in SIDES if side != "before" and (side, dialect) != ("bare", "sqlite")]
            turns = {side: turn_of(groups, side, seconds) for side in sides}
            turns["before"] = turn_of(before, "messages", seconds)
            take_turns(bench.rounds(SLICES), turns, existing.setdefault(dialect, nothing_found()))
            if dialect == "postgresql":
                texts = {**turn_of(groups, "plan")(), **turn_of(groups, "profile", bench.rows(PROFILED, least=2))()}
            turns = {"before": turn_of(before, "open", seconds), "lists": turn_of(groups, "open", seconds)}
            take_turns(bench.rounds(SLICES), turns, opening.setdefault(dialect, nothing_found()))
    for dialect, found in existing.items():
        ratios = ", ".join(f"{side} {times(found, side, 'before'):.1f}" for side in found if side != "before")
        opened = times(opening[dialect], "lists", "before")
        bench.say(f"{dialect}, against 52276e8 at {rate_of(found, 'before'):,.0f}/s: {ratios}, opening {opened:.1f}")
    return Outcome(
        figures=figures(existing, opening),
        parameters={"conversations": number, "slice_seconds": seconds, "messages_in_a_list": 500},
        raw={"existing": in_seconds(existing), "opening": in_seconds(opening)},
        texts={"profile": texts["profile"], "plan-of-the-bare-statement": texts["plan"]},
    )


def figures(existing: dict[str, Found], opening: dict[str, Found]) -> list[Figure]:
    """Return ratios with their goals, then rates."""
    server, file = existing["postgresql"], existing["sqlite"]
    return [
        compared("lists of 500 on PostgreSQL, against 52276e8 one by one", server, "lists", "before", 25),
        compared("the same, against a bare UNNEST for each list", server, "lists", "bare", 0.7),
        compared("the same with message ids, against 52276e8 one by one", server, "ids", "before", 10),
        compared("opening in lists of 500, against 52276e8 one by one", opening["postgresql"], "lists", "before", 10),
        compared("lists of 500 on SQLite, against 52276e8 one by one", file, "lists", "before", 3),
        compared("lists whose results are read, against 52276e8 one by one", server, "read", "before"),
        compared("lists with message ids on SQLite, against 52276e8 one by one", file, "ids", "before"),
        compared("opening in lists on SQLite, against 52276e8 one by one", opening["sqlite"], "lists", "before"),
        *(
            Figure(f"{name}, {found_name}", rate_of(found, side), "1/s")
            for found_name, found in (("PostgreSQL", server), ("SQLite", file))
            for side, name in SIDES.items()
            if side in found
        ),
        *(
            Figure(f"opening {name}, {found_name}", rate_of(opening[dialect], side), "1/s")
            for found_name, dialect in (("PostgreSQL", "postgresql"), ("SQLite", "sqlite"))
            for side, name in (("before", SIDES["before"]), ("lists", SIDES["lists"]))
        ),
    ]
