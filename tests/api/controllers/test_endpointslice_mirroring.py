"""Endpoints that people write become slices."""

from __future__ import annotations

import pytest

from navarch.api.types.core_v1 import (
    EndpointAddress,
    EndpointPort,
    Endpoints,
    EndpointSubset,
    Event,
    ObjectReference,
    Service,
    ServicePort,
    ServiceSpec,
)
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client
from navarch.controllers.endpointslice_mirroring import desired

from .conftest import eventually, running

Seen = dict[str, tuple[list[int | None], list[tuple[str, bool | None]]]]


def subset(ports: list[int], ready: list[str], not_ready: list[str]) -> EndpointSubset:
    return EndpointSubset(
        ports=[EndpointPort(name=f"p{port}", port=port) for port in ports],
        addresses=[EndpointAddress(ip=ip) for ip in ready],
        notReadyAddresses=[EndpointAddress(ip=ip) for ip in not_ready],
    )


def endpoints(name: str, *subsets: EndpointSubset, **labels: str) -> Endpoints:
    meta = ObjectMeta(name=name, namespace="default", labels=labels)
    return Endpoints(metadata=meta, subsets=list(subsets))


async def serve(client: Client, name: str, selector: dict[str, str]) -> None:
    spec = ServiceSpec(selector=selector, ports=[ServicePort(port=80)])
    meta = ObjectMeta(name=name, namespace="default")
    await client.resource(Service).create(Service(metadata=meta, spec=spec))


async def mirrored(client: Client, name: str) -> list[EndpointSlice]:
    selector = (
        f"kubernetes.io/service-name={name},"
        "endpointslice.kubernetes.io/managed-by=endpointslicemirroring-controller.k8s.io"
    )
    found = await client.resource(EndpointSlice).list("default", label_selector=selector)
    return list(found.items)


async def until(client: Client, name: str, wanted: Seen) -> list[EndpointSlice]:
    """Until the slices of a Service, by address family, are these."""

    async def check() -> list[EndpointSlice]:
        slices = await mirrored(client, name)
        seen: Seen = {
            each.addressType: (
                [port.port for port in each.ports],
                [(e.addresses[0], e.conditions.ready) for e in each.endpoints],
            )
            for each in slices
        }
        assert seen == wanted
        assert len(slices) == len(wanted)
        return slices or [EndpointSlice()]

    return await eventually(check, f"the slices of {name}")


@pytest.mark.conformance(
    "EndpointSliceMirroring should mirror a custom Endpoints resource through create update and "
    "delete"
)
async def test_endpoints_are_mirrored_through_their_life(client: Client) -> None:
    resource = client.resource(Endpoints)
    async with running(client, "endpointslicemirroring"):
        await serve(client, "own", {})
        own = endpoints("own", subset([80], ["10.9.0.1", "fd00::1"], ["10.9.0.2"]), team="a")
        own.metadata.annotations = {
            "note": "x",
            "kubectl.kubernetes.io/last-applied-configuration": "",
        }
        made = await resource.create(own)
        both: Seen = {
            "IPv4": ([80], [("10.9.0.1", True), ("10.9.0.2", False)]),
            "IPv6": ([80], [("fd00::1", True)]),
        }
        first = await until(client, "own", both)
        assert {each.metadata.labels["team"] for each in first} == {"a"}
        assert first[0].metadata.annotations == {"note": "x"}
        assert first[0].metadata.ownerReferences[0].uid == made.metadata.uid
        made.subsets = [subset([80], ["10.9.0.3"], [])]
        await resource.update(made)
        kept = await until(client, "own", {"IPv4": ([80], [("10.9.0.3", True)])})
        assert kept[0].metadata.uid in {each.metadata.uid for each in first}
        await resource.delete("own", "default")
        await until(client, "own", {})


async def test_new_ports_keep_the_slice(client: Client) -> None:
    resource = client.resource(Endpoints)
    async with running(client, "endpointslicemirroring"):
        await serve(client, "moving", {})
        made = await resource.create(endpoints("moving", subset([80], ["10.9.0.1"], [])))
        before = await until(client, "moving", {"IPv4": ([80], [("10.9.0.1", True)])})
        made.subsets = [subset([81], ["10.9.0.1"], [])]
        await resource.update(made)
        after = await until(client, "moving", {"IPv4": ([81], [("10.9.0.1", True)])})
        assert after[0].metadata.uid == before[0].metadata.uid


def test_an_ipv4_address_in_ipv6_form_is_ipv4() -> None:
    groups, wrong, _ = desired(endpoints("own", subset([80], ["::ffff:10.9.0.1"], [])))
    (((family, _), found),) = groups.items()
    addresses = [each.addresses for each in found.values()]
    assert (family, addresses, wrong) == ("IPv4", [["10.9.0.1"]], 0)


def test_pods_that_share_an_address_are_told_apart() -> None:
    one, other = subset([80], ["10.9.0.1"], []), subset([80], [], ["10.9.0.1"])
    one.addresses[0].targetRef = ObjectReference(kind="Pod", namespace="default", name="one")
    other.notReadyAddresses[0].targetRef = ObjectReference(
        kind="Pod", namespace="default", name="other"
    )
    groups, _, _ = desired(endpoints("own", one, other))
    ((_, found),) = groups.items()
    assert [each.conditions.ready for each in found.values()] == [True, False]


async def test_what_is_not_mirrored(client: Client) -> None:
    resource = client.resource(Endpoints)
    async with running(client, "endpointslicemirroring"):
        for name, selector in (("selects", {"app": "x"}), ("skips", {}), ("last", {})):
            await serve(client, name, selector)
        skip = {"endpointslice.kubernetes.io/skip-mirror": "true"}
        for name, labels in (("selects", {}), ("skips", skip), ("alone", {}), ("last", {})):
            await resource.create(endpoints(name, subset([80], ["10.9.0.1"], []), **labels))
        await until(client, "last", {"IPv4": ([80], [("10.9.0.1", True)])})
        for name in ("selects", "skips", "alone"):
            assert await mirrored(client, name) == []
        await serve(client, "alone", {})
        await until(client, "alone", {"IPv4": ([80], [("10.9.0.1", True)])})


async def test_only_so_many_are_mirrored(client: Client) -> None:
    many = [f"10.9.{number // 250}.{number % 250 + 1}" for number in range(1003)]
    async with running(client, "endpointslicemirroring"):
        await serve(client, "big", {})
        await client.resource(Endpoints).create(endpoints("big", subset([80], many, [])))

        async def told() -> bool:
            events = (await client.resource(Event).list("default")).items
            return any("3 addresses were skipped" in each.message for each in events)

        await eventually(told, "the event")

        async def is_full() -> bool:
            return [len(each.endpoints) for each in await mirrored(client, "big")] == [1000]

        await eventually(is_full, "a full slice")
