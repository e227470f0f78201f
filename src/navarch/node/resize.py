"""In-place resize: a running container gets other requests and limits without being restarted.

What a container was given is written into its annotations when it is made, and remembered by the
worker when it is changed afterwards; whatever differs from the specification is a resize to do
(KEP-1287). A container whose `resizePolicy` asks for it is restarted instead. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from navarch.api.types.core_v1 import Container, Pod, ResourceRequirements

from .admission import Refusal
from .resources import NodeResources, pod_requests

RESOURCES_ANNOTATION = "navarch.dev/container.resources"
RESIZABLE = ("cpu", "memory")

DEFERRED, INFEASIBLE = "Deferred", "Infeasible"

Applied = Mapping[str, Mapping[str, str]]
"""Limits and requests of cpu and memory, as a container has them."""


def wanted_resources(container: Container) -> Applied:
    """What the specification asks for."""
    resources = container.resources
    return {
        "limits": {name: resources.limits[name] for name in RESIZABLE if name in resources.limits},
        "requests": {
            name: resources.requests[name] for name in RESIZABLE if name in resources.requests
        },
    }


def encode_resources(applied: Applied) -> str:
    return msgspec.json.encode(applied).decode()


def decode_resources(text: str) -> Applied | None:
    """What an annotation says; None for a container that somebody else has made."""
    if not text:
        return None
    return msgspec.json.decode(text, type=dict[str, dict[str, str]])


def needs_restart(container: Container, applied: Applied) -> bool:
    """Whether a resource has changed that this container only takes at its start."""
    wanted = wanted_resources(container)
    policies = {each.resourceName: each.restartPolicy for each in container.resizePolicy}
    return any(
        policies.get(name) == "RestartContainer"
        and any(wanted[kind].get(name) != applied[kind].get(name) for kind in wanted)
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


def check_resize(pod: Pod, others: Iterable[Pod], node: NodeResources) -> Refusal | None:
    """Whether the node can give what a resized pod asks for: now, later, or never."""
    wanted = pod_requests(pod)
    used: dict[str, int] = {}
    for other in others:
        for name, value in pod_requests(other).items():
            used[name] = used.get(name, 0) + value
    capacity = {"cpu": node.cpu_millis, "memory": node.memory_bytes}
    for name in RESIZABLE:
        if wanted.get(name, 0) > capacity[name]:
            return Refusal(
                INFEASIBLE,
                f"Node didn't have enough capacity: {name}, requested: {wanted[name]}, "
                f"capacity: {capacity[name]}",
            )
    for name in RESIZABLE:
        if used.get(name, 0) + wanted.get(name, 0) > capacity[name]:
            return Refusal(
                DEFERRED,
                f"Node didn't have enough resource: {name}, requested: {wanted.get(name, 0)}, "
                f"used: {used.get(name, 0)}, capacity: {capacity[name]}",
            )
    return None
