"""Enforcement of NetworkPolicies while things change, in a real kernel: how soon, what becomes of
connections, what a restart and a stranger do, and what pods may try."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.cluster.node.environment import run
from tests.cluster.policy_ground import NODE, OUTSIDE, Scene, ground, inside, make_pod
from tests.cluster.proxy_probe import repeated_beginnings
from tests.pace import slowness
from tests.tasks import patience

from navarch.network.policy.claims import Claim
from navarch.network.policy.rules import TABLE

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed"),
]
DENY_ALL = {"policyTypes": ["Ingress", "Egress"]}
FROM_GUESTS = {
    "podSelector": {"matchLabels": {"pod": "a"}},
    "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "guest"}}}]}],
}


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    with ground() as where:
        made = Scene(where, tmp_path / "claims")
        try:
            await made.fill("x/a", "x/b", "x/c")
            yield made
        finally:
            made.kernel.close()


@asynccontextmanager
async def running(scene: Scene) -> AsyncIterator[None]:
    task = asyncio.create_task(scene.enforcer.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


class Received(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.packets: list[tuple[bytes, float]] = []

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.packets.append((data, time.monotonic()))


async def listen(scene: Scene, address: str, port: int = 90) -> Received:
    loop = asyncio.get_running_loop()
    bound = scene.ground.socket(address, socket.SOCK_DGRAM, port)
    transport, protocol = await loop.create_datagram_endpoint(Received, sock=bound)
    scene.ground.servers.append(transport)
    return protocol


@asynccontextmanager
async def flooding(scene: Scene, source: str, target: str) -> AsyncIterator[None]:
    """Packets without end, each of a connection of its own."""

    sockets = [scene.ground.socket(source, socket.SOCK_DGRAM) for _ in range(20)]

    async def send() -> None:
        while True:
            for each in sockets:
                with suppress(OSError):
                    each.sendto(b"flood", (target, 90))
            await asyncio.sleep(0.002)

    task = asyncio.create_task(send())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        for each in sockets:
            each.close()


async def test_a_changed_label_counts_within_a_fifth_of_a_second(scene: Scene) -> None:
    a, b = scene.address("x/a"), scene.address("x/b")
    scene.put(FROM_GUESTS)
    received = await listen(scene, a)
    opened, closed = [], []
    async with running(scene), flooding(scene, b, a):
        for _ in range(5):
            await asyncio.sleep(0.1)
            received.packets.clear()
            scene.relabel("x/b", role="guest")
            changed = time.monotonic()
            await until(lambda: received.packets)
            opened.append(received.packets[0][1] - changed)
            scene.relabel("x/b")
            changed = time.monotonic()
            await asyncio.sleep(0.5)
            last = received.packets[-1][1]
            closed.append(max(last - changed, 0.0))
    assert max(min(opened), min(closed)) < 0.2 * slowness(), (opened, closed)


async def test_connections_that_are_no_longer_allowed_are_cut(scene: Scene) -> None:
    a, b, c = (scene.address(f"x/{name}") for name in "abc")
    scene.relabel("x/b", role="guest")
    scene.relabel("x/c", role="guest")
    scene.put(FROM_GUESTS)
    await scene.enforcer.sync()
    async with running(scene):
        loop = asyncio.get_running_loop()
        open_ones = {}
        for source in (b, c, NODE):
            open_ones[source] = asking = scene.ground.socket(source, socket.SOCK_STREAM)
            await loop.sock_connect(asking, (a, 80))

        async def talks(source: str) -> bool:
            try:
                async with patience(1.0):
                    await loop.sock_sendall(open_ones[source], b"?")
                    return bool(await loop.sock_recv(open_ones[source], 1))
            except TimeoutError:
                return False

        assert [await talks(source) for source in open_ones] == [True] * 3
        scene.relabel("x/b")
        tracked = f"src={b} dst={a}"
        await until(lambda: tracked not in run("conntrack", "-L", "-p", "tcp"))
        assert [await talks(source) for source in (b, c, NODE)] == [False, True, True]
        # Nor does the other end bring it back.
        assert not await talks(b)
        for each in open_ones.values():
            each.close()


@pytest.mark.parametrize("damage", ["delete table {}", "flush table {}", "flush map {} targets-4"])
async def test_what_a_stranger_destroys_is_repaired(scene: Scene, damage: str) -> None:
    a, b = scene.address("x/a"), scene.address("x/b")
    scene.put(DENY_ALL)
    await scene.enforcer.sync()
    async with running(scene):
        assert not await scene.ground.reaches(b, a, "UDP", 80)
        run("nft", damage.format(TABLE))
        async with asyncio.timeout(60):
            while await scene.ground.reaches(b, a, "UDP", 80):
                pass
        assert scene.strangers == 1


async def test_no_packet_passes_during_a_restart(scene: Scene, tmp_path: Path) -> None:
    b = scene.address("x/b")
    scene.put(DENY_ALL)
    await scene.enforcer.sync()
    outside, at_b = await listen(scene, OUTSIDE), await listen(scene, b)
    newcomer = scene.ground.plug()
    claim = Claim(namespace="x", name="new", uid="x/new", addresses=(newcomer,))
    async with flooding(scene, b, OUTSIDE), flooding(scene, OUTSIDE, b):
        async with running(scene):
            await scene.enforcer.admit(claim)
        async with flooding(scene, newcomer, OUTSIDE):
            # The agent is killed before the API knows of the new pod's address; the pod runs.
            scene.kernel.close()
            after = Scene(scene.ground, tmp_path / "claims")
            scene.kernel = after.kernel
            for name in ("x", "y", "z"):
                after.put_namespace(name)
            for pod in scene.pods.values():
                after.put_pod(pod)
            after.put(DENY_ALL)
            async with running(after):
                await until(lambda: after.enforcer.table.is_known)
                await asyncio.sleep(0.2)
                after.put_pod(make_pod("x", "new", newcomer))
                await asyncio.sleep(0.2)
    assert not list((tmp_path / "claims").iterdir())
    assert outside.packets == at_b.packets == []


async def test_what_is_allowed_passes_during_restarts(scene: Scene) -> None:
    """To make the table anew holds nobody up: not one packet that begins a connection is lost."""
    a, b = scene.address("x/a"), scene.address("x/b")
    scene.relabel("x/b", role="guest")
    scene.put(FROM_GUESTS)
    await scene.enforcer.sync()
    loop, over, begun = asyncio.get_running_loop(), asyncio.Event(), 0
    # To enter a namespace takes longer than to connect.
    place = scene.ground.places[b]
    sockets = inside(place, lambda: [socket.socket() for _ in range(4000)])

    async def connect() -> None:
        nonlocal begun
        while not over.is_set() and sockets:
            with sockets.pop() as asking:
                asking.setblocking(False)
                await loop.sock_connect(asking, (a, 80))
                begun += 1

    before = inside(place, repeated_beginnings)
    connecting = [asyncio.create_task(connect()) for _ in range(4)]
    for _ in range(10):
        scene.enforcer.table.is_known = False
        await scene.enforcer.sync()
    over.set()
    await asyncio.gather(*connecting)
    for each in sockets:
        each.close()
    assert begun > 20
    assert inside(place, repeated_beginnings) == before


async def test_the_node_its_name_server_and_the_pod_itself(scene: Scene) -> None:
    a, b = scene.address("x/a"), scene.address("x/b")
    rules = f"""
        table ip test {{
            chain to {{ type nat hook prerouting priority dstnat; ip daddr 10.96.0.9 dnat to {a}; }}
            chain back {{ type nat hook postrouting priority srcnat;
                          ip saddr {a} ip daddr {a} masquerade; }}
        }}"""
    run("nft", rules)
    scene.put(DENY_ALL)
    await scene.enforcer.sync()

    async def reaches(*cells: tuple[str, str, str, int]) -> list[bool]:
        return [await scene.ground.reaches(*cell, seconds=1.0) for cell in cells]

    asks = [(NODE, a, "TCP", 80), (a, "10.96.0.9", "TCP", 80), (b, "10.96.0.9", "TCP", 80)]
    assert await reaches(*asks) == [True, True, False]
    name_server = [(a, NODE, "UDP", 53), (a, NODE, "TCP", 53), (a, NODE, "UDP", 80)]
    assert await reaches(*name_server) == [False, False, False]
    scene.put_namespace("kube-system")
    selector = {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
    dns = {"namespaceSelector": selector, "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}}}
    scene.put({"policyTypes": ["Egress"], "egress": [{"to": [dns]}]}, "dns")
    await scene.enforcer.sync()
    assert await reaches(*name_server) == [True, True, False]
    scene.put(
        {"policyTypes": ["Egress"], "egress": [{"to": [dns], "ports": [{"port": "dns",
         "protocol": "UDP"}]}]}, "dns"
    )  # fmt: skip
    await scene.enforcer.sync()
    assert await reaches(*name_server) == [True, False, False]


async def test_a_pod_cannot_pass_for_another(scene: Scene) -> None:
    a, b, c = (scene.address(f"x/{name}") for name in "abc")
    received = await listen(scene, a)
    run("ip", "-n", scene.ground.places[b], "address", "add", f"{c}/32", "dev", "lo")

    def send(source: str) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
            sending.bind((source, 0))
            sending.sendto(source.encode(), (a, 90))

    inside(scene.ground.places[b], lambda: send(c))
    inside(scene.ground.places[b], lambda: send(b))
    await until(lambda: received.packets)
    assert [data for data, _ in received.packets] == [b.encode()]


async def test_a_pod_cannot_join_in_what_others_say(scene: Scene) -> None:
    """Not even in a connection that there is, where its packet would be no first one: to guess the
    port of a question to the name server would be enough to answer it."""
    a, b, c = (scene.address(f"x/{name}") for name in "abc")
    received = await listen(scene, a, 91)
    places = scene.ground.places
    run("ip", "-n", places[c], "address", "add", f"{b}/32", "dev", "lo")

    def say(place: str, source: tuple[str, int], target: tuple[str, int], text: bytes) -> None:
        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
                sending.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sending.bind(source)
                sending.sendto(text, target)

        inside(places[place], send)

    server = (b, 90)
    say(a, (a, 91), server, b"a question")
    say(b, server, (a, 91), b"an answer")
    await until(lambda: received.packets)
    say(c, server, (a, 91), b"a forged one")
    say(b, server, (a, 91), b"the last")
    await until(lambda: received.packets[-1][0] == b"the last")
    assert [data for data, _ in received.packets] == [b"an answer", b"the last"]


def claim_by_arp(address: str, victim: str) -> bytes:
    """A frame to everybody that says that an address is here (RFC 826, RFC 5227)."""
    here = bytes.fromhex("02deadbeef01")
    ends = [bytes(map(int, each.split("."))) for each in (address, victim)]
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 2, here, ends[0], b"\xff" * 6, ends[1])
    return b"\xff" * 6 + here + b"\x08\x06" + body


async def test_a_pod_cannot_take_addresses_on_the_link(scene: Scene) -> None:
    """Every pod has a link of its own: whatever it claims there, others do not hear of it, and the
    node goes by its routes."""
    a, b, c = (scene.address(f"x/{name}") for name in "abc")
    gateway = run("ip", "-n", scene.ground.places[c], "route").split()[2]

    def claim() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sending:
            sending.bind(("eth0", 0))
            for address in (a, b, gateway, NODE, OUTSIDE):
                for victim in (address, a, gateway):
                    sending.send(claim_by_arp(address, victim))

    inside(scene.ground.places[c], claim)
    for cell in ((a, b), (b, a), (NODE, b), (a, NODE), (a, OUTSIDE)):
        assert await scene.ground.reaches(*cell, "UDP", 80, seconds=5.0), cell
    for place in (scene.ground.node, scene.ground.places[a]):
        for line in run("ip", "-n", place, "neigh").splitlines():
            assert "02:de:ad" not in line or line.split()[0] == c, line


async def test_rules_with_ports_are_not_about_icmp(scene: Scene) -> None:
    a, b = scene.address("x/a"), scene.address("x/b")

    def echo(number: int, seconds: float) -> bool:
        # Each with a number of its own: or it would be the connection that there was before.
        header = struct.pack(">BBHHH", 8, 0, 0xF7FF - number, number, 0)
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as asking:
            asking.settimeout(seconds)
            asking.sendto(header, (a, 0))
            with suppress(TimeoutError):
                return bool(asking.recv(100))
        return False

    async def answers(number: int, seconds: float = 30.0) -> bool:
        await scene.enforcer.sync()
        place = scene.ground.places[b]
        return await asyncio.to_thread(inside, place, lambda: echo(number, seconds))

    assert await answers(1)
    scene.put({"ingress": [{"ports": [{"port": 80}, {"protocol": "UDP"}]}]})
    assert not await answers(2, 1.0)
    scene.put({"ingress": [{"from": [{"podSelector": {}}]}]})
    assert await answers(3)


async def test_both_families_of_a_pod_are_isolated(scene: Scene) -> None:
    families = ("10.1.0.0/24", "fd00:1::/64")
    names = {name: scene.ground.plug(*families) for name in ("six", "seven")}
    for name, addresses in names.items():
        scene.put_pod(make_pod("x", name, addresses))
    six, seven = (addresses.split(",") for addresses in names.values())
    for address in six:
        await scene.ground.serve(address, 80)

    async def reached() -> list[bool]:
        await scene.enforcer.sync()
        cells = list(zip(seven, six, strict=True))
        return [await scene.ground.reaches(*cell, "UDP", 80, 1.0) for cell in cells]

    async with asyncio.timeout(60):
        # New addresses of IPv6 are looked for before they are used (RFC 4862).
        while await reached() != [True, True]:
            pass
    scene.put({"policyTypes": ["Ingress", "Egress"]})
    assert await reached() == [False, False]
    scene.put({"ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": "serve-80-udp",
               "protocol": "UDP"}]}]})  # fmt: skip
    assert await reached() == [True, True]
    scene.put({"ingress": [{"from": [{"ipBlock": {"cidr": "::/0", "except": ["fd00:2::/64"]}}]}]})
    assert await reached() == [False, True]
