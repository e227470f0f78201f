"""In-place resize: a running pod gets other requests and limits without being restarted. Pure.

A pod's specification says what it wants; what it has been granted (its allocation) follows when the
node has room, and may be seen in its status after a restart of the agent. What a container was
really given is written into its annotations when it is made, and remembered by the worker when it
is changed afterwards; whatever differs from the allocation is to be done (KEP-1287; KEP-5419 for
resources of whole pods). A container whose `resizePolicy` asks for it is restarted instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from navarch.api.objects import to_object
from navarch.api.types.core_v1 import Container, ContainerStatus, Pod, ResourceRequirements

from .podspec import qos_class
from .resources import CgroupLimits, pod_requests

RESOURCES_ANNOTATION = "navarch.dev/container.resources"
RESIZABLE = ("cpu", "memory")

DEFERRED, INFEASIBLE = "Deferred", "Infeasible"

Applied = Mapping[str, Mapping[str, str]]
"""Limits and requests of cpu and memory, as a container has them, and the pod's limits where it has
none of its own."""


@dataclass(frozen=True)
class Allocation:
    """What a pod has been granted, of resources that can be resized and others."""

    containers: Mapping[str, ResourceRequirements]
    pod: ResourceRequirements | None = None


def allocation_of(pod: Pod) -> Allocation:
    """What the specification asks for."""
    spec = pod.spec
    everyone = (*spec.initContainers, *spec.containers)
    return Allocation({each.name: each.resources for each in everyone}, spec.resources)


def recorded_allocation(pod: Pod) -> Allocation:
    """What the status says that the pod has: an agent before this one has granted it."""
    wanted = allocation_of(pod)
    statuses = (*pod.status.initContainerStatuses, *pod.status.containerStatuses)
    found = {each.name: given for each in statuses if (given := _recorded(each)) is not None}
    whole, shown = wanted.pod, pod.status.resources
    if whole is not None and shown is not None:
        whole = ResourceRequirements(
            limits={name: shown.limits.get(name, text) for name, text in whole.limits.items()},
            requests={
                name: shown.requests.get(name, text) for name, text in whole.requests.items()
            },
        )
    return Allocation({**wanted.containers, **found}, whole)


def _recorded(status: ContainerStatus) -> ResourceRequirements | None:
    if status.resources is None:
        return None
    return msgspec.structs.replace(status.resources, requests=dict(status.allocatedResources))


def with_allocation(pod: Pod, allocation: Allocation) -> Pod:
    """The pod as it is to run."""
    if allocation == allocation_of(pod):
        return pod

    def granted(containers: list[Container]) -> list[Container]:
        known = allocation.containers
        return [
            msgspec.structs.replace(each, resources=known.get(each.name, each.resources))
            for each in containers
        ]

    spec = msgspec.structs.replace(
        pod.spec,
        initContainers=granted(pod.spec.initContainers),
        containers=granted(pod.spec.containers),
        resources=allocation.pod,
    )
    return Pod(metadata=pod.metadata, spec=spec, status=pod.status)


def precedence(wanted: Pod, granted: Pod, since: float) -> tuple[bool, int, bool, float]:
    """Whose resize is considered first: who asks for no more than it has, then by priority, by
    quality of service, and by how long it has been waiting."""
    before, after = pod_requests(granted), pod_requests(wanted)
    increases = any(after.get(name, 0) > before.get(name, 0) for name in RESIZABLE)
    guaranteed = qos_class(wanted) == "Guaranteed"
    return increases, -(wanted.spec.priority or 0), not guaranteed, since


def summary(pod: Pod, generation: int, error: str = "") -> str:
    """What the pod asks for, as events of resizes tell it: JSON for programs."""
    result: dict[str, Any] = {}
    for name in ("initContainers", "containers"):
        listed = [
            {"name": each.name, "resources": to_object(each.resources)}
            for each in getattr(pod.spec, name)
        ]
        if listed:
            result[name] = listed
    result["generation"] = generation
    if error:
        result["error"] = error
    return msgspec.json.encode(result).decode()


def wanted_resources(container: Container, whole: ResourceRequirements | None = None) -> Applied:
    """What the specification asks for. A container without a limit of its own has the pod's."""
    resources = container.resources
    result = {
        "limits": {name: resources.limits[name] for name in RESIZABLE if name in resources.limits},
        "requests": {
            name: resources.requests[name] for name in RESIZABLE if name in resources.requests
        },
    }
    limits = whole.limits if whole is not None else {}
    inherited = {name: limits[name] for name in RESIZABLE if name in limits}
    inherited = {name: text for name, text in inherited.items() if name not in result["limits"]}
    return {**result, "pod": inherited} if inherited else result


def encode_resources(applied: Applied) -> str:
    return msgspec.json.encode(applied).decode()


def decode_resources(text: str) -> Applied | None:
    """What an annotation says; None for a container that somebody else has made."""
    if not text:
        return None
    return msgspec.json.decode(text, type=dict[str, dict[str, str]])


def needs_restart(container: Container, wanted: Applied, applied: Applied) -> bool:
    """Whether a resource has changed that this container only takes at its start."""
    policies = {each.resourceName: each.restartPolicy for each in container.resizePolicy}
    kinds = wanted.keys() | applied.keys()
    return any(
        policies.get(name) == "RestartContainer"
        and any(wanted.get(kind, {}).get(name) != applied.get(kind, {}).get(name) for kind in kinds)
        for name in RESIZABLE
    )


def shown_resources(container: Container, applied: Applied | None) -> ResourceRequirements:
    """What a container's status shows: the specification's, but cpu and memory as given."""
    spec = container.resources
    if applied is None:
        return spec

    def merged(stated: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
        rest = {name: value for name, value in stated.items() if name not in RESIZABLE}
        return {**given, **rest}

    return ResourceRequirements(
        limits=merged(spec.limits, applied["limits"]),
        requests=merged(spec.requests, applied["requests"]),
        claims=spec.claims,
    )


def roomy(before: CgroupLimits, after: CgroupLimits) -> CgroupLimits:
    """What a pod's cgroup has while its containers change: room for both. 0 is without limit."""

    def larger(one: int, other: int) -> int:
        return max(one, other) if one and other else 0

    return CgroupLimits(
        shares=max(before.shares, after.shares),
        quota=larger(before.quota, after.quota),
        memory=larger(before.memory, after.memory),
    )
