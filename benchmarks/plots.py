"""Pictures of what the benchmarks found, as SVG: from the results that are kept, so that they can be drawn again."""

from __future__ import annotations

from pathlib import Path

from benchmarks.registry import NAMES, Benchmark, benchmark
from benchmarks.results import read_records

FOLDER = Path(__file__).parent / "plots"


def drawn() -> list[Benchmark]:
    """Return the benchmarks that have a picture."""
    return [found for name in NAMES if (found := benchmark(name)).plot]


def draw_all(results: Path, folder: Path) -> None:
    """Draw all that there are results for."""
    import matplotlib as mpl

    mpl.use("Agg")
    # Text as text, and no random ids: small files that only change with their numbers.
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "lapse", "axes.grid": True, "grid.alpha": 0.3})
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    records = read_records(results)
    for found in drawn():
        if found.plot is None or found.name not in records:
            continue
        figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
        found.plot(axes, records[found.name].outcome.raw)
        axes.set_title(found.title)
        figure.savefig(folder / f"{found.name}.svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
