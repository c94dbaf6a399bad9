"""What a benchmark returns, and the files in which it is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure should be: at least, or at most, so much."""

    bound: float
    at_most: bool = False

    def is_reached_by(self, measured: float) -> bool:
        """Tell whether this number is good enough."""
        return measured <= self.bound if self.at_most else measured >= self.bound


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a reader is given, with its goal where it has one."""

    name: str
    measured: float
    unit: str = ""
    goal: Goal | None = None

    @property
    def is_reached(self) -> bool | None:
        """Tell whether it is as good as its goal; None where it has none."""
        return None if self.goal is None else self.goal.is_reached_by(self.measured)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one benchmark found: its figures, what it was run with, every raw number, and texts such as plans."""

    figures: list[Figure]
    parameters: dict[str, Any]
    raw: dict[str, Any]
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Record:
    """An outcome as it is kept, with where and when."""

    benchmark: str
    date: str
    scale: dict[str, float]
    seconds: float
    machine: dict[str, Any]
    versions: dict[str, str]
    server_settings: dict[str, str]
    outcome: Outcome

    def figure(self, name: str) -> Figure | None:
        """Return the figure of this name, None where this run has none."""
        return next((figure for figure in self.outcome.figures if figure.name == name), None)


def write_record(folder: Path, record: Record) -> None:
    """Keep a record as JSON, and each of its texts in a file beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{record.benchmark}.*.txt"):
        old.unlink()
    for name, text in record.outcome.texts.items():
        (folder / f"{record.benchmark}.{name}.txt").write_text(text.rstrip() + "\n", encoding="utf-8")
    document = asdict(record)
    del document["outcome"]["texts"]
    (folder / f"{record.benchmark}.json").write_text(_spelled(document), encoding="utf-8")


def read_records(folder: Path = FOLDER) -> dict[str, Record]:
    """Return the records that are kept, by benchmark."""
    return {path.stem: _read(path) for path in sorted(folder.glob("*.json"))}


def _read(path: Path) -> Record:
    document = json.loads(path.read_text(encoding="utf-8"))
    outcome = document.pop("outcome")
    figures = [
        Figure(**{**figure, "goal": Goal(**figure["goal"]) if figure["goal"] else None})
        for figure in outcome.pop("figures")
    ]
    texts = {
        text.name.removeprefix(f"{path.stem}.").removesuffix(".txt"): text.read_text(encoding="utf-8").rstrip()
        for text in sorted(path.parent.glob(f"{path.stem}.*.txt"))
    }
    return Record(**document, outcome=Outcome(**outcome, figures=figures, texts=texts))


def _spelled(document: dict[str, Any]) -> str:
    """Spell JSON with a line per thing, but lists of numbers on one line."""
    text = json.dumps(document, indent=1, ensure_ascii=False)
    return (
        re.sub(
            r"\[[\d\s,.eE+-]+\]",
            lambda found: re.sub(r"\s+", " ", found[0]).replace("[ ", "[").replace(" ]", "]"),
            text,
        )
        + "\n"
    )


# --- numbers ----------------------------------------------------------------------------------------------------------


def median(values: Iterable[float]) -> float:
    """Return the middle one, or the mean of both."""
    return quantile(sorted(values), 0.5)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which this share lies, between two neighbours if need be."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def quantiles(values: Iterable[float], parts: int = 1000, digits: int = 3) -> list[float]:
    """Return the values at 0, 1, … `parts` of `parts`: a distribution in few numbers, its ends among them."""
    ordered = sorted(values)
    return [round(quantile(ordered, part / parts), digits) for part in range(parts + 1)]
