"""The name server component against an API server: changes, configuration, restarts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode
import pytest
from tests.pace import slowness
from tests.ports import free_port

from navarch.api.types.core_v1 import (
    ConfigMap,
    Event,
    Namespace,
    Service,
    ServicePort,
    ServiceSpec,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.networking_v1 import (
    Ingress,
    IngressLoadBalancerIngress,
    IngressLoadBalancerStatus,
    IngressRule,
    IngressSpec,
    IngressStatus,
)
from navarch.apiserver.server import Server
from navarch.client import Client, ClientConfig
from navarch.network.dns import wire
from navarch.network.dns.default import DEFAULT_COREFILE
from navarch.network.dns.main import DnsOptions, run

HOST = "127.0.0.1"
ZONE = "default.svc.cluster.local"


@pytest.fixture
async def client(api_server: Server) -> AsyncIterator[Client]:
    async with Client(ClientConfig(api_server.url)) as client:
        yield client


@pytest.fixture
def options(api_server: Server, tmp_path: Path) -> DnsOptions:
    kubeconfig = tmp_path / "kubeconfig"
    document = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": api_server.url}}],
        "users": [{"name": "x", "user": {}}],
    }
    kubeconfig.write_text(json.dumps(document))
    return DnsOptions(str(kubeconfig), (HOST,), free_port(), upstreams=())


@asynccontextmanager
async def running(options: DnsOptions) -> AsyncIterator[None]:
    task = asyncio.create_task(run(options))
    try:
        await until(options, f"nothing.{ZONE}", lambda answer: answer.rcode() == dns.rcode.NXDOMAIN)
        yield
    finally:
        assert not task.done(), task
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def ask(options: DnsOptions, name: str, type_: str = "A") -> dns.message.Message:
    query = dns.message.make_query(name, type_)
    return await dns.asyncquery.udp(query, HOST, port=options.port, timeout=20)


async def until(
    options: DnsOptions, name: str, wanted: Callable[[dns.message.Message], bool]
) -> float:
    """Ask until the answer is as wanted; the seconds it took."""
    began = time.perf_counter()
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError, dns.exception.Timeout):
                if wanted(await ask(options, name)):
                    return time.perf_counter() - began
            await asyncio.sleep(0.005)


def has(text: str) -> Callable[[dns.message.Message], bool]:
    return lambda answer: text in [str(item) for each in answer.answer for item in each]


def service(name: str, **spec: str) -> Service:
    ports = [ServicePort(name="http", port=80, protocol="TCP")]
    return Service(
        metadata=ObjectMeta(name=name, namespace="default"),
        spec=ServiceSpec(ports=ports, **spec),  # type: ignore[arg-type]
    )


async def test_answers_follow_the_api_at_once(client: Client, options: DnsOptions) -> None:
    services = client.resource(Service)
    async with running(options):
        times = []
        for number in range(7):
            name = f"web-{number}"
            assert (await ask(options, f"{name}.{ZONE}")).rcode() == dns.rcode.NXDOMAIN
            created = await services.create(service(name))
            address = created.spec.clusterIP
            times.append(await until(options, f"{name}.{ZONE}", has(address)))
            await services.delete(name, "default")
            times.append(
                await until(
                    options, f"{name}.{ZONE}", lambda each: each.rcode() == dns.rcode.NXDOMAIN
                )
            )
        # By being told, not by a look now and then: some are quick on a busy machine, too.
        assert statistics.quantiles(times)[0] < 0.1 * slowness()
        await client.resource(Namespace).create(Namespace(metadata=ObjectMeta(name="empty")))
        empty = "empty.svc.cluster.local"
        await until(options, empty, lambda each: each.rcode() == dns.rcode.NOERROR)


async def test_hosts_of_ingresses_are_served(client: Client, options: DnsOptions) -> None:
    ingresses = client.resource(Ingress)
    async with running(options):
        # There is no resolver to ask about the names of others.
        assert (await ask(options, "shop.test")).rcode() == dns.rcode.SERVFAIL
        rule = IngressRule(host="shop.test")
        backend = {"service": {"name": "web", "port": {"number": 80}}}
        ingress = Ingress(
            metadata=ObjectMeta(name="shop", namespace="default"),
            spec=IngressSpec(rules=[rule], defaultBackend=backend),  # type: ignore[arg-type]
        )
        created = await ingresses.create(ingress)
        entry = IngressLoadBalancerIngress(ip="192.0.2.7")
        created.status = IngressStatus(loadBalancer=IngressLoadBalancerStatus(ingress=[entry]))
        await ingresses.update_status(created)
        await until(options, "shop.test", has("192.0.2.7"))


async def test_the_corefile_is_taken_up_and_a_wrong_one_is_not(
    client: Client, options: DnsOptions
) -> None:
    maps = client.resource(ConfigMap)
    port = free_port()

    def corefile(extra: str) -> dict[str, dict[str, str]]:
        text = DEFAULT_COREFILE.replace(":9153", f":{port}").replace("    ingress\n", extra)
        return {"data": {"Corefile": text}}

    hosts = "    hosts {\n        192.0.2.1 a.test\n        fallthrough\n    }\n"
    meta = ObjectMeta(name="coredns", namespace="kube-system")
    await maps.create(ConfigMap(metadata=meta, data=corefile("")["data"]))
    async with running(options):
        async with aiohttp.ClientSession(f"http://{HOST}:{port}") as session:
            for path, text in (
                ("/health", "OK"),
                ("/ready", "OK"),
                ("/metrics", 'coredns_dns_responses_total{plugin="kubernetes",rcode="NXDOMAIN"'),
            ):
                async with session.get(path) as response:
                    assert response.status == 200
                    assert text in await response.text()
            async with session.get("/other") as response:
                assert response.status == 404
        await maps.patch("coredns", "kube-system", corefile(hosts))
        await until(options, "a.test", has("192.0.2.1"))
        await maps.patch("coredns", "kube-system", corefile("    bogus\n"))

        async def told() -> Event:
            async for event in client.resource(Event).watch("kube-system", resource_version="0"):
                if event.object.reason == "InvalidCorefile":
                    return event.object
            raise AssertionError("the watch ended")

        async with asyncio.timeout(60):
            event = await told()
        assert event.involvedObject.name == "coredns"
        assert "bogus: is not supported" in event.message
        assert has("192.0.2.1")(await ask(options, "a.test"))
        await maps.patch("coredns", "kube-system", corefile(""))
        await until(options, "a.test", lambda answer: not answer.answer)


class Resolver(asyncio.DatagramProtocol):
    """Knows one address for everything."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        query = wire.parse_query(data)
        record = wire.Record(query.question[:-4], wire.A, 60, b"\xc0\0\2\x35")
        reply = wire.render(query, wire.Reply(wire.NOERROR, [record]), wire.MAX_UDP_SIZE)
        self.transport.sendto(query.id + reply, addr)  # type: ignore[attr-defined]


async def test_a_stub_domain_of_kube_dns(client: Client, options: DnsOptions) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Resolver, local_addr=(HOST, 0))
    stub = f"{HOST}:{transport.get_extra_info('sockname')[1]}"
    meta = ObjectMeta(name="kube-dns", namespace="kube-system")
    try:
        async with running(options):
            data = {"stubDomains": json.dumps({"acme.local": [stub]})}
            await client.resource(ConfigMap).create(ConfigMap(metadata=meta, data=data))
            await until(options, "x.acme.local", has("192.0.2.53"))
            assert (await ask(options, "x.other.local")).rcode() == dns.rcode.SERVFAIL
    finally:
        transport.close()


async def test_after_a_restart_names_are_back_within_a_second(
    client: Client, options: DnsOptions
) -> None:
    created = await client.resource(Service).create(service("web"))
    name = f"web.{ZONE}"
    async with running(options):
        await until(options, name, has(created.spec.clusterIP))
    took = asyncio.create_task(until(options, name, has(created.spec.clusterIP)))
    async with running(options):
        assert await took < 1.0
