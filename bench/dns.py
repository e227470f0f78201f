"""How fast cluster DNS answers: `python -m bench.dns [--services N]`. Needs no root.

One name server in a process of its own, with an API server that holds 10 000 Services. Questions
come by UDP from other processes over the loopback interface, each with a window of open questions.
Rates are told twice: answers per second of the server's own CPU time, which is what one core can do
and does not depend on what else the machine does, and answers per second of time, where the askers
(Python too, and as dear as the server) or other work on the machine may be the limit. `busy` is the
share of its time in which the server worked: well under 100 % the askers were the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from bench.process import Processes
from bench.report import Row, show
from bench.server import Server
from navarch.api.types.core_v1 import Service, ServicePort, ServiceSpec
from navarch.api.types.discovery_v1 import Endpoint, EndpointPort, EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.client import Client
from navarch.cluster.composition import DAEMON_ENVIRONMENT
from navarch.network.dns import wire

HOST = "127.0.0.1"
SECONDS = 3.0
ASKERS = 2
WINDOW = 32
"""Open questions of each asker: together fewer than the kernel's buffers hold."""
SINGLE = 2000
CHANGES = 30
START_SECONDS = 30.0
BUDGET = 20_000
ZONE = "svc.cluster.local"


@dataclass(frozen=True, slots=True)
class Question:
    title: str
    name: str
    edns: bool = False
    mixed: bool = False
    """Whether each question is in another case, so that no answer can be kept for it."""

    def packets(self) -> list[bytes]:
        packets = []
        for number in range(256):
            name = self.name
            if self.mixed:
                upper = {index for index in range(8) if number >> index & 1}
                name = "".join(c.upper() if i in upper else c for i, c in enumerate(name, -6))
            question = wire.question_bytes(wire.encode_name(name), wire.A)
            identity = struct.pack("!H", number)
            if self.edns:
                packets.append(wire.ask(identity, question, flags=wire.RD, dnssec_ok=False))
            else:
                packets.append(identity + struct.pack("!5H", wire.RD, 1, 0, 0, 0) + question)
        return packets


QUESTIONS = (
    Question("ClusterIP name", f"svc-7.default.{ZONE}"),
    Question("search-list candidate (NXDOMAIN)", f"www.example.com.default.{ZONE}"),
    Question("headless of 100, as much as fits", f"headless.default.{ZONE}", edns=True),
    Question("forwarded, kept", "www.example.test"),
    Question("each in another case, not kept", f"svc-7.default.{ZONE}", mixed=True),
)


def service(name: str, **spec: Any) -> Service:
    ports = [ServicePort(name="http", port=80, protocol="TCP")]
    return Service(
        metadata=ObjectMeta(name=name, namespace="default"), spec=ServiceSpec(ports=ports, **spec)
    )


def slice_of_100() -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(
            name="headless-1",
            namespace="default",
            labels={"kubernetes.io/service-name": "headless"},
        ),
        addressType="IPv4",
        ports=[EndpointPort(name="http", port=80, protocol="TCP")],
        endpoints=[Endpoint(addresses=[f"10.244.1.{number}"]) for number in range(1, 101)],
    )


class NameServer:
    """The component in a process of its own, as `navarch dns` runs it."""

    def __init__(self, directory: Path, kubeconfig: Path, upstream: int) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
            found.bind((HOST, 0))
            self.port = found.getsockname()[1]
        options = {
            "kubeconfig": str(kubeconfig),
            "addresses": [HOST],
            "port": self.port,
            "upstreams": [[HOST, upstream]],
        }
        config = directory / "dns.json"
        config.write_text(json.dumps({"components": {"dns": options}}))
        argv = [sys.executable, "-m", "navarch.cluster.daemon", str(config)]
        with (directory / "dns.log").open("ab") as log:
            environment = {**os.environ, **DAEMON_ENVIRONMENT}
            self._process = subprocess.Popen(argv, stderr=log, env=environment)
        self.processes = Processes((self._process.pid,))

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()

    def ask(self, packet: bytes, timeout: float = 5.0) -> bytes:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
            asker.settimeout(timeout)
            asker.connect((HOST, self.port))
            asker.send(packet)
            return asker.recv(wire.MAX_MESSAGE)

    def knows(self, name: str) -> bool:
        packet = Question("", name).packets()[0]
        try:
            answer = self.ask(packet, 1.0)
        except OSError:
            return False
        return answer[3] & 15 == 0 and answer[6:8] != b"\0\0"

    def wait_for(self, name: str) -> None:
        end = time.perf_counter() + START_SECONDS
        while not self.knows(name):
            if self._process.poll() is not None or time.perf_counter() > end:
                raise RuntimeError("the name server did not start")
            time.sleep(0.02)


def ask_for(port: int, packets: Sequence[bytes], seconds: float, result: Any) -> None:
    """One asker: how many answers it had."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect((HOST, port))
        asker.settimeout(0.5)
        for packet in packets[:WINDOW]:
            asker.send(packet)
        answered, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            for packet in packets:
                try:
                    asker.recv(wire.MAX_MESSAGE)
                    answered += 1
                except TimeoutError:
                    pass  # one was lost; its place is taken by the next
                asker.send(packet)
    result.put(answered)


def measure_rate(server: NameServer, question: Question) -> list[Row]:
    packets = question.packets()
    server.ask(packets[0])
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    askers = [
        context.Process(target=ask_for, args=(server.port, packets, SECONDS, results))
        for _ in range(ASKERS)
    ]
    used = server.processes.cpu()
    for asker in askers:
        asker.start()
    answered = sum(results.get() for _ in askers)
    for asker in askers:
        asker.join()
    spent = server.processes.cpu() - used
    times = sorted(_timed(server, packets))
    return [
        Row(f"{question.title}, per core", answered / spent, "/s", BUDGET),
        Row("  in time, askers on the same machine", answered / SECONDS, "/s"),
        Row("  busy", 100 * spent / SECONDS, "%"),
        Row("  one question, p50", 1000 * statistics.median(times), "ms"),
        Row("  one question, p99", 1000 * times[int(len(times) * 0.99)], "ms"),
    ]


def _timed(server: NameServer, packets: Sequence[bytes]) -> list[float]:
    """The times of single questions, one after the other."""
    times = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect((HOST, server.port))
        asker.settimeout(5.0)
        for number in range(SINGLE):
            began = time.perf_counter()
            asker.send(packets[number % len(packets)])
            asker.recv(wire.MAX_MESSAGE)
            times.append(time.perf_counter() - began)
    return times


async def fill(client: Client, count: int) -> None:
    services = client.resource(Service)
    numbers = iter(range(count))

    async def create() -> None:
        for number in numbers:
            await services.create(service(f"svc-{number}"))

    async with asyncio.TaskGroup() as group:
        for _ in range(32):
            group.create_task(create())
    await services.create(service("headless", clusterIP="None"))
    await client.resource(EndpointSlice).create(slice_of_100())


async def measure_changes(client: Client, server: NameServer) -> list[Row]:
    """From the API's answer to a change until the name server's answer shows it."""
    times = []
    for number in range(CHANGES):
        name = f"new-{number}.default.{ZONE}"
        assert not server.knows(name)  # and the denial is kept
        await client.resource(Service).create(service(f"new-{number}"))
        began = time.perf_counter()
        while not await asyncio.to_thread(server.knows, name):
            pass
        times.append(time.perf_counter() - began)
    return [
        Row("from an API change to the answer, median", 1000 * statistics.median(times), "ms", 100),
        Row("from an API change to the answer, longest", 1000 * max(times), "ms", 100),
    ]


class _Upstream(asyncio.DatagramProtocol):
    """A resolver that knows one address for everything."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = wire.parse_query(data)
        name = query.question[:-4]
        record = wire.Record(name, wire.A, 300, b"\xc0\0\2\1")
        answer = wire.render(query, wire.Reply(wire.NOERROR, [record]), wire.MAX_UDP_SIZE)
        self._transport.sendto(query.id + answer, addr)


def write_kubeconfig(server: Server, path: Path) -> None:
    pki = server.paths.pki
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bench",
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "clusters": [
            {
                "name": "bench",
                "cluster": {
                    "server": server.profile.server,
                    "certificate-authority": str(pki / "ca.crt"),
                },
            }
        ],
        "users": [
            {
                "name": "bench",
                "user": {
                    "client-certificate": str(pki / "admin.crt"),
                    "client-key": str(pki / "admin.key"),
                },
            }
        ],
    }
    path.write_text(json.dumps(document))


async def measure(directory: Path, count: int) -> list[Row]:
    api = Server(directory)
    api.start()
    loop = asyncio.get_running_loop()
    upstream, _ = await loop.create_datagram_endpoint(_Upstream, local_addr=(HOST, 0))
    name_server: NameServer | None = None
    try:
        write_kubeconfig(api, directory / "kubeconfig")
        async with Client(api.client) as client:
            await fill(client, count)
            began = time.perf_counter()
            port = upstream.get_extra_info("sockname")[1]
            name_server = NameServer(directory, directory / "kubeconfig", port)
            await asyncio.to_thread(name_server.wait_for, QUESTIONS[0].name)
            rows = [Row("name server, start to first answer", time.perf_counter() - began, "s")]
            await asyncio.to_thread(name_server.knows, "www.example.test")
            for question in QUESTIONS:
                rows += await asyncio.to_thread(measure_rate, name_server, question)
            rows += await measure_changes(client, name_server)
            memory = name_server.processes.memory()
            rows.append(Row(f"memory with {count} Services, alone", memory, "MB"))
            return rows
    finally:
        upstream.close()
        if name_server is not None:
            name_server.stop()
        api.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure cluster DNS.")
    parser.add_argument("--services", type=int, default=10_000, help="how many the API holds")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-dns-") as directory:
        show(uvloop.run(measure(Path(directory), arguments.services)))


if __name__ == "__main__":
    main()
