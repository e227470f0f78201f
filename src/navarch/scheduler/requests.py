"""What a pod asks of a node, as whole numbers: milli-cores, bytes, or units.

Most pods of a cluster come from a few templates, so the sums are kept by the part of the pod they
are computed from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from navarch.api.objects import Object, encode
from navarch.api.pod_resources import Amounts, pod_requests
from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Container, ContainerStatus, Pod

DEFAULT_CPU = 100
DEFAULT_MEMORY = 200 * 1024 * 1024
"""What a container that says nothing is taken to need when nodes are scored (never when they are
filtered), so that a node full of such pods does not look empty."""

LARGEST = 2**60
"""Larger amounts are cut to this, so that sums stay within 64 bits."""


@dataclass(frozen=True, slots=True)
class Requests:
    """What a pod asks for."""

    amounts: tuple[tuple[str, int], ...] = ()
    """By resource, without zeros."""
    scored: tuple[int, int] = (0, 0)
    """CPU and memory with defaults filled in: of a pod that looks for a node."""
    held: tuple[int, int] = (0, 0)
    """The same of a pod that has one; it differs when resources are set for the whole pod."""


def is_tracked(name: str) -> bool:
    """Whether nodes keep account of a resource."""
    if name in ("cpu", "memory", "ephemeral-storage"):
        return True
    if name.startswith(("hugepages-", "attachable-volumes-")):
        return True
    return "/" in name and not name.startswith("requests.")


def units(name: str, text: str) -> int:
    """A quantity in the units of its resource."""
    quantity = parse_quantity(text)
    return min(quantity.milli_value() if name == "cpu" else quantity.value(), LARGEST)


def requests_of(pod: Pod) -> Requests:
    """The requests of a pod; a running pod that is being resized counts with the larger of what
    it has and what it shall have."""
    spec, status = pod.spec, pod.status
    infeasible = any(
        condition.type == "PodResizePending" and condition.reason == "Infeasible"
        for condition in status.conditions
    )
    # An init container that ends is not resized, only sidecars are.
    statuses = _relevant(status.containerStatuses)
    sidecars = _relevant(status.initContainerStatuses)
    slim: Object = {
        "spec": {
            "containers": [_slim(c, statuses, infeasible) for c in spec.containers],
            "initContainers": [
                _slim(c, sidecars if c.restartPolicy == "Always" else {}, infeasible)
                for c in spec.initContainers
            ],
            "overhead": spec.overhead,
        },
        "status": {
            "containerStatuses": [*statuses.values()],
            "initContainerStatuses": [
                sidecars[c.name]
                for c in spec.initContainers
                if c.name in sidecars and c.restartPolicy == "Always"
            ],
        },
    }
    if spec.resources is not None:
        slim["spec"]["resources"] = {"requests": _pod_level(pod, infeasible)}
    return _computed(encode(slim))


def _pod_level(pod: Pod, infeasible: bool) -> Mapping[str, str]:
    """Requests for the pod as a whole, with the same rule for one that is being resized."""
    spec, status = pod.spec, pod.status
    wanted = spec.resources.requests if spec.resources is not None else {}
    held = [status.allocatedResources]
    if status.resources is not None:
        held.append(status.resources.requests)
    result: dict[str, str] = {}
    for name, text in wanted.items():
        texts = [amounts[name] for amounts in held if name in amounts]
        if not (infeasible and texts):
            texts.append(text)
        result[name] = max(texts, key=parse_quantity)
    return result


def _relevant(statuses: list[ContainerStatus]) -> dict[str, Object]:
    """Statuses that say what a container has, by its name."""
    return {
        status.name: {
            "name": status.name,
            "resources": {"requests": status.resources.requests if status.resources else {}},
            "allocatedResources": status.allocatedResources,
        }
        for status in statuses
        if status.resources is not None or status.allocatedResources
    }


def _slim(container: Container, statuses: Mapping[str, Object], infeasible: bool) -> Object:
    requests: Mapping[str, str] = container.resources.requests
    if infeasible and (status := statuses.get(container.name)) is not None:
        # What was asked for will not come about; what the container has is all it takes.
        has = {**status["allocatedResources"], **status["resources"]["requests"]}
        requests = {name: has.get(name, text) for name, text in requests.items()}
    slim: Object = {"name": container.name, "resources": {"requests": requests}}
    if container.restartPolicy:
        slim["restartPolicy"] = container.restartPolicy
    return slim


@lru_cache(maxsize=2048)
def _computed(data: bytes) -> Requests:
    slim: Object = msgspec.json.decode(data)
    actual = pod_requests(slim)
    amounts = [(name, _units(name, actual)) for name in actual if is_tracked(name)]
    level = slim["spec"].pop("resources", {}).get("requests") or {}
    for container in [*slim["spec"]["containers"], *slim["spec"]["initContainers"]]:
        requests: dict[str, Any] = container["resources"]["requests"]
        requests.setdefault("cpu", f"{DEFAULT_CPU}m")
        requests.setdefault("memory", str(DEFAULT_MEMORY))
    filled = pod_requests(slim)
    scored = (_units("cpu", filled), _units("memory", filled))
    held = scored
    if level:
        held = (
            _units("cpu", actual) if "cpu" in actual else scored[0],
            _units("memory", actual) if "memory" in actual else scored[1],
        )
    return Requests(tuple((name, value) for name, value in amounts if value), scored, held)


def _units(name: str, amounts: Amounts) -> int:
    quantity = amounts[name]
    return min(quantity.milli_value() if name == "cpu" else quantity.value(), LARGEST)
