"""What a pod asks of a node, as whole numbers: milli-cores, bytes, or units.

Most pods of a cluster come from a few templates, so the sums are kept by the part of the pod they
are computed from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from navarch.api.objects import Object, encode
from navarch.api.pod_resources import Amounts, pod_requests
from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Container, Pod

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
    pending = next((c for c in status.conditions if c.type == "PodResizePending"), None)
    infeasible = pending is not None and pending.reason == "Infeasible"
    held = {
        each.name: (each.resources.requests, each.allocatedResources)
        for each in (*status.containerStatuses, *status.initContainerStatuses)
        if each.resources is not None
    }

    def slim(container: Container, is_resizable: bool = True) -> Object:
        requests: Mapping[str, str] = container.resources.requests
        if is_resizable and container.name in held:
            requests = _in_effect(requests, held[container.name], infeasible)
        return {"resources": {"requests": requests}, "restartPolicy": container.restartPolicy}

    result: Object = {
        "containers": [slim(each) for each in spec.containers],
        # An init container that ends is not resized, only sidecars are.
        "initContainers": [slim(c, c.restartPolicy == "Always") for c in spec.initContainers],
        "overhead": spec.overhead,
    }
    if spec.resources is not None:
        level: Mapping[str, str] = spec.resources.requests
        if status.resources is not None:
            has = (status.resources.requests, status.allocatedResources)
            effective = _in_effect(level, has, infeasible)
            level = {name: effective.get(name, "0") for name in level}
        result["resources"] = {"requests": level}
    return _computed(encode({"spec": result}))


def _in_effect(
    wanted: Mapping[str, str], held: Iterable[Mapping[str, str]], infeasible: bool
) -> Mapping[str, str]:
    """What counts while a resize is under way: what is held, and what is wanted unless it will not
    come about; of each resource the most."""
    result: dict[str, str] = {}
    for amounts in held if infeasible else (wanted, *held):
        for name, text in amounts.items():
            if name not in result or parse_quantity(result[name]) < parse_quantity(text):
                result[name] = text
    return result


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
