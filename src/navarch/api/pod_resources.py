"""What a pod asks for in all: the sum over its containers as upstream's resource helpers do it.

Init containers run one after another before the others, so only the largest counts; sidecars (init
containers that restart always) stay, and count with everything that starts after them. Resources
set for the whole pod (cpu, memory, huge pages) replace the sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from navarch.api.quantity import Quantity, parse_quantity

Object = dict[str, Any]
Amounts = dict[str, Quantity]

_POD_LEVEL = ("cpu", "memory")


def parse_amounts(resources: Mapping[str, Any] | None) -> Amounts:
    """A resource list of the API as quantities."""
    return {name: parse_quantity(str(value)) for name, value in (resources or {}).items()}


def add(first: Amounts, second: Amounts) -> Amounts:
    result = dict(first)
    for name, value in second.items():
        result[name] = result[name] + value if name in result else value
    return result


def largest(first: Amounts, second: Amounts) -> Amounts:
    result = dict(first)
    for name, value in second.items():
        if name not in result or value > result[name]:
            result[name] = value
    return result


def pod_requests(pod: Object, *, overhead: bool = True) -> Amounts:
    return _pod_amounts(pod, "requests", overhead)


def pod_limits(pod: Object, *, overhead: bool = True) -> Amounts:
    return _pod_amounts(pod, "limits", overhead)


def is_best_effort(pod: Object) -> bool:
    """Whether the pod's quality of service is BestEffort: nothing asks for cpu or memory."""
    spec = pod.get("spec") or {}
    holders = [spec, *(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
    for holder in holders:
        resources = holder.get("resources") or {}
        for kind in ("requests", "limits"):
            amounts = parse_amounts(resources.get(kind))
            if any(amounts[name] > _ZERO for name in _POD_LEVEL if name in amounts):
                return False
    return True


def has_pod_level_resources(pod: Object) -> bool:
    """Whether cpu, memory or huge pages are set for the pod as a whole."""
    return any(_is_pod_level(name) for kind in ("requests", "limits") for name in _level(pod, kind))


def _pod_amounts(pod: Object, kind: str, overhead: bool) -> Amounts:
    spec = pod.get("spec") or {}
    total: Amounts = {}
    for container in spec.get("containers") or ():
        total = add(total, _container_amounts(pod, container, kind, "containerStatuses"))
    sidecars: Amounts = {}
    initial: Amounts = {}
    for container in spec.get("initContainers") or ():
        amounts = _container_amounts(pod, container, kind, "initContainerStatuses")
        if container.get("restartPolicy") == "Always":
            total = add(total, amounts)
            sidecars = add(sidecars, amounts)
            initial = largest(initial, sidecars)
        else:
            initial = largest(initial, add(amounts, sidecars))
    total = largest(total, initial)
    for name, value in parse_amounts(_level(pod, kind)).items():
        if _is_pod_level(name):
            total[name] = value
    if overhead:
        for name, value in parse_amounts(spec.get("overhead")).items():
            if kind == "requests" or name in total:
                total[name] = total[name] + value if name in total else value
    return total


def _container_amounts(pod: Object, container: Object, kind: str, statuses: str) -> Amounts:
    """A container's own; while a resize is under way, what it still has counts if it is more."""
    amounts = parse_amounts((container.get("resources") or {}).get(kind))
    for status in (pod.get("status") or {}).get(statuses) or ():
        if status.get("name") != container.get("name"):
            continue
        for held in _held(status, kind):
            amounts = largest(amounts, {name: held[name] for name in held if name in amounts})
    return amounts


def _held(status: Object, kind: str) -> Iterator[Amounts]:
    yield parse_amounts((status.get("resources") or {}).get(kind))
    if kind == "requests":
        yield parse_amounts(status.get("allocatedResources"))


def _level(pod: Object, kind: str) -> Mapping[str, Any]:
    level: Mapping[str, Any] = ((pod.get("spec") or {}).get("resources") or {}).get(kind) or {}
    return level


def _is_pod_level(name: str) -> bool:
    return name in _POD_LEVEL or name.startswith("hugepages-")


_ZERO = parse_quantity("0")
