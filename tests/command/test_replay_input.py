"""Bad logs: named with their line and reason, and nothing is loaded, unless the user says to leave the lines out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lapse import ConversationService
from lapse.store import Database
from tests.support.commands import error_line, run_here, run_lapse
from tests.support.sql import count

HEADER = "at,owner_id,from_number,to_number,channel,sender\n"
GOOD = "2020-01-31T12:00:00Z,1,+5511999990001,+14155238886,whatsapp,user\n"
SECRET_ADDRESS = "+5511999990002"


def line(**fields: str) -> str:
    """Return a good line but for these fields; its address must never be shown."""
    good = {
        "at": "2020-01-31T12:00:00Z",
        "owner_id": "1",
        "from_number": SECRET_ADDRESS,
        "to_number": "+14155238886",
        "channel": "whatsapp",
        "sender": "user",
    }
    return ",".join((good | fields).values()) + "\n"


BAD_LINES = [
    (line(at="2020-01-31T12:00:00"), "2020-01-31T12:00:00 has no time zone"),
    (line(at="31/01/2020 12:00"), "unreadable time '31/01/2020 12:00'"),
    (line(at=""), "unreadable time ''"),
    (line(at="1580472000"), "unreadable time '15*****'"),
    (line(at="2020-02-30T12:00:00Z"), "unreadable time '2020-02-30T12:00:00Z'"),
    (line(at="0001-01-01T00:00:00+12:00"), "is not between the years 2 and 9900 in UTC"),
    (line(at="0001-12-31T23:59:59Z"), "is not between the years 2 and 9900 in UTC"),
    (line(at="9901-01-01T00:00:00Z"), "is not between the years 2 and 9900 in UTC"),
    (line(at="9900-12-31T23:59:59-12:00"), "is not between the years 2 and 9900 in UTC"),
    (line(at="9999-12-31T23:59:59-12:00"), "is not between the years 2 and 9900 in UTC"),
    (line(sender="robot"), "unknown sender 'robot'"),
    (line(sender="User"), "unknown sender 'User'"),
    (line(sender=""), "unknown sender ''"),
    (line(to_number=""), "an address is empty"),
    (line(to_number="whatsapp:"), "an address on channel whatsapp is empty"),
    (line(to_number="+1415\x07"), "control character U+0007"),
    (line(to_number="a" * 321), "321 characters"),
    (line(to_number=f"whatsapp:{SECRET_ADDRESS}"), "a conversation needs two different addresses"),
    (line(channel=""), "is not a channel's name"),
    (line(channel="whats app"), "channel 'whats app' is not a channel's name"),
    (line(owner_id="ACME"), "owner_id 'ACME' is not a whole number"),
    (line(owner_id=""), "owner_id '' is not a whole number"),
    (line(owner_id="1.5"), "owner_id '1.5' is not a whole number"),
    (line(owner_id=str(2**63)), "owner_id '92233*****5808' is not a whole number"),
    (line(owner_id="9" * 5_000), "is not a whole number of at most 64 bits"),
    (line().replace(",user\n", "\n"), "column 'sender' is missing"),
    (line().replace("\n", ",more\n"), "7 fields for 6 columns"),
    ("2020-01-31T12:00:00Z\n", "column 'owner_id' is missing"),
    (line(owner_id="1\x00"), "is not a whole number"),
    # Columns that were swapped: an address is no less personal in the wrong place.
    *((line(**{column: SECRET_ADDRESS}), "+5511*****0002") for column in ("at", "channel", "sender")),
    *(
        (line(**{column: "+55 (11) 99999-0002"}), "+55 (*****0002")
        for column in ("at", "channel", "sender", "owner_id")
    ),
    (line(owner_id="ana.secret@example.com"), "owner_id 'ana.s*****.com' is not"),
]


def write_log(text: str | bytes) -> Path:
    path = Path("log.csv")
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(("bad", "reason"), BAD_LINES)
def test_a_bad_line_is_named_with_its_number_and_the_reason(bad: str, reason: str) -> None:
    log = write_log(HEADER + GOOD + bad + GOOD)
    result = run_here("replay", log, "--events", "events.csv", "--database-url", "sqlite:///kept.db")
    message = error_line(result, 1)
    assert message.startswith("log.csv, line 3: ")
    assert reason in message
    assert "--skip-bad" in message
    for secret in (SECRET_ADDRESS, "99999-0002", "ana.secret"):
        assert secret not in result.stderr
    assert [path.name for path in Path.cwd().iterdir()] == ["log.csv"], "nothing was loaded or written"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "log.csv is empty"),
        (b"\n\r\n", "log.csv is empty"),
        ("\ufeff".encode(), "log.csv is empty"),
        (HEADER.replace("channel,", "").encode(), "line 1: has no column 'channel'"),
        (HEADER.replace("channel", "Channel").encode(), "line 1: has no column 'channel'"),
        (HEADER.replace(",", ";").encode(), "line 1: has no column 'at'"),
        (GOOD.encode(), "line 1: has no column 'at'"),
        (("at," + HEADER).encode(), "line 1: has more than one column 'at'"),
        ((HEADER + GOOD).encode("utf-16"), "log.csv is not UTF-8 text"),
        ((HEADER + GOOD + line(to_number="Zoë")).encode("latin-1"), "log.csv is not UTF-8 text"),
    ],
)
@pytest.mark.parametrize("skip_bad", [[], ["--skip-bad"]], ids=["strict", "skip-bad"])
def test_a_file_that_is_no_log_is_refused_whole(text: bytes, reason: str, skip_bad: list[str]) -> None:
    result = run_here("replay", write_log(text), "--events", "events.csv", *skip_bad)
    assert reason in error_line(result, 1)
    assert not Path("events.csv").exists()


def test_the_number_of_a_line_counts_lines_within_quotes_and_blank_ones() -> None:
    quoted = line(to_number='"web\n\nvisitor"')
    message = error_line(run_here("replay", write_log(HEADER + "\n" + GOOD + quoted + line(sender="robot"))), 1)
    assert message.startswith("log.csv, line 4: an address has the control character U+000A")
    assert "and 1 more bad line)" in message


def test_a_field_of_unreasonable_length_is_a_bad_line() -> None:
    message = error_line(run_here("replay", write_log(HEADER + GOOD + line(to_number="a" * 200_000))), 1)
    assert message.startswith("log.csv, line 3: ")


LONE_QUOTES = [
    pytest.param(line(from_number='"+5511999990003'), id="before a field"),
    pytest.param(line(sender='"user'), id="before the last field"),
    pytest.param(line(at='"2020-01-31T12:00:00Z'), id="before the first field"),
    pytest.param(line(sender='"'), id="a field of its own"),
]


@pytest.mark.parametrize("behind", [GOOD * 3, GOOD + line(to_number='"+14155238886"') + GOOD, GOOD * 2_000, "\n", ""])
@pytest.mark.parametrize("lone", LONE_QUOTES)
def test_a_quote_that_nobody_closed_costs_one_line(lone: str, behind: str) -> None:
    log = write_log(HEADER + GOOD + lone + behind)
    good = 1 + behind.count("user")
    result = run_here("replay", log, "--skip-bad", "--json")
    assert json.loads(result.stdout)["messages"] == good
    assert result.stderr.startswith("left out 1 bad line, the first is line 3: not CSV: a quote opens a field")
    message = error_line(run_here("replay", log), 1)
    assert message.startswith("log.csv, line 3: not CSV: a quote opens a field")
    assert "more bad" not in message


def test_every_lone_quote_costs_its_own_line() -> None:
    lone = line(from_number='"+5511999990003')
    result = run_here("replay", write_log(HEADER + (lone + GOOD) * 50 + lone * 2 + GOOD), "--skip-bad", "--json")
    assert json.loads(result.stdout)["messages"] == 51
    assert "left out 52 bad lines" in result.stderr


def test_a_text_in_quotes_may_go_on_over_lines() -> None:
    text = HEADER.replace("sender\n", 'sender,"the\ntext"\n')
    text += GOOD.replace("user\n", f'user,"He said ""hello"",\n\n{GOOD}and went"\n') * 2 + GOOD.replace("\n", ",\n")
    result = run_here("replay", write_log(text), "--json")
    assert json.loads(result.stdout)["messages"] == 3
    assert result.stderr == ""


@pytest.mark.parametrize(
    "moments",
    [
        ["1970-01-01T00:00:00+14:00", "1969-12-31T12:00:00Z", "1970-01-01T12:00:00Z"],
        ["0002-01-01T00:00:00Z", "0002-01-01T02:00:00Z", "0002-01-01T04:00:00Z"],
        ["0001-12-31T12:00:00-12:00", "0002-01-01T12:00:00+10:00", "0002-01-01T23:00:00Z"],
        ["1899-12-30T00:00:00+05:53:28", "1899-12-30T00:00:00Z", "1899-12-30T23:59:59.999999-14:00"],
        ["9900-12-31T00:00:00Z", "9900-12-31T02:00:00Z", "9900-12-31T23:59:59.999999Z"],
    ],
)
def test_whatever_the_year_no_pause_is_lost(moments: list[str], database_url: str) -> None:
    log = write_log(HEADER + "".join(line(at=moment) for moment in moments))
    result = run_here("replay", log, "--json", "--expiration-minutes", "2880", "--database-url", database_url)
    found = json.loads(result.stdout)
    assert (found["idle_timeouts"], found["conversations"], found["expired"]) == (3, 1, 1)
    assert found["reactivations"] == 2


def test_a_log_without_messages_opens_nothing() -> None:
    result = run_here("replay", write_log(HEADER), "--json", "--events", "events.csv")
    assert json.loads(result.stdout) == dict.fromkeys(
        ["messages", "conversations", "idle_timeouts", "reactivations", "expired"], 0
    )
    assert Path("events.csv").read_text(encoding="utf-8").count("\n") == 1
    assert "no conversations" in run_here("replay", write_log(HEADER)).stdout


def test_nothing_of_a_bad_log_reaches_a_database_that_is_there(database_url: str) -> None:
    result = run_lapse("replay", write_log(HEADER + GOOD + line(sender="robot")), "--database-url", database_url)
    assert error_line(result, 1).startswith("log.csv, line 3: unknown sender 'robot'")
    service = ConversationService(database_url)
    assert service.conversation_repo.is_empty()
    service.close()


def test_skip_bad_leaves_bad_lines_out_and_counts_them() -> None:
    text = HEADER + "".join(GOOD + bad for bad, _ in BAD_LINES)
    result = run_lapse("replay", write_log(text), "--skip-bad", "--json", "--database-url", "sqlite:///kept.db")
    assert result.returncode == 0, result
    assert json.loads(result.stdout)["messages"] == len(BAD_LINES)
    assert result.stderr.count("\n") == 1
    assert f"left out {len(BAD_LINES)} bad lines, the first is line 3: " in result.stderr
    assert SECRET_ADDRESS not in result.stderr
    database = Database("sqlite:///kept.db")
    assert count(database, "conversations") == 1
    database.close()


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["replay"], 2, "missing argument"),
        (["replay", "missing.csv"], 2, "does not exist"),
        (["replay", "."], 2, "is a directory"),
        (["replay", "log.csv", "--events", "nowhere/events.csv"], 2, "--events"),
        (["replay", "log.csv", "--events", "."], 2, "is a directory"),
        (["replay", "log.csv", "--idle-minutes", "0"], 2, "--idle-minutes 0 is not usable"),
        (["replay", "log.csv", "--idle-minutes", "nan"], 2, "--idle-minutes nan is not usable"),
        (["replay", "log.csv", "--expiration-minutes", "-1"], 2, "--expiration-minutes -1 is not usable"),
        (["replay", "log.csv", "--expiration-minutes", "soon"], 2, "--expiration-minutes"),
        (["replay", "log.csv", "--database-url", "mysql://host/live"], 2, "cannot use"),
        (["replay", "log.csv", "--database-url", ""], 2, "database URL"),
    ],
)
def test_wrong_use_is_said_in_one_line(arguments: list[str], code: int, reason: str) -> None:
    write_log(HEADER + GOOD)
    assert reason.lower() in error_line(run_here(*arguments), code).lower()


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to])
def test_the_log_itself_is_not_overwritten_by_its_events(make: Callable[[Path, str], None]) -> None:
    write_log(HEADER + GOOD)
    make(Path("link.csv"), "log.csv")
    before = Path("log.csv").read_bytes()
    for name in ("log.csv", "./log.csv", "link.csv"):
        assert "is the log itself" in error_line(run_here("replay", "log.csv", "--events", name), 2)
    assert Path("log.csv").read_bytes() == before


def test_a_file_that_cannot_be_written_is_said_in_one_line() -> None:
    write_log(HEADER + GOOD)
    assert "/dev/full" in error_line(run_lapse("replay", "log.csv", "--events", "/dev/full"), 1)
