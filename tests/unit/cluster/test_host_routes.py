"""The host's way to Services and pods, whichever node is away."""

from __future__ import annotations

from navarch.api.types.core_v1 import Node, NodeCondition, NodeSpec, NodeStatus
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.cluster.host_routes import HostRoutesOptions, plan

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
