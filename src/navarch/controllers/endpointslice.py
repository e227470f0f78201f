"""The EndpointSlice controller: where the traffic of a Service can go.

For each Service with a selector it keeps slices of at most 100 endpoints, one group of slices for
each set of port numbers (a named port may be another number on another pod) and address family. A
change touches as few slices as it can: endpoints stay in the slice they are in, new ones fill
slices that change anyway, and the rest becomes new slices. The service proxy and DNS read slices
only.

Source: discovery.k8s.io/v1 API, KEP-752; upstream's `staging/src/k8s.io/endpointslice`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object
from navarch.api.types.core_v1 import Node, Service
from navarch.api.types.discovery_v1 import (
    Endpoint,
    EndpointConditions,
    EndpointHints,
    EndpointPort,
    EndpointSlice,
    ForNode,
    ForZone,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import ControllerContext, Writes, owner_reference
from navarch.controllers.endpointslice_topology import (
    ZONE_LABEL,
    is_topology_aware,
    node_facts,
    ratios,
    serve_zones,
)
from navarch.controllers.pods import index_by_node, is_namespace_terminating, pods_on
from navarch.controllers.service_pods import (
    Backend,
    Port,
    ServiceController,
    address_of,
    is_headless,
    mark_trigger,
    ports_of,
    services_of,
)

MAX_ENDPOINTS = 100
SERVICE_LABEL = "kubernetes.io/service-name"
MANAGED_BY_LABEL = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
HEADLESS_LABEL = "service.kubernetes.io/headless"
NEAR_ZONE = ("PreferClose", "PreferSameZone")

Group = tuple[str, tuple[Port, ...]]
"""Address family and ports: what all endpoints of one slice have in common."""


@dataclass(slots=True)
class Plan:
    """What has to be written."""

    create: list[EndpointSlice] = field(default_factory=list)
    update: list[EndpointSlice] = field(default_factory=list)
    delete: list[EndpointSlice] = field(default_factory=list)


def desired(
    service: Service, backends: Iterable[Backend], zones: dict[str, str]
) -> dict[Group, dict[str, Endpoint]]:
    """The endpoints that should be, by group and address. `zones` are the nodes' zones."""
    families = service.spec.ipFamilies or ["IPv4"]
    groups: dict[Group, dict[str, Endpoint]] = {}
    for backend in backends:
        ports = ports_of(service, backend.pod)
        for family in families:
            address = address_of(backend.pod, family)
            if address and (ports or not service.spec.ports):
                endpoint = _endpoint(backend, address, service, zones)
                groups.setdefault((family, ports), {})[address] = endpoint
    for family in families:
        if all(group[0] != family for group in groups):
            # A Service nobody stands behind has an empty slice of each family, so that readers see
            # it was looked at.
            groups[(family, ())] = {}
    return groups


def group_of(slice_: EndpointSlice) -> Group:
    ports = (
        Port(each.name or "", each.protocol or "", each.port or 0, each.appProtocol or "")
        for each in slice_.ports
    )
    return slice_.addressType, tuple(ports)


def slice_ports(ports: Iterable[Port]) -> list[EndpointPort]:
    return [
        EndpointPort(
            name=port.name,
            protocol=port.protocol,
            port=port.number,
            appProtocol=port.app_protocol or None,
        )
        for port in ports
    ]


def _endpoint(backend: Backend, address: str, service: Service, zones: dict[str, str]) -> Endpoint:
    node = backend.pod.spec.nodeName
    zone = zones.get(node, "")
    preference = "" if is_topology_aware(service) else service.spec.trafficDistribution
    hints = None
    if backend.ready and zone and preference in NEAR_ZONE:
        hints = EndpointHints(forZones=[ForZone(name=zone)])
    elif backend.ready and node and preference == "PreferSameNode":
        zones_hint = [ForZone(name=zone)] if zone else []
        hints = EndpointHints(forZones=zones_hint, forNodes=[ForNode(name=node)])
    return Endpoint(
        addresses=[address],
        conditions=EndpointConditions(
            ready=backend.ready, serving=backend.serving, terminating=backend.terminating
        ),
        hostname=backend.hostname or None,
        targetRef=backend.reference,
        nodeName=node or None,
        zone=zone or None,
        hints=hints,
    )


def labels_of(service: Service) -> dict[str, str]:
    """The labels of a Service's slices: its own, and those that say what they are."""
    labels = {k: v for k, v in service.metadata.labels.items() if k != HEADLESS_LABEL}
    if is_headless(service):
        labels[HEADLESS_LABEL] = ""
    labels[SERVICE_LABEL] = service.metadata.name
    labels[MANAGED_BY_LABEL] = MANAGER
    return labels


def plan(
    service: Service, wanted: dict[Group, dict[str, Endpoint]], existing: Sequence[EndpointSlice]
) -> Plan:
    """The writes that turn the existing slices into the wanted endpoints."""
    result = Plan()
    labels = labels_of(service)
    by_group: dict[Group, list[EndpointSlice]] = {}
    for slice_ in existing:
        group = group_of(slice_)
        if group in wanted:
            by_group.setdefault(group, []).append(slice_)
        else:
            result.delete.append(slice_)
    for group, endpoints in wanted.items():
        _plan_group(service, (group, labels), endpoints, by_group.get(group, []), result)
    if result.create and result.delete:
        _reuse(result)
    return result


def _plan_group(
    service: Service,
    shape: tuple[Group, dict[str, str]],
    endpoints: dict[str, Endpoint],
    existing: Sequence[EndpointSlice],
    result: Plan,
) -> None:
    group, labels = shape
    left = dict(endpoints)
    changed: list[EndpointSlice] = []
    unchanged: list[EndpointSlice] = []
    for slice_ in existing:
        kept = [left.pop(address) for e in slice_.endpoints if (address := e.addresses[0]) in left]
        if kept == slice_.endpoints and labels == slice_.metadata.labels:
            unchanged.append(slice_)
            continue
        new = copy_object(slice_)
        new.endpoints = kept
        new.metadata.labels = dict(labels)
        changed.append(new)
    _fill(left, changed)
    if left and unchanged and not changed:
        # Room in one slice that would not change otherwise is better than one more slice.
        room = [s for s in unchanged if len(s.endpoints) + len(left) <= MAX_ENDPOINTS]
        if room:
            fullest = max(room, key=lambda s: len(s.endpoints))
            unchanged.remove(fullest)
            changed.append(copy_object(fullest))
            _fill(left, changed)
    empty = [slice_ for slice_ in changed if not slice_.endpoints]
    others = len(existing) - len(empty)
    if empty and not others and not left:
        empty.pop()  # one of them stays as the placeholder
    result.delete += empty
    result.update += [s for s in changed if all(s is not gone for gone in empty)]
    items = list(left.values())
    starts = range(0, len(items), MAX_ENDPOINTS) if items or existing else [0]
    result.create += [
        _new_slice(service, group, labels, items[start : start + MAX_ENDPOINTS]) for start in starts
    ]


def _fill(left: dict[str, Endpoint], slices: Iterable[EndpointSlice]) -> None:
    for slice_ in slices:
        while left and len(slice_.endpoints) < MAX_ENDPOINTS:
            slice_.endpoints.append(left.pop(next(iter(left))))


def _new_slice(
    service: Service, group: Group, labels: dict[str, str], endpoints: list[Endpoint]
) -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(
            generateName=f"{service.metadata.name}-",
            namespace=service.metadata.namespace,
            labels=dict(labels),
            ownerReferences=[owner_reference(service)],
        ),
        addressType=group[0],
        ports=slice_ports(group[1]),
        endpoints=endpoints,
    )


def _reuse(result: Plan) -> None:
    """A slice to delete becomes one to create: one write instead of two, and no gap between."""
    for old in list(result.delete):
        new = next((s for s in result.create if s.addressType == old.addressType), None)
        if new is None:
            continue
        updated = copy_object(old)
        updated.endpoints, updated.ports = new.endpoints, new.ports
        updated.metadata.labels = new.metadata.labels
        result.update.append(updated)
        result.delete.remove(old)
        result.create.remove(new)


@dataclass(slots=True)
class Hints:
    """Hints that are given by the zones' processors, and what was told of them last."""

    zones: dict[str, float] | None = None
    """Each zone's share; None before anybody looked."""
    told: dict[tuple[str, str], str] = field(default_factory=dict)
    """By Service and address family: why there are none, empty while there are."""


class EndpointSliceController(ServiceController):
    """Watches: Services; pods by the Services that select them; its own slices; nodes, by the
    Services of their pods and those whose hints depend on zones."""

    name = "endpointslice"

    def __init__(self, context: ControllerContext) -> None:
        self.slices = context.informers.informer(EndpointSlice)
        super().__init__(context, self.slices, _service_key)
        self.nodes = context.informers.informer(Node)
        self.writes = Writes(self.clock)
        self._hints = Hints()
        self.recorder = context.recorder("endpoint-slice-controller")
        index_by_node(self.pods)
        self.depends_on(self.nodes)
        self.nodes.add_handler(self._node_came_or_went, self._node_changed, self._node_came_or_went)

    def _node_came_or_went(self, node: Node) -> None:
        for pod in pods_on(self.pods, node.metadata.name):
            self.enqueue(self._gather(services_of(pod, self.services.cache)))
        self._zones_changed()

    def _node_changed(self, old: Node, new: Node) -> None:
        if node_facts(old) != node_facts(new):
            self._zones_changed()

    def _zones_changed(self) -> None:
        self._hints.zones = None
        self.enqueue({key for key, _ in self._hints.told})

    async def reconcile(self, key: str) -> None:
        if self.writes.hold_back(key, self.queue):
            return  # to plan without these slices would write them twice
        service = self.services.cache.get(key)
        namespace, _, name = key.partition("/")
        existing = [
            slice_
            for slice_ in self.slices.cache.list(namespace)
            if slice_.metadata.labels.get(SERVICE_LABEL) == name
            and slice_.metadata.labels.get(MANAGED_BY_LABEL) == MANAGER
            and not slice_.metadata.deletionTimestamp
        ]
        if service is None or service.metadata.deletionTimestamp:
            self._sizes.pop(key, None)
            self.triggers.forget(key)
            for family in ("IPv4", "IPv6"):
                self._hints.told.pop((key, family), None)
            await self._apply(key, Plan(delete=existing if service is None else []))
            return
        if service.spec.type == "ExternalName" or not service.spec.selector:
            return
        owned = [
            slice_
            for slice_ in existing
            if any(r.uid == service.metadata.uid for r in slice_.metadata.ownerReferences)
        ]
        backends = self.backends(key, service)
        nodes = {
            name: node
            for name in {each.pod.spec.nodeName for each in backends}
            if (node := self.nodes.cache.get(name)) is not None
        }
        if not service.spec.publishNotReadyAddresses:
            # Whose node is gone cannot be reached, though it takes a while until it is collected.
            backends = [each for each in backends if each.pod.spec.nodeName in nodes]
        zones = {name: node.metadata.labels.get(ZONE_LABEL, "") for name, node in nodes.items()}
        wanted = desired(service, backends, zones)
        self._give_hints(key, service, wanted, owned)
        decided = plan(service, wanted, owned)
        decided.delete += [slice_ for slice_ in existing if slice_ not in owned]
        triggered = self.triggers.since(key, service, backends)
        for slice_ in (*decided.create, *decided.update):
            mark_trigger(slice_.metadata, triggered)
        try:
            await self._apply(key, decided)
        except ApiError as error:
            if is_namespace_terminating(error):
                return
            if not error.is_conflict:
                text = f"Error updating Endpoint Slices for Service {key}: {error}"
                self.recorder.event(service, "Warning", "FailedToUpdateEndpointSlices", text)
            raise

    def _give_hints(
        self,
        key: str,
        service: Service,
        wanted: dict[Group, dict[str, Endpoint]],
        owned: Sequence[EndpointSlice],
    ) -> None:
        """Let endpoints serve zones as the Service's annotation asks for, and tell of changes."""
        for family in {family for family, _ in wanted}:
            if not is_topology_aware(service):
                if self._hints.told.pop((key, family), None) == "":
                    self._tell(service, family, "Topology Aware Hints has been disabled")
                continue
            if self._hints.zones is None:
                self._hints.zones = ratios(self.nodes.cache.list())
            groups = [members for group, members in wanted.items() if group[0] == family]
            endpoints = {address: each for group in groups for address, each in group.items()}
            present = [slice_ for slice_ in owned if slice_.addressType == family]
            reason = serve_zones(endpoints, present, self._hints.zones)
            if self._hints.told.get((key, family)) != reason:
                self._hints.told[(key, family)] = reason
                self._tell(service, family, reason)

    def _tell(self, service: Service, family: str, reason: str) -> None:
        """Of hints that there are from now on, or why there are none."""
        type_, what = ("Warning", "Disabled") if reason else ("Normal", "Enabled")
        text = reason or "Topology Aware Hints has been enabled"
        message = f"{text}, addressType: {family}"
        self.recorder.event(service, type_, f"TopologyAwareHints{what}", message)

    async def _apply(self, key: str, decided: Plan) -> None:
        resource = self.client.resource(EndpointSlice)
        # New endpoints first: between the writes a reader sees too many rather than none.
        for slice_ in decided.create:
            self.writes.wrote(key, self.slices, await resource.create(slice_))
        for slice_ in decided.update:
            self.writes.wrote(key, self.slices, await resource.update(slice_))
        for slice_ in decided.delete:
            await resource.remove(slice_)


def _service_key(slice_: EndpointSlice) -> str | None:
    if slice_.metadata.labels.get(MANAGED_BY_LABEL) != MANAGER:
        return None
    return f"{slice_.metadata.namespace}/{slice_.metadata.labels.get(SERVICE_LABEL, '')}"
