"""What `test_proxy_kernel` runs inside a network namespace: `python -m tests.cluster.proxy_probe
NAME`. The node, four pods and the clients all live in it; each pod answers with its address."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from tests.tasks import patience
from tests.unit.network.test_proxy import HERE, endpoint, service, slice_of

from navarch.api.types.core_v1 import ClientIPConfig, ServicePort, SessionAffinityConfig
from navarch.api.types.discovery_v1 import Endpoint, EndpointSlice
from navarch.client.clock import RealClock
from navarch.network.nftables.dialect import compile_commands
from navarch.network.nftables.netlink import Connection
from navarch.network.proxy.health import Places, ProxyHealth, ServiceHealthServers
from navarch.network.proxy.kernel import LinuxKernel
from navarch.network.proxy.model import Place
from navarch.network.proxy.proxier import Proxier
from navarch.network.proxy.rules import Network

NODE, NODE6 = "192.168.49.2", "fd01::2"
PODS = tuple(f"10.244.0.{number}" for number in range(1, 6))
PODS6 = ("fd44::1", "fd44::2")
NETWORK = Network((NODE, NODE6), ("10.96.0.0/16", "fd96::/64"), ("10.244.0.0/16", "fd44::/64"))
ADDRESSES = (f"{NODE}/24", f"{NODE6}/64", *(f"{pod}/32" for pod in PODS), "fd44::1/128",
             "fd44::2/128")  # fmt: skip
SERVICE, PORT = "10.96.0.20", 80
REPAIRED_WITHIN = 20.0


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The pod's address, and again for every line."""
    address = writer.get_extra_info("sockname")[0].encode()
    writer.write(address + b"\n")
    with contextlib.suppress(ConnectionError):
        while await reader.readline():
            writer.write(address + b"\n")
    writer.close()


async def ask(address: str, port: int = PORT) -> str:
    """Who answers, or "refused" or "silence"."""
    try:
        async with patience(1):
            reader, writer = await asyncio.open_connection(address, port)
            text = (await reader.readline()).decode().strip()
            writer.close()
            return text
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silence"


async def until(condition: Callable[[], bool], what: str) -> float:
    """How long it took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < 60, what
        await asyncio.sleep(0.05)
    return time.monotonic() - begin


def nft(command: str) -> str:
    found = subprocess.run(["nft", *command.split()], check=True, capture_output=True, text=True)
    return found.stdout


HAMMER = """
import signal, socket, struct, sys, time
stop, found = [], {"connections": 0}
signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
print("begun", flush=True)
while not stop:
    time.sleep(0.001)
    with socket.socket() as asking:
        # What has been reset leaves no port behind that waits.
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        asking.settimeout(5)
        try:
            asking.connect((sys.argv[1], int(sys.argv[2])))
            found["connections"] += 1
        except OSError as error:
            found[str(error)] = found.get(str(error), 0) + 1
print(found)
"""
"""A process of its own: one that waits for the proxy's turn asks at the wrong moments only."""


@contextlib.asynccontextmanager
async def hammered(address: str) -> AsyncIterator[dict[str, int]]:
    """New connections all the while; afterwards how many there were, and what became of others."""
    found: dict[str, int] = {}
    before = repeated_beginnings()
    words = (sys.executable, "-c", HAMMER, address, str(PORT))
    process = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        yield found
    finally:
        process.terminate()
        output, _ = await process.communicate()
    found.update(ast.literal_eval(output.decode()))
    found["begun again"] = repeated_beginnings() - before


def repeated_beginnings() -> int:
    """How often a connection from here had to be begun again, for want of an answer."""
    names, values = Path("/proc/thread-self/net/netstat").read_text().splitlines()[:2]
    return int(dict(zip(names.split(), values.split(), strict=True))["TCPSynRetrans"])


def ready(*addresses: str) -> list[Endpoint]:
    return [endpoint(address) for address in addresses]


class Node:
    """A proxy in this namespace."""

    def __init__(self, family: str = "ip") -> None:
        self.kernel = LinuxKernel()
        self.proxier = self.fresh(family)

    def fresh(self, family: str = "ip") -> Proxier:
        return Proxier(family, NETWORK, Place(HERE), self.kernel, RealClock())

    async def put(self, *objects: object) -> None:
        for obj in objects:
            if isinstance(obj, EndpointSlice):
                self.proxier.put_slice(obj)
            else:
                self.proxier.put_service(obj)  # type: ignore[arg-type]
        await self.proxier.sync()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The proxy's loop, with an eye on strangers."""
        strangers = self.kernel.strangers(lambda _: self.proxier.distrust())
        strangers.start()
        loop = asyncio.create_task(self.proxier.run())
        try:
            yield
        finally:
            loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loop
            strangers.close()


async def packets(node: Node) -> None:
    """Connections go where the rules say, as these change."""
    ports = [ServicePort(name="http", port=PORT, protocol="TCP", nodePort=30080)]
    await node.put(service(type="NodePort", ports=ports))
    assert await ask(SERVICE) == "refused", "a Service without endpoints"
    assert await ask(NODE, 30080) == "refused", "a node port without endpoints"
    assert await ask("10.96.0.77") == "silence", "an address that no Service has"
    await node.put(slice_of(*ready(*PODS[:2])))
    assert {await ask(SERVICE) for _ in range(40)} == set(PODS[:2])
    assert {await ask(NODE, 30080) for _ in range(40)} == set(PODS[:2])
    assert await ask("127.0.0.1", 30080) == "refused", "a node port on loopback"
    assert await ask(SERVICE, 81) == "refused", "another port of a Service"
    await node.put(slice_of(*ready(*PODS)))
    got = {await ask(SERVICE) for _ in range(80)}
    assert got == set(PODS), "so many endpoints that a map chooses"
    await node.put(slice_of(*ready(PODS[1])))
    assert {await ask(SERVICE) for _ in range(10)} == {PODS[1]}
    node.proxier.remove_service(service())
    await node.proxier.sync()
    assert await ask(SERVICE) == "silence"
    await asyncio.sleep(1.1)
    await node.put(service("other", clusterIP="10.96.0.21", clusterIPs=["10.96.0.21"]))
    assert "shop/web" not in nft("list ruleset"), "chains of a Service that is gone stay"


async def six(node: Node) -> None:
    """IPv6 in a table of its own; SCTP is taken by the kernel."""
    other = Node("ip6")
    spec: dict[str, Any] = {"clusterIP": "fd96::20", "clusterIPs": ["fd96::20"]}
    ports = [
        ServicePort(name="http", port=PORT, protocol="TCP", nodePort=30080),
        ServicePort(name="signal", port=PORT, protocol="SCTP", nodePort=30080),
    ]
    slice_ = slice_of(*ready(*PODS6))
    slice_.addressType = "IPv6"
    slice_.ports.append(type(slice_.ports[0])(name="signal", port=9000, protocol="SCTP"))
    await other.put(service(type="NodePort", ports=ports, **spec), slice_)
    assert {await ask("fd96::20") for _ in range(40)} == set(PODS6)
    assert {await ask(NODE6, 30080) for _ in range(40)} == set(PODS6)
    assert await ask("fd96::20", 81) == "refused"
    listed = nft("list table ip6 kube-proxy")
    assert "fd96::20 . sctp . 80 : goto service-" in listed
    assert "meta l4proto sctp dnat to [fd44::2]:9000" in listed
    await other.put(service(type="NodePort", ports=ports, sessionAffinity="ClientIP", **spec))
    assert len({await ask("fd96::20") for _ in range(20)}) == 1
    other.kernel.close()


async def affinity(node: Node) -> None:
    """A client stays with its endpoint as long as it says, and no longer."""

    def sticky(seconds: int) -> object:
        config = SessionAffinityConfig(clientIP=ClientIPConfig(timeoutSeconds=seconds))
        return service(sessionAffinity="ClientIP", sessionAffinityConfig=config)

    await node.put(sticky(2), slice_of(*ready(*PODS)))
    first = {await ask(SERVICE) for _ in range(20)}
    assert len(first) == 1
    met = set(first)
    for _ in range(10):
        if len(met) > 1:
            break
        await asyncio.sleep(2.4)
        met.add(await ask(SERVICE))
    assert len(met) > 1, "a client stays for ever"
    await node.put(sticky(10800))
    stuck = {await ask(SERVICE) for _ in range(20)}
    assert len(stuck) == 1
    # What changes besides leaves clients where they are, and so does a proxy that starts.
    await node.put(slice_of(*ready(*PODS[::-1]), *ready("10.244.0.9")))
    node.proxier = node.fresh()
    await node.put(sticky(10800), slice_of(*ready(*PODS)))
    assert {await ask(SERVICE) for _ in range(20)} == stuck
    await node.put(slice_of(*ready(*[pod for pod in PODS if pod not in stuck])))
    assert len(moved := {await ask(SERVICE) for _ in range(20)}) == 1
    assert moved != stuck
    await node.put(service(), slice_of(*ready(*PODS)))
    assert len({await ask(SERVICE) for _ in range(60)}) > 1


class Datagrams:
    """A client with one UDP socket, which is one connection to the kernel."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((NODE, 0))
        self.socket.setblocking(False)

    async def ask(self, address: str, port: int = PORT) -> str:
        loop = asyncio.get_running_loop()
        await loop.sock_sendto(self.socket, b"?", (address, port))
        try:
            async with patience(0.3):
                while True:
                    try:
                        data, _ = await loop.sock_recvfrom(self.socket, 100)
                        return data.decode()
                    except ConnectionRefusedError:
                        continue
        except TimeoutError:
            return "silence"


class Echo(asyncio.DatagramProtocol):
    def __init__(self, address: str) -> None:
        self.address = address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.transport.sendto(self.address.encode(), addr)  # type: ignore[attr-defined]


async def udp(node: Node) -> None:
    """A UDP client follows the endpoints, also from before there were any."""
    loop = asyncio.get_running_loop()
    for pod in PODS[:2]:
        await loop.create_datagram_endpoint(lambda pod=pod: Echo(pod), (pod, 8080))  # type: ignore[misc]
    ports = [ServicePort(name="http", port=PORT, protocol="UDP", nodePort=30080)]
    web = service(protocol="UDP", type="NodePort", ports=ports)
    cluster, outside = Datagrams(), Datagrams()
    # Nobody has rules for this yet: the kernel tracks a connection to the address itself.
    assert await cluster.ask(SERVICE) == "silence"
    for pod in (PODS[0], PODS[1], PODS[0]):
        await node.put(web, slice_of(*ready(pod), protocol="UDP"))
        assert await cluster.ask(SERVICE) == pod
        assert await outside.ask(NODE, 30080) == pod
    leaving = slice_of(endpoint(PODS[0], state="leaving"), *ready(PODS[1]), protocol="UDP")
    await node.put(leaving)
    assert await cluster.ask(SERVICE) == PODS[0], "an endpoint that still serves keeps its clients"


async def leaving(node: Node) -> None:
    """A pod that goes keeps the connections that it has, and gets no new ones; while there is no
    other it gets new ones as long as it serves."""
    both = slice_of(endpoint(PODS[0], state="leaving"), *ready(PODS[1]))
    await node.put(service(), slice_of(*ready(PODS[0])))
    reader, writer = await asyncio.open_connection(SERVICE, PORT)

    async def talks() -> bool:
        writer.write(b"?\n")
        async with asyncio.timeout(20):
            return (await reader.readline()).decode().strip() == PODS[0]

    assert await talks()
    await node.put(slice_of(endpoint(PODS[0], state="leaving")))
    assert {await ask(SERVICE) for _ in range(5)} == {PODS[0]}, "nobody else could serve"
    assert await talks()
    await node.put(both)
    assert {await ask(SERVICE) for _ in range(20)} == {PODS[1]}, "new connections go elsewhere"
    assert await talks()
    for rest in (slice_of(*ready(PODS[1])), slice_of()):
        await node.put(rest)
        assert await talks(), "its slice forgets it sooner than it ends"
    assert await ask(SERVICE) == "refused"
    writer.close()


async def repair(node: Node) -> None:
    """Rules that a stranger edits come back within the time that is promised."""
    await node.put(service(), slice_of(*ready(*PODS[:2])))
    whole = nft("-s list ruleset")
    edits = (
        "flush chain ip kube-proxy services",
        "delete element ip kube-proxy cluster-ips { 10.96.0.20 }",
        "add element ip kube-proxy service-ips { 10.96.0.99 . tcp . 1 : drop }",
        "add chain ip kube-proxy evil { type filter hook output priority -200 ; policy drop ; }",
        "delete table ip kube-proxy",
        "flush ruleset",
    )
    async with node.running():
        for edit in edits:
            nft(edit)
            assert nft("-s list ruleset") != whole
            took = await until(lambda: nft("-s list ruleset") == whole, edit)
            assert took < REPAIRED_WITHIN, edit
            assert await ask(SERVICE) in PODS[:2]
        # A map of ours with other keys stands in the way of ours. (All at once: one repair.)
        text = "add map ip kube-proxy service-ips { type inet_service : verdict ; }"
        nft(f"delete table ip kube-proxy ; add table ip kube-proxy ; {text}")
        await until(lambda: nft("-s list ruleset") == whole, text)
        # The rules are there before the repair is over.
        before = None
        while not before or before != node.proxier.last_updated:
            before = node.proxier.last_updated
            await asyncio.sleep(1)
        # Somebody else's table is none of our business.
        nft("add table ip other")
        await asyncio.sleep(1)
        assert node.proxier.last_updated == before


async def restart(node: Node) -> None:
    """A proxy that is gone leaves its rules; one that comes back disturbs nobody."""
    web, gone = slice_of(*ready(*PODS[:2])), {"clusterIP": "10.96.0.30"}
    old = service("old", clusterIPs=["10.96.0.30"], **gone)
    await node.put(service(), web, old, slice_of(*ready(PODS[0]), name="old"))
    reader, writer = await asyncio.open_connection(SERVICE, PORT)
    pod = await reader.readline()
    assert await ask("10.96.0.30") == PODS[0]
    async with hammered(SERVICE) as found:
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            node.proxier = node.fresh()
            await node.put(service(), web)
    connections = found.pop("connections")
    assert not any(found.values()), (found, "while the rules were laid again")
    assert connections > 10
    assert await ask("10.96.0.30") == "silence", "a Service that was deleted meanwhile"
    writer.write(b"again\n")
    assert await reader.readline() == pod, "a connection from before"
    writer.close()


async def health(node: Node) -> None:
    """Balancers are told how many endpoints are here, probes whether the proxy keeps up."""
    await node.put(
        service(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=32000),
        slice_of(*ready(*PODS[:2]), endpoint(PODS[2], state="leaving")),
    )
    proxiers = [node.proxier]
    told = ProxyHealth(proxiers, RealClock(), {"mode": "nftables"})
    await told.start(Places(f"{NODE}:10256", "127.0.0.1:10249"))
    refused: list[str] = []
    network = Network((NODE,), (), ())
    taken = await asyncio.start_server(answer, NODE, 32001)
    servers = ServiceHealthServers(
        network, lambda: told.is_healthy, lambda state, _: refused.append(state.name)
    )
    assert await servers.update(node.proxier.health_states())
    head, body = await get(NODE, 32000, "/anything")
    assert "200 OK" in head
    assert "X-Load-Balancing-Endpoint-Weight: 2" in head
    assert json.loads(body)["localEndpoints"] == 2
    await node.put(slice_of(endpoint(PODS[2], state="leaving")))
    await servers.update(node.proxier.health_states())
    head, body = await get(NODE, 32000, "/")
    assert "503" in head
    assert json.loads(body) == {
        "service": {"namespace": "shop", "name": "web"},
        "localEndpoints": 0,
        "serviceProxyHealthy": True,
    }
    await node.put(
        service(type="LoadBalancer", externalTrafficPolicy="Local", healthCheckNodePort=32001)
    )
    for _ in range(3):
        assert not await servers.update(node.proxier.health_states())
    assert refused == ["web"], "told once"
    assert await ask(NODE, 32000) == "refused"
    taken.close()
    await taken.wait_closed()
    assert await servers.update(node.proxier.health_states())
    assert "503" in (await get(NODE, 10256, "/healthz"))[0], "a node that the API does not have"
    assert "200" in (await get(NODE, 10256, "/livez"))[0]
    assert (await get("127.0.0.1", 10249, "/proxyMode"))[1] == "nftables"
    figures = (await get("127.0.0.1", 10249, "/metrics"))[1]
    assert 'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}' in figures
    await servers.update({})
    await told.stop()


async def get(address: str, port: int, path: str) -> tuple[str, str]:
    reader, writer = await asyncio.open_connection(address, port)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return head, body


FORMS = """add table F t
add chain F t c
add chain F t d
add chain F t n {{ type nat hook prerouting priority -100 ; }}
add chain F t o {{ type filter hook output priority 0 ; }}
add set F t affinity {{ type {addr} ; flags dynamic,timeout ; timeout 60s ; size 65535 ; }}
add set F t ips {{ type {addr} ; }}
add set F t hairpin {{ type {addr} . {addr} . inet_proto . inet_service ; }}
add map F t m {{ type {addr} . inet_proto . inet_service : verdict ; }}
add map F t ports {{ type inet_proto . inet_service : verdict ; }}
add element F t m {{ {a} . tcp . 80 : goto c, {b} . sctp . 80 : drop }}
add element F t ports {{ udp . 30000 : goto c }}
add element F t ips {{ {a}, {b} }}
add element F t hairpin {{ {a} . {a} . tcp . 80 }}
add rule F t c meta l4proto tcp dnat F addr . port to numgen random mod 2 map {{ 0 : {a} . 80, 1 : {b} . 81 }}
add rule F t c meta l4proto tcp numgen random mod 2 0 dnat to {socket}:80
add rule F t c meta l4proto sctp dnat to {socket}:80
add rule F t d update @affinity {{ F saddr }}
add rule F t n F daddr . meta l4proto . th dport vmap @m
add rule F t n F daddr @ips meta l4proto . th dport vmap @ports
add rule F t n ct status dnat F saddr . F daddr . meta l4proto . th dport @hairpin
add rule F t n F saddr != {net} mark set mark or 0x4000
add rule F t n F saddr {odd} return
add rule F t n F daddr {a} drop
add rule F t d numgen random mod 2 vmap {{ 0 : goto c, 1 : goto c }}
add rule F t c mark and 0x4000 != 0 mark set mark xor 0x4000
add rule F t c fib saddr type local mark set mark or 0x4000
add rule F t o ct state new meta l4proto tcp reject with tcp reset
add chain F t e
add rule F t o ct state new jump e
add rule F t o reject"""  # noqa: E501
VALUES = {
    "ip": {"addr": "ipv4_addr", "a": "10.0.0.1", "b": "10.0.0.2", "socket": "10.0.0.1",
           "net": "10.1.0.0/16", "odd": "10.128.0.0/9"},
    "ip6": {"addr": "ipv6_addr", "a": "fd00::1", "b": "fd00::2", "socket": "[fd00::1]",
            "net": "fd00:1::/64", "odd": "fd00:8000::/17"},
}  # fmt: skip


async def language(node: Node) -> None:
    """What we send is what nft sends for the same text."""
    nft("flush ruleset")
    connection = Connection()
    for family, values in VALUES.items():
        text = FORMS.format(**values).replace("F ", f"{family} ")
        connection.batch(compile_commands(text.splitlines()))
        ours = nft(f"list table {family} t")
        nft(f"delete table {family} t")
        await asyncio.to_thread(
            subprocess.run, ["nft", "-f", "-"], input=text, text=True, check=True
        )
        assert nft(f"list table {family} t") == ours
    connection.close()


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in (packets, six, affinity, udp, leaving, repair, restart, health, language)
}


async def main(name: str) -> None:
    for address in (*PODS, *PODS6):
        await asyncio.start_server(answer, address, 8080, backlog=4096)
    node = Node()
    await SCENARIOS[name](node)
    node.kernel.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
