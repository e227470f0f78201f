"""The lookout of `conftest.py` does see what it looks for, and nothing else."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import struct
import uuid
from collections.abc import Iterator
from contextlib import suppress

import pytest
from tests.cluster.node.environment import run
from tests.cluster.outside import (
    AND,
    ETH_P_ARP,
    ETH_P_IP,
    ETH_P_IPV6,
    JUMP_IF_EQUAL,
    LOAD,
    LOADED_PROTOCOL,
    RETURN,
    Lookout,
    cluster_ranges,
    outer_links,
    program,
)
from tests.cluster.policy_ground import inside

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="run: navarch setup"),
]


def passes(kind: int, packet: bytes) -> bool:
    """What the kernel makes of the filter, in Python."""
    instructions, at, value = program(cluster_ranges()), 0, 0
    while True:
        code, if_true, if_false, operand = instructions[at]
        at += 1
        if code == RETURN:
            return bool(operand)
        if code == LOAD and operand == LOADED_PROTOCOL:
            value = kind
        elif code == LOAD:
            if operand + 4 > len(packet):
                return False
            value = struct.unpack_from("!I", packet, operand)[0]
        elif code == AND:
            value &= operand
        else:
            assert code == JUMP_IF_EQUAL
            at += if_true if value == operand else if_false


def ipv4(source: str, destination: str) -> bytes:
    return bytes(12) + b"".join(ipaddress.ip_address(each).packed for each in (source, destination))


def ipv6(source: str, destination: str) -> bytes:
    return bytes(8) + b"".join(ipaddress.ip_address(each).packed for each in (source, destination))


def arp(sender: str, target: str) -> bytes:
    return b"".join(
        (bytes(14), ipaddress.ip_address(sender).packed, bytes(6),
         ipaddress.ip_address(target).packed)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "packet", "is_seen"),
    [
        pytest.param(ETH_P_IP, ipv4("192.0.2.2", "10.96.0.10"), True, id="to a Service"),
        pytest.param(ETH_P_IP, ipv4("10.244.3.7", "192.0.2.1"), True, id="from a pod"),
        pytest.param(ETH_P_IP, ipv4("192.0.2.2", "10.100.1.1"), True, id="of another profile"),
        pytest.param(ETH_P_IP, ipv4("192.0.2.2", "192.168.49.205"), True, id="to a pool"),
        pytest.param(ETH_P_IP, ipv4("192.0.2.2", "192.0.2.1"), False, id="the host's own"),
        pytest.param(ETH_P_IP, ipv4("192.0.2.2", "10.64.0.1"), False, id="another private one"),
        pytest.param(ETH_P_ARP, arp("192.168.49.205", "192.0.2.1"), True, id="a pool announced"),
        pytest.param(ETH_P_ARP, arp("192.0.2.2", "10.96.0.1"), True, id="a Service looked for"),
        pytest.param(ETH_P_ARP, arp("192.0.2.2", "192.0.2.1"), False, id="a neighbour"),
        pytest.param(ETH_P_IPV6, ipv6("fd00::2", "fd4e:6176:0:2::a"), True, id="IPv6"),
        pytest.param(ETH_P_IPV6, ipv6("fd4e:6176:3:100::5", "fd00::1"), True, id="IPv6 pod"),
        pytest.param(ETH_P_IPV6, ipv6("fd00::2", "fd4e:6175::1"), False, id="another ULA"),
        pytest.param(0x88CC, ipv4("192.0.2.2", "10.96.0.10"), False, id="no IP at all"),
    ],
)
def test_what_the_filter_lets_through(kind: int, packet: bytes, is_seen: bool) -> None:
    assert passes(kind, packet) == is_seen


@pytest.fixture
def leaky() -> Iterator[str]:
    """A namespace whose outer link leads everywhere."""
    name = f"nvout-{uuid.uuid4().hex[:6]}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "add", "eth9", "type", "veth", "peer", "name", "far")
        run("ip", "-n", name, "link", "set", "far", "up")
        run("ip", "-n", name, "addr", "add", "192.0.2.9/24", "dev", "eth9")
        run("ip", "-n", name, "link", "set", "eth9", "up")
        run("ip", "-n", name, "route", "add", "default", "via", "192.0.2.1")
        run("ip", "-n", name, "neigh", "add", "192.0.2.1", "lladdr", "02:00:00:00:00:01",
            "dev", "eth9")  # fmt: skip
        yield name
    finally:
        run("ip", "netns", "del", name)


def test_a_packet_that_leaves_is_seen(leaky: str) -> None:
    """In a real kernel, by the link of the default route."""

    def look() -> list[str]:
        lookout = Lookout(["eth9"], cluster_ranges())
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
                sending.sendto(b"of no interest", ("198.51.100.1", 9))
            assert lookout.seen() == []
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
                sending.sendto(b"lost", ("10.96.0.10", 53))
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sending:
                sending.setblocking(False)
                with suppress(BlockingIOError):
                    sending.connect(("10.244.1.1", 80))
            return lookout.seen()
        finally:
            lookout.close()

    found = inside(leaky, look)
    assert [each.partition(": ")[0] for each in found] == ["out of eth9"] * 2
    assert "192.0.2.9 > 10.96.0.10" in found[0]
    assert "192.0.2.9 > 10.244.1.1" in found[1]


def test_this_machine_has_a_way_out_that_is_watched() -> None:
    """Or the whole suite would prove nothing."""
    if not outer_links():
        pytest.skip("nothing leads out of this machine")
    assert all(not name.startswith("navarch") for name in outer_links())
    assert cluster_ranges()
