"""What the server writes for messages in lists of 500, on 10,000 existing conversations among 100,000.

As [what a message writes](#what-a-message-writes), with `record_messages`: after a checkpoint, `pg_walinspect` adds up
the records, and the figure is without full page images. HOT is `n_tup_hot_upd` of `n_tup_upd`, after a first pass over
all conversations.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict

from benchmarks.backlogs import live_customers
from benchmarks.bench import Bench, connect
from benchmarks.cases.wal import wait_for_updates
from benchmarks.lists import LIST, lists_of
from benchmarks.results import Figure, Goal, Outcome
from benchmarks.wal import WalMeter
from lapse import ConversationService

TITLE = "What a list of messages writes"
ROUNDS = 10
SHOWN = 4


def run(bench: Bench) -> Outcome:
    """Count the bytes."""
    backlog = bench.backlog(between=90_000, live=10_000)
    lists = lists_of(live_customers(backlog))
    rounds = bench.rounds(ROUNDS)
    messages = sum(map(len, lists)) * len(rounds)
    with bench.filled(backlog) as url, connect(url) as observer, closing(WalMeter(url)) as meter:
        with closing(ConversationService(url)) as service:
            for some in lists:
                service.record_messages(some)  # from here on each pair is known
        before = wait_for_updates(observer, messages // len(rounds))
        with closing(ConversationService(url)) as service:
            for some in lists:
                service.record_messages(some)
            meter.start()
            for _ in rounds:
                for some in lists:
                    service.record_messages(some)
            wal = meter.stop()
        after = wait_for_updates(observer, before[0] + messages + messages // len(rounds))
    plain, images = wal.bytes / messages, wal.image_bytes / messages
    hot = 100 * (after[1] - before[1]) / (after[0] - before[0])
    bench.say(f"{plain:.0f} bytes a message, and {images:.0f} of full page images; {hot:.2f} % HOT")
    return Outcome(
        figures=[
            Figure("WAL per message in lists of 500", plain, "bytes", Goal(220, at_most=True)),
            *(Figure(f"of it {found.kind}", found.bytes / messages, "bytes") for found in wal.records[:SHOWN]),
            Figure("with full page images after one checkpoint", plain + images, "bytes"),
            Figure("HOT updates in lists of 500", hot, "%", Goal(98)),
        ],
        parameters={"messages": messages, "conversations": backlog.live, "messages_in_a_list": LIST},
        raw={"records": [asdict(found) for found in wal.records]},
    )
