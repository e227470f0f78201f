"""Which pods stand behind a Service, and on which ports: shared by Endpoints and EndpointSlices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, TypeVar

from navarch.api.selectors import label_selector_from_map
from navarch.api.types.core_v1 import Container, ObjectReference, Pod, Service, ServicePort
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Cache, Controller, ControllerContext, Informer
from navarch.client.objects import KubernetesObject, object_key
from navarch.controllers.pods import (
    PACE_SECONDS,
    gathering_seconds,
    is_ready,
    is_terminal,
    ready_condition,
)

W = TypeVar("W", bound=KubernetesObject)


TRIGGER_ANNOTATION = "endpoints.kubernetes.io/last-change-trigger-time"


class Triggers:
    """When that happened which endpoints are written for, so that those who read them can tell how
    long it took until traffic follows. The oldest of several changes counts; a change without a
    time of its own, such as the deletion of a pod, has none.
    Source: upstream's `staging/src/k8s.io/endpointslice/util/trigger_time_tracker.go`."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, str]] = {}
        """By Service: when the readiness of each pod had changed, by the pod's name."""

    def since(self, key: str, service: Service, backends: Iterable[Backend]) -> str:
        """The time of the oldest change since this was asked last, or nothing."""
        before = self._seen.get(key)
        now = self._seen[key] = {}
        changed: list[str] = []
        for backend in backends:
            condition = ready_condition(backend.pod)
            if condition is not None and condition.lastTransitionTime:
                name, at = backend.pod.metadata.name, condition.lastTransitionTime
                now[name] = at
                if before is not None and at > before.get(name, ""):
                    changed.append(at)
        if before is None:
            return service.metadata.creationTimestamp or ""
        return min(changed, default="")

    def forget(self, key: str) -> None:
        self._seen.pop(key, None)


def mark_trigger(meta: ObjectMeta, at: str) -> None:
    """Write the time of the change into an object that is written anyway."""
    if at:
        meta.annotations[TRIGGER_ANNOTATION] = at
    else:
        meta.annotations.pop(TRIGGER_ANNOTATION, None)


class ServiceController(Controller):
    """What both controllers have in common: they watch Services, the pods that these select, and
    what they write themselves, which `results` names the Service of."""

    pace: ClassVar[float] = PACE_SECONDS

    def __init__(
        self,
        context: ControllerContext,
        written: Informer[W],
        results: Callable[[W], str | None] = object_key,
    ) -> None:
        super().__init__(context)
        self.services = context.informers.informer(Service)
        self.pods = context.informers.informer(Pod)
        self._sizes: dict[str, int] = {}
        """How many pods stood behind each Service when it was last looked at."""
        self.triggers = Triggers()
        self.watch(self.services)
        self.watch(self.pods, lambda pod: self._gather(services_of(pod, self.services.cache)))
        self.watch(written, lambda each: self._gather(filter(None, [results(each)])))

    def _gather(self, keys: Iterable[str]) -> list[str]:
        """Those keys that are to be queued at once; the others come after a pause."""
        at_once = []
        for key in keys:
            pause = gathering_seconds(self._sizes.get(key, 0), self.pace)
            if pause:
                self.queue.add_after(key, pause)
            else:
                at_once.append(key)
        return at_once

    def backends(self, key: str, service: Service) -> list[Backend]:
        """What stands behind the Service now."""
        found = backends_of(service, self.pods.cache.list(service.metadata.namespace))
        self._sizes[key] = len(found)
        return found


class Port(NamedTuple):
    """One port of a Service as it is on a pod."""

    name: str
    protocol: str
    number: int
    app_protocol: str


@dataclass(frozen=True, slots=True)
class Backend:
    """One pod behind a Service."""

    pod: Pod
    ready: bool
    serving: bool
    terminating: bool
    hostname: str
    """Its DNS hostname; only for pods whose subdomain is the Service."""

    @property
    def reference(self) -> ObjectReference:
        meta = self.pod.metadata
        return ObjectReference(kind="Pod", namespace=meta.namespace, name=meta.name, uid=meta.uid)


def backends_of(service: Service, pods: Iterable[Pod]) -> list[Backend]:
    """The selected pods that have an address and have not finished."""
    selector = label_selector_from_map(service.spec.selector)
    publishes_all = service.spec.publishNotReadyAddresses
    result = []
    verdicts: dict[int, bool] = {}
    for pod in pods:
        # Pods of one workload have their labels in common, as one object.
        labels = pod.metadata.labels
        verdict = verdicts.get(id(labels))
        if verdict is None:
            verdict = verdicts[id(labels)] = selector.matches(labels)
        if not verdict or is_terminal(pod) or not addresses_of(pod):
            continue
        ready = is_ready(pod)
        leaving = bool(pod.metadata.deletionTimestamp)
        in_domain = pod.spec.subdomain == service.metadata.name
        result.append(
            Backend(
                pod,
                ready=publishes_all or (ready and not leaving),
                serving=ready,
                terminating=leaving,
                hostname=pod.spec.hostname if in_domain else "",
            )
        )
    return sorted(result, key=lambda backend: backend.pod.metadata.name)


def addresses_of(pod: Pod) -> list[str]:
    """The pod's addresses, the primary first."""
    return [entry.ip for entry in pod.status.podIPs if entry.ip] or (
        [pod.status.podIP] if pod.status.podIP else []
    )


def address_of(pod: Pod, family: str) -> str:
    """The pod's address in the family `IPv4` or `IPv6`, empty where it has none."""
    wants_colon = family == "IPv6"
    return next((a for a in addresses_of(pod) if (":" in a) == wants_colon), "")


def ports_of(service: Service, pod: Pod) -> tuple[Port, ...]:
    """The Service's ports as numbers on this pod, less named ports that the pod does not have."""
    result = []
    for port in service.spec.ports:
        number = _target_number(port, pod)
        if number:
            result.append(Port(port.name, port.protocol or "TCP", number, port.appProtocol or ""))
    return tuple(result)


def _target_number(port: ServicePort, pod: Pod) -> int:
    target = port.targetPort
    if isinstance(target, int):
        return target or port.port
    if not target:
        return port.port
    sidecars = [c for c in pod.spec.initContainers if c.restartPolicy == "Always"]
    containers: Sequence[Container] = [*pod.spec.containers, *sidecars]
    for container in containers:
        for candidate in container.ports:
            same_protocol = (candidate.protocol or "TCP") == (port.protocol or "TCP")
            if candidate.name == target and same_protocol:
                return candidate.containerPort
    return 0


def services_of(pod: Pod, services: Cache[Service]) -> list[str]:
    """The keys of the Services that select a pod."""
    labels = pod.metadata.labels
    return [
        object_key(service)
        for service in services.list(pod.metadata.namespace)
        if service.spec.selector and service.spec.selector.items() <= labels.items()
    ]


def is_headless(service: Service) -> bool:
    return service.spec.type != "ExternalName" and service.spec.clusterIP == "None"
