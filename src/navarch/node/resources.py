"""From requests and limits to what the kernel understands. Pure.

The formulas are the kubelet's (`pkg/kubelet/cm/helpers_linux.go`, `pkg/kubelet/qos/policy.go`), so
that a cluster moved to or from upstream weighs its pods the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Container, Pod

from .cri import runtime_pb2 as pb
from .podspec import is_critical, is_sidecar, qos_class

CPU_PERIOD = 100_000
MINIMUM_SHARES, MAXIMUM_SHARES = 2, 262_144
MINIMUM_QUOTA = 1000

GUARANTEED_OOM_SCORE = -997
BEST_EFFORT_OOM_SCORE = 1000


@dataclass(frozen=True, slots=True)
class NodeResources:
    """What the machine has: as the downward API, the eviction order and admission need it."""

    cpu_millis: int
    memory_bytes: int
    ephemeral_bytes: int = 0
    pods: int = 110


def milli(resources: Mapping[str, str], name: str) -> int:
    text = resources.get(name)
    return parse_quantity(text).milli_value() if text else 0


def amount(resources: Mapping[str, str], name: str) -> int:
    text = resources.get(name)
    return parse_quantity(text).value() if text else 0


def cpu_shares(milli_cpu: int) -> int:
    shares = milli_cpu * 1024 // 1000
    return min(max(shares, MINIMUM_SHARES), MAXIMUM_SHARES)


def cpu_quota(milli_cpu: int) -> int:
    """Microseconds of processor time per period; 0 means no limit is asked for."""
    return max(MINIMUM_QUOTA, milli_cpu * CPU_PERIOD // 1000) if milli_cpu else 0


def cpu_weight(shares: int) -> int:
    """cgroup v2's weight for cgroup v1's shares, by the linear mapping of the runtimes."""
    return 1 + (shares - 2) * 9999 // 262_142


def oom_score(pod: Pod, container: Container, capacity: int) -> int:
    """Who dies first when memory runs out: pods that asked for nothing, then those that exceed."""
    if is_critical(pod):
        return GUARANTEED_OOM_SCORE
    quality = qos_class(pod)
    if quality == "Guaranteed":
        return GUARANTEED_OOM_SCORE
    if quality == "BestEffort":
        return BEST_EFFORT_OOM_SCORE
    request = amount(container.resources.requests, "memory")
    if is_sidecar(container) and pod.spec.containers:
        # A sidecar must not die before the containers it serves.
        smallest = min(amount(each.resources.requests, "memory") for each in pod.spec.containers)
        request = max(request, smallest)
    score = 1000 - 1000 * request // max(capacity, 1)
    return min(max(score, 1000 + GUARANTEED_OOM_SCORE), BEST_EFFORT_OOM_SCORE - 1)


def container_resources(
    pod: Pod, container: Container, node: NodeResources
) -> pb.LinuxContainerResources:
    """The cgroup settings of one container."""
    limits, requests = container.resources.limits, container.resources.requests
    # A limit without a request asks for as much as it allows.
    milli_cpu = milli(requests, "cpu") if "cpu" in requests else milli(limits, "cpu")
    result = pb.LinuxContainerResources(
        cpu_shares=cpu_shares(milli_cpu),
        cpu_period=CPU_PERIOD,
        cpu_quota=cpu_quota(milli(limits, "cpu")),
        memory_limit_in_bytes=amount(limits, "memory"),
        oom_score_adj=oom_score(pod, container, node.memory_bytes),
    )
    for name in limits:
        if name.startswith("hugepages-"):
            size = name.removeprefix("hugepages-").removesuffix("i") + "B"
            result.hugepage_limits.append(
                pb.HugepageLimit(page_size=size, limit=amount(limits, name))
            )
    return result


@dataclass(frozen=True, slots=True)
class CgroupLimits:
    """Settings of a pod's or a class's cgroup; 0 leaves a thing unlimited."""

    shares: int
    quota: int = 0
    memory: int = 0


def pod_requests(pod: Pod) -> dict[str, int]:
    """What the pod counts for on a node: milli-cpu, bytes of memory and so on, by name.

    Init containers run one after the other beside the sidecars started before them, app containers
    all at once beside all sidecars; the pod needs the larger of the two, plus its overhead.
    """
    return _aggregate(pod, limits=False)


def pod_limits(pod: Pod) -> dict[str, int]:
    return _aggregate(pod, limits=True)


def _aggregate(pod: Pod, *, limits: bool) -> dict[str, int]:
    def wants(container: Container) -> dict[str, int]:
        resources = container.resources
        chosen = resources.limits if limits else {**resources.limits, **resources.requests}
        if not limits:
            # Only cpu, memory and the like default from the limit; that was done by the API too.
            chosen = {key: value for key, value in chosen.items() if value}
        return {name: _number(name, text) for name, text in chosen.items()}

    total: dict[str, int] = {}
    for container in pod.spec.containers:
        _add(total, wants(container))
    sidecars: dict[str, int] = {}
    peak: dict[str, int] = {}
    for container in pod.spec.initContainers:
        if is_sidecar(container):
            _add(total, wants(container))
            _add(sidecars, wants(container))
            _maximise(peak, sidecars)
        else:
            together = dict(sidecars)
            _add(together, wants(container))
            _maximise(peak, together)
    _maximise(total, peak)
    whole = pod.spec.resources
    if whole is not None:
        stated = whole.limits if limits else whole.requests
        total.update({name: _number(name, text) for name, text in stated.items()})
    for name, text in pod.spec.overhead.items():
        if not limits or name in total:
            total[name] = total.get(name, 0) + _number(name, text)
    return total


def _number(name: str, text: str) -> int:
    quantity = parse_quantity(text)
    return quantity.milli_value() if name == "cpu" else quantity.value()


def _add(total: dict[str, int], more: Mapping[str, int]) -> None:
    for name, value in more.items():
        total[name] = total.get(name, 0) + value


def _maximise(total: dict[str, int], other: Mapping[str, int]) -> None:
    for name, value in other.items():
        total[name] = max(total.get(name, 0), value)


def pod_cgroup_limits(pod: Pod) -> CgroupLimits:
    """The pod's own cgroup: it is limited only where every container of it is."""
    quality = qos_class(pod)
    if quality == "BestEffort":
        return CgroupLimits(MINIMUM_SHARES)
    requests, limits = pod_requests(pod), pod_limits(pod)
    everyone = [*pod.spec.initContainers, *pod.spec.containers]
    stated = pod.spec.resources.limits if pod.spec.resources is not None else {}

    def limited(name: str) -> bool:
        return name in stated or all(amount(each.resources.limits, name) for each in everyone)

    return CgroupLimits(
        shares=cpu_shares(requests.get("cpu", 0)),
        quota=cpu_quota(limits.get("cpu", 0)) if limited("cpu") else 0,
        memory=limits.get("memory", 0) if limited("memory") else 0,
    )
