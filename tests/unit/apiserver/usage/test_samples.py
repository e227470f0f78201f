"""Samples of kubelets and what follows from them."""

from __future__ import annotations

import pytest

from navarch.apiserver.usage.samples import (
    NODE,
    Key,
    Point,
    Reading,
    Usage,
    fold,
    parse,
    usage_of,
)

WEB: Key = ("default", "web", "main")
TEXT = """\
# HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time
# TYPE node_cpu_usage_seconds_total counter
node_cpu_usage_seconds_total 100.5 1700000000500
node_memory_working_set_bytes 2.048e+06 1700000000500
container_cpu_usage_seconds_total{container="main",namespace="default",pod="web"} 3.25 1700000000000
container_memory_working_set_bytes{container="main",namespace="default",pod="web"} 4e3 1700000000000
container_start_time_seconds{container="main",namespace="default",pod="web"} 1.69999e+09
pod_cpu_usage_seconds_total{namespace="default",pod="web"} 4 1700000000000
container_cpu_usage_seconds_total{container="half",namespace="default",pod="web"} 1 1700000000000
container_cpu_usage_seconds_total{container="odd",namespace="default",pod="web"} NaN 1700000000000
container_memory_working_set_bytes{container="odd",namespace="default",pod="web"} 1 1700000000000
container_cpu_usage_seconds_total{container="",namespace="",pod=""} 1
container_memory_working_set_bytes{container="",namespace="",pod=""} 1
container_cpu_usage_seconds_total{container="bare",pod="web",namespace="default"} 1
container_memory_working_set_bytes{container="bare",pod="web",namespace="default"} 2
nonsense{{{ 1 2 3
"""


def test_expositions_are_read() -> None:
    assert parse(TEXT, 7.0) == {
        NODE: Point(1700000000.5, 0, 100.5, 2048000),
        WEB: Point(1700000000, 1699990000, 3.25, 4000),
        ("default", "web", "bare"): Point(7, 0, 1, 2),
    }


@pytest.mark.parametrize(
    ("points", "usage"),
    [
        pytest.param([(1000, 5)], None, id="one sample of something old tells nothing"),
        pytest.param([(20, 5)], (20, 20, 250_000_000), id="a young container, from its start"),
        pytest.param([(5, 5)], None, id="too young for that"),
        pytest.param([(1000, 5), (1001, 6)], (1001, 1, 1_000_000_000), id="two in a row"),
        pytest.param([(1000, 5), (1000.1, 6)], None, id="too close to mean anything"),
        pytest.param(
            [(1000, 5), (1001, 6), (1004, 6)], (1004, 4, 250_000_000), id="the base stays"
        ),
        pytest.param(
            [(1000 + second, 5 + second / 2) for second in range(26)],
            (1025, 15, 500_000_000),
            id="who asks every second sees the last ten to twenty",
        ),
        pytest.param(
            [(1000, 5), (1015, 6), (1030, 9)], (1030, 15, 200_000_000), id="the base moves on"
        ),
        pytest.param([(1000, 5), (1200, 6)], None, id="too far apart"),
        pytest.param([(1000, 5), (1015, 2)], None, id="the sum fell: another container"),
        pytest.param([(1000, 5), (1015, 8), (1015, 8)], (1015, 15, 200_000_000), id="no news"),
    ],
)
def test_rates(points: list[tuple[float, float]], usage: tuple[float, float, int] | None) -> None:
    known: dict[Key, Reading] = {}
    for time, cpu in points:
        known = fold(known, {WEB: Point(time, 0, cpu, 64)})
    expected = Usage(*usage, 64) if usage is not None else None
    assert usage_of(known[WEB]) == expected


def test_a_restarted_container_is_measured_from_its_new_start() -> None:
    known = fold({}, {WEB: Point(1000, 500, 5, 64)})
    known = fold(known, {WEB: Point(1020, 1010, 6, 64)})
    assert usage_of(known[WEB]) == Usage(1020, 10, 600_000_000, 64)


def test_what_is_gone_is_forgotten() -> None:
    known = fold({}, {WEB: Point(1000, 0, 5, 64), NODE: Point(1000, 0, 5, 64)})
    assert fold(known, {NODE: Point(1015, 0, 6, 64)}).keys() == {NODE}
