"""LoadBalancer addresses over the API: pools from a ConfigMap, statuses, finalizers, events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from navarch.api.load_balancers import POOL_ANNOTATION
from navarch.api.types.core_v1 import (
    ConfigMap,
    Event,
    Service,
    ServicePort,
    ServiceSpec,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client
from navarch.controllers.load_balancer_plan import FINALIZER

from .conftest import eventually, running

SPACE = "default"


def config(text: str) -> ConfigMap:
    return ConfigMap(
        metadata=ObjectMeta(name="metallb", namespace="kube-system"), data={"config": text}
    )


def pools(addresses: str) -> ConfigMap:
    return config(f"address-pools: [{{name: default, addresses: [{addresses}]}}]")


async def create(client: Client, name: str, **spec: Any) -> None:
    values: dict[str, Any] = {"type": "LoadBalancer", "ports": [ServicePort(port=80)]}
    meta = ObjectMeta(name=name, namespace=SPACE)
    service = Service(metadata=meta, spec=ServiceSpec(**(values | spec)))
    await client.resource(Service).create(service)


async def has(client: Client, name: str, *addresses: str) -> Service:
    """The Service, once it shows these addresses."""

    async def shows() -> Service:
        found = await client.resource(Service).get(name, SPACE)
        assert [each.ip for each in found.status.loadBalancer.ingress] == [*addresses]
        return found

    return await eventually(shows, f"{name}: {addresses}")


async def told(client: Client, wanted: Callable[[Event], bool], what: str) -> None:
    async def is_told() -> bool:
        return any(map(wanted, (await client.resource(Event).list("")).items))

    await eventually(is_told, what)


async def test_an_address_comes_and_goes(client: Client) -> None:
    services = client.resource(Service)
    await client.resource(ConfigMap).create(pools("10.0.0.1-10.0.0.2"))
    async with running(client, "load-balancer"):
        await create(client, "web")
        web = await has(client, "web", "10.0.0.1")
        assert web.status.loadBalancer.ingress[0].ipMode == "VIP"
        assert web.metadata.annotations[POOL_ANNOTATION] == "default"
        assert web.metadata.finalizers == [FINALIZER]
        await told(client, lambda event: event.message == 'Assigned IP ["10.0.0.1"]', "an event")
        await create(client, "two")
        await has(client, "two", "10.0.0.2")
        await create(client, "late")
        await told(
            client,
            lambda event: (
                (event.reason, event.message)
                == (
                    "AllocationFailed",
                    'Failed to allocate IP for "default/late": no available IPs',
                )
            ),
            "that there is none left",
        )
        # Another type: what it had is taken from it, and who waits gets it.
        await services.patch("web", SPACE, {"spec": {"type": "ClusterIP"}})
        await has(client, "late", "10.0.0.1")
        web = await has(client, "web")
        assert not web.metadata.finalizers and POOL_ANNOTATION not in web.metadata.annotations
        await services.delete("two", SPACE)
        await services.patch("web", SPACE, {"spec": {"type": "LoadBalancer"}})
        await has(client, "web", "10.0.0.2")


async def test_after_a_restart_everybody_keeps_theirs(client: Client) -> None:
    await client.resource(ConfigMap).create(pools("10.0.0.1-10.0.0.3"))
    async with running(client, "load-balancer"):
        await create(client, "b")
        await has(client, "b", "10.0.0.1")
    await create(client, "a")
    async with running(client, "load-balancer"):
        await has(client, "a", "10.0.0.2")
        await has(client, "b", "10.0.0.1")


async def test_other_pools(client: Client) -> None:
    maps = client.resource(ConfigMap)
    await maps.create(pools("10.0.0.1-10.0.0.3"))
    async with running(client, "load-balancer"):
        await create(client, "web")
        await has(client, "web", "10.0.0.1")
        await maps.patch("metallb", "kube-system", {"data": pools("10.9.0.7-10.9.0.9").data})
        await has(client, "web", "10.9.0.7")
        # What cannot be read takes nothing from anybody, not even from a controller that is new.
        await maps.patch("metallb", "kube-system", {"data": {"config": "address-pools: [{}]"}})
        await told(client, lambda event: event.reason == "InvalidConfiguration", "the mistake")
        await create(client, "next")
        await has(client, "next", "10.9.0.8")
    await create(client, "last")
    async with running(client, "load-balancer"):
        await told(
            client,
            lambda event: event.reason == "InvalidConfiguration" and event.count > 0,
            "the mistake again",
        )
        await maps.patch("metallb", "kube-system", {"data": pools("10.9.0.7-10.9.0.9").data})
        await has(client, "last", "10.9.0.9")
        await has(client, "web", "10.9.0.7")
        await maps.delete("metallb", "kube-system")
        for name in ("web", "next", "last"):
            assert not (await has(client, name)).metadata.finalizers


async def test_a_status_of_somebody_else_stays(client: Client) -> None:
    """As the conformance test of the status' life has it, whose Service is of a class of its own;
    and a Service whose status was written before there was a pool."""
    services = client.resource(Service)
    theirs = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}}
    async with running(client, "load-balancer"):
        await create(client, "classed", loadBalancerClass="example.com/internal-vip")
        await create(client, "early")
        for name in ("classed", "early"):
            await services.patch(name, SPACE, theirs, subresource="status")
        await client.resource(ConfigMap).create(pools("10.0.0.1-10.0.0.3"))
        await create(client, "ours")
        await has(client, "ours", "10.0.0.1")
        for name in ("classed", "early"):
            found = await services.get(name, SPACE)
            assert [each.ip for each in found.status.loadBalancer.ingress] == ["203.0.113.1"]
            assert not found.metadata.finalizers
        # What is ours is put right.
        await services.patch("ours", SPACE, theirs, subresource="status")
        await has(client, "ours", "10.0.0.1")
