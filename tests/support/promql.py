"""What alerts and dashboard ask Prometheus for: their queries, and the metrics that a query names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

PROMETHEUS = Path(__file__).parents[2] / "deploy/prometheus"
ALERTS = PROMETHEUS / "alerts.yml"
ALERT_CASES = PROMETHEUS / "alerts.test.yml"
DASHBOARD = PROMETHEUS.parent / "grafana/lapse.json"

OF_PROMETHEUS = frozenset({"up", "ALERTS"})
"""Metrics that Prometheus makes itself."""

_GRAFANA_VARIABLES = {"$__rate_interval": "5m", "$job": "lapse-worker", "$instance": ".*"}
_LABEL_VALUES = re.compile(r"label_values\((.+),\s*\w+\)")

_TOKEN = re.compile(
    r"""
      (?P<space>   \s+ | \#[^\n]* )
    | (?P<string>  "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | `[^`]*` )
    | (?P<range>   \[ [^\]]* \] )                                       # [5m], [1h:1m]
    | (?P<number>  0[xX][0-9a-fA-F]+ | (?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+|[a-z][a-z0-9]*)? )    # durations as well
    | (?P<name>    [a-zA-Z_:][a-zA-Z0-9_:]* )
    | (?P<sign>    =~|!~|!=|==|<=|>=|[-+*/%^<>=(){},@] )
    """,
    re.VERBOSE,
)
_KEYWORDS = {"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan", "start", "end"}
_BEFORE_LABELS = {"by", "without", "on", "ignoring", "group_left", "group_right"}

Token = tuple[str, str]


class QueryError(ValueError):
    """A query whose metrics cannot be told."""


def metric_names(query: str) -> set[str]:
    """Return the names of the metrics in a PromQL query, which has to be a valid one.

    Raises:
        QueryError: a character that PromQL doesn't know, or a selector that does not say which metric it means.
    """
    names: set[str] = set()
    tokens = [*_tokens(query), ("end", "")]
    place = 0
    while place < len(tokens):
        (kind, text), following = tokens[place], tokens[min(place + 1, len(tokens) - 1)][1]
        place += 1
        if kind == "name" and text.lower() in _BEFORE_LABELS:
            place = _after(")", tokens, place) if following == "(" else place
        elif kind == "name" and _is_metric(text, following):
            names.add(text)
            place = _after("}", tokens, place) if following == "{" else place
        elif text == "{":
            end = _after("}", tokens, place)
            names.add(_named_inside(tokens[place:end], query))
            place = end
    return names


def _tokens(query: str) -> Iterator[Token]:
    place = 0
    while place < len(query):
        found = _TOKEN.match(query, place)
        if found is None:
            raise QueryError(f"{query[place:]!r} in {query!r}")
        place, kind = found.end(), found.lastgroup or ""
        if kind != "space":
            yield kind, found.group()


def _is_metric(name: str, following: str) -> bool:
    """Tell a metric from a keyword, a function (`rate(`) and an aggregation (`sum(`, `sum by`)."""
    return name.lower() not in _KEYWORDS and following.lower() not in {"(", "by", "without"}


def _after(closing: str, tokens: list[Token], place: int) -> int:
    """Return the place after the next such sign; quotes are tokens, so that one inside a string is none."""
    return next(at for at in range(place, len(tokens)) if tokens[at][1] == closing) + 1


def _named_inside(tokens: list[Token], query: str) -> str:
    """Return the metric of a selector that names it inside its braces: as `__name__`, or in quotes alone."""
    inside = [("sign", ","), *tokens]
    for (_, one), (kind, two), (_, three) in zip(inside, inside[1:], inside[2:], strict=False):
        if (one, two) == ("__name__", "="):
            return three[1:-1]
        if kind == "string" and one == "," and three in {",", "}"}:
            return two[1:-1]
    raise QueryError(f"a selector that does not say which metric: {query!r}")


# --- the files of deploy/ ---------------------------------------------------------------------------------------------


def alerts() -> list[dict[str, Any]]:
    """Return the alerts, in their order."""
    return [rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """Return Grafana's dashboard."""
    read: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return read


def dashboard_queries() -> list[str]:
    """Return all queries of the dashboard as Prometheus would get them: of panels, annotations and variables."""
    found = dashboard()
    queries = [target["expr"] for panel in found["panels"] for target in panel.get("targets", [])]
    queries += [annotation["target"]["expr"] for annotation in found["annotations"]["list"]]
    for variable in found["templating"]["list"]:
        if variable["type"] == "query":
            of_labels = _LABEL_VALUES.fullmatch(variable["query"]["query"])
            assert of_labels, variable
            queries.append(of_labels[1])
    return [_filled_in(query) for query in queries]


def metrics_asked_for() -> set[str]:
    """Return the names of all metrics that alerts and dashboard need a worker to export."""
    queries = [*(alert["expr"] for alert in alerts()), *dashboard_queries()]
    return set().union(*map(metric_names, queries)) - OF_PROMETHEUS


def _filled_in(query: str) -> str:
    for variable, value in _GRAFANA_VARIABLES.items():
        query = query.replace(variable, value)
    assert "$" not in query, f"a variable that the dashboard does not have: {query}"
    return query
