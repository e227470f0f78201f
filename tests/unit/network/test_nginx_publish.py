"""Which node writes which endpoints of the Services that lead to nginx."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.unit.network.ingresses import service

from navarch.api.types.core_v1 import Node, NodeCondition, NodeStatus
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.network.nginx.publish import Place, changes, live, slices_of


def slices(node: str, port: int = 80) -> list[EndpointSlice]:
    place = Place(node, (f"10.0.0.{node[1:]}", f"fd00::{node[1:]}"))
    return slices_of(service("web"), place, {"http": port}, "me")


def names(found: tuple[EndpointSlice, ...]) -> list[str]:
    return [each.metadata.name for each in found]


def both(node: str) -> list[str]:
    return [f"web-{family}-{node}" for family in ("ipv4", "ipv6")]


@pytest.mark.parametrize(
    ("present", "wanted", "lives", "leads", "applied", "deleted"),
    [
        pytest.param([], ["n1"], {"n1"}, False, both("n1"), [], id="new"),
        pytest.param(["n1"], ["n1"], {"n1"}, False, [], [], id="as it should be"),
        pytest.param(["n1"], [], {"n1"}, False, [], both("n1"), id="nginx serves no more"),
        pytest.param(["n1"], ["n1"], set(), False, [], both("n1"), id="the node is lost"),
        pytest.param([], ["n1"], set(), False, [], [], id="a lost node writes nothing"),
        pytest.param(["n2"], [], {"n1"}, False, [], [], id="another's, by who does not lead"),
        pytest.param(["n2"], [], {"n1"}, True, [], both("n2"), id="a lost one's, by who leads"),
        pytest.param(["n2"], [], {"n1", "n2"}, True, [], [], id="a living one's are its own"),
    ],
)
def test_changes(
    present: list[str],
    wanted: list[str],
    lives: set[str],
    leads: bool,
    applied: list[str],
    deleted: list[str],
) -> None:
    there = [each for node in present for each in slices(node)]
    own = [each for node in wanted for each in slices(node)]
    found = changes(there, own, "n1", lives, leads=leads)
    assert (names(found.applied), names(found.deleted)) == (applied, deleted)


def test_what_somebody_changed_is_written_again() -> None:
    def label(each: EndpointSlice) -> None:
        each.metadata.labels["kubernetes.io/service-name"] = "other"

    def owner(each: EndpointSlice) -> None:
        each.metadata.ownerReferences = []

    def readiness(each: EndpointSlice) -> None:
        conditions = msgspec.structs.replace(each.endpoints[0].conditions, ready=False)
        each.endpoints[0] = msgspec.structs.replace(each.endpoints[0], conditions=conditions)

    edits: list[Any] = [label, owner, readiness]
    for edit in edits:
        there = slices("n1")
        edit(there[0])
        found = changes(there, slices("n1"), "n1", {"n1"}, leads=False)
        assert names(found.applied) == ["web-ipv4-n1"], edit.__name__
    other_port = changes(slices("n1"), slices("n1", 81), "n1", {"n1"}, leads=False)
    assert names(other_port.applied) == both("n1")


def test_a_node_is_lost_when_nobody_knows_of_it() -> None:
    nodes = [
        Node(
            metadata=ObjectMeta(name=name),
            status=NodeStatus(conditions=[NodeCondition(type="Ready", status=status)]),
        )
        for name, status in (("up", "True"), ("unwell", "False"), ("lost", "Unknown"))
    ]
    assert live([*nodes, Node(metadata=ObjectMeta(name="new"))]) == {"up", "unwell", "new"}
