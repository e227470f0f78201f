"""How fast nodes are given up: by zones, and not at all when nobody is heard of."""

from __future__ import annotations

import pytest

from navarch.api.types.core_v1 import Node
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.controllers.node_zones import (
    EXCLUDED,
    Change,
    Count,
    Rates,
    State,
    Zones,
    count_zones,
    zone_of,
)

A, B = ("", "a"), ("", "b")


@pytest.mark.parametrize(
    ("ready", "unready", "state"),
    [
        pytest.param(0, 1, State.FULL, id="all of one"),
        pytest.param(1, 2, State.NORMAL, id="two are few"),
        pytest.param(2, 3, State.PARTIAL, id="three of five"),
        pytest.param(9, 11, State.PARTIAL, id="just the share"),
        pytest.param(10, 10, State.NORMAL, id="a half is not"),
        pytest.param(0, 50, State.FULL, id="all of many"),
    ],
)
def test_when_a_zone_is_disrupted(ready: int, unready: int, state: State) -> None:
    assert Count(ready, unready).state(Rates()) is state


def granted(zones: Zones, waiting: int, until: int, zone: tuple[str, str] = A) -> list[int]:
    """In which seconds a node of a zone is given up."""
    left = [(f"n{number}", zone) for number in range(waiting)]
    moments = []
    for now in range(until):
        for name in zones.grant(left, float(now)):
            left.remove((name, zone))
            moments.append(now)
    return moments


@pytest.mark.parametrize(
    ("counts", "moments"),
    [
        pytest.param({A: Count(10, 5)}, [0, 10, 20, 30, 40], id="normal"),
        pytest.param({A: Count(2, 5)}, [], id="small and disrupted"),
        pytest.param({A: Count(20, 60)}, [0, 100, 200], id="large and disrupted"),
        pytest.param({A: Count(0, 5), B: Count(1, 0)}, [0, 10, 20, 30, 40], id="a zone is lost"),
        pytest.param({A: Count(0, 5), B: Count(0, 1)}, [], id="all are lost"),
    ],
)
def test_how_fast_nodes_are_given_up(
    counts: dict[tuple[str, str], Count], moments: list[int]
) -> None:
    zones = Zones()
    zones.observe(counts, 0.0)
    assert granted(zones, 5, 250)[: len(moments) or 1] == moments


def test_zones_do_not_wait_for_each_other() -> None:
    zones = Zones()
    zones.observe({A: Count(9, 2), B: Count(9, 2)}, 0.0)
    waiting = [("n1", A), ("n2", A), ("n3", B), ("n4", B)]
    assert zones.grant(waiting, 0.0) == ["n1", "n3"]
    assert zones.wait([A, B], 4.0) == 6.0
    assert zones.grant([("n2", A), ("n4", B)], 10.0) == ["n2", "n4"]


def test_whoever_had_to_wait_waits_a_turn_of_the_new_rate() -> None:
    zones = Zones()
    zones.observe({A: Count(2, 5), B: Count(1, 0)}, 0.0)
    assert zones.wait([A], 0.0) is None
    zones.observe({A: Count(6, 1), B: Count(1, 0)}, 50.0)
    assert zones.wait([A], 50.0) == 10.0
    assert zones.grant([("n", A)], 60.0) == ["n"]


def test_losing_and_finding_the_cluster_is_told_once() -> None:
    zones = Zones()
    assert zones.observe({A: Count(1, 1)}, 0.0) is Change.NONE
    assert zones.observe({A: Count(0, 2)}, 1.0) is Change.LOST
    assert zones.observe({A: Count(0, 2)}, 2.0) is Change.NONE
    assert zones.is_lost
    assert zones.observe({A: Count(1, 1)}, 3.0) is Change.FOUND
    assert zones.observe({}, 4.0) is Change.NONE, "no node at all is no disruption"


def test_nodes_that_do_not_count() -> None:
    def node(zone: str, **labels: str) -> Node:
        return Node(metadata=ObjectMeta(labels={"topology.kubernetes.io/zone": zone, **labels}))

    counts = count_zones(
        [(node("a"), True), (node("a"), False), (node("b", **{EXCLUDED: ""}), False)]
    )
    assert counts == {A: Count(1, 1)}
    old = {"failure-domain.beta.kubernetes.io/zone": "old"}
    assert zone_of(node("a", **old)) == ("", "old")
