"""Which zone each endpoint serves, so that traffic stays in its zone and nobody has too much."""

from __future__ import annotations

from collections import Counter

import pytest

from navarch.api.types.core_v1 import Node, NodeCondition, NodeStatus, Service
from navarch.api.types.discovery_v1 import Endpoint, EndpointConditions
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.controllers.endpointslice_topology import (
    LEFT_OUT,
    MODE,
    OLD_MODE,
    ZONE_LABEL,
    NoHints,
    Share,
    assign,
    is_topology_aware,
    ratios,
    shares,
)

EVEN = {"a": 0.5, "b": 0.5}
THIRDS = dict.fromkeys("abc", 1 / 3)


def node(zone: str, cpu: str = "4", ready: str = "True", **labels: str) -> Node:
    zones = {ZONE_LABEL: zone} if zone else {}
    return Node(
        metadata=ObjectMeta(labels={**zones, **labels}),
        status=NodeStatus(
            conditions=[NodeCondition(type="Ready", status=ready)], allocatable={"cpu": cpu}
        ),
    )


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        pytest.param([node("a"), node("b")], EVEN, id="even"),
        pytest.param([node("a"), node("a"), node("b")], {"a": 2 / 3, "b": 1 / 3}, id="uneven"),
        pytest.param([node("a"), node("a")], {}, id="one zone"),
        pytest.param([node("a"), node("b"), node("")], {}, id="one without zone"),
        pytest.param([node("a"), node("b", "0")], {}, id="one without processors"),
        pytest.param([node("a"), node("b"), node("", ready="False")], EVEN, id="not ready"),
        pytest.param([node("a"), node("b"), node("c", **{LEFT_OUT[0]: ""})], EVEN, id="left out"),
    ],
)
def test_shares_of_processors(nodes: list[Node], expected: dict[str, float]) -> None:
    assert ratios(nodes) == pytest.approx(expected)


def endpoints(**zones: int) -> list[Endpoint]:
    return [
        Endpoint(
            addresses=[f"{zone}{number}"],
            conditions=EndpointConditions(ready=zone != "unready"),
            zone=zone.replace("nowhere", "") or None,
        )
        for zone, count in zones.items()
        for number in range(count)
    ]


@pytest.mark.parametrize(
    ("found", "zones", "reason"),
    [
        pytest.param({"a": 3}, {}, "Insufficient Node information", id="zones unknown"),
        pytest.param({"a": 1, "unready": 5}, EVEN, "(1 endpoints, 2 zones)", id="too few"),
        pytest.param({"a": 3, "nowhere": 1}, EVEN, "do not have a zone", id="nowhere"),
        pytest.param({"a": 3}, {"a": 0.75, "b": 0.25}, "", id="one is enough"),
        pytest.param({"a": 3}, {"a": 0.85, "b": 0.05, "c": 0.1}, "overload", id="overload"),
    ],
)
def test_when_there_are_no_hints(
    found: dict[str, int], zones: dict[str, float], reason: str
) -> None:
    if not reason:
        assert assign(endpoints(**found), {}, zones)
        return
    with pytest.raises(NoHints) as caught:
        assign(endpoints(**found), {}, zones)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("found", "zones", "served"),
    [
        pytest.param({"a": 3, "b": 3}, EVEN, {"a": 3, "b": 3}, id="own zones"),
        pytest.param({"a": 6, "b": 0}, EVEN, {"a": 3, "b": 3}, id="one zone serves two"),
        pytest.param({"a": 4, "b": 3}, EVEN, {"a": 4, "b": 3}, id="half is not worth it"),
        pytest.param(
            {"a": 2, "b": 2, "c": 8},
            dict.fromkeys("abc", 1 / 3),
            dict.fromkeys("abc", 4),
            id="gifts",
        ),
    ],
)
def test_who_serves_whom(
    found: dict[str, int], zones: dict[str, float], served: dict[str, int]
) -> None:
    result = assign(endpoints(**found), {}, zones)
    assert Counter(result.values()) == served
    stays = sum(address.startswith(zone) for address, zone in result.items())
    assert stays == sum(min(count, served[zone]) for zone, count in found.items())


def test_hints_stay_as_long_as_they_can() -> None:
    before = assign(endpoints(a=6), {}, EVEN)
    more = assign(endpoints(a=7), before, EVEN)
    assert {address: more[address] for address in before} == before
    assert shares(EVEN, 6) == {"a": Share(3, 3, 3.0), "b": Share(3, 3, 3.0)}
    moved = assign(endpoints(a=6), before, {"a": 0.9, "b": 0.1})
    assert Counter(moved.values()) == {"a": 5, "b": 1}, "zones changed too much to keep them"


@pytest.mark.parametrize(
    ("annotations", "aware"),
    [
        ({}, False),
        ({MODE: "Auto"}, True),
        ({MODE: "auto"}, True),
        ({MODE: "AUTO"}, False),
        ({OLD_MODE: "Disabled", MODE: "Auto"}, False),
    ],
)
def test_whom_it_concerns(annotations: dict[str, str], aware: bool) -> None:
    assert is_topology_aware(Service(metadata=ObjectMeta(annotations=annotations))) is aware
