"""A node for tests of NetworkPolicies: network namespaces, pods wired by the cluster's own plug-in,
enforcement, and everybody asking everybody. No containers, and no API."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
from tests.cluster.node.environment import enter_network, run
from tests.tasks import patience
from tests.unit.network.policy_model import World

from navarch.api.types.core_v1 import (
    Container,
    ContainerPort,
    Namespace,
    Pod,
    PodIP,
    PodSpec,
    PodStatus,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.networking_v1 import NetworkPolicy
from navarch.client.clock import RealClock
from navarch.cluster.containerd import cni_directory
from navarch.network.pods.cni import config
from navarch.network.policy.claims import Book
from navarch.network.policy.enforcer import Enforcer
from navarch.network.policy.kernel import LinuxKernel
from navarch.network.policy.planner import Planner
from navarch.network.policy.rules import dns_service

T = TypeVar("T")
NODE, OUTSIDE, REMOTE = "192.0.2.1", "192.0.2.2", "10.1.1.7"
PORTS = (("TCP", 80), ("TCP", 81), ("UDP", 80))
KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
PATIENCE = 0.35
"""Seconds after which a silent packet counts as dropped. Answers take a thousandth of it."""


def inside(namespace: str, work: Callable[[], T]) -> T:
    """Do something in a network namespace, from a thread that has no other use."""
    results: list[T] = []

    def enter() -> None:
        enter_network(f"/run/netns/{namespace}")
        results.append(work())

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    return results[0]


def make_pod(
    namespace: str, name: str, address: str, node: str = "here", labels: Mapping[str, str] = {}
) -> Pod:
    ports = [
        ContainerPort(name=f"serve-{port}-{protocol.lower()}", containerPort=port,
                      protocol=protocol)
        for port in (80, 81)
        for protocol in ("TCP", "UDP")
    ]  # fmt: skip
    return Pod(
        metadata=ObjectMeta(name=name, namespace=namespace, uid=f"{namespace}/{name}",
                            labels={"pod": name, **labels}),
        spec=PodSpec(nodeName=node, containers=[Container(name="main", ports=ports)]),
        status=PodStatus(phase="Running", podIP=address.partition(",")[0],
                         podIPs=[PodIP(ip=each) for each in address.split(",")]),
    )  # fmt: skip


class Answering(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


class Ground:
    """The node's namespace, one beyond it, and the pods."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.prefix = f"navpol-{uuid.uuid4().hex[:6]}"
        self.node, self.outside = f"{self.prefix}-node", f"{self.prefix}-out"
        self.places: dict[str, str] = {}
        """The namespace in which an address is."""
        self.servers: list[asyncio.AbstractServer | asyncio.DatagramTransport] = []

    def build(self) -> None:
        for name in (self.node, self.outside):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", self.node, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0",
            "netns", self.outside)  # fmt: skip
        for name, address in ((self.node, NODE), (self.outside, OUTSIDE)):
            run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", self.outside, "route", "add", "10.1.0.0/24", "via", NODE)
        run("ip", "-n", self.node, "route", "add", "10.1.1.0/24", "via", OUTSIDE)
        for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            path = Path("/proc/sys/net", setting)
            inside(self.node, partial(path.write_text, "1"))
        self.places |= {OUTSIDE: self.outside, NODE: self.node}

    def demolish(self) -> None:
        try:
            for server in self.servers:
                server.close()
        finally:
            for name in run("ip", "netns", "list").split():
                if name.startswith(self.prefix):
                    run("ip", "netns", "del", name)

    def plug(self, *ranges: str) -> str:
        """Wire a new pod as the runtime would; its address (of each range one, with commas)."""
        name = f"{self.prefix}-{len(self.places)}"
        run("ip", "netns", "add", name)
        run("ip", "-n", name, "link", "set", "lo", "up")
        conflist = json.loads(config(ranges or ["10.1.0.0/24"]))
        plugin = conflist["plugins"][0] | {"name": "test", "cniVersion": "1.0.0"}
        plugin["ipam"]["dataDir"] = str(self.directory / "ipam")
        done = subprocess.run(
            ["ip", "netns", "exec", self.node, f"{cni_directory()}/{plugin['type']}"],
            input=json.dumps(plugin), capture_output=True, text=True, check=False,
            env={**os.environ, "CNI_COMMAND": "ADD", "CNI_CONTAINERID": name, "CNI_IFNAME": "eth0",
                 "CNI_NETNS": f"/run/netns/{name}", "CNI_PATH": cni_directory()},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        found = [each["address"].partition("/")[0] for each in json.loads(done.stdout)["ips"]]
        self.places |= dict.fromkeys(found, name)
        return ",".join(found)

    def add_remote(self, address: str) -> None:
        """An address on another node."""
        run("ip", "-n", self.outside, "address", "add", f"{address}/32", "dev", "lo")
        self.places[address] = self.outside

    def socket(self, address: str, kind: socket.SocketKind, port: int = 0) -> socket.socket:
        """A socket of whoever has the address."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setblocking(False)
            made.bind((address, port))
            return made

        return inside(self.places[address], make)

    async def serve(self, address: str, *ports: int) -> None:
        """Answer at an address, by TCP and UDP."""

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while data := await reader.read(100):
                    writer.write(data)
            except ConnectionError:
                pass
            finally:
                writer.close()

        loop = asyncio.get_running_loop()
        for port in ports:
            listening = self.socket(address, socket.SOCK_STREAM, port)
            self.servers.append(await asyncio.start_server(answer, sock=listening))
            bound = self.socket(address, socket.SOCK_DGRAM, port)
            transport, _ = await loop.create_datagram_endpoint(Answering, sock=bound)
            self.servers.append(transport)

    async def reaches(
        self, source: str, target: str, protocol: str, port: int, seconds: float = PATIENCE
    ) -> bool:
        """Whether an answer comes."""
        return await _ask(self.socket(source, KINDS[protocol]), target, port, seconds)

    async def table(
        self, addresses: list[str], ports: tuple[tuple[str, int], ...]
    ) -> dict[tuple[str, str, str, int], bool]:
        """Who reaches whom, on which ports: all asked at once."""
        cells = [
            (source, target, protocol, port)
            for source, target in itertools.product(addresses, repeat=2)
            for protocol, port in ports
        ]
        # To enter a namespace takes time, in which nobody listens: all that is done before.
        sockets = [self.socket(source, KINDS[protocol]) for source, _, protocol, _ in cells]
        answers = await asyncio.gather(
            *(_ask(asking, cell[1], cell[3]) for asking, cell in zip(sockets, cells, strict=True))
        )
        return dict(zip(cells, answers, strict=True))


async def _ask(asking: socket.socket, target: str, port: int, seconds: float = PATIENCE) -> bool:
    loop = asyncio.get_running_loop()
    with asking:
        try:
            async with patience(seconds):
                await loop.sock_connect(asking, (target, port))
                await loop.sock_sendall(asking, b"?")
                return bool(await loop.sock_recv(asking, 1))
        except (TimeoutError, OSError):
            return False


@contextmanager
def ground() -> Iterator[Ground]:
    """The calling thread is in the node's network until the end."""
    with tempfile.TemporaryDirectory() as directory:
        made = Ground(Path(directory))
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            made.build()
            enter_network(f"/run/netns/{made.node}")
            yield made
        finally:
            enter_network(f"/proc/self/fd/{before}")
            os.close(before)
            made.demolish()


def rules() -> str:
    return run("nft", "list", "ruleset")


class Scene:
    """Pods of this node in the namespaces x and y, and one of another node in z."""

    def __init__(self, where: Ground, claims: Path | None = None) -> None:
        self.ground, self.world = where, World()
        self.strangers = 0
        self.kernel = LinuxKernel(self.stranger)
        planner = Planner([dns_service([NODE])])
        self.enforcer = Enforcer(planner, Book("here", claims), self.kernel, RealClock())
        self.pods: dict[str, Pod] = {}

    def stranger(self) -> None:
        self.strangers += 1
        self.enforcer.distrust()

    async def fill(self, *names: str) -> None:
        for name in ("x", "y", "z"):
            self.put_namespace(name)
        for name in names:
            namespace, _, pod = name.partition("/")
            self.put_pod(make_pod(namespace, pod, self.ground.plug()))
        self.ground.add_remote(REMOTE)
        self.put_pod(make_pod("z", "a", REMOTE, "there"))
        for address in (*self.addresses, OUTSIDE, NODE):
            await self.ground.serve(address, 80, 81)
        await self.ground.serve(NODE, 53)
        await self.enforcer.sync()

    @property
    def addresses(self) -> list[str]:
        return [pod.status.podIP for pod in self.pods.values()]

    def put_namespace(self, name: str, **labels: str) -> None:
        labels |= {"kubernetes.io/metadata.name": name}
        self.world.namespaces[name] = labels
        self.enforcer.put_namespace(Namespace(metadata=ObjectMeta(name=name, labels=labels)))

    def put_pod(self, pod: Pod) -> None:
        key = (pod.metadata.namespace, pod.metadata.name)
        self.pods["/".join(key)] = self.world.pods[key] = pod
        self.enforcer.put_pod(pod)

    def relabel(self, name: str, **labels: str) -> None:
        namespace, pod = name.split("/")
        address = self.pods[name].status.podIP
        self.put_pod(make_pod(namespace, pod, address, labels=labels))

    def address(self, name: str) -> str:
        return self.pods[name].status.podIP

    def put(self, spec: dict[str, Any], name: str = "p", namespace: str = "x") -> None:
        document = {"metadata": {"name": name, "namespace": namespace},
                    "spec": {"podSelector": {}} | spec}  # fmt: skip
        policy = msgspec.convert(document, NetworkPolicy)
        self.world.policies[namespace, name] = policy
        self.enforcer.put_policy(policy)

    def clear(self) -> None:
        for policy in self.world.policies.values():
            self.enforcer.remove_policy(policy)
        self.world.policies.clear()

    async def check(self, what: str) -> None:
        """Everybody asks everybody, and gets what the model says."""
        await self.enforcer.sync()
        addresses = [*self.addresses, OUTSIDE]
        found = await self.ground.table(addresses, PORTS)
        wrong = []
        for cell, answered in found.items():
            passes_here = {self.ground.places[each] for each in cell[:2]} != {self.ground.outside}
            if not passes_here or answered == self.world.allows(*cell):
                continue
            # On a busy machine an answer may come later. One that must not come never does, but
            # to a port that a flow had which was allowed, and goes on: the next has another.
            if await self.ground.reaches(*cell, seconds=PATIENCE if answered else 5.0) == answered:
                wrong.append((*cell, answered))
        assert not wrong, (what, wrong, rules())
