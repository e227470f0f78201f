"""The Endpoints controller: the older, single-object form of a Service's endpoints.

One Endpoints object per Service with a selector, under its name; addresses are grouped by port
numbers, ready apart from not ready, at most a thousand of them.

Source: core/v1 API; upstream's `pkg/controller/endpoint`.
"""

from __future__ import annotations

from collections.abc import Iterable

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object
from navarch.api.types.core_v1 import (
    EndpointAddress,
    EndpointPort,
    Endpoints,
    EndpointSubset,
    Service,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import ControllerContext, Writes
from navarch.controllers.pods import PACE_SECONDS, is_namespace_terminating
from navarch.controllers.service_pods import (
    Backend,
    Port,
    ServiceController,
    address_of,
    is_headless,
    mark_trigger,
    ports_of,
)

CAPACITY = 1000
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
MANAGED_BY_LABEL = "endpoints.kubernetes.io/managed-by"
MANAGER = "endpoint-controller"
HEADLESS_LABEL = "service.kubernetes.io/headless"
LEADER_ANNOTATION = "control-plane.alpha.kubernetes.io/leader"


def subsets_of(service: Service, backends: Iterable[Backend]) -> list[EndpointSubset]:
    """The subsets that should be: pods with the same port numbers together, in a stable order."""
    family = (service.spec.ipFamilies or ["IPv4"])[0]
    groups: dict[tuple[Port, ...], EndpointSubset] = {}
    for backend in backends:
        address = address_of(backend.pod, family)
        ports = ports_of(service, backend.pod)
        if not address or (service.spec.ports and not ports):
            continue
        if backend.terminating and not service.spec.publishNotReadyAddresses:
            continue
        subset = groups.get(ports)
        if subset is None:
            subset = groups[ports] = EndpointSubset(
                ports=[
                    EndpointPort(
                        name=port.name,
                        port=port.number,
                        protocol=port.protocol,
                        appProtocol=port.app_protocol or None,
                    )
                    for port in ports
                ]
            )
        entry = EndpointAddress(
            ip=address,
            hostname=backend.hostname,
            nodeName=backend.pod.spec.nodeName or None,
            targetRef=backend.reference,
        )
        (subset.addresses if backend.ready else subset.notReadyAddresses).append(entry)
    return [groups[key] for key in sorted(groups)]


def truncate(subsets: list[EndpointSubset]) -> bool:
    """Cut the subsets to the capacity, ready addresses first; whether anything was cut."""
    left = CAPACITY
    cut = False
    for name in ("addresses", "notReadyAddresses"):
        for subset in subsets:
            addresses = getattr(subset, name)
            cut = cut or len(addresses) > left
            del addresses[left:]
            left -= len(addresses)
    return cut


def desired(service: Service, backends: Iterable[Backend], present: Endpoints | None) -> Endpoints:
    """The object as it should be; what others put on it stays."""
    result = copy_object(present) if present is not None else Endpoints(metadata=ObjectMeta())
    meta = result.metadata
    meta.name, meta.namespace = service.metadata.name, service.metadata.namespace
    result.subsets = subsets_of(service, backends)
    meta.labels = {k: v for k, v in service.metadata.labels.items() if k != HEADLESS_LABEL}
    meta.labels[MANAGED_BY_LABEL] = MANAGER
    if is_headless(service):
        meta.labels[HEADLESS_LABEL] = ""
    if truncate(result.subsets):
        meta.annotations[OVER_CAPACITY] = "truncated"
    else:
        meta.annotations.pop(OVER_CAPACITY, None)
    return result


class EndpointsController(ServiceController):
    """Watches: Services; pods by the Services that select them; Endpoints by their name."""

    name = "endpoint"
    pace = 5 * PACE_SECONDS
    """All addresses are in one object, so each change writes them all; and who cares for speed
    follows EndpointSlices."""

    def __init__(self, context: ControllerContext) -> None:
        self.endpoints = context.informers.informer(Endpoints)
        super().__init__(context, self.endpoints)
        self.writes = Writes(self.clock)
        self.recorder = context.recorder("endpoint-controller")

    async def reconcile(self, key: str) -> None:
        if self.writes.hold_back(key, self.queue):
            return
        service = self.services.cache.get(key)
        present = self.endpoints.cache.get(key)
        resource = self.client.resource(Endpoints)
        if service is None:
            self._sizes.pop(key, None)
            self.triggers.forget(key)
            self.writes.forget(key)
            managed = present is not None and (
                present.metadata.labels.get(MANAGED_BY_LABEL) == MANAGER
            )
            if present is not None and managed:
                await resource.remove(present)
            return
        if not service.spec.selector or service.spec.type == "ExternalName":
            return
        if service.metadata.deletionTimestamp:
            return
        backends = self.backends(key, service)
        wanted = desired(service, backends, present)
        triggered = self.triggers.since(key, service, backends)
        if wanted == present:
            return
        mark_trigger(wanted.metadata, triggered)
        write = resource.create if present is None else resource.update
        try:
            self.writes.wrote(key, self.endpoints, await write(wanted))
        except ApiError as error:
            if is_namespace_terminating(error):
                return
            if not error.is_conflict:
                verb, what = ("Update", "") if present else ("Create", "for service ")
                text = f"Failed to {verb.lower()} endpoint {what}{key}: {error}"
                self.recorder.event(wanted, "Warning", f"FailedTo{verb}Endpoint", text)
            raise
