"""What a pod asks for, in milli-cores, bytes and units."""

from __future__ import annotations

from collections.abc import Mapping

from navarch.api.quantity import Quantity, parse_quantity
from navarch.api.types.core_v1 import Container, ContainerStatus, Pod

Amounts = dict[str, Quantity]
Units = dict[str, int]

DEFAULTS = {"cpu": "100m", "memory": str(200 * 1024 * 1024)}


def read(resources: Mapping[str, str]) -> Amounts:
    return {name: parse_quantity(text) for name, text in resources.items()}


def add(total: Amounts, more: Amounts) -> None:
    for name, value in more.items():
        total[name] = total[name] + value if name in total else value


def raise_to(total: Amounts, other: Amounts) -> None:
    for name, value in other.items():
        if name not in total or total[name] < value:
            total[name] = value


def is_infeasible(pod: Pod) -> bool:
    for condition in pod.status.conditions:
        if condition.type == "PodResizePending":
            return condition.reason == "Infeasible"
    return False


def in_effect(pod: Pod, wanted: Amounts, actual: Amounts, allocated: Amounts) -> Amounts:
    """While a resize is under way the largest of what is wanted, held and promised counts."""
    result: Amounts = {}
    if not is_infeasible(pod):
        raise_to(result, wanted)
    raise_to(result, actual)
    raise_to(result, allocated)
    return result


def container_requests(
    pod: Pod, container: Container, statuses: list[ContainerStatus], missing: Mapping[str, str]
) -> Amounts:
    result = read(container.resources.requests)
    for status in statuses:
        if status.name == container.name and status.resources is not None:
            actual, allocated = read(status.resources.requests), read(status.allocatedResources)
            result = in_effect(pod, result, actual, allocated)
    for name, text in missing.items():
        if name not in result:
            result[name] = parse_quantity(text)
    return result


def is_pod_level(name: str) -> bool:
    return name in ("cpu", "memory") or name.startswith("hugepages-")


def pod_requests(pod: Pod, missing: Mapping[str, str] = {}, *, pod_level: bool = True) -> Amounts:
    """`missing` stands in for what containers do not say."""
    total: Amounts = {}
    for container in pod.spec.containers:
        add(total, container_requests(pod, container, pod.status.containerStatuses, missing))
    sidecars: Amounts = {}
    initial: Amounts = {}
    for container in pod.spec.initContainers:
        if container.restartPolicy == "Always":
            statuses = pod.status.initContainerStatuses
            own = container_requests(pod, container, statuses, missing)
            add(total, own)
            add(sidecars, own)
            raise_to(initial, sidecars)
        else:
            now = container_requests(pod, container, [], missing)
            add(now, sidecars)
            raise_to(initial, now)
    raise_to(total, initial)
    level = pod.spec.resources
    if pod_level and level is not None:
        for name, value in _of_pod(pod, read(level.requests)).items():
            if is_pod_level(name) and name in level.requests:
                total[name] = value
    add(total, read(pod.spec.overhead))
    return total


def _of_pod(pod: Pod, wanted: Amounts) -> Amounts:
    if pod.status.resources is None:
        return wanted
    held = read(pod.status.resources.requests)
    effective = in_effect(pod, wanted, held, read(pod.status.allocatedResources))
    zero = parse_quantity("0")
    return {name: effective.get(name, zero) for name in wanted}


def has_pod_level_requests(pod: Pod) -> bool:
    level = pod.spec.resources
    return level is not None and any(is_pod_level(name) for name in level.requests)


def in_units(amounts: Amounts) -> Units:
    """Only what nodes keep account of."""
    result: Units = {}
    for name, value in amounts.items():
        if name == "cpu":
            result[name] = value.milli_value()
        elif name in ("memory", "ephemeral-storage", "pods") or is_scalar(name):
            result[name] = value.value()
    return result


def is_scalar(name: str) -> bool:
    """Extended resources, huge pages, and the like."""
    if name.startswith(("hugepages-", "attachable-volumes-")) or "kubernetes.io/" in name:
        return True
    return "/" in name and not name.startswith("requests.")


def filled(pod: Pod) -> Units:
    """What counts for the score of a pod that looks for a node: pod-level requests do not."""
    return in_units(pod_requests(pod, DEFAULTS, pod_level=False))


def filled_on_node(pod: Pod) -> Units:
    """The same of a pod that has a node."""
    requests = pod_requests(pod)
    missing = DEFAULTS
    if has_pod_level_requests(pod):
        missing = {name: text for name, text in DEFAULTS.items() if name not in requests}
    return in_units(pod_requests(pod, missing))
