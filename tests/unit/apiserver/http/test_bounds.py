"""What a client cannot make the server keep."""

from __future__ import annotations

import pytest

from navarch.apiserver.contracts import RequestInfo
from navarch.apiserver.http import negotiation, request_info
from navarch.apiserver.http.metrics import RequestMetrics
from navarch.apiserver.http.negotiation import negotiate, parse_accept
from navarch.apiserver.http.request_info import parse_target


def test_long_lines_are_not_remembered() -> None:
    before = request_info._kept_target.cache_info().currsize
    assert parse_target("GET", "/api/v1/pods?x=" + "y" * 600).info.resource == "pods"
    assert request_info._kept_target.cache_info().currsize == before
    before = negotiation._kept_clauses.cache_info().currsize
    assert parse_accept("a/b;x=" + "y" * 2000)
    assert negotiate("application/yaml;x=" + "y" * 2000).media_type == "application/yaml"
    assert negotiation._kept_clauses.cache_info().currsize == before


def test_metrics_of_made_up_names_are_one() -> None:
    metrics = RequestMetrics()
    for number in range(50):
        info = RequestInfo(True, "", f"verb{number}", "g", "v", f"resource{number}")
        metrics.observe(info, None, 404, 0.1)
    totals = [line for line in metrics.render() if line.startswith("apiserver_request_total")]
    assert totals == [
        'apiserver_request_total{verb="OTHER",group="",version="",resource="",subresource="",'
        'code="404"} 50'
    ]


@pytest.mark.parametrize(
    ("header", "media_type", "transform"),
    [
        (None, "application/json", ""),
        ("*/*", "application/json", ""),
        ("application/vnd.kubernetes.protobuf,application/json", "application/json", ""),
        ("application/yaml;q=0.5, application/json;q=0.1", "application/yaml", ""),
        (
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            "application/json",
            "Table",
        ),
        ("application/json;as=Table;v=v9;g=meta.k8s.io,application/json", "application/json", ""),
    ],
)
def test_the_best_that_can_be_given(header: str | None, media_type: str, transform: str) -> None:
    found = negotiate(header)
    assert (found.media_type, found.transform) == (media_type, transform)
