"""Frames as bytes, elections as values, and announcers on a link in memory and virtual time."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from typing import Any

import pytest

from navarch.api.types.core_v1 import (
    LoadBalancerIngress,
    LoadBalancerStatus,
    Node,
    NodeCondition,
    NodeStatus,
    Service,
    ServiceSpec,
    ServiceStatus,
)
from navarch.api.types.discovery_v1 import Endpoint, EndpointConditions, EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import FakeClock
from navarch.network.announce import packets
from navarch.network.announce.announcer import SILENCE, Announcer, Identity
from navarch.network.announce.election import (
    EXCLUDE_LABEL,
    Claim,
    Nodes,
    View,
    claims_of,
    nodes_of,
    winner,
)
from navarch.network.announce.packets import Address, Question
from navarch.network.announce.wire import Take

OURS, THEIRS = bytes.fromhex("02aa00000001"), bytes.fromhex("02bb00000002")
FOUR, SIX = ipaddress.ip_address("192.168.49.205"), ipaddress.ip_address("fd00::1:2:3")
ASKER, ASKER6 = ipaddress.ip_address("192.168.49.1"), ipaddress.ip_address("fe80::9")
CLUSTER = b"12345678"


def test_an_arp_request_and_its_answer() -> None:
    asked = packets.arp_request(FOUR, THEIRS, ASKER)
    assert asked.hex().startswith(
        "ffffffffffff 02bb00000002 0806 0001 0800 06 04 0001"
        " 02bb00000002 c0a83101 000000000000 c0a831cd".replace(" ", "")
    )
    assert len(asked) == 60
    found = packets.read_arp(asked)
    assert found == (packets.REQUEST, Question(FOUR, THEIRS, ASKER))
    assert (
        packets.arp_reply(found[1], OURS)
        .hex()
        .startswith(
            "02bb00000002 02aa00000001 0806 0001 0800 06 04 0002"
            " 02aa00000001 c0a831cd 02bb00000002 c0a83101".replace(" ", "")
        )
    )


def test_gratuitous_arp_names_the_address_twice() -> None:
    asks, answers = packets.gratuitous_arp(FOUR, OURS)
    for frame, operation in (asks, "0001"), (answers, "0002"):
        assert frame.hex().startswith(
            f"ffffffffffff 02aa00000001 0806 0001 0800 06 04 {operation}"
            " 02aa00000001 c0a831cd ffffffffffff c0a831cd".replace(" ", "")
        )


def test_a_neighbour_solicitation_and_its_answer() -> None:
    asked = packets.solicitation(SIX, THEIRS, ASKER6)
    # ff02::1:ff02:3, and its group on the link
    assert asked[:6].hex() == "3333ff020003"
    found = packets.read_solicitation(asked)
    assert found == Question(SIX, THEIRS, ASKER6)
    answer = packets.advertisement(found, OURS)
    assert answer[:14].hex() == "02bb0000000202aa0000000186dd"
    assert answer[14:22].hex() == "6000000000203aff"
    assert answer[22:38] == SIX.packed and answer[38:54] == ASKER6.packed
    assert answer[54:56].hex() == "8800" and answer[58:62].hex() == "60000000"
    assert answer[62:78] == SIX.packed and answer[78:].hex() == "020102aa00000001"
    assert _checks(answer) and _checks(asked)


def _checks(frame: bytes) -> bool:
    body = frame[54:]
    pseudo = frame[22:54] + len(body).to_bytes(4) + (58).to_bytes(4)
    return packets.checksum(pseudo + body) == 0


def test_who_looks_for_a_free_address_is_answered_to_all() -> None:
    probe = Question(SIX, THEIRS, ipaddress.ip_address("::"))
    frame = packets.advertisement(probe, OURS)
    assert frame == packets.unsolicited_advertisement(SIX, OURS)
    assert frame[:6].hex() == "333300000001" and frame[58:62].hex() == "20000000"


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\0" * 60,
        packets.solicitation(SIX, THEIRS, ASKER6)[:77],
        packets.solicitation(SIX, THEIRS, ASKER6).replace(b"\x3a\xff", b"\x3a\xfe", 1),
        packets.unsolicited_advertisement(SIX, THEIRS),
        packets.arp_request(FOUR, THEIRS, ASKER)[:41],
        packets.arp_request(FOUR, THEIRS, ASKER).replace(b"\x08\x00\x06\x04", b"\x08\x00\x08\x04"),
    ],
)
def test_what_is_no_question(frame: bytes) -> None:
    assert packets.read_solicitation(frame) is None
    assert packets.read_arp(frame) is None


def test_beats_are_of_one_cluster() -> None:
    frame = packets.beat(CLUSTER, "n1", OURS)
    assert packets.read_beat(frame, CLUSTER) == "n1"
    assert packets.read_beat(frame, b"87654321") is None
    assert packets.read_beat(frame[:22], CLUSTER) is None


NODES = Nodes(frozenset("abcd"))
CLAIM = Claim(FOUR, frozenset({"ns/web"}), is_served=True)


def test_one_wins_and_nobody_moves_without_need() -> None:
    first = winner(CLAIM, NODES, frozenset("abcd"))
    assert first is not None
    for other in set("abcd") - {first}:
        assert winner(CLAIM, NODES, frozenset("abcd") - {other}) == first
    addresses = [ipaddress.ip_address(f"10.0.0.{number}") for number in range(200)]
    wins = [winner(Claim(a, is_served=True), NODES, frozenset("abcd")) for a in addresses]
    assert min(wins.count(name) for name in "abcd") > 25


@pytest.mark.parametrize(
    ("claim", "nodes", "heard", "expected"),
    [
        pytest.param(Claim(FOUR), NODES, "abcd", None, id="nobody serves"),
        pytest.param(CLAIM, NODES, "c", "c", id="only one is heard"),
        pytest.param(CLAIM, Nodes(frozenset("ab")), "bc", "b", id="only nodes of the API"),
        pytest.param(
            Claim(FOUR, is_served=True, nodes=frozenset("b")), NODES, "abcd", "b", id="local"
        ),
        pytest.param(
            Claim(FOUR, is_served=True, nodes=frozenset("b")), NODES, "acd", None, id="local, away"
        ),
        pytest.param(CLAIM, Nodes(frozenset("ab"), barred=frozenset("a")), "ab", "b", id="barred"),
        pytest.param(CLAIM, Nodes(frozenset("ab"), lost=frozenset("a")), "ab", "b", id="lost"),
        pytest.param(CLAIM, Nodes(frozenset("a"), lost=frozenset("a")), "a", "a", id="all lost"),
        pytest.param(
            CLAIM, Nodes(frozenset("a"), barred=frozenset("a")), "a", None, id="all barred"
        ),
    ],
)
def test_who_wins(claim: Claim, nodes: Nodes, heard: str, expected: str | None) -> None:
    assert winner(claim, nodes, frozenset(heard)) == expected


def node(name: str, ready: str = "True", **extra: Any) -> Node:
    conditions = [NodeCondition(type="Ready", status=ready)]
    if extra.pop("cut", False):
        conditions.append(NodeCondition(type="NetworkUnavailable", status="True"))
    return Node(metadata=ObjectMeta(name=name, **extra), status=NodeStatus(conditions=conditions))


def test_nodes_as_the_api_shows_them() -> None:
    found = nodes_of(
        [
            node("a"),
            node("b", "Unknown"),
            node("c", labels={EXCLUDE_LABEL: ""}),
            node("d", cut=True),
        ]
    )
    assert found == Nodes(frozenset("abcd"), frozenset("cd"), frozenset("b"))


def service(name: str, *addresses: str, **extra: Any) -> Service:
    annotations = {"metallb.io/ip-allocated-from-pool": "p"} if extra.pop("ours", True) else {}
    mode = extra.pop("mode", "VIP")
    ingress = [LoadBalancerIngress(ip=each, ipMode=mode) for each in addresses]
    meta = ObjectMeta(
        name=name, namespace="ns", annotations=annotations, labels=extra.pop("labels", {})
    )
    return Service(
        metadata=meta,
        spec=ServiceSpec(type="LoadBalancer", **extra),
        status=ServiceStatus(loadBalancer=LoadBalancerStatus(ingress=ingress)),
    )


def slices(*served: tuple[str | None, bool | None]) -> list[EndpointSlice]:
    endpoints = [
        Endpoint(nodeName=name, conditions=EndpointConditions(serving=serving))
        for name, serving in served
    ]
    return [EndpointSlice(endpoints=endpoints)]


def test_claims() -> None:
    local = {"externalTrafficPolicy": "Local"}
    services = [
        service("web", str(FOUR), str(SIX)),
        service("shared", str(FOUR), **local),
        service("alone", "10.0.0.1", **local),
        service("theirs", "10.0.0.2", ours=False),
        service("proxied", "10.0.0.3", mode="Proxy"),
        service("other", "10.0.0.4", labels={"service.kubernetes.io/service-proxy-name": "x"}),
    ]
    serving = {"ns/shared": slices(("a", True), ("b", False), (None, None)), "ns/web": slices()}
    alone = ipaddress.ip_address("10.0.0.1")
    assert claims_of(services, serving) == {
        FOUR: Claim(FOUR, frozenset({"ns/web", "ns/shared"}), True, frozenset("a")),
        SIX: Claim(SIX, frozenset({"ns/web"}), False),
        alone: Claim(alone, frozenset({"ns/alone"}), False),
    }


def test_a_node_whose_endpoints_all_terminate_is_left_while_they_serve() -> None:
    def each(node: str, *, ready: bool) -> Endpoint:
        return Endpoint(nodeName=node, conditions=EndpointConditions(ready=ready, serving=True))

    def who(*endpoints: Endpoint, policy: str = "Local") -> str | None:
        found = service("web", str(FOUR), externalTrafficPolicy=policy)
        held = {"ns/web": [EndpointSlice(endpoints=list(endpoints))]}
        return winner(claims_of([found], held)[FOUR], NODES, frozenset("abc"))

    first = who(each("a", ready=True), each("b", ready=True))
    assert first is not None
    other = "b" if first == "a" else "a"
    ends, stays = each(first, ready=False), each(other, ready=True)
    assert who(ends, stays) == other
    assert who(ends, each(first, ready=True), stays) == first, "one of them still stays there"
    assert who(ends) == first, "there is no better one"
    assert who(ends, each(other, ready=False)) == first
    anywhere = [who(*found, policy="Cluster") for found in ((ends, stays), (stays,))]
    assert anywhere[0] == anywhere[1], "any node will do under the other policy"


@dataclass
class Segment:
    """A link: what one sends all others take."""

    wires: list[MemoryWire] = field(default_factory=list)
    sent: list[tuple[str, bytes]] = field(default_factory=list)


@dataclass
class MemoryWire:
    segment: Segment
    name: str
    mac: bytes
    kinds: Set[int] = frozenset()
    take: Take | None = None
    groups: set[Address] = field(default_factory=set)
    is_cut: bool = False

    def listen(self, kinds: Set[int], take: Take) -> None:
        self.kinds, self.take = set(kinds), take

    def send(self, frame: bytes) -> None:
        if self.is_cut:
            return
        self.segment.sent.append((self.name, frame))
        kind = int.from_bytes(frame[12:14])
        for wire in self.segment.wires:
            if wire is not self and kind in wire.kinds and wire.take and not wire.is_cut:
                wire.take(kind, frame)

    def join(self, address: Address) -> None:
        self.groups.add(address)

    def leave(self, address: Address) -> None:
        self.groups.discard(address)

    def close(self) -> None:
        self.kinds = frozenset()


class Link:
    """Announcers on one segment, and somebody who asks."""

    def __init__(self, names: str) -> None:
        self.clock = FakeClock()
        self.segment = Segment()
        self.gained: list[tuple[str, Address]] = []
        self.wires: dict[str, MemoryWire] = {}
        self.announcers: dict[str, Announcer] = {}
        for number, name in enumerate(names):
            wire = MemoryWire(self.segment, name, bytes([2, 0, 0, 0, 0, number]))
            self.segment.wires.append(wire)
            self.wires[name] = wire
            self.announcers[name] = Announcer(
                Identity(name, CLUSTER),
                wire,
                self.clock,
                lambda claim, name=name: self.gained.append((name, claim.address)),  # type: ignore[misc]
            )

    def see(self, *claims: Claim, nodes: Nodes | None = None) -> None:
        view = View(
            {claim.address: claim for claim in claims}, nodes or Nodes(frozenset(self.announcers))
        )
        for announcer in self.announcers.values():
            announcer.see(view)

    def owners(self, address: Address) -> list[str]:
        return [name for name, each in self.announcers.items() if address in each.owned]

    def answers(self, frame: bytes, kind: int) -> list[str]:
        """Who answers a frame from outside."""
        before = len(self.segment.sent)
        for wire in self.segment.wires:
            if kind in wire.kinds and wire.take and not wire.is_cut:
                wire.take(kind, frame)
        return [name for name, _ in self.segment.sent[before:]]


@pytest.fixture
def link() -> Iterator[Link]:
    found = Link("abc")
    yield found
    for announcer in found.announcers.values():
        announcer.close()


async def test_a_lone_node_announces_at_once_and_then_five_times() -> None:
    link = Link("a")
    link.see(CLAIM, Claim(SIX, is_served=True))
    assert link.gained == [("a", FOUR), ("a", SIX)] or link.gained == [("a", SIX), ("a", FOUR)]
    await link.clock.advance(20)
    own = link.wires["a"].mac
    frames = [frame for _, frame in link.segment.sent]
    for frame in (*packets.gratuitous_arp(FOUR, own), packets.unsolicited_advertisement(SIX, own)):
        assert frames.count(frame) == 5
    assert len(frames) == 15  # and no beats: there is nobody to hear them
    assert link.wires["a"].groups == {SIX}


async def test_one_of_three_answers(link: Link) -> None:
    link.see(CLAIM, Claim(SIX, is_served=True))
    await link.clock.advance(2)
    (owner,), (owner6,) = link.owners(FOUR), link.owners(SIX)
    asked = packets.arp_request(FOUR, THEIRS, ASKER)
    assert link.answers(asked, packets.ETH_ARP) == [owner]
    assert link.answers(packets.solicitation(SIX, THEIRS, ASKER6), packets.ETH_IPV6) == [owner6]
    other = ipaddress.ip_address("192.168.49.206")
    assert link.answers(packets.arp_request(other, THEIRS, ASKER), packets.ETH_ARP) == []
    # What one of them says of itself is no question, and neither is what is meant for another.
    assert link.answers(packets.gratuitous_arp(FOUR, THEIRS)[0], packets.ETH_ARP) == []
    assert link.answers(THEIRS + asked[6:], packets.ETH_ARP) == []


async def test_all_are_heard_before_the_wait_is_over(link: Link) -> None:
    link.see(CLAIM)
    await link.clock.advance(0.1)
    assert len(link.owners(FOUR)) == 1


async def test_another_takes_over_from_one_that_falls_silent(link: Link) -> None:
    link.see(CLAIM)
    await link.clock.advance(2)
    (owner,) = link.owners(FOUR)
    link.wires[owner].is_cut = True
    link.announcers.pop(owner).close()
    await link.clock.advance(SILENCE - 1)
    assert link.owners(FOUR) == []
    await link.clock.advance(1.6)
    (heir,) = link.owners(FOUR)
    assert link.answers(packets.arp_request(FOUR, THEIRS, ASKER), packets.ETH_ARP) == [heir]
    announced = packets.gratuitous_arp(FOUR, link.wires[heir].mac)[0]
    assert (heir, announced) in link.segment.sent


async def test_who_loses_an_address_is_silent_at_once(link: Link) -> None:
    link.see(CLAIM)
    await link.clock.advance(2)
    (owner,) = link.owners(FOUR)
    link.see(CLAIM, nodes=Nodes(frozenset("abc"), barred=frozenset(owner)))
    (heir,) = link.owners(FOUR)
    assert heir != owner
    assert link.answers(packets.arp_request(FOUR, THEIRS, ASKER), packets.ETH_ARP) == [heir]
    link.see()
    assert link.owners(FOUR) == []
    before = len(link.segment.sent)
    await link.clock.advance(10)
    assert len(link.segment.sent) == before
    assert not any(wire.kinds for wire in link.wires.values())


async def test_nodes_that_never_speak_hold_nobody_up_for_long() -> None:
    link = Link("a")
    link.see(CLAIM, nodes=Nodes(frozenset({"a", "simulated-1"})))
    await link.clock.advance(1)
    assert link.owners(FOUR) == []
    await link.clock.advance(1)
    assert link.owners(FOUR) == ["a"]
