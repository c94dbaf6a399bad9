"""Alerts: promtool finds nothing wrong, they fire when they should and not otherwise, and each has its runbook."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.promql import ALERT_CASES, ALERTS, alerts, metric_names
from tests.support.promtool import promtool, said

RUNBOOKS = ALERTS.parents[2] / "docs/operations.md"
NAMES = list(dict.fromkeys(alert["alert"] for alert in alerts()))
NUMBERED = list(enumerate(alerts()))
"""Two of them have one name: they differ in what they look at, and in their severity."""
THRESHOLD = re.compile(r"(?<= > )[\d.]+$")


def name_of(numbered: tuple[int, dict[str, Any]]) -> str:
    return f"{numbered[1]['alert']}-{numbered[1]['labels']['severity']}"


def cases() -> list[dict[str, Any]]:
    found = yaml.safe_load(ALERT_CASES.read_text(encoding="utf-8"))["tests"]
    return [case for test in found for case in test["alert_rule_test"]]


def duration_in_minutes(text: str) -> int:
    assert text.endswith("m"), text
    return int(text[:-1])


def fails_with(folder: Path, rules: list[dict[str, Any]]) -> bool:
    """Tell whether the cases of what differs notice that these are the rules."""
    differing = {rule["alert"] for rule in rules if rule not in alerts()} or set(NAMES)
    judged = yaml.safe_load(ALERT_CASES.read_text(encoding="utf-8"))
    judged["tests"] = [
        test for test in judged["tests"] if differing & {case["alertname"] for case in test["alert_rule_test"]}
    ]
    (folder / ALERTS.name).write_text(yaml.safe_dump({"groups": [{"name": "changed", "rules": rules}]}))
    (folder / ALERT_CASES.name).write_text(yaml.safe_dump(judged))
    finished = promtool("test", "rules", ALERT_CASES.name, cwd=folder)
    assert "FAILED" in finished.stderr + finished.stdout or finished.returncode == 0, said(finished)
    return finished.returncode != 0


def changed(number: int, **values: str) -> list[dict[str, Any]]:
    return [alert | values if at == number else alert for at, alert in NUMBERED]


def test_promtool_accepts_the_rules() -> None:
    finished = promtool("check", "rules", "--lint-fatal", ALERTS)
    assert finished.returncode == 0, said(finished)
    assert f"SUCCESS: {len(alerts())} rules found" in said(finished)


def test_the_alerts_fire_when_they_should_and_not_otherwise() -> None:
    finished = promtool("test", "rules", ALERT_CASES.name, cwd=ALERT_CASES.parent)
    assert finished.returncode == 0, said(finished)
    assert "SUCCESS" in said(finished)


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_is_tested_both_firing_and_silent(name: str) -> None:
    of_it = [case for case in cases() if case["alertname"] == name]
    assert [case for case in of_it if case.get("exp_alerts")]
    assert [case for case in of_it if not case.get("exp_alerts")]


def test_there_are_no_cases_of_an_alert_that_does_not_exist() -> None:
    assert {case["alertname"] for case in cases()} - set(NAMES) == set()


def test_the_cases_pass_with_the_rules_as_they_are_when_written_anew(tmp_path: Path) -> None:
    assert not fails_with(tmp_path, alerts())


@pytest.mark.parametrize("minutes", [-1, 1])
@pytest.mark.parametrize("numbered", NUMBERED, ids=name_of)
def test_the_cases_notice_an_alert_that_fires_a_minute_off(
    numbered: tuple[int, dict[str, Any]], minutes: int, tmp_path: Path
) -> None:
    number, alert = numbered
    assert fails_with(tmp_path, changed(number, **{"for": f"{duration_in_minutes(alert['for']) + minutes}m"}))


@pytest.mark.parametrize("factor", [0.8, 1.2])
@pytest.mark.parametrize("numbered", [n for n in NUMBERED if THRESHOLD.search(n[1]["expr"].strip())], ids=name_of)
def test_the_cases_notice_a_threshold_that_is_a_fifth_off(
    numbered: tuple[int, dict[str, Any]], factor: float, tmp_path: Path
) -> None:
    number, alert = numbered
    expression = alert["expr"].strip()
    threshold = float(THRESHOLD.search(expression)[0])  # type: ignore[index]
    moved = threshold * factor if threshold else math.copysign(1, factor - 1)
    assert fails_with(tmp_path, changed(number, expr=THRESHOLD.sub(f"({moved})", expression)))


LAST_SUCCESS = 'lapse_task_last_success_timestamp_seconds{job="lapse-worker"}'


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("max without (instance, pod) (lapse_oldest", "sum without (instance, pod) (lapse_oldest"),
        ("max without (instance, pod) (lapse_conv", "sum without (instance, pod) (lapse_conv"),
        ("max without (instance, pod) (\n  max_over", "min without (instance, pod) (\n  max_over"),
        ("max without (instance, pod) (lapse_oldest", "max by (job, task_type) (lapse_oldest"),
        ("sum without (instance, pod) (", "sum without (pod) ("),
        ("[5m])\n)) > 10", "[15m])\n)) > 10"),
        ("[5m])\n) > 300", "[15m])\n) > 300"),
        (f"max_over_time({LAST_SUCCESS}[5m])", LAST_SUCCESS),
        ("rate(", "irate("),
        ('absent(up{job="lapse-worker"} == 1)', 'absent(up{job="lapse-worker"})'),
        ('absent(up{job="lapse-worker"} == 1)', 'sum(up{job="lapse-worker"}) < 1'),
        ('up{job="lapse-worker"} == 0', "up == 0"),
    ],
)
def test_the_cases_notice_another_aggregation_range_or_selector(right: str, wrong: str, tmp_path: Path) -> None:
    """Several workers export the same gauge; a worker goes, and its last value stays in view for a while."""
    rules = [alert | {"expr": alert["expr"].replace(right, wrong)} for alert in alerts()]
    assert rules != alerts()
    assert fails_with(tmp_path, rules)


@pytest.mark.parametrize("numbered", NUMBERED, ids=name_of)
def test_an_alert_has_a_severity_a_summary_and_a_runbook(
    numbered: tuple[int, dict[str, Any]],
) -> None:
    _, alert = numbered
    assert alert["labels"]["severity"] in {"critical", "warning"}
    assert set(alert["annotations"]) == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"docs/operations.md#{alert['alert'].lower()}"


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_has_its_heading_in_the_runbooks(name: str) -> None:
    # A heading of just the name, in code or not: its anchor is what runbook_url ends with.
    assert re.search(rf"^#+ `?{name}`?$", RUNBOOKS.read_text(encoding="utf-8"), re.MULTILINE)


def test_alerts_look_at_the_job_of_the_workers_alone() -> None:
    for alert in alerts():
        assert alert["expr"].count('{job="lapse-worker"}') == len(metric_names(alert["expr"])) == 1
