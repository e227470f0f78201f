"""The ingress component beside an API server: what it follows, what it serves, what it tells."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.api.conftest import running_server
from tests.cluster.ingress_ground import HEALTH, HTTP, HTTPS, Ground, new_directory
from tests.unit.network.ingresses import ingress, secret, service, slice_of

from navarch.api.types.core_v1 import Event, Namespace, Node, Secret, Service
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.networking_v1 import Ingress
from navarch.client.client import Client
from navarch.client.config import ClientConfig
from navarch.network.ingress import main
from navarch.network.nginx.backends import SERVICE_NAME
from navarch.network.nginx.process import PROGRAM

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="nginx changes its user"),
    pytest.mark.skipif(not Path(PROGRAM).exists(), reason="nginx is not installed"),
]


NODE, POD = "198.18.7.1", "198.18.7.11"
"""The API takes no endpoints in the loopback range: these are of the range for benchmarks
(RFC 2544), and on the loopback interface for as long as the test runs."""


@pytest.fixture
def addresses() -> Iterator[None]:
    for each in (NODE, POD):
        subprocess.run(["ip", "addr", "replace", f"{each}/32", "dev", "lo"], check=True)
    try:
        yield
    finally:
        for each in (NODE, POD):
            subprocess.run(["ip", "addr", "del", f"{each}/32", "dev", "lo"], check=True)


@pytest.fixture
async def ground(addresses: None) -> AsyncIterator[Ground]:
    """Backends and a client; the nginx is the component's."""
    directory = new_directory()
    found = Ground(directory, NODE)
    try:
        await found.start_backends(("pod", POD))
        yield found
    finally:
        await found.stop_backends()
        shutil.rmtree(directory)


async def until(condition: Callable[[], Awaitable[Any]], what: str) -> None:
    try:
        async with asyncio.timeout(60):
            while True:
                with suppress(OSError):
                    if await condition():
                        return
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(what)


async def test_the_component(ground: Ground) -> None:
    async with running_server() as server, Client(ClientConfig(server=server.url)) as client:
        await client.resource(Namespace).create(
            Namespace(metadata=ObjectMeta(name="ingress-nginx"))
        )
        await client.resource(Node).create(Node(metadata=ObjectMeta(name="n1")))
        balanced = service("ingress-nginx-controller")
        balanced.metadata.namespace, balanced.spec.clusterIP = "ingress-nginx", ""
        await client.resource(Service).create(balanced)
        await client.resource(Service).create(service("a", clusterIP=""))
        slices = client.resource(EndpointSlice)
        own = slice_of(f"{POD}:{ground.ports['pod']}")
        own.metadata = ObjectMeta(name="a", namespace="default", labels={SERVICE_NAME: "a"})
        own = await slices.create(own)
        options = main.IngressOptions(
            kubeconfig=str(ground.directory / "kubeconfig"),
            addresses=(NODE,),
            state_directory=str(ground.directory / "private"),
            shared_directory=str(ground.directory / "shared"),
            node_name="n1",
            http_port=HTTP,
            https_port=HTTPS,
            health_port=HEALTH,
        )
        write_kubeconfig(Path(options.kubeconfig), server.url)
        component = asyncio.create_task(main.run(options))
        try:
            await story(ground, client, own)
        finally:
            component.cancel()
            with suppress(asyncio.CancelledError):
                await component
        names = [each.metadata.name for each in (await slices.list("ingress-nginx")).items]
        assert names == []
        left = await client.resource(Ingress).get("web", "default")
        assert left.status.loadBalancer.ingress == []


async def story(ground: Ground, client: Client, own: EndpointSlice) -> None:
    ingresses = client.resource(Ingress)
    wanted = ingress(tls="site", ssl_redirect="false")
    wanted.metadata.uid = wanted.metadata.creationTimestamp = ""
    await ingresses.create(wanted)

    async def answers(status: int, **options: Any) -> bool:
        return (await ground.ask(**options)).status == status

    await until(lambda: answers(200), "the Ingress is not served")

    async def has_status() -> bool:
        found = (await ingresses.get("web", "default")).status.loadBalancer.ingress
        return [each.ip for each in found] == [NODE]

    await until(has_status, "no address in the status")
    # A Secret that comes later is noticed, though nobody follows all Secrets.
    site = ground.authority.secret("site", "web.example")
    site.type = "kubernetes.io/tls"
    await client.resource(Secret).create(site)
    await until(lambda: answers(200, tls=ground.trusting()), "the certificate is not used")
    await client.resource(Secret).create(secret("other", token="x"))

    own.endpoints[0].conditions.ready = False
    own = await client.resource(EndpointSlice).update(own)
    await until(lambda: answers(503), "an endpoint that is not ready is used")
    own.endpoints[0].conditions.ready = True
    await client.resource(EndpointSlice).update(own)
    await until(lambda: answers(200), "an endpoint that is ready is not used")

    bad = {"metadata": {"annotations": {"nginx.ingress.kubernetes.io/server-snippet": "deny all;"}}}
    await ingresses.patch("web", "default", bad)
    await until(lambda: answers(503), "a snippet is not refused")

    async def told() -> bool:
        events = (await client.resource(Event).list("default")).items
        return {"Sync", "Rejected", "DefaultCertificate"} <= {each.reason for each in events}

    await until(told, "no events")


def write_kubeconfig(file: Path, server: str) -> None:
    file.write_text(
        f"""
apiVersion: v1
kind: Config
clusters: [{{name: c, cluster: {{server: "{server}"}}}}]
users: [{{name: u, user: {{}}}}]
contexts: [{{name: c, context: {{cluster: c, user: u}}}}]
current-context: c
"""
    )
