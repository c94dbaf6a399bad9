"""The dashboard: Prometheus understands its queries, its panels have their places, its red is where alerts fire."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.promql import alerts, dashboard, dashboard_queries, metrics_asked_for
from tests.support.promtool import promtool, said

COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
PANELS = [panel for panel in dashboard()["panels"] if panel["type"] != "row"]
QUESTIONS = ["Is it on time?", "Is it working?", "What is it doing?", "What does it cost?"]

EXPORTED = {
    *(
        f"{histogram}_{series}"
        for histogram in ("background_task_duration_seconds", "lapse_transition_lag_seconds")
        for series in ("bucket", "sum", "count")
    ),
    "background_conversations_processed_total",
    "background_task_failures_total",
    "active_conversations",
    "lapse_oldest_due_seconds",
    "lapse_task_last_success_timestamp_seconds",
    "lapse_conversations_rearmed_total",
    "lapse_conversations_contended_total",
    "lapse_conversations_refused_total",
    "lapse_conversations_quarantined",
    "lapse_worker_info",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_start_time_seconds",
}
COUNTERS = re.compile(r"\w+_(?:total|bucket|sum|count)(?=\{)")
RED_OF_ALERTS = {
    "Lag, p99": "LapseTransitionLag",
    "How late conversations end": "LapseTransitionLag",
    "Oldest due": "LapseOldestDue",
    "How long the oldest due one waits": "LapseOldestDue",
    "Since the latest success": "LapseNoRecentSuccess",
    "Time since the latest success": "LapseNoRecentSuccess",
    "Failures": "BackgroundTaskFailureRate",
    "How long runs take": "BackgroundTaskSlow",
}


def everything(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key with its value, however deep."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield str(key), inner
        yield from everything(inner)


def title_of(panel: dict[str, Any]) -> str:
    return str(panel["title"])


def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    queries = dashboard_queries()
    assert len(queries) > len(PANELS)
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    finished = promtool("check", "rules", file)
    assert finished.returncode == 0, said(finished)
    assert f"SUCCESS: {len(queries)} rules found" in said(finished)


def test_every_metric_is_one_that_a_worker_exports() -> None:
    assert metrics_asked_for() - EXPORTED == set()


@pytest.mark.parametrize("query", dashboard_queries())
def test_a_query_is_right_with_several_workers_and_after_their_restarts(query: str) -> None:
    # Counters begin anew with their worker: rates come before sums. Gauges of the database are the same everywhere.
    for counter in COUNTERS.findall(query):
        assert re.search(rf"\bsum by \([\w, ]+\) \((?:rate|increase)\({counter}\{{", query), counter
    for same in ("active_conversations", "lapse_oldest_due_seconds", "lapse_conversations_quarantined"):
        assert same not in query or re.search(rf"^max(?: by \(task_type\))? ?\({same}\{{", query)
    assert query.count("{") == query.count('job="lapse-worker"') or query == "lapse_worker_info"


def test_panels_and_annotations_ask_the_datasource_that_was_chosen() -> None:
    sources = [value for key, value in everything(dashboard()) if key == "datasource" and value != "datasource"]
    assert len(sources) > 2 * len(PANELS)
    assert [source for source in sources if source != DATASOURCE] == []
    for panel in PANELS:
        assert all("datasource" in target for target in (panel, *panel["targets"])), title_of(panel)


def test_the_variables_are_the_datasource_the_job_and_the_worker() -> None:
    datasource, job, instance = dashboard()["templating"]["list"]
    assert (datasource["name"], datasource["type"], datasource["query"]) == ("datasource", "datasource", "prometheus")
    assert (job["name"], job["current"]["value"]) == ("job", "lapse-worker")
    assert (instance["name"], instance["multi"], instance["allValue"]) == ("instance", True, ".*")
    for variable in (job, instance):
        assert variable["query"]["query"] == variable["definition"]


def test_it_can_be_found_and_provisioned() -> None:
    found = dashboard()
    assert (found["id"], found["uid"], found["tags"]) == (None, "lapse-workers", ["lapse"])


def test_ids_are_unique() -> None:
    found = dashboard()["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    for panel in PANELS:
        names = [target["refId"] for target in panel["targets"]]
        assert len(set(names)) == len(names), title_of(panel)


def test_panels_lie_within_the_grid_side_by_side_and_without_gaps() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"]))
        for cell in cells:
            assert cell not in taken, f"{title_of(panel)} lies on {taken[cell]}"
            taken[cell] = title_of(panel)
    height = max(y for _, y in taken) + 1
    assert set(taken) == set(itertools.product(range(COLUMNS), range(height)))


def test_rows_are_the_questions_of_an_operator_and_each_has_its_panels() -> None:
    found = sorted(dashboard()["panels"], key=lambda panel: (panel["gridPos"]["y"], panel["gridPos"]["x"]))
    rows = [panel for panel in found if panel["type"] == "row"]
    assert [title_of(row) for row in rows] == QUESTIONS
    assert found[0] == rows[0]
    for row, following in itertools.pairwise([*rows, {"gridPos": {"y": 10_000}}]):
        assert following["gridPos"]["y"] - row["gridPos"]["y"] > 1, row


@pytest.mark.parametrize("panel", PANELS, ids=title_of)
def test_a_panel_says_what_it_shows_and_in_which_unit(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    assert panel["type"] in {"table", "heatmap"} or panel["fieldConfig"]["defaults"]["unit"]
    named = re.findall(r"\b(?:Lapse|BackgroundTask)[A-Z]\w+", panel["description"])
    assert set(named) <= {alert["alert"] for alert in alerts()}


@pytest.mark.parametrize(("title", "name"), RED_OF_ALERTS.items())
def test_red_begins_where_the_alert_begins(title: str, name: str) -> None:
    (panel,) = (panel for panel in PANELS if title_of(panel) == title)
    last = panel["fieldConfig"]["defaults"]["thresholds"]["steps"][-1]
    thresholds = {float(alert["expr"].split(" > ")[-1]) for alert in alerts() if alert["alert"] == name}
    assert (last["color"], {last["value"]}) == ("red", thresholds)
    assert name in panel["description"]
