"""Seats of priority levels: shares, lending and borrowing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from navarch.apiserver.flowcontrol.levels import (
    Level,
    LevelSpec,
    adjust,
    allocate,
    divide,
    level_spec,
)
from navarch.apiserver.flowcontrol.objects import LEVELS, dangling, flow_objects, upkeep

Object = dict[str, Any]


def default_levels() -> dict[str, Level]:
    found = {}
    for resource, obj in flow_objects():
        if resource == LEVELS:
            name = obj["metadata"]["name"]
            found[name] = Level(name, "", level_spec(obj))
    return found


def test_the_default_split() -> None:
    """The figures of an API server with upstream's default limits."""
    levels = default_levels()
    divide(levels.values(), 600)
    assert {name: level.nominal for name, level in levels.items()} == {
        "exempt": 0,
        "catch-all": 13,
        "system": 74,
        "node-high": 98,
        "leader-election": 25,
        "workload-high": 98,
        "workload-low": 245,
        "global-default": 49,
    }
    assert levels["workload-low"].minimum == 245 - round(245 * 0.9)
    assert levels["workload-low"].maximum == 600


def test_idle_levels_lend_to_busy_ones() -> None:
    levels = default_levels()
    divide(levels.values(), 600)
    levels["global-default"].peak = 400
    adjust(levels.values())
    assert levels["global-default"].limit > 300
    assert levels["leader-election"].limit >= 25  # lends nothing
    assert levels["workload-low"].limit >= levels["workload-low"].minimum
    assert sum(level.limit for level in levels.values()) <= 600 + len(levels)
    # When the others want theirs back, they get it.
    for level in levels.values():
        level.peak = level.nominal
    levels["global-default"].peak = 400
    adjust(levels.values())
    for name in ("workload-low", "workload-high", "system"):
        assert levels[name].limit >= levels[name].nominal * 0.98


def test_a_borrowing_limit() -> None:
    bounded = Level("b", "", LevelSpec(shares=10, borrowing_percent=50))
    lender = Level("l", "", LevelSpec(shares=90, lendable_percent=100))
    divide([bounded, lender], 100)
    assert (bounded.nominal, bounded.maximum, lender.minimum) == (10, 15, 0)
    bounded.peak = 99
    adjust([bounded, lender])
    assert bounded.limit == 15


def test_exempt_demand_takes_from_the_rest() -> None:
    exempt = Level("e", "", LevelSpec(is_exempt=True, shares=0))
    other = Level("o", "", LevelSpec(shares=10, lendable_percent=50))
    divide([exempt, other], 100)
    exempt.peak = 70
    other.peak = 100
    adjust([exempt, other])
    assert (exempt.limit, other.limit) == (70, 50)


@given(
    st.floats(0, 1000),
    st.lists(st.tuples(st.floats(0, 50), st.floats(0, 100), st.floats(0.001, 500)), max_size=8),
)
def test_allocation_keeps_to_its_bounds(
    total: float, drawn: list[tuple[float, float, float]]
) -> None:
    bounds = [(low, low + more, max(target, low, 0.001)) for low, more, target in drawn]
    found = allocate(total, bounds)
    for value, (low, high, _) in zip(found, bounds, strict=True):
        assert low - 1e-6 <= value <= high + 1e-6
    lowest, highest = sum(each[0] for each in bounds), sum(each[1] for each in bounds)
    if lowest <= total <= highest:
        assert sum(found) == pytest.approx(total, abs=0.5)


def test_a_wide_request_gets_an_idle_level_to_itself() -> None:
    level = Level("x", "", LevelSpec(shares=1))
    level.limit = 5
    assert level.fits(50)
    level.in_use = 1
    assert not level.fits(5)
    assert level.fits(4)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({"type": "Exempt"}, LevelSpec(is_exempt=True, shares=0), id="exempt"),
        pytest.param({"type": "Limited"}, LevelSpec(), id="defaults"),
        pytest.param(
            {"type": "Limited", "limited": {"limitResponse": {"type": "Queue"}}},
            LevelSpec(queues=64, hand_size=8, queue_limit=50),
            id="queues by default",
        ),
        pytest.param(
            {
                "type": "Limited",
                "limited": {
                    "nominalConcurrencyShares": 0,
                    "borrowingLimitPercent": 0,
                    "limitResponse": {"type": "Reject"},
                },
            },
            LevelSpec(shares=0, borrowing_percent=0),
            id="zeros that are meant",
        ),
    ],
)
def test_reading_levels(spec: Object, expected: LevelSpec) -> None:
    assert level_spec({"metadata": {"name": "x"}, "spec": spec}) == expected


def test_objects_of_ours_are_set_right() -> None:
    wanted = {obj["metadata"]["name"]: obj for name, obj in flow_objects() if name == LEVELS}
    ours = wanted["system"]
    stored = {**ours, "spec": {**ours["spec"], "added": "by default"}}
    assert upkeep(ours, None) is ours
    assert upkeep(ours, stored) is None
    bent = {**ours, "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1}}}
    mended = upkeep(ours, bent)
    assert mended is not None and mended["spec"] == ours["spec"]
    # Whoever takes the annotation away takes the object over, unless it is mandatory.
    taken = {**bent, "metadata": {"name": "system"}}
    assert upkeep(ours, taken) is None
    other = {**wanted["catch-all"], "metadata": {"name": "catch-all"}, "spec": {"type": "Exempt"}}
    assert upkeep(wanted["catch-all"], other) is not None
    exempt = wanted["exempt"]
    tuned = {**exempt, "spec": {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 9}}}
    assert upkeep(exempt, tuned) is None


def test_dangling() -> None:
    assert dangling("a", True)[:2] == ("False", "Found")
    status, reason, message = dangling("a", False)
    assert (status, reason) == ("True", "NotFound")
    assert message.endswith('named "a" but there is no such object')
