"""`python -m benchmarks`: run all benchmarks or some, or make docs/performance.md from what they found."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import machine, plots, report
from benchmarks.bench import QUICK, Bench, Scale, complain
from benchmarks.processes import forget_settings
from benchmarks.registry import NAMES, benchmark
from benchmarks.results import FOLDER, Outcome, Record, write_record


def main() -> int:
    """Do what the command line says, and return 1 if a benchmark failed."""
    arguments = parse()
    if arguments.names == ["report"]:
        make_report(arguments.out)
        return 0
    scale = QUICK if arguments.quick else Scale(arguments.rows, arguments.seconds, arguments.rounds)
    names = arguments.names or list(NAMES)
    begin = time.monotonic()
    failed = run_all(names, scale, arguments.postgresql, arguments.out)
    if not arguments.quick:
        make_report(arguments.out)
    print(
        f"{len(names) - len(failed)} of {len(names)} benchmarks ran in {minutes(time.monotonic() - begin)}", flush=True
    )
    if failed:
        complain(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"report, or some of: {', '.join(NAMES)} [default: all]"
    )
    parser.add_argument("--quick", action="store_true", help="see that they run: tiny, and the figures mean nothing")
    parser.add_argument("--rows", type=float, default=1.0, metavar="SHARE", help="of the rows, for a smaller run")
    parser.add_argument("--seconds", type=float, default=1.0, metavar="SHARE", help="of the durations")
    parser.add_argument("--rounds", type=float, default=1.0, metavar="SHARE", help="of the rounds")
    parser.add_argument(
        "--postgresql", type=int, metavar="MAJOR", help="version of the server [default: 15 if it is here]"
    )
    parser.add_argument(
        "--out", type=Path, default=FOLDER, metavar="FOLDER", help="where results go [default: %(default)s]"
    )
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in NAMES and arguments.names != ["report"]]:
        parser.error(f"there is no benchmark {', '.join(unknown)}: use {', '.join(NAMES)}")
    arguments.out = arguments.out.absolute()
    return arguments


def run_all(names: list[str], scale: Scale, major: int | None, out: Path) -> list[str]:
    """Run these benchmarks, keep what they find, and return the names of those that failed."""
    forget_settings()
    facts, versions = machine.describe_machine(), machine.describe_versions()
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="lapse-bench-") as folder:
        os.chdir(folder)  # away from any .env
        bench = Bench(scale, major, Path(folder))
        try:
            for name in names:
                begin = time.monotonic()
                print(f"{name} …", flush=True)
                try:
                    outcome = benchmark(name).run(bench)
                    seconds = time.monotonic() - begin
                    write_record(out, record(name, outcome, bench, facts, versions, seconds))
                except Exception:
                    traceback.print_exc()
                    failed.append(name)
                    continue
                print_figures(outcome, seconds, judge=scale != QUICK)
        finally:
            os.chdir(machine.ROOT)
            bench.close()
    return failed


def record(
    name: str, outcome: Outcome, bench: Bench, facts: dict[str, object], versions: dict[str, str], seconds: float
) -> Record:
    """Add where, when and with what."""
    server = bench.started_server
    scale = {"rows": bench.scale.rows, "seconds": bench.scale.seconds, "rounds": bench.scale.rounds}
    return Record(
        benchmark=name,
        date=datetime.now(UTC).date().isoformat(),
        scale=scale,
        seconds=round(seconds, 1),
        machine=facts,
        versions=versions | ({"postgresql": server.version} if server else {}),
        server_settings=server.settings if server else {},
        outcome=outcome,
    )


def print_figures(outcome: Outcome, seconds: float, *, judge: bool) -> None:
    """Say what was found."""
    for figure in outcome.figures:
        verdict = {True: "reached", False: "MISSED", None: ""}[figure.is_reached if judge else None]
        print(f"  {figure.name}: {report.measured(figure)} {report.goal(figure)} {verdict}".rstrip())
    print(f"  took {minutes(seconds)}", flush=True)


def make_report(folder: Path) -> None:
    """Draw the plots and write the document, for the results that belong to the tree; elsewhere beside these."""
    document = report.DOCUMENT if folder == FOLDER else folder / "performance.md"
    document.write_text(report.text_of(folder), encoding="utf-8")
    print(f"wrote {document}", flush=True)
    plots.draw_all(folder, plots.FOLDER if folder == FOLDER else folder)


def minutes(seconds: float) -> str:
    """Spell a time for a reader."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    sys.exit(main())
