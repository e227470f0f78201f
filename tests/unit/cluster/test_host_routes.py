"""The host's way to Services and pods, whichever node is away."""

from __future__ import annotations

from navarch.api.types.core_v1 import Node, NodeCondition, NodeSpec, NodeStatus
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.networking_v1 import ServiceCIDR, ServiceCIDRSpec
from navarch.cluster.host_routes import HostRoutesOptions, added_ranges, plan

OPTIONS = HostRoutesOptions(
    "",
    "navarch0",
    ("10.96.0.0/16", "fd00:2::/112"),
    ("10.244.0.0/16", "fd00:1::/56"),
    {"a": ("192.168.49.2", "fd00::2"), "b": ("192.168.49.3", "fd00::3")},
)


def node(name: str, number: int, ready: str) -> Node:
    cidrs = [f"10.244.{number}.0/24", f"fd00:1:0:{number}::/64"]
    return Node(
        metadata=ObjectMeta(name=name),
        spec=NodeSpec(podCIDR=cidrs[0], podCIDRs=cidrs),
        status=NodeStatus(conditions=[NodeCondition(type="Ready", status=ready)]),
    )


def test_services_by_the_first_ready_node_and_pods_by_their_own() -> None:
    nodes = [node("a", 0, "Unknown"), node("b", 1, "True"), node("joined", 2, "True")]
    assert plan(OPTIONS, nodes) == {
        "10.96.0.0/16": "192.168.49.3",
        "10.244.0.0/16": "192.168.49.3",
        "fd00:2::/112": "fd00::3",
        "fd00:1::/56": "fd00::3",
        "10.244.0.0/24": "192.168.49.2",
        "fd00:1:0:0::/64": "fd00::2",
        "10.244.1.0/24": "192.168.49.3",
        "fd00:1:0:1::/64": "fd00::3",
    }


def test_before_there_are_nodes_the_first_is_asked() -> None:
    assert plan(OPTIONS, [])["10.96.0.0/16"] == "192.168.49.2"


def test_ranges_of_services_that_were_added_lead_into_the_cluster() -> None:
    nodes = [node("a", 0, "Unknown"), node("b", 1, "True")]
    routes = plan(OPTIONS, nodes, ["10.222.0.0/24", "fd00:222::/112"])
    assert routes["10.222.0.0/24"] == "192.168.49.3"
    assert routes["fd00:222::/112"] == "fd00::3"


def test_no_range_that_the_host_reaches_elsewhere_is_taken() -> None:
    objects = [
        ServiceCIDR(spec=ServiceCIDRSpec(cidrs=list(cidrs)))
        for cidrs in (
            OPTIONS.service_cidrs,
            ("10.222.0.0/24", "fd00:222::/112"),
            ("192.0.0.0/16",),
            ("10.244.7.0/24",),
        )
    ]
    elsewhere = ["192.0.2.0/24", "fe80::/64", "172.16.0.1/32"]
    assert added_ranges(OPTIONS, objects, elsewhere) == ["10.222.0.0/24", "fd00:222::/112"]
