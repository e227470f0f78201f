"""What a connection through a ClusterIP costs with 1, 100 and 10,000 Services: always the same.

The Services are in a real kernel, written by the real proxy, in a namespace that is a node; two
pods are wired by the cluster's own plug-in. Between the sizes the proxy takes Services away and
puts them back. Every size is measured beside connections without any Service, from pod to pod.
"""

from __future__ import annotations

import asyncio
from statistics import median, quantiles

from tests.cluster.policy_ground import NODE, ground

from bench.network import peer
from bench.network.places import Place
from bench.proxy import endpoints, service
from bench.report import Row
from navarch.api.types.core_v1 import ServicePort
from navarch.client.clock import RealClock
from navarch.network.proxy.kernel import LinuxKernel
from navarch.network.proxy.model import Place as NodePlace
from navarch.network.proxy.proxier import Proxier
from navarch.network.proxy.rules import Network

SIZES = (1, 100, 10_000)
ROUNDS = 3
CONNECTIONS = 2000
BUDGET = 1.25
"""How much dearer the largest size may be than the smallest: nothing, and the machine's mood."""

Rounds = dict[int, list[tuple[float, list[float]]]]
"""What `peer.connect` found, by the number of Services."""


async def measure() -> list[Row]:
    with ground() as where:
        client, server = (Place(f"/run/netns/{where.places[where.plug()]}") for _ in range(2))
        address = list(where.places)[-1]
        kernel = LinuxKernel()
        try:
            server.serve()
            return await _measure(kernel, client, address)
        finally:
            client.close()
            server.close()
            kernel.close()


async def _measure(kernel: LinuxKernel, client: Place, address: str) -> list[Row]:
    network = Network((NODE,), ("10.96.0.0/12",), ("10.1.0.0/16",))
    proxier = Proxier("ip", network, NodePlace("n1"), kernel, RealClock())
    # The last of all is the one that is asked, so that a walk from the first would show.
    asked, backend = service(max(SIZES)), endpoints(max(SIZES), 1)
    asked.spec.ports = [ServicePort(name="http", port=80, protocol="TCP")]
    backend.endpoints[0].addresses = [address]
    backend.ports[0].port = peer.CONNECT_PORT
    proxier.put_service(asked)
    proxier.put_slice(backend)
    direct: Rounds = {size: [] for size in SIZES}
    through: Rounds = {size: [] for size in SIZES}
    present = 1
    for _ in range(ROUNDS):
        for size in SIZES:
            for number in range(present - 1, size - 1):
                proxier.put_service(service(number))
                proxier.put_slice(endpoints(number, 2))
            for number in range(size - 1, present - 1):
                proxier.remove_service(service(number))
                proxier.remove_slice(endpoints(number, 2))
            present = size
            await proxier.sync()
            for times, target, port in (
                (direct, address, peer.CONNECT_PORT),
                (through, asked.spec.clusterIP, 80),
            ):
                answer = asyncio.to_thread(client.ask, "connect", target, port, count=CONNECTIONS)
                times[size].append(await answer)
    return rows_of(direct, through)


def rows_of(direct: Rounds, through: Rounds) -> list[Row]:
    rows = []
    ratios: dict[int, float] = {}
    for size in SIZES:
        # Each round beside its own direct connections: the machine changes its mood in between.
        pairs = zip(through[size], direct[size], strict=True)
        ratios[size] = median(plain / rate for (rate, _), (plain, _) in pairs)
        times = [time for _, each in through[size] for time in each]
        of = f"{size:,} Service{'s' if size > 1 else ''}"
        rows += [
            Row(f"connections, ClusterIP, {of}", median(rate for rate, _ in through[size]), "/s"),
            Row("  directly to the pod", median(rate for rate, _ in direct[size]), "/s"),
            Row("  cost of one as a multiple of that", ratios[size], "×"),
            Row("  first packet to answer, p50", median(times) * 1e6, "µs"),
            Row("  first packet to answer, p99", quantiles(times, n=100)[98] * 1e6, "µs"),
        ]
    growth = ratios[max(SIZES)] / ratios[min(SIZES)]
    return [*rows, Row(f"{max(SIZES):,} Services to one", growth, "×", budget=BUDGET)]
