"""What documents say that a test can try: their shell commands, and where their links lead."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path


def blocks(path: Path, language: str) -> list[str]:
    """Return the code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(path: Path) -> list[list[str]]:
    """Return the lines of the shell blocks, as words and without their comments."""
    lines = "\n".join(blocks(path, "sh")).splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def links(text: str) -> list[str]:
    """Return the targets of the links to files of the project, and to headings in them."""
    return [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return what a link to a heading may name."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return frozenset(re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings)


def leads_somewhere(target: str, document: Path) -> bool:
    """Tell whether a link in a document leads to a file that is there, and to a heading in it."""
    path, _, anchor = target.partition("#")
    found = document.parent / path if path else document
    return found.exists() and (not anchor or anchor in anchors(found))
