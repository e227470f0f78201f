"""How fast the Service proxy follows the API, in a real kernel: `python -m bench.proxy`, as root.

Everything happens in a network namespace of its own. Each Service has two endpoints. `nft -f`
beside it is the same change handed to the nft program, as a proxy without netlink would. Own time
is what the process, and the kernel for it, worked, whatever else the machine did.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from statistics import median

from bench.process import Processes
from bench.report import Row, show
from navarch.api.types.core_v1 import Service, ServicePort, ServiceSpec
from navarch.api.types.discovery_v1 import Endpoint, EndpointPort, EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.clock import RealClock
from navarch.network.proxy.kernel import LinuxKernel
from navarch.network.proxy.model import Place
from navarch.network.proxy.proxier import Proxier
from navarch.network.proxy.rules import Network

SIZES = (1, 100, 10_000)
CHANGES = 30
NETWORK = Network(("192.168.49.2",), ("10.96.0.0/12",), ("10.244.0.0/16",))


def service(number: int, **spec: object) -> Service:
    address = f"10.96.{number // 250}.{number % 250 + 1}"
    fields: dict[str, object] = {
        "clusterIP": address,
        "clusterIPs": [address],
        "ports": [ServicePort(name="http", port=80, protocol="TCP")],
        **spec,
    }
    return Service(
        metadata=ObjectMeta(name=f"service-{number}", namespace="bench"),
        spec=ServiceSpec(**fields),  # type: ignore[arg-type]
    )


def endpoints(number: int, count: int) -> EndpointSlice:
    name = f"service-{number}"
    return EndpointSlice(
        metadata=ObjectMeta(
            name=f"{name}-x", namespace="bench", labels={"kubernetes.io/service-name": name}
        ),
        addressType="IPv4",
        ports=[EndpointPort(name="http", port=8080, protocol="TCP")],
        endpoints=[
            Endpoint(addresses=[f"10.244.{at // 250}.{at % 250 + 1}"], nodeName=f"n{at % 2}")
            for at in range(number * 2, number * 2 + count)
        ],
    )


def proxier_of(kernel: LinuxKernel, size: int) -> Proxier:
    proxier = Proxier("ip", NETWORK, Place("n1"), kernel, RealClock())
    for number in range(size):
        proxier.put_service(service(number))
        proxier.put_slice(endpoints(number, 2))
    return proxier


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    begin = time.perf_counter()
    await work()
    return time.perf_counter() - begin


async def measure(size: int) -> list[Row]:
    kernel = LinuxKernel()
    strangers = kernel.strangers(lambda _: None)
    strangers.start()
    own = Processes((os.getpid(),))
    before = own.memory()
    proxier = proxier_of(kernel, size)
    cold = await timed(proxier.sync)
    held = own.memory() - before
    changes = []
    busy = time.process_time()
    for at in range(CHANGES):
        proxier.put_slice(endpoints(at % size, 3 - at // size % 2))
        changes.append(await timed(proxier.sync))
    busy = (time.process_time() - busy) / CHANGES
    proxier.put_service(service(0, sessionAffinity="ClientIP"))
    affinity = await timed(proxier.sync)
    again = await timed(proxier_of(kernel, size).sync)
    program = median([nft() for _ in range(5)])
    strangers.close()
    kernel.close()
    of = f"{size:,} Services"
    rows = [
        Row(f"change of one among {of}", median(changes) * 1e3, "ms", budget=20),
        Row(f"own time for one among {of}", busy * 1e3, "ms", budget=20),
        Row(f"session affinity on, among {of}", affinity * 1e3, "ms"),
        Row(f"nft -f of one change among {of}", program * 1e3, "ms"),
        Row(f"cold start with {of}", cold, "s", budget=10),
        Row(f"restart over {of} in place", again, "s", budget=10),
    ]
    return [*rows, Row(f"memory for {of}", held, "MB")] if size == max(SIZES) else rows


def nft() -> float:
    table, chain = "ip kube-proxy", "other/chain"
    commands = (
        f"add chain {table} {chain}\nflush chain {table} {chain}\n"
        f"add rule {table} {chain} meta l4proto tcp numgen random mod 2 0 dnat to 10.244.0.1:80\n"
        f"add rule {table} {chain} meta l4proto tcp dnat to 10.244.0.2:80\n"
    )
    begin = time.perf_counter()
    subprocess.run(["nft", "-f", "-"], input=commands.encode(), check=True)
    return time.perf_counter() - begin


def main() -> None:
    if "--inside" in sys.argv:
        for size in SIZES:
            show(asyncio.run(measure(size)))
            subprocess.run(["nft", "flush", "ruleset"], check=True)
        return
    name = f"bench-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        inside = ["ip", "netns", "exec", name, sys.executable, "-m", "bench.proxy", "--inside"]
        subprocess.run(inside, check=True)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


if __name__ == "__main__":
    main()
