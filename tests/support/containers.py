"""What the container files of deploy/ say, read back, and the programs that judge them."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from tests.support.commands import LAPSE, run_program
from tests.support.require_program import missing

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "docker/Dockerfile"
IGNORE_FILE = DEPLOY / "docker/Dockerfile.dockerignore"
COMPOSE_FILE = DEPLOY / "docker/compose.yaml"


class Instruction(NamedTuple):
    """One instruction of a Dockerfile, its continued lines joined."""

    name: str
    arguments: str


class Mount(NamedTuple):
    """What of the host is where in a container; a named volume has no source."""

    source: Path | None
    target: PurePosixPath
    is_read_only: bool


def load_yaml(path: Path) -> Any:
    """Return what a YAML file holds."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def instructions() -> list[Instruction]:
    """Return the Dockerfile's instructions, from the first stage to the last."""
    lines = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def last_stage() -> list[Instruction]:
    """Return the instructions of the stage that becomes the image."""
    found = instructions()
    return found[max(number for number, (name, _) in enumerate(found) if name == "FROM") :]


def argument_of(name: str) -> str:
    """Return the argument of the instruction that the last stage has once."""
    (argument,) = [arguments for found, arguments in last_stage() if found == name]
    return argument


def exec_form(arguments: str) -> list[str]:
    """Return the words of a command in exec form; in shell form it is no JSON."""
    words: list[str] = json.loads(arguments)
    return words


def environment() -> dict[str, str]:
    """Return the variables that the image sets."""
    return dict(re.findall(r'(\w+)=("[^"]*"|\S+)', argument_of("ENV")))


def services() -> dict[str, dict[str, Any]]:
    """Return the services of the Compose file, with what they inherit."""
    found: dict[str, dict[str, Any]] = load_yaml(COMPOSE_FILE)["services"]
    return found


def mounts(service: str) -> list[Mount]:
    """Return what a service mounts."""
    found = []
    for entry in services()[service].get("volumes", []):
        source, target, *options = entry.split(":")
        path = (COMPOSE_FILE.parent / source).resolve() if source.startswith(".") else None
        found.append(Mount(path, PurePosixPath(target), options == ["ro"]))
    return found


def file_behind(service: str, path: str) -> Path:
    """Return the repository's file that a container sees at a path.

    Raises:
        FileNotFoundError: nothing of the repository is mounted there.
    """
    for mount in mounts(service):
        if mount.source and PurePosixPath(path).is_relative_to(mount.target):
            return mount.source / PurePosixPath(path).relative_to(mount.target)
    raise FileNotFoundError(path)


def tool(name: str, package: str) -> str:
    """Return a program's path; skip where there is none, for all to see, and fail where CI asks for everything."""
    beside_python = Path(sys.executable).parent / name
    path = str(beside_python) if beside_python.exists() else shutil.which(name)
    if path is None:
        missing(f"there is no {name} on this machine ({package} has it)")
    return path


def run(*command: str | Path) -> tuple[int, str]:
    """Return a program's exit status and all that it wrote."""
    finished = run_program(*command)
    return finished.returncode, finished.stdout + finished.stderr


def help_of(*arguments: str) -> tuple[int, str]:
    """Ask lapse for the help of a command; one that does not exist, or an option that does not, is an error."""
    return run(*LAPSE, *arguments, "--help")
