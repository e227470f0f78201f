"""The proxy's rules in a real kernel: packets between network namespaces that the test makes."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed"),
]

SCRIPT = """
import asyncio, sys
sys.path[:0] = {path!r}
from test_proxy import NETWORK, HERE, endpoint, service, slice_of
from navarch.api.types.core_v1 import ServicePort
from navarch.client.clock import RealClock
from navarch.network.proxy.kernel import LinuxKernel
from navarch.network.proxy.model import Place
from navarch.network.proxy.proxier import Proxier

async def answer(reader, writer):
    writer.write(writer.get_extra_info("sockname")[0].encode() + b" to "
                 + writer.get_extra_info("peername")[0].encode())
    writer.close()

async def ask(address, port):
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_connection(address, port)
            text = (await reader.read()).decode()
            writer.close()
            return text
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silence"

async def main():
    for address in ("10.244.0.1", "10.244.0.2"):
        await asyncio.start_server(answer, address, 8080)
    proxier = Proxier("ip", NETWORK, Place(HERE), LinuxKernel(), RealClock())
    node_port = [ServicePort(name="http", port=80, protocol="TCP", nodePort=30080)]
    proxier.put_service(service(type="NodePort", ports=node_port))
    await proxier.sync()
    print("no endpoints:", await ask("10.96.0.20", 80))
    print("unknown service:", await ask("10.96.0.77", 80))
    proxier.put_slice(slice_of(endpoint("10.244.0.1"), endpoint("10.244.0.2")))
    await proxier.sync()
    seen = {{(await ask("10.96.0.20", 80)).split()[0] for _ in range(40)}}
    print("both:", *sorted(seen))
    print("other port:", await ask("10.96.0.20", 81))
    print("node port:", (await ask("192.168.49.2", 30080)).split()[0] in seen)
    proxier.put_service(service(type="NodePort", ports=node_port, sessionAffinity="ClientIP"))
    await proxier.sync()
    print("affinity:", len({{(await ask("10.96.0.20", 80)).split()[0] for _ in range(20)}}))
    proxier.put_slice(slice_of(endpoint("10.244.0.2")))
    await proxier.sync()
    print("one left:", (await ask("10.96.0.20", 80)).split()[0])
    proxier.remove_service(service())
    await proxier.sync()
    print("removed:", await ask("10.96.0.20", 80))

asyncio.run(main())
"""


@pytest.fixture
def netns() -> Iterator[str]:
    """A network namespace with a node's and two pods' addresses, gone afterwards."""
    name = f"navtest-{uuid.uuid4().hex[:8]}"

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)

    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1")
        for address in ("192.168.49.2/24", "10.244.0.1/32", "10.244.0.2/32"):
            ip("-n", name, "address", "add", address, "dev", "veth0")
        ip("-n", name, "link", "set", "veth0", "up")
        ip("-n", name, "link", "set", "veth1", "up")
        ip("-n", name, "route", "add", "default", "dev", "veth0")
        yield name
    finally:
        ip("netns", "delete", name)


async def test_packets_follow_the_rules(netns: str) -> None:
    unit_tests = str(Path(__file__).parents[1] / "unit" / "network")
    process = await asyncio.create_subprocess_exec(
        "ip",
        "netns",
        "exec",
        netns,
        sys.executable,
        "-c",
        SCRIPT.format(path=[unit_tests]),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert output.decode().splitlines() == [
        "no endpoints: refused",
        "unknown service: silence",
        "both: 10.244.0.1 10.244.0.2",
        "other port: refused",
        "node port: True",
        "affinity: 1",
        "one left: 10.244.0.2",
        "removed: silence",
    ]
