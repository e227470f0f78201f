"""The EndpointSlice mirroring controller: Endpoints that people write themselves reach the proxy.

A Service without a selector gets its endpoints from somebody else, in the old form of Endpoints.
Readers look at slices only, so each set of ports and address family of such Endpoints is kept as
one slice, labelled and owned so that it goes with them. Locks of old leader elections, which are
Endpoints too, and what asks not to be mirrored stay as they are.

Source: upstream's `pkg/controller/endpointslicemirroring`; KEP-752.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from navarch.api.errors import ignoring
from navarch.api.types.core_v1 import EndpointAddress, Endpoints, EndpointSubset, Service
from navarch.api.types.discovery_v1 import Endpoint, EndpointConditions, EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Controller, ControllerContext, owner_reference
from navarch.controllers.endpointslice import (
    MANAGED_BY_LABEL,
    SERVICE_LABEL,
    Group,
    group_of,
    slice_ports,
)
from navarch.controllers.pods import is_namespace_terminating
from navarch.controllers.service_pods import Port

MANAGER = "endpointslicemirroring-controller.k8s.io"
SKIP_LABEL = "endpointslice.kubernetes.io/skip-mirror"
LEADER_ANNOTATION = "control-plane.alpha.kubernetes.io/leader"
NOT_COPIED = (
    "endpoints.kubernetes.io/last-change-trigger-time",
    "kubectl.kubernetes.io/last-applied-configuration",
)
MAX_ADDRESSES = 1000
"""Of one subset; what is beyond is not mirrored."""


def is_to_mirror(endpoints: Endpoints, service: Service | None) -> bool:
    meta = endpoints.metadata
    return (
        service is not None
        and not service.spec.selector
        and meta.labels.get(SKIP_LABEL) != "true"
        and LEADER_ANNOTATION not in meta.annotations
    )


def _with_readiness(subset: EndpointSubset) -> Iterable[tuple[EndpointAddress, bool]]:
    yield from ((each, True) for each in subset.addresses)
    yield from ((each, False) for each in subset.notReadyAddresses)


def desired(endpoints: Endpoints) -> tuple[dict[Group, dict[str, Endpoint]], int, int]:
    """The endpoints by group and by what tells them apart, and how many were no addresses or too
    many. Pods on their node's network share an address and are endpoints of their own."""
    groups: dict[Group, dict[str, Endpoint]] = {}
    wrong = beyond = 0
    for subset in endpoints.subsets:
        ports = tuple(
            sorted(
                Port(each.name, each.protocol or "TCP", each.port, each.appProtocol or "")
                for each in subset.ports
            )
        )
        taken = 0
        for address, ready in _with_readiness(subset):
            try:
                parsed = ipaddress.ip_address(address.ip)
                # An IPv4 address in IPv6's clothes is one all the same.
                parsed = getattr(parsed, "ipv4_mapped", None) or parsed
            except ValueError:
                wrong += 1
                continue
            if taken == MAX_ADDRESSES:
                beyond += 1
                continue
            taken += 1
            group = groups.setdefault((f"IPv{parsed.version}", ports), {})
            target = address.targetRef
            whose = (target.namespace, target.name) if target else ()
            group[" ".join((str(parsed), address.hostname, *whose))] = Endpoint(
                addresses=[str(parsed)],
                conditions=EndpointConditions(ready=ready),
                hostname=address.hostname or None,
                nodeName=address.nodeName,
                targetRef=address.targetRef,
            )
    return groups, wrong, beyond


def slice_of(endpoints: Endpoints, group: Group, wanted: dict[str, Endpoint]) -> EndpointSlice:
    """The slice that a group is mirrored in."""
    meta, (family, ports) = endpoints.metadata, group
    return EndpointSlice(
        metadata=ObjectMeta(
            generateName=f"{meta.name}-",
            namespace=meta.namespace,
            labels={**meta.labels, SERVICE_LABEL: meta.name, MANAGED_BY_LABEL: MANAGER},
            annotations={k: v for k, v in meta.annotations.items() if k not in NOT_COPIED},
            ownerReferences=[owner_reference(endpoints)],
        ),
        addressType=family,
        ports=slice_ports(ports),
        endpoints=list(wanted.values()),
    )


def _content(slice_: EndpointSlice) -> tuple[object, ...]:
    endpoints = sorted(slice_.endpoints, key=lambda each: each.addresses)
    return endpoints, slice_.metadata.labels, slice_.metadata.annotations


def _in_place_of(old: EndpointSlice, new: EndpointSlice) -> EndpointSlice:
    meta = old.metadata
    new.metadata.name, new.metadata.generateName = meta.name, meta.generateName
    new.metadata.resourceVersion = meta.resourceVersion
    return new


def _service_key(slice_: EndpointSlice) -> str | None:
    meta = slice_.metadata
    if meta.labels.get(MANAGED_BY_LABEL) != MANAGER:
        return None
    return f"{meta.namespace}/{meta.labels.get(SERVICE_LABEL, '')}"


class EndpointSliceMirroringController(Controller):
    """Watches: Endpoints; Services of the same name; its own slices."""

    name = "endpointslicemirroring"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.endpoints = context.informers.informer(Endpoints)
        self.services = context.informers.informer(Service)
        self.slices = context.informers.informer(EndpointSlice)
        self.slices.add_index(MANAGER, lambda each: [key] if (key := _service_key(each)) else [])
        self.recorder = context.recorder("endpoint-slice-mirroring-controller")
        self.watch(self.endpoints)
        self.watch(self.services)
        self.watch(self.slices, _service_key)

    async def reconcile(self, key: str) -> None:
        endpoints = self.endpoints.cache.get(key)
        present = [*self.slices.cache.by_index(MANAGER, key)]
        wanted: dict[Group, EndpointSlice] = {}
        if endpoints is not None and is_to_mirror(endpoints, self.services.cache.get(key)):
            groups, wrong, beyond = desired(endpoints)
            wanted = {group: slice_of(endpoints, group, each) for group, each in groups.items()}
            # The cache may not know yet what was written last: twice the same would be wrong.
            present = await self._present(key)
            self._tell(endpoints, wrong, beyond)
        await self._write(present, wanted)

    async def _write(
        self, present: Iterable[EndpointSlice], wanted: dict[Group, EndpointSlice]
    ) -> None:
        """Slices that are not wanted are used for others of their family, which their ports alone
        tell apart: between a deletion and a creation there would be nobody to talk to."""
        slices = self.client.resource(EndpointSlice)
        spare: list[EndpointSlice] = []
        for slice_ in present:
            family, ports = group_of(slice_)
            new = wanted.pop((family, tuple(sorted(ports))), None)
            if new is None:
                spare.append(slice_)
            elif _content(new) != _content(slice_):
                await slices.update(_in_place_of(slice_, new))
        for new in wanted.values():
            old = next((each for each in spare if each.addressType == new.addressType), None)
            if old is not None:
                spare.remove(old)
                await slices.update(_in_place_of(old, new))
                continue
            with ignoring(is_namespace_terminating):
                await slices.create(new)
        for slice_ in spare:
            await slices.remove(slice_)

    async def _present(self, key: str) -> list[EndpointSlice]:
        namespace, _, name = key.partition("/")
        selector = f"{SERVICE_LABEL}={name},{MANAGED_BY_LABEL}={MANAGER}"
        found = await self.client.resource(EndpointSlice).list(namespace, label_selector=selector)
        return list(found.items)

    def _tell(self, endpoints: Endpoints, wrong: int, beyond: int) -> None:
        if wrong:
            text = f"Skipped {wrong} invalid IP addresses when mirroring to EndpointSlices"
            self.recorder.event(endpoints, "Warning", "InvalidIPAddress", text)
        if beyond:
            text = (
                f"A max of {MAX_ADDRESSES} addresses can be mirrored to EndpointSlices per "
                f"Endpoints subset. {beyond} addresses were skipped"
            )
            self.recorder.event(endpoints, "Warning", "TooManyAddressesToMirror", text)
