"""The documents are true: their programs run, their commands exist, their tables are the code's."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lapse import ConversationStatus, EventType, Settings
from lapse.lifecycle import SENDER_RULES, TRANSITIONS
from lapse.messages import Outcome
from tests.support import documents

ROOT = Path(__file__).parents[2]
READMES = ["README.md", "README.pt-BR.md"]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("examples/*.md"),
        *ROOT.glob("deploy/**/*.md"),
    ]
)


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    return documents.blocks(ROOT / document, language)


def run(*command: str, cwd: Path | None = None) -> str:
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def commands(document: str) -> list[list[str]]:
    return documents.commands(ROOT / document)


@pytest.mark.parametrize("document", READMES)
def test_the_programs_of_a_readme_run_one_after_the_other(document: str) -> None:
    first, second = blocks(document, "python")
    shown = run(sys.executable, "-c", first).splitlines()
    assert shown[0] == "pending"
    assert [line.split()[2:5] for line in shown[1:]] == [
        ["pending", "→", "progress"],
        ["progress", "→", "agent_closed"],
    ]
    assert run(sys.executable, "-c", second).splitlines()[-1] == "0"


def test_the_programs_on_messages_run_one_after_the_other() -> None:
    first, second = blocks("docs/messages.md", "python")
    shown = run(sys.executable, "-c", f"{first}\nmessages = []\n{second}\nprint(failed)")
    assert shown == "opened pending\n[]\n"


def table_of(document: str, first_cell: str) -> list[list[str]]:
    """Return the cells of the rows of the table that begins with this cell."""
    _, table = text_of(document).split(f"| {first_cell} |", 1)
    rows = table.split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_table_of_senders_is_that_of_the_code() -> None:
    shown = {}
    for senders, _, activity, answers, opens in table_of("docs/messages.md", "`sender`"):
        for sender in re.findall(r"`(\w+)`", senders):
            words = [cell.replace("*", "").split()[0].strip(",:") == "yes" for cell in (activity, answers, opens)]
            shown[sender] = (*words, *re.findall(r"as `(\w+)`", opens))
    assert shown == {
        sender.value: (rule.is_activity, rule.answers, rule.opens, *([rule.opens_as.value] if rule.opens else []))
        for sender, rule in SENDER_RULES.items()
    }


def test_the_table_of_outcomes_is_that_of_the_code() -> None:
    assert [row[0].strip("`") for row in table_of("docs/messages.md", "`outcome`")] == [one.value for one in Outcome]


@pytest.mark.parametrize("document", READMES)
def test_library_use_takes_about_ten_lines(document: str) -> None:
    code = [line for line in blocks(document, "python")[0].splitlines() if line and not line.startswith("#")]
    assert len(code) <= 10


def test_the_commands_of_the_readmes_run() -> None:
    lapse, in_portuguese = ([words[1:] for words in commands(name) if words[0] == "lapse"] for name in READMES)
    assert lapse == in_portuguese
    assert [arguments[0] for arguments in lapse] == ["replay", "migrate", "worker", "status"]
    for arguments in lapse:
        once = ["--once"] if arguments[0] == "worker" else []
        absolute = [str(ROOT / word) if word.startswith("examples/") else word for word in arguments]
        run(sys.executable, "-m", "lapse", *absolute, *once)
    assert Path("transitions.csv").read_text(encoding="utf-8").count("\n") > 1_000


def test_the_demo_prints_what_the_readmes_say() -> None:
    ((shown,), (shown_in_portuguese,)) = (blocks(document, "text") for document in READMES)
    assert shown == shown_in_portuguese
    printed = run(sys.executable, "-m", "lapse", "replay", str(ROOT / "examples/customer_care.csv"))
    assert printed.startswith(shown)


@pytest.mark.parametrize("document", [*READMES, "CONTRIBUTING.md"])
def test_the_targets_of_make_exist(document: str) -> None:
    targets = [words[1] for words in commands(document) if words[0] == "make"]
    assert targets
    makefile = text_of("Makefile")
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("document", READMES)
def test_the_table_of_settings_is_that_of_the_code(document: str) -> None:
    rows = re.findall(r"^\| `([A-Z_]+)` \|[^|]*\| ([^|]*) \|", text_of(document), re.MULTILINE)
    # A default that is no value, such as "no limit", is said in words.
    assert {variable: shown.strip("`") if "`" in shown else None for variable, shown in rows} == {
        field.alias: str(field.default).lower() if field.default is True else field.default and str(field.default)
        for field in Settings.model_fields.values()
    }


def test_the_two_readmes_have_the_same_parts() -> None:
    one, other = (text_of(document) for document in READMES)
    for pattern in (r"^#+ ", r"^\| ", r"^- \*\*", r"^```", r"\]\((?!README)"):
        assert len(re.findall(pattern, one, re.MULTILINE)) == len(re.findall(pattern, other, re.MULTILINE)), pattern


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for target in documents.links(text_of(document)):
        assert documents.leads_somewhere(target, ROOT / document), target


def test_files_that_contributing_names_exist() -> None:
    named = re.findall(r"`((?:src|tests)/[\w/.]+)`", text_of("CONTRIBUTING.md"))
    assert len(named) > 10
    for name in named:
        assert (ROOT / name).exists(), name


def test_the_diagram_shows_exactly_the_transitions() -> None:
    (diagram,) = blocks("docs/lifecycle.md", "mermaid")
    drawn = set(re.findall(r"^ +(\w+) --> (\w+):", diagram, re.MULTILINE))
    closed = set(ConversationStatus.closed_statuses())
    expected = {
        (str(old), "closed" if new in closed else str(new))
        for old, following in TRANSITIONS.items()
        for new in following
    }
    assert drawn == expected
    assert set(re.findall(r"^ {8}(\w+)$", diagram, re.MULTILINE)) == closed


def test_the_lifecycle_names_every_type_of_event() -> None:
    rows = re.findall(r"^\| `(\w+)` \|[^|]*→", text_of("docs/lifecycle.md"), re.MULTILINE)
    assert set(rows) == set(EventType)
