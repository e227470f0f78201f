"""A node's own rules (`cluster/topology.py`) in a real kernel: what pods must not reach of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
from collections.abc import AsyncIterator
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest
from tests.cluster.node.environment import run
from tests.cluster.policy_ground import NODE, OUTSIDE, Ground, ground, inside
from tests.tasks import patience

from navarch.cluster import topology
from navarch.cluster.netns import load_rules
from navarch.cluster.profile import Profile

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed"),
]
METADATA = "169.254.169.254"
PROFILE = Profile("guard", subnet="192.0.2.0/24", pod_cidr="10.1.0.0/16")


@pytest.fixture
async def where() -> AsyncIterator[Ground]:
    with ground() as found:
        yield found


def guard(where: Ground, profile: Profile) -> None:
    inside(where.node, partial(load_rules, topology.node_rules(profile)))


def datagram(source: str, target: str, port: int, text: bytes) -> bytes:
    """An IPv4 packet with UDP in it (RFC 791, RFC 768; no checksum of UDP)."""
    ends = ip_address(source).packed + ip_address(target).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(text), 1, 0, 64, 17, 0) + ends
    total = sum(struct.unpack("!10H", head))
    checksum = ~(total + (total >> 16)) & 0xFFFF
    head = head[:10] + struct.pack("!H", checksum) + head[12:]
    return head + struct.pack("!HHHH", 5000, port, 8 + len(text), 0) + text


async def test_what_listens_on_loopback_is_the_nodes_own(where: Ground) -> None:
    """CVE-2020-8558: host ports make the kernel route packets to 127.0.0.1 that come by a pod's
    link (the plug-in portmap sets route_localnet there)."""
    pod = where.plug()
    link = run("ip", "-n", where.node, "route", "get", pod).split("dev ")[1].split()[0]
    mac = run("ip", "-n", where.node, "-br", "link", "show", link).split()[2]
    setting = Path("/proc/sys/net/ipv4/conf", link, "route_localnet")
    inside(where.node, partial(setting.write_text, "1"))
    where.places["127.0.0.1"] = where.node
    listening = where.socket("127.0.0.1", socket.SOCK_DGRAM, 90)
    loop = asyncio.get_running_loop()

    def send(text: bytes) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sending:
            sending.bind(("eth0", 0))
            own = sending.getsockname()[4]
            frame = bytes.fromhex(mac.replace(":", "")) + own + b"\x08\x00"
            sending.send(frame + datagram(pod, "127.0.0.1", 90, text))

    async def heard(text: bytes) -> bytes:
        inside(where.places[pod], partial(send, text))
        try:
            async with patience(1):
                return await loop.sock_recv(listening, 100)
        except TimeoutError:
            return b""

    with listening:
        assert await heard(b"no guard") == b"no guard", "or this would prove nothing"
        run("ip", "netns", "exec", where.node, "conntrack", "-F")
        guard(where, PROFILE)
        assert await heard(b"hello") == b""


async def test_a_clouds_metadata_is_out_of_reach_where_asked(where: Ground) -> None:
    pod = where.plug()
    where.add_remote(METADATA)
    run("ip", "-n", where.node, "route", "add", METADATA, "via", OUTSIDE)
    await where.serve(METADATA, 80)
    for is_blocked in (False, True):
        profile = Profile("guard", subnet=PROFILE.subnet, pod_cidr=PROFILE.pod_cidr,
                          metadata_blocked=is_blocked)  # fmt: skip
        guard(where, profile)
        reached = await where.reaches(pod, METADATA, "TCP", 80, seconds=1.0)
        assert reached is not is_blocked
        assert await where.reaches(NODE, METADATA, "TCP", 80, seconds=1.0)
