"""Replay: the real command's counts and transitions, against the rules computed a second time."""

from __future__ import annotations

import csv
import json
import random
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from lapse import ConversationService
from lapse.store import Database
from tests.support.commands import error_line, run_here, run_lapse
from tests.support.replay_model import COUNTS, Message, events_of, messages_of, simulate
from tests.support.sql import run_sql

EXAMPLE = Path(__file__).parents[2] / "examples" / "customer_care.csv"
FAR_EAST = timezone(timedelta(hours=12, minutes=45))
HEADER = ["at", "owner_id", "from_number", "to_number", "channel", "sender"]


def replay(log: Path, *options: str | Path, env: dict[str, str] | None = None) -> dict[str, int]:
    """Replay with `--json` and return the object, which must be all that is printed."""
    result = run_lapse("replay", log, "--json", *options, env=env)
    assert (result.returncode, result.stderr) == (0, ""), result
    assert result.stdout.count("\n") == 1
    counts: dict[str, int] = json.loads(result.stdout)
    assert tuple(counts) == COUNTS
    return counts


def assert_replay_is_as_the_rules_say(
    log: Path, messages: list[Message], idle: float, expiration: float, *options: str | Path
) -> None:
    timeouts = ("--idle-minutes", f"{idle:g}", "--expiration-minutes", f"{expiration:g}")
    counts = replay(log, *timeouts, "--events", "events.csv", *options)
    expected_counts, expected = simulate(messages, idle, expiration)
    assert counts == expected_counts
    events = events_of(Path("events.csv"))
    assert [datetime.fromisoformat(event.at) for event in events] == sorted(
        datetime.fromisoformat(event.at) for event in events
    )
    found = {pair: [event for event in events if event[1:4] == pair] for pair in {event[1:4] for event in events}}
    assert found == {pair: transitions for pair, transitions in expected.items() if transitions}


@pytest.mark.parametrize(
    ("idle", "expiration"), [(30, 1440), (1, 5), (10, 10), (1440, 30), (0.5, 60), (60, 10080)], ids=str
)
def test_the_example_lives_and_ends_as_the_rules_say(idle: float, expiration: float) -> None:
    assert_replay_is_as_the_rules_say(EXAMPLE, messages_of(EXAMPLE), idle, expiration)


def test_the_example_is_the_same_on_postgresql(postgres_url: str) -> None:
    assert_replay_is_as_the_rules_say(EXAMPLE, messages_of(EXAMPLE), 30, 1440, "--database-url", postgres_url)


def awkward_log(path: Path, seed: int, idle: timedelta, expiration: timedelta) -> list[Message]:
    """Write a log of messages at, just before and just after deadlines, many at one moment, in any order."""
    randomly = random.Random(seed)
    tick, second = timedelta(microseconds=1), timedelta(seconds=1)
    steps = [timedelta(0), tick, second, idle - tick, idle, idle + tick, idle + second, expiration - idle, expiration]
    steps += [expiration - tick, expiration + tick, expiration - idle - tick]
    addresses = {
        "+5511999990001": ["+5511999990001", "whatsapp:+55 11 9999-0001", "5511999990001"],
        "+5511999990002": ["+5511999990002", "+551199990002"],
        "+14155238886": ["+14155238886", "whatsapp:+1 (415) 523-8886"],
        "+14155238887": ["+14155238887"],
    }
    written: list[tuple[Message, list[str]]] = []
    for pair in (("+5511999990001", "+14155238886"), ("+5511999990002", "+14155238886"), tuple(addresses)[2:]):
        for owner in ("1", "-7"):
            at = datetime(2024, 2, 28, 23, tzinfo=UTC)
            for _ in range(25):
                at += randomly.choice(steps)
                one, other = randomly.sample(pair, 2)
                sender = randomly.choice(["user", "user", "agent", "support", "system"])
                spellings = [randomly.choice(addresses[one]), randomly.choice(addresses[other])]
                spelled_at = at.astimezone(randomly.choice([UTC, FAR_EAST])).isoformat()
                message = Message(at, owner, "whatsapp", "::".join(sorted(pair)), sender)
                written.append((message, [spelled_at, owner, *spellings, "whatsapp", sender]))
    randomly.shuffle(written)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([HEADER, *(row for _, row in written)])
    return [message for message, _ in written]


@pytest.mark.parametrize(("idle", "expiration"), [(2, 5), (3, 3)], ids=str)
def test_messages_at_the_very_moment_of_a_deadline_are_in_time(
    new_database: Any, backend: str, tmp_path: Path, idle: float, expiration: float
) -> None:
    log = tmp_path / "log.csv"
    messages = awkward_log(log, 7, timedelta(minutes=idle), timedelta(minutes=expiration))
    url = new_database(backend)
    assert_replay_is_as_the_rules_say(log, messages, idle, expiration, "--database-url", url)


def write_log(text: str, name: str = "log.csv", encoding: str = "utf-8") -> Path:
    path = Path(name)
    path.write_bytes(text.encode(encoding))
    return path


def test_a_log_is_read_in_any_spelling_of_csv() -> None:
    log = write_log(
        "sender,channel,to_number,note,message_id,from_number,owner_id, at \r\n"
        'agent,WhatsApp,+5511999990001,"a, b",m2,+14155238886,1,2020-01-31T15:00:00+03:00\r\n'
        "user,whatsapp,+14155238886,,m1,+5511999990001,1,2020-01-31 12:00:00Z\r\n"
        '\r\nuser,whatsapp,"+14155238886",,m0,+5511999990001,1,2020-01-31T08:59:59.5-03:00\r\n',
        encoding="utf-8-sig",
    )
    counts = replay(log, "--events", "events.csv")
    assert counts == {"messages": 3, "conversations": 1, "idle_timeouts": 1, "reactivations": 0, "expired": 1}
    assert Path("events.csv").read_bytes() == (
        b"at,owner_id,channel,session_key,from_status,to_status\n"
        b"2020-01-31T12:00:00Z,1,whatsapp,+14155238886::+5511999990001,pending,progress\n"
        b"2020-01-31T12:30:00Z,1,whatsapp,+14155238886::+5511999990001,progress,idle_timeout\n"
        b"2020-02-01T11:59:59.500000Z,1,whatsapp,+14155238886::+5511999990001,idle_timeout,expired\n"
    )


@pytest.mark.parametrize(("senders", "first"), [(("user", "agent"), "pending"), (("agent", "user"), "progress")])
def test_messages_of_one_moment_come_in_the_order_of_the_file(senders: tuple[str, str], first: str) -> None:
    rows = [f"2020-01-31T12:00:00Z,1,ana,widget,webchat,{sender}\n" for sender in senders]
    replay(write_log(",".join(HEADER) + "\n" + "".join(rows)), "--events", "events.csv")
    assert events_of(Path("events.csv"))[0].from_status == first


def test_timeouts_come_from_the_settings_and_the_database_does_not() -> None:
    env = {
        "DATABASE_URL": "postgresql://nobody:secret@127.0.0.1:1/live",
        "CONVERSATION_IDLE_TIMEOUT_MINUTES": "1",
        "CONVERSATION_EXPIRATION_MINUTES": "5",
    }
    rows = [f"2020-01-31T12:0{minute}:00Z,1,ana,widget,webchat,user\n" for minute in (0, 1, 4, 6)]
    log = write_log(",".join(HEADER) + "\n" + "".join(rows))
    assert replay(log, env=env) == simulate(messages_of(log), 1, 5)[0] != simulate(messages_of(log), 30, 1440)[0]
    assert list(Path.cwd().iterdir()) == [log.absolute()], "nothing is left behind, no lapse.db either"


def test_a_missing_sqlite_database_is_made_and_kept() -> None:
    log = write_log(",".join(HEADER) + "\n2020-01-31T12:00:00Z,1,ana,widget,webchat,user\n")
    replay(log, "--database-url", "sqlite:///kept.db")
    database = Database("sqlite:///kept.db")
    assert [tuple(row) for row in run_sql(database, "SELECT owner_id, status FROM conversations")] == [(1, "expired")]
    database.close()


def test_on_postgresql_a_missing_schema_is_for_migrate_to_make(empty_postgres_url: str) -> None:
    result = run_lapse("replay", EXAMPLE, "--database-url", empty_postgres_url, "--events", "events.csv")
    assert "run `lapse migrate`" in error_line(result, 1)
    assert not Path("events.csv").exists()
    database = Database(empty_postgres_url)
    assert run_sql(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []
    database.close()


def test_a_database_that_holds_conversations_is_refused_and_untouched(service: ConversationService) -> None:
    def everything() -> list[Any]:
        tables = ("conversations", "conversation_events", "lapse_schema_version")
        return [run_sql(service.database, f"SELECT * FROM {table}") for table in tables]

    opened = service.record_message(1, "+5511979391134", "+551130000001")
    service.close_conversation(opened.conv_id, "user_closed")
    before = everything()
    url = service.database.engine.url.render_as_string(hide_password=False)
    result = run_lapse("replay", EXAMPLE, "--json", "--database-url", url, "--events", "events.csv")
    assert "holds conversations already" in error_line(result, 1)
    assert everything() == before
    assert not Path("events.csv").exists()


OWNERS = {
    "bigint": ("7", "-8"),
    "uuid": ("0193A2B0-0000-7000-8000-00000000000A", "{ffffffff-ffff-4fff-8fff-ffffffffffff}"),
    "text": ("acme", "7 days & co"),
}


@pytest.mark.parametrize("kind", OWNERS)
@pytest.mark.parametrize("is_given", [True, False], ids=["given", "found out"])
def test_owners_of_all_types_are_replayed(tmp_path: Path, kind: str, *, is_given: bool) -> None:
    one, other = OWNERS[kind]
    rows = "".join(
        f'2020-01-31T12:0{number}:00Z,"{owner}",+5511999990001,+14155238886,whatsapp,user\n'
        for number, owner in enumerate((one, other, one))
    )
    log = write_log(",".join(HEADER) + "\n" + rows)
    url = f"sqlite:///{tmp_path}/kept.db"
    option = ["--owner-type", kind] if is_given else []
    result = run_here("replay", log, "--json", "--events", "events.csv", *option, "--database-url", url)
    assert (result.returncode, result.stderr) == (0, "")
    summary = json.loads(result.stdout)
    assert (summary["messages"], summary["conversations"]) == (3, 2)
    with Path("events.csv").open(encoding="utf-8", newline="") as events:
        owners = {row["owner_id"] for row in csv.DictReader(events)}
    assert owners == {other.strip("{}").lower() if kind == "uuid" else other, one.lower()}
    with closing(Database(url)) as database:
        assert database.shape().mapping.kinds["owner_id"] == kind


def test_the_first_owner_says_the_type_of_all_and_text_takes_any() -> None:
    rows = "2020-01-31T12:00:00Z,7,+5511999990001,+14155238886,whatsapp,user\n"
    log = write_log(",".join(HEADER) + "\n" + rows + rows.replace(",7,", ",acme,"))
    line = error_line(run_here("replay", log), 1)
    assert "line 3: owner_id 'acme' is not a whole number of at most 64 bits, as in the first message" in line
    assert "--owner-type" in line
    assert run_here("replay", log, "--owner-type", "text").returncode == 0


def test_a_database_with_owners_of_another_type_is_refused(new_database: Any, backend: str) -> None:
    url = new_database(backend)
    rows = "2020-01-31T12:00:00Z,acme,+5511999990001,+14155238886,whatsapp,user\n"
    log = write_log(",".join(HEADER) + "\n" + rows)
    line = error_line(run_here("replay", log, "--database-url", url), 1)
    assert line.startswith("the log's owners are text, those of ")
    assert line.endswith(" are bigint: use another database, or --owner-type bigint")
