"""Python without docstrings and asserts (`-OO`, PYTHONOPTIMIZE=2): lapse says and does the same."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from lapse import errors
from tests.support.commands import environment, error_line, run_lapse

OPTIMISED = {"PYTHONOPTIMIZE": "2"}
MESSAGES = """
import json
from lapse import errors
from tests.worker.test_optimised import made
print(json.dumps({type(error).__name__: str(error) for error in made(errors)}))
"""
RAISED_WITHOUT_A_MESSAGE = ("SchemaMissingError", "ConversationUnchangedError")


def made(module: Any) -> Iterator[Exception]:
    """Return one of each error, without a message where that is possible."""
    arguments = {"InvalidTransitionError": ("pending", "expired"), "ConversationAlreadyOpenError": ("1",)}
    for name, kind in vars(module).items():
        if isinstance(kind, type) and issubclass(kind, module.LapseError):
            yield kind(*arguments.get(name, ()))


def test_every_error_has_a_message_and_those_that_say_what_to_do_keep_it() -> None:
    env = environment({**OPTIMISED, "PYTHONPATH": ":".join(sys.path)})
    ran = subprocess.run([sys.executable, "-c", MESSAGES], env=env, capture_output=True, text=True, check=True)
    shown, usual = json.loads(ran.stdout), {type(error).__name__: str(error) for error in made(errors)}
    assert shown.keys() == usual.keys()
    assert all(shown.values())
    assert [shown[name] for name in RAISED_WITHOUT_A_MESSAGE] == [usual[name] for name in RAISED_WITHOUT_A_MESSAGE]
    assert "run `lapse migrate`" in shown["SchemaMissingError"]
    assert shown["ConversationNotFoundError"] == "Conversation Not Found Error"


def test_the_command_works_and_its_options_have_their_help() -> None:
    assert "run `lapse migrate`" in error_line(run_lapse("status", env=OPTIMISED), 1)
    assert "created the schema" in run_lapse("migrate", env=OPTIMISED).stdout
    ran = run_lapse("worker", "--once", env=OPTIMISED)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "Maximum time between two cycles" in run_lapse("worker", "--help", env=OPTIMISED).stdout
