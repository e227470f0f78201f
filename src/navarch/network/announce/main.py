"""The announcing component: informers in, answers on the link out."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from navarch.api.types.core_v1 import Node, ObjectReference, Service
from navarch.api.types.discovery_v1 import Endpoint, EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client, ClientConfig, EventRecorder, Informer, InformerFactory, RealClock
from navarch.client.clock import timeout
from navarch.network.announce.announcer import Announcer, Identity
from navarch.network.announce.election import SERVICE_LABEL, Claim, View, claims_of, nodes_of
from navarch.network.announce.wire import LinuxWire, facing

log = logging.getLogger("navarch.network.announce")

GATHER_SECONDS = 0.1
"""Changes that come together are looked at together. And the node's proxy, which learns of an
address at the same moment, is to have its rules before anybody is told to come: until then a
client's kernel keeps the first packet, and nobody is turned away."""


LOOK_AGAIN_SECONDS = 30.0
"""Also without a change: the interface may have been away."""


@dataclass(frozen=True, slots=True)
class AnnounceOptions:
    """`interface` is the link that faces the others; empty: the one with an address of
    `node_ips`, else where the default route goes."""

    kubeconfig: str
    node_name: str
    node_ips: tuple[str, ...] = ()
    interface: str = ""


def slim(each: EndpointSlice) -> EndpointSlice:
    """What an election needs of a slice: which nodes serve."""
    meta = each.metadata
    return EndpointSlice(
        metadata=ObjectMeta(
            name=meta.name,
            namespace=meta.namespace,
            uid=meta.uid,
            resourceVersion=meta.resourceVersion,
            labels={SERVICE_LABEL: meta.labels.get(SERVICE_LABEL, "")},
        ),
        endpoints=[
            Endpoint(nodeName=endpoint.nodeName, conditions=endpoint.conditions)
            for endpoint in each.endpoints
        ],
    )


def _service_of(each: EndpointSlice) -> list[str]:
    return [f"{each.metadata.namespace}/{each.metadata.labels[SERVICE_LABEL]}"]


async def run(options: AnnounceOptions) -> None:
    """Answer for the addresses that are this node's until cancelled."""
    config = ClientConfig.from_kubeconfig(options.kubeconfig)
    interface = options.interface or await _facing(options)
    # Clusters on one link are told apart by their authority.
    identity = Identity(options.node_name, hashlib.sha256(config.ca.read()).digest()[:8])
    async with Client(config) as client:
        recorder = EventRecorder(client, component="metallb-speaker", host=options.node_name)

        def tell(claim: Claim) -> None:
            for key in sorted(claim.services):
                namespace, _, name = key.partition("/")
                about = ObjectReference(
                    apiVersion="v1", kind="Service", namespace=namespace, name=name
                )
                text = f'announcing from node "{options.node_name}" with protocol "layer2"'
                recorder.event(about, "Normal", "nodeAssigned", text)

        announcer = Announcer(identity, LinuxWire(interface), RealClock(), tell)
        try:
            await _follow(client, announcer)
        finally:
            announcer.close()
            await recorder.close()


async def _facing(options: AnnounceOptions) -> str:
    """The interface to announce on, once there is one."""
    while not (interface := facing(options.node_ips)):
        log.warning("there is no interface to announce on yet")
        await RealClock().sleep(LOOK_AGAIN_SECONDS)
    return interface


async def _follow(client: Client, announcer: Announcer) -> None:
    changed = asyncio.Event()
    informers = InformerFactory(client)
    services = informers.informer(Service, field_selector="spec.type=LoadBalancer")
    _wake(services, changed)
    rest: _Rest | None = None
    await informers.start()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(informers.join(), name="announcer's informers")
            await informers.wait_synced()
            while True:
                changed.clear()
                view = View(claims_of(services.cache.list(), {}))
                if view.claims and rest is None:
                    # Nodes and endpoints are many; who has nothing to announce needs none of them.
                    rest = _Rest(informers, changed)
                    await informers.start()
                    await informers.wait_synced()
                if view.claims and rest is not None:
                    view = rest.view(services)
                announcer.see(view)
                with suppress(TimeoutError):
                    async with timeout(client.clock, LOOK_AGAIN_SECONDS):
                        await changed.wait()
                await client.clock.sleep(GATHER_SECONDS)
    finally:
        await informers.stop()


class _Rest:
    """What else there is to know where there is an address."""

    def __init__(self, informers: InformerFactory, changed: asyncio.Event) -> None:
        self._nodes = informers.informer(Node)
        self._slices = informers.informer(EndpointSlice, transform=slim)
        self._slices.add_index("service", _service_of)
        _wake(self._nodes, changed)
        _wake(self._slices, changed)

    def view(self, services: Informer[Service]) -> View:
        serving = {
            key: self._slices.cache.by_index("service", key) for key in [*services.cache.keys()]
        }
        claims = claims_of(services.cache.list(), serving)
        return View(claims, nodes_of(self._nodes.cache.list()))


def _wake(informer: Informer[Any], changed: asyncio.Event) -> None:
    informer.add_handler(
        lambda _: changed.set(), lambda _, __: changed.set(), lambda _: changed.set()
    )
