"""From requests and limits to what the kernel understands. Pure.

The formulas are the kubelet's (`pkg/kubelet/cm/helpers_linux.go`, `pkg/kubelet/qos/policy.go`), so
that a cluster moved to or from upstream weighs its pods the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Container, Pod

from .cri import runtime_pb2 as pb
from .podspec import is_critical, is_sidecar, qos_class
from .settings import NodeOptions

CPU_PERIOD = 100_000
MINIMUM_SHARES, MAXIMUM_SHARES = 2, 262_144
MINIMUM_QUOTA = 1000

NODE_CRITICAL = "system-node-critical"
GUARANTEED_OOM_SCORE = -997
BEST_EFFORT_OOM_SCORE = 1000


PAGE = 4096


@dataclass(frozen=True, slots=True)
class ResourcePolicy:
    """How this node's configuration and its kernel want resources to be kept."""

    unified: bool = False
    """Whether the machine has cgroup v2."""
    memory_capacity: int = 0
    """All memory there is, for the order of dying; 0: what pods may have."""
    enforces_quota: bool = True
    period: int = CPU_PERIOD
    kills_as_group: bool = False
    """A container that runs out of memory dies as a whole (cgroup v2 only)."""
    memory_qos: bool = False
    """Feature MemoryQoS: containers are slowed down before their limit, by `memory.high`."""
    reserves_memory: bool = False
    """memoryReservationPolicy TieredReservation: requests are kept from being reclaimed."""
    throttling: float = 0.9
    has_swap: bool = False
    """Whether the kernel can limit swap at all."""
    limited_swap: bool = False
    """memorySwap LimitedSwap: Burstable pods get a share, by request; otherwise nobody swaps."""
    swap_bytes: int = 0
    pids: int = 0
    """The most processes of a pod; 0 is without limit."""

    @classmethod
    def of(
        cls, options: NodeOptions, memory: int, *, unified: bool, swap: int | None
    ) -> ResourcePolicy:
        """`swap` is None where the kernel cannot limit it."""
        gates = options.feature_gates
        single = options.single_process_oom_kill
        return cls(
            unified=unified,
            memory_capacity=memory,
            enforces_quota=options.cpu_cfs_quota,
            period=int(options.cpu_cfs_quota_period * 1_000_000),
            kills_as_group=unified and not single,
            memory_qos=unified and gates.get("MemoryQoS", False),
            reserves_memory=options.memory_reservation_policy == "TieredReservation",
            throttling=options.memory_throttling_factor,
            has_swap=swap is not None,
            limited_swap=unified
            and options.memory_swap_behavior == "LimitedSwap"
            and gates.get("NodeSwap", True),
            swap_bytes=swap or 0,
            pids=max(0, options.pod_pids_limit),
        )

    def quota(self, milli_cpu: int) -> int:
        """Microseconds of processor time per period; 0 means no limit."""
        if not self.enforces_quota or not milli_cpu:
            return 0
        return max(MINIMUM_QUOTA, milli_cpu * self.period // 1000)


@dataclass(frozen=True, slots=True)
class NodeResources:
    """What the machine has: as the downward API, the eviction order and admission need it."""

    cpu_millis: int
    memory_bytes: int
    ephemeral_bytes: int = 0
    pods: int = 110
    policy: ResourcePolicy = ResourcePolicy()


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
    if pod.spec.priorityClassName == NODE_CRITICAL and is_critical(pod):
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
    request += _share_of_rest(pod)
    score = 1000 - 1000 * request // max(capacity, 1)
    return min(max(score, 1000 + GUARANTEED_OOM_SCORE), BEST_EFFORT_OOM_SCORE - 1)


def _share_of_rest(pod: Pod) -> int:
    """What a pod requests as a whole beyond its containers' requests, in equal parts."""
    whole = pod.spec.resources
    if whole is None or "memory" not in whole.requests:
        return 0
    spec = msgspec.structs.replace(pod.spec, resources=None, overhead={})
    requested = pod_requests(msgspec.structs.replace(pod, spec=spec)).get("memory", 0)
    everyone = len(pod.spec.containers) + len(pod.spec.initContainers)
    return (amount(whole.requests, "memory") - requested) // everyone


def container_resources(
    pod: Pod, container: Container, node: NodeResources
) -> pb.LinuxContainerResources:
    """The cgroup settings of one container."""
    limits, requests = container.resources.limits, container.resources.requests
    if pod.spec.resources is not None:
        # A container without a limit of its own has the pod's.
        whole = pod.spec.resources.limits
        limits = {name: whole[name] for name in ("cpu", "memory") if name in whole} | limits
    # A limit without a request asks for as much as it allows.
    milli_cpu = milli(requests, "cpu") if "cpu" in requests else milli(limits, "cpu")
    policy = node.policy
    result = pb.LinuxContainerResources(
        cpu_shares=cpu_shares(milli_cpu),
        cpu_period=policy.period,
        cpu_quota=policy.quota(milli(limits, "cpu")),
        memory_limit_in_bytes=amount(limits, "memory"),
        oom_score_adj=oom_score(pod, container, policy.memory_capacity or node.memory_bytes),
        unified=_unified(pod, container, node),
    )
    if policy.has_swap and not policy.unified:
        # Memory and swap together: no more than memory alone.
        result.memory_swap_limit_in_bytes = result.memory_limit_in_bytes
    for name in limits:
        if name.startswith("hugepages-"):
            size = name.removeprefix("hugepages-").removesuffix("i") + "B"
            result.hugepage_limits.append(
                pb.HugepageLimit(page_size=size, limit=amount(limits, name))
            )
    return result


@dataclass(frozen=True, slots=True)
class SandboxSize:
    """What a pod's containers have together, and what its sandbox takes beside them. It means
    something to runtimes that give every pod a virtual machine."""

    resources: pb.LinuxContainerResources
    overhead: pb.LinuxContainerResources


def sandbox_size(pod: Pod, policy: ResourcePolicy) -> SandboxSize:
    def linux(requests: Mapping[str, int], limits: Mapping[str, int]) -> pb.LinuxContainerResources:
        return pb.LinuxContainerResources(
            cpu_shares=cpu_shares(requests.get("cpu", limits.get("cpu", 0))),
            cpu_period=policy.period,
            cpu_quota=policy.quota(limits.get("cpu", 0)),
            memory_limit_in_bytes=limits.get("memory", 0),
            unified={"memory.oom.group": "1"} if policy.kills_as_group else {},
        )

    spec = msgspec.structs.replace(pod.spec, overhead={})
    inside = msgspec.structs.replace(pod, spec=spec)
    overhead = {name: _number(name, text) for name, text in pod.spec.overhead.items()}
    return SandboxSize(
        linux(pod_requests(inside), pod_limits(inside)),
        linux(overhead, overhead) if overhead else pb.LinuxContainerResources(),
    )


def _unified(pod: Pod, container: Container, node: NodeResources) -> dict[str, str]:
    """Settings that only cgroup v2 has, by file (KEP-2570 for those of memory's quality)."""
    policy = node.policy
    result = {"memory.oom.group": "1"} if policy.kills_as_group else {}
    request = amount(container.resources.requests, "memory")
    limit = amount(container.resources.limits, "memory")
    if policy.has_swap and policy.unified:
        result["memory.swap.max"] = str(_swap(pod, container, policy, request, limit))
    if not policy.memory_qos:
        return result
    kept = "memory.min" if qos_class(pod) == "Guaranteed" else "memory.low"
    if request and policy.reserves_memory:
        result[kept] = str(request)
    else:
        result |= {"memory.min": "0", "memory.low": "0"}
    if request != limit:
        # Slowed down from here on: a part of the way from what was asked for to the limit.
        top = limit or node.memory_bytes
        high = int((request + (top - request) * policy.throttling) / PAGE) * PAGE
        if high > request:
            result["memory.high"] = str(high)
    return result


def _swap(pod: Pod, container: Container, policy: ResourcePolicy, request: int, limit: int) -> int:
    """Bytes of swap: for containers of Burstable pods that ask for less memory than they may have,
    and that somebody can do without, in proportion to what they ask for (KEP-2400)."""
    if not policy.limited_swap or qos_class(pod) != "Burstable" or is_critical(pod):
        return 0
    if not request or request == limit or not policy.memory_capacity:
        return 0
    return request * policy.swap_bytes // policy.memory_capacity


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


def class_limits(pods: Iterable[Pod], node: NodeResources, reserved: Mapping[str, str]) -> Classes:
    """What the classes of service get while these pods are on the node. `reserved` is the per cent
    of requests that classes below cannot take (qosReserved)."""
    cpu, memory = 0, {"Guaranteed": 0, "Burstable": 0}
    for pod in pods:
        quality, wanted = qos_class(pod), pod_requests(pod)
        if quality == "Burstable":
            cpu += wanted.get("cpu", 0)
        if quality in memory:
            memory[quality] += wanted.get("memory", 0)
    policy, percent = node.policy, int((reserved.get("memory") or "0").rstrip("%"))
    burstable = node.memory_bytes - memory["Guaranteed"] * percent // 100 if percent else 0
    best_effort = burstable - memory["Burstable"] * percent // 100 if percent else 0
    kept = {}
    if policy.memory_qos:
        tiers = policy.reserves_memory
        # Whoever is above has to be kept as much as everybody below it together.
        kept = {
            "Guaranteed": {"memory.min": str(sum(memory.values()) if tiers else 0)},
            "Burstable": {"memory.low": str(memory["Burstable"] if tiers else 0)},
        }
    return Classes(cpu_shares(cpu), max(0, burstable), max(0, best_effort), kept)


@dataclass(frozen=True)
class Classes:
    """Settings of the classes' cgroups; 0 leaves memory unlimited."""

    burstable_shares: int
    burstable_memory: int = 0
    best_effort_memory: int = 0
    kept: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Settings of cgroup v2 by class and file."""
