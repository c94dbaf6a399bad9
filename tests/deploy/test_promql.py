"""The names of metrics are found in any query, so that a test can ask whether a worker exports them."""

from __future__ import annotations

import pytest

from tests.support.promql import QueryError, metric_names


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("up", {"up"}),
        ("a:b_total + c", {"a:b_total", "c"}),
        ('up{job="x", instance=~"y|z"} == 0', {"up"}),
        ("rate(m_total[5m]) > 0.1", {"m_total"}),
        ("max_over_time(m[1h:30s] offset -1h30m @ start())", {"m"}),
        ("sum by (task_type, le) (rate(m_bucket[5m]))", {"m_bucket"}),
        ("sum(m) without(instance)", {"m"}),
        ("SUM BY (job) (m)", {"m"}),
        ("count_values without (b) ('version', m)", {"m"}),
        ("sum by (job)(a) / on (job) group_left (version) b", {"a", "b"}),
        ("a * on(instance) group_left b", {"a", "b"}),
        ("a and b or c unless d", {"a", "b", "c", "d"}),
        ("a > bool 1e9 + Inf - 0x1F % .5", {"a"}),
        ('label_replace(a, "b", "c $1", "d", "(e)") # f', {"a"}),
        ('a{b="c} + d{"} + e', {"a", "e"}),
        ("a{b='\\'} f'}", {"a"}),
        ("absent(up == 1) or vector(time())", {"up"}),
        ("sum + max", {"sum", "max"}),
        ('{__name__="a", b="c"} + {b="c", __name__="d"}', {"a", "d"}),
        ('{"a.b", c="d"}', {"a.b"}),
        ("1 + 2", set()),
    ],
)
def test_the_metrics_of_a_query_are_found(query: str, names: set[str]) -> None:
    assert metric_names(query) == names


@pytest.mark.parametrize("query", ['{job="x"}', '{__name__=~"lapse.*"}', "a ? b", 'a{b="c}'])
def test_a_query_whose_metrics_cannot_be_told_is_an_error(query: str) -> None:
    with pytest.raises(QueryError):
        metric_names(query)
