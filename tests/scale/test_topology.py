"""Endpoints in zones: hints come and go with annotations, fields and nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tests.scale.test_simulated import client as client
from tests.scale.test_simulated import pod
from tests.tasks import running

from navarch.api.types.core_v1 import Event, Node, Pod, Service, ServicePort, ServiceSpec
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client
from navarch.controllers.endpointslice_topology import MODE
from navarch.controllers.manager import ManagerOptions, run_controllers
from navarch.node.simulated import SimulatedOptions, run_nodes

Hint = tuple[str | None, str | None]


def hints_of(slice_: EndpointSlice) -> dict[str, Hint]:
    """The zone and node that the endpoint on each node is meant for."""
    result: dict[str, Hint] = {}
    for each in slice_.endpoints:
        zones = [zone.name for zone in each.hints.forZones] if each.hints else []
        nodes = [node.name for node in each.hints.forNodes] if each.hints else []
        result[each.nodeName or ""] = (zones[0] if zones else None, nodes[0] if nodes else None)
    return result


async def until_hints(client: Client, done: Callable[[dict[str, Hint]], bool]) -> None:
    last: Any = None
    try:
        async with asyncio.timeout(60):
            async for event in client.resource(EndpointSlice).watch("default"):
                last = hints_of(event.object)
                if event.type != "DELETED" and done(last):
                    return
    except TimeoutError:
        raise AssertionError(f"hints are {last}") from None


async def until_told(client: Client, *wanted: str) -> None:
    left = set(wanted)
    async with asyncio.timeout(60):
        async for event in client.resource(Event).watch("default"):
            left.discard(f"{event.object.reason}: {event.object.message}")
            if not left:
                return


async def test_hints(client: Client) -> None:
    names = [f"sim-{number}" for number in range(4)]
    manager = ManagerOptions(
        "", ("nodelifecycle", "nodeipam", "endpointslice"), cluster_cidr="10.244.0.0/16"
    )
    nodes = SimulatedOptions("", nodes=4, zones=("a", "b"))
    services = client.resource(Service)

    async def patch(annotation: str | None, field: str | None) -> None:
        body = {
            "metadata": {"annotations": {MODE: annotation}},
            "spec": {"trafficDistribution": field},
        }
        await services.patch("web", "default", body)

    async with running(run_controllers(client, manager), run_nodes(client, nodes)):
        port = ServicePort(port=80, targetPort=8080)
        await services.create(
            Service(
                metadata=ObjectMeta(name="web", namespace="default", annotations={MODE: "Auto"}),
                spec=ServiceSpec(selector={"app": "web"}, ports=[port]),
            )
        )
        for name in names:
            made = pod(f"on-{name}")
            made.metadata.labels = {"app": "web"}
            made.spec.nodeName = name
            await client.resource(Pod).create(made)
        zones: dict[str, Hint] = {name: ("ab"[int(name[-1]) % 2], None) for name in names}
        await until_hints(client, lambda found: found == zones)
        enabled = "TopologyAwareHintsEnabled: Topology Aware Hints has been enabled"
        await until_told(client, f"{enabled}, addressType: IPv4")

        await patch(None, None)
        none: dict[str, Hint] = dict.fromkeys(names, (None, None))
        await until_hints(client, lambda found: found == none)
        await patch(None, "PreferSameZone")
        await until_hints(client, lambda found: found == zones)
        await patch(None, "PreferSameNode")
        await until_hints(
            client, lambda found: found == {name: (zones[name][0], name) for name in names}
        )
        await patch("Auto", "PreferSameNode")
        await until_hints(client, lambda found: found == zones)
        body = {"metadata": {"labels": {"topology.kubernetes.io/zone": None}}}
        await client.resource(Node).patch("sim-3", "", body)
        await until_hints(client, lambda found: found == none)

        await client.resource(Node).delete("sim-2")
        await until_hints(client, lambda found: "sim-2" not in found)
