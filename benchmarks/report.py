"""docs/performance.md, made from the results: no number in it was typed by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.registry import NAMES, Benchmark, benchmark
from benchmarks.results import FOLDER, Figure, Record, read_records

DOCUMENT = ROOT / "docs" / "performance.md"
TEMPLATE = Path(__file__).with_name("performance.template.md")
NOTES = Path(__file__).parent / "notes"


def text_of(folder: Path = FOLDER) -> str:
    """Return the document that belongs to these results."""
    records = {name: record for name, record in read_records(folder).items() if name in NAMES}
    parts = {
        "table": table(records),
        "circumstances": circumstances(records),
        "details": "\n\n".join(section(benchmark(name), records.get(name), records) for name in NAMES),
    }
    return filled(TEMPLATE.read_text(encoding="utf-8"), parts, records)


def table(records: dict[str, Record]) -> str:
    """Return the figures that have a goal."""
    rows = ["| figure | goal | measured | reached |", "| --- | --- | --- | --- |"]
    for name in NAMES:
        if name not in records:
            rows.append(f"| [{benchmark(name).title}](#{anchor(benchmark(name).title)}) | | not measured | |")
            continue
        for figure in records[name].outcome.figures:
            if figure.goal:
                verdict = "yes" if figure.is_reached else "**no**"
                link = f"[{figure.name}](#{anchor(benchmark(name).title)})"
                rows.append(f"| {link} | {goal(figure)} | {measured(figure)} | {verdict} |")
    return "\n".join(rows)


def circumstances(records: dict[str, Record]) -> str:
    """Return on what machine, when and with what the results were found; once for each that differs."""
    groups: dict[str, list[str]] = {}
    for name in (name for name in NAMES if name in records):
        groups.setdefault(_circumstances_of(records[name]), []).append(name)
    if len(groups) == 1:
        return next(iter(groups))
    return "\n\n".join(f"{', '.join(names)}:\n\n{text}" for text, names in groups.items())


def section(found: Benchmark, record: Record | None, records: dict[str, Record]) -> str:
    """Return what there is to say of one benchmark."""
    parts = [f"### {found.title}", found.method]
    if record is None:
        return "\n\n".join([*parts, "Not measured."])
    parts.append("\n".join(f"- {figure.name}: {measured(figure)}" for figure in record.outcome.figures))
    if found.plot:
        parts.append(f"![{found.title}](../benchmarks/plots/{found.name}.svg)")
    note = NOTES / f"{found.name}.md"
    if note.exists():
        parts.append(filled(note.read_text(encoding="utf-8").strip(), {}, records))
    for name, text in record.outcome.texts.items():
        parts.append(f"<details><summary>{found.name}: {name}</summary>\n\n```text\n{text.rstrip()}\n```\n\n</details>")
    numbers = ", ".join(
        f"{key.replace('_', ' ')} {_spelled(value)}" for key, value in record.outcome.parameters.items()
    )
    parts.append(f"Every number: [`{found.name}.json`](../benchmarks/results/{found.name}.json) ({numbers}).")
    return "\n\n".join(part for part in parts if part)


def filled(template: str, parts: dict[str, str], records: dict[str, Record]) -> str:
    """Put parts (`{{table}}`) and figures (`{{ending: against the bare pair}}`) in their places.

    Raises:
        KeyError: there is no such part.
    """

    def value(found: re.Match[str]) -> str:
        name, colon, figure = found[1].partition(": ")
        if not colon:
            return parts[name]
        measured_one = records[name].figure(figure) if name in records else None
        return measured(measured_one) if measured_one else "(not measured)"

    return re.sub(r"\{\{(.+?)\}\}", value, template)


# --- spelling ---------------------------------------------------------------------------------------------------------


def measured(figure: Figure) -> str:
    """Spell a number with its unit."""
    return _with_unit(figure.measured, figure.unit)


def goal(figure: Figure) -> str:
    """Spell a goal, or nothing."""
    if figure.goal is None:
        return ""
    return ("≤ " if figure.goal.at_most else "≥ ") + _with_unit(figure.goal.bound, figure.unit, exact=True)


def anchor(title: str) -> str:
    """Return how a heading is linked."""
    return re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-")


def _with_unit(number: float, unit: str, *, exact: bool = False) -> str:
    if exact or number == round(number):
        text = f"{number:,.10g}"
    else:
        digits = 0 if abs(number) >= 100 else 1 if abs(number) >= 10 else 2
        text = f"{number:,.{digits}f}"
    spaced = unit if unit == "%" else f" {unit}"
    return text + (" a second" if unit == "1/s" else spaced).rstrip()


def _circumstances_of(record: Record) -> str:
    machine, versions = record.machine, record.versions
    scaled = [f"{name} x {share:g}" for name, share in record.scale.items() if share != 1]
    lines = [
        f"- **Date**: {record.date}",
        f"- **Machine**: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, {machine['system']}; "
        f"{machine['disk']}, where an `fdatasync` of a page takes {machine['fdatasync_ms']} ms (median); "
        f"load average before the run: {machine['load_before']}",
        "- **Versions**: " + ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    if record.server_settings:
        settings = ", ".join(f"`{name} = {value}`" for name, value in record.server_settings.items())
        lines.append(f"- **PostgreSQL**, on the same machine: {settings}; otherwise its defaults")
    if scaled:
        lines.append(f"- **This was a smaller run** ({', '.join(scaled)}): its figures are only a hint.")
    return "\n".join(lines)


def _spelled(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(_spelled(one) for one in value)
    return f"{value:,}" if isinstance(value, int) else str(value)
