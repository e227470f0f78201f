"""Routes, tunnels and their order, as text."""

from __future__ import annotations

import json

import pytest

from navarch.api.types.core_v1 import Node, NodeAddress, NodeSpec, NodeStatus
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.network.pods import plan
from navarch.network.pods.plan import Change, Entry, Peer, PodNetwork, Tunnel

MAC = "02:00:00:00:00:0b"


def node(name: str, cidrs: str, addresses: str = "", mac: str = "", age: int = 0) -> Node:
    """A node with space-separated ranges and addresses; with a MAC address its tunnel is there."""
    made = f"20{50 - age}-01-01T00:00:00Z"
    found = addresses.split()
    tunnel = {plan.ANNOTATION: Tunnel(mac, found[0]).encode()} if mac else {}
    return Node(
        metadata=ObjectMeta(name=name, annotations=tunnel, creationTimestamp=made),
        spec=NodeSpec(podCIDR=(cidrs.split() or [""])[0], podCIDRs=cidrs.split()),
        status=NodeStatus(
            addresses=[NodeAddress(type="InternalIP", address=each) for each in found]
        ),
    )


def peer(name: str, cidr: str, address: str) -> Peer:
    return Peer(name, (cidr,), (address,))


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        pytest.param([], PodNetwork(), id="nothing yet"),
        pytest.param([node("a", "")], PodNetwork(), id="no range yet"),
        pytest.param([node("a", "10.244.0.0/24")], PodNetwork(("10.244.0.0/24",)), id="alone"),
        pytest.param(
            [
                node("a", "10.244.0.0/24", "192.168.49.2"),
                node("b", "10.244.1.0/24", "192.168.49.3"),
                node("c", "10.244.2.0/24"),
                node("d", "nonsense", "192.168.49.5"),
            ],
            PodNetwork(("10.244.0.0/24",), (peer("b", "10.244.1.0/24", "192.168.49.3"),)),
            id="among others",
        ),
        pytest.param(
            [
                node("a", "10.244.0.0/24", "192.168.49.2"),
                node("b", "10.244.0.128/25", "192.168.49.3"),
                node("c", "192.168.49.0/24", "192.168.49.4"),
                node("d", "10.244.3.0/24", "192.168.49.5"),
                node("e", "10.244.3.0/24", "192.168.49.6"),
            ],
            PodNetwork(("10.244.0.0/24",), (peer("d", "10.244.3.0/24", "192.168.49.5"),)),
            id="nobody draws packets for others to itself",
        ),
        pytest.param(
            [
                node("a", "10.244.0.0/24", "192.168.49.2"),
                node("b", "10.244.1.0/25", "192.168.49.3", age=1),
                node("c", "10.244.1.0/24", "192.168.49.4", age=2),
            ],
            PodNetwork(("10.244.0.0/24",), (peer("c", "10.244.1.0/24", "192.168.49.4"),)),
            id="nor a part of them, the older has it",
        ),
        pytest.param(
            [
                node("a", "10.244.0.0/24", "192.168.49.2"),
                node("b", "10.244.1.0/24", "junk"),
                node("c", "10.244.2.0/24", "more-junk 192.168.49.4/24 192.168.49.4"),
            ],
            PodNetwork(("10.244.0.0/24",), (peer("c", "10.244.2.0/24", "192.168.49.4"),)),
            id="what is no address harms nobody",
        ),
        pytest.param(
            [
                node("a", "10.244.0.0/24", "192.168.49.2"),
                node("b", "10.244.1.0/24", "192.168.49.3", MAC, age=1),
                node("c", "10.244.2.0/24", "192.168.49.4", MAC, age=2),
            ],
            PodNetwork(
                ("10.244.0.0/24",),
                (
                    peer("b", "10.244.1.0/24", "192.168.49.3"),
                    Peer(
                        "c",
                        ("10.244.2.0/24",),
                        ("192.168.49.4",),
                        Tunnel(MAC, "192.168.49.4"),
                    ),
                ),
            ),
            id="nor takes another's tunnel end",
        ),
    ],
)
def test_what_nodes_say(nodes: list[Node], expected: PodNetwork) -> None:
    assert plan.observe("a", nodes, ("10.244.0.0/16", "fd00::/48")) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        json.dumps({"mac": "02:00", "address": "10.0.0.1"}),
        json.dumps({"mac": "01:00:5e:00:00:01", "address": "10.0.0.1"}),
        json.dumps({"mac": MAC, "address": "10.0.0.1; reboot"}),
        json.dumps({"mac": "02:00:00:00:00:fff", "address": "10.0.0.1"}),
    ],
)
def test_a_tunnel_that_is_none(text: str) -> None:
    assert plan.tunnel_of({plan.ANNOTATION: text}) is None


NODES = [
    node("a", "10.244.0.0/24 fd00:0:0:1::/64", "192.168.49.2 fd01::2"),
    node("b", "10.244.1.0/24 fd00:0:0:2::/64", "192.168.49.3 fd01::3", MAC),
    node("c", "10.244.2.0/24 fd00:0:0:3::/64", "10.0.0.7", "02:00:00:00:00:0c"),
    node("d", "10.244.3.0/24", "10.0.0.8"),
]


def lines(*, always_wrap: bool = False) -> str:
    network = plan.observe("a", NODES)
    on_link = ("192.168.49.", "fd01:")
    found = plan.entries(
        network, lambda address: address.startswith(on_link), always_wrap=always_wrap
    )
    return "\n".join(str(change) for change in plan.changes(found, []))


def test_routes_on_the_link_and_tunnels_elsewhere() -> None:
    """Forwarding and neighbours come before the route that needs them; a node that has published
    nothing and is on no link of ours cannot be reached yet."""
    assert (
        lines()
        == """\
add forward 02:00:00:00:00:0c via 10.0.0.7 on tunnel
add neighbour 10.244.2.0 via 02:00:00:00:00:0c on tunnel
add neighbour fd00:0:0:3:: via 02:00:00:00:00:0c on tunnel
add route 10.244.1.0/24 via 192.168.49.3 on link
add route 10.244.2.0/24 via 10.244.2.0 on tunnel
add route fd00:0:0:2::/64 via fd01::3 on link
add route fd00:0:0:3::/64 via fd00:0:0:3:: on tunnel"""
    )


def test_everything_wrapped() -> None:
    assert "add route 10.244.1.0/24 via 10.244.1.0 on tunnel" in lines(always_wrap=True)
    assert " on link" not in lines(always_wrap=True)


def test_exactly_three_objects_for_each_node() -> None:
    network = plan.observe("a", [NODES[0], node("c", "10.244.2.0/24", "10.0.0.7", MAC)])
    found = plan.entries(network, lambda _: False)
    assert sorted(entry.kind for entry in found) == ["forward", "neighbour", "route"]


def test_a_route_goes_first_and_what_changes_is_replaced() -> None:
    old = [
        Entry("route", "10.244.2.0/24", "10.244.2.0"),
        Entry("neighbour", "10.244.2.0", MAC),
        Entry("forward", MAC, "10.0.0.7"),
        Entry("route", "10.244.1.0/24", "192.168.49.3", tunnelled=False),
    ]
    new = [Entry("route", "10.244.1.0/24", "192.168.49.9", tunnelled=False)]
    assert [str(change) for change in plan.changes(new, old)] == [
        "remove route 10.244.2.0/24 via 10.244.2.0 on tunnel",
        "add route 10.244.1.0/24 via 192.168.49.9 on link",
        "remove neighbour 10.244.2.0 via 02:00:00:00:00:0b on tunnel",
        "remove forward 02:00:00:00:00:0b via 10.0.0.7 on tunnel",
    ]
    assert plan.changes(new, new) == []
    assert plan.changes([], []) == []
    assert Change(old[0]) not in plan.changes(old, old)


@pytest.mark.parametrize(
    ("address", "wrapped", "mtu"),
    [
        ("10.0.0.1", False, 1500),
        ("10.0.0.1", True, 1450),
        ("fd00::1", True, 1430),
    ],
)
def test_packets_fit_the_link(address: str, wrapped: bool, mtu: int) -> None:
    assert plan.pod_mtu(1500, address, wrapped=wrapped) == mtu
