"""Three announcers and a client on a link: who answers, and how fast another takes over.

No containers and no cluster: network namespaces that the test makes, real frames between them.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from navarch.cluster import processes
from navarch.network.announce.announcer import SILENCE
from navarch.network.announce.election import Claim, Nodes, winner

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="run: navarch setup"),
]

NAMES = ("a", "b", "c")
FOUR = [f"192.0.2.{number}" for number in (201, 202, 203)]
SIX = "2001:db8::c:1"
NODE = """
import asyncio, ipaddress, sys
from navarch.client.clock import RealClock
from navarch.network.announce.announcer import Announcer, Identity
from navarch.network.announce.election import Claim, Nodes, View
from navarch.network.announce.wire import LinuxWire, facing

async def main(address, name, names, *addresses):
    wire = LinuxWire(facing([address]))
    announcer = Announcer(Identity(name, b"12345678"), wire, RealClock(), lambda claim: None)
    claims = [Claim(ipaddress.ip_address(each), is_served=True) for each in addresses]
    nodes = Nodes(frozenset(names.split(",")))
    while True:
        announcer.see(View({each.address: each for each in claims}, nodes))
        await asyncio.sleep(1)

asyncio.run(main(*sys.argv[1:]))
"""
ASK = """
import asyncio, ipaddress, json, socket, sys
from navarch.network.announce import packets
from navarch.network.announce.wire import LinuxWire

async def main(text):
    address, wire, heard = ipaddress.ip_address(text), LinuxWire("br0"), []
    wire.listen({packets.ETH_ARP, packets.ETH_BEAT}, lambda kind, frame: heard.append(frame))
    wire.send(packets.arp_request(address, wire.mac, ipaddress.ip_address("192.0.2.1")))
    await asyncio.sleep(0.3)
    found = [packets.read_arp(frame) for frame in heard]
    print(json.dumps(sorted({each[1].mac.hex(":") for each in found
          if each and each[0] == packets.REPLY and each[1].address == address})))

asyncio.run(main(sys.argv[1]))
"""


class Ground:
    """A client's namespace with a bridge, and a namespace for each announcer on it."""

    def __init__(self, stack: ExitStack) -> None:
        self._prefix = f"nvann-{uuid.uuid4().hex[:6]}"
        self._stack = stack
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.macs: dict[str, str] = {}
        self.client = self._namespace("client")
        self.ip("link", "add", "br0", "type", "bridge")
        for address in ("192.0.2.1/24", "2001:db8::1/64"):
            self.ip("addr", "add", address, "dev", "br0", *self._no_dad(address))
        self.ip("link", "set", "br0", "up")
        for number, name in enumerate(NAMES, 2):
            self._attach(name, number)

    @staticmethod
    def _no_dad(address: str) -> list[str]:
        return ["nodad"] if ":" in address else []

    def _namespace(self, name: str) -> str:
        made = f"{self._prefix}-{name}"
        subprocess.run(["ip", "netns", "add", made], check=True)
        self._stack.callback(subprocess.run, ["ip", "netns", "del", made], check=False)
        subprocess.run(["ip", "-n", made, "link", "set", "lo", "up"], check=True)
        return made

    def ip(self, *words: str, where: str = "") -> str:
        command = ["ip", "-n", where or self.client, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def _attach(self, name: str, number: int) -> None:
        there = self._namespace(name)
        self.ip("link", "add", f"to-{name}", "type", "veth", "peer", "eth0", "netns", there)
        self.ip("link", "set", f"to-{name}", "master", "br0", "up")
        for address in (f"192.0.2.{number}/24", f"2001:db8::{number}/64"):
            self.ip("addr", "add", address, "dev", "eth0", *self._no_dad(address), where=there)
        self.ip("link", "set", "eth0", "up", where=there)
        link = json.loads(self.ip("-j", "link", "show", "eth0", where=there))
        self.macs[name] = link[0]["address"]

    def start(self, name: str) -> None:
        where = f"{self._prefix}-{name}"
        own = f"192.0.2.{2 + NAMES.index(name)}"
        words = [sys.executable, "-c", NODE, own, name, ",".join(NAMES), *FOUR, SIX]
        self.nodes[name] = subprocess.Popen(["ip", "netns", "exec", where, *words])
        self._stack.callback(self._end, self.nodes[name])

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()

    def kill(self, name: str) -> None:
        self._end(self.nodes.pop(name))

    def pull(self, name: str) -> None:
        """The node's cable."""
        self.ip("link", "set", "eth0", "down", where=f"{self._prefix}-{name}")

    def plug(self, name: str) -> None:
        self.ip("link", "set", "eth0", "up", where=f"{self._prefix}-{name}")

    def owners(self, address: str) -> list[str]:
        """Who answers for an address."""
        words = ["ip", "netns", "exec", self.client, sys.executable, "-c", ASK, address]
        answered = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        return [name for name, mac in self.macs.items() if mac in json.loads(answered)]

    def is_answered(self, address: str) -> bool:
        return self.owners(address) == [expected(address)]

    def neighbour(self, address: str) -> str:
        """Whom the client's kernel sends to for an address, having sent something."""
        send = f"echo > /dev/udp/{address}/9"
        subprocess.run(
            ["ip", "netns", "exec", self.client, "bash", "-c", send],
            check=False,
            capture_output=True,
        )
        listed = json.loads(self.ip("-j", "neigh", "show", address) or "[]")
        macs = {each.get("lladdr") for each in listed}
        return next((name for name, mac in self.macs.items() if mac in macs), "")


@pytest.fixture
def ground() -> Iterator[Ground]:
    with ExitStack() as stack:
        yield Ground(stack)


def expected(address: str, names: str = "abc") -> str:
    claim = Claim(ipaddress.ip_address(address), is_served=True)
    found = winner(claim, Nodes(frozenset(NAMES)), frozenset(names))
    assert found is not None
    return found


def eventually(ground: Ground, address: str, owner: str) -> None:
    """The client's kernel sends to this node."""
    there = processes.wait_until(lambda: ground.neighbour(address) == owner, 60)
    assert there, (address, owner, ground.neighbour(address))


def test_one_answers_and_another_takes_over(ground: Ground) -> None:
    for name in NAMES:
        ground.start(name)
    for address in FOUR:
        assert processes.wait_until(partial(ground.is_answered, address), 60), address
    for address, end, begin in (
        (FOUR[0], ground.kill, ground.start),
        (SIX, ground.pull, ground.plug),
    ):
        owner = expected(address)
        heir = expected(address, "abc".replace(owner, ""))
        eventually(ground, address, owner)
        began = time.monotonic()
        end(owner)
        eventually(ground, address, heir)
        seconds = time.monotonic() - began
        print(f"{address}: {heir} has taken over from {owner} after {seconds:.1f} s")
        assert seconds < SILENCE + 15.0  # a busy machine is granted some
        begin(owner)
        eventually(ground, address, owner)
    assert processes.wait_until(partial(ground.is_answered, FOUR[0]), 60)
