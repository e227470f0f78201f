"""Which pods must go before the node suffers, and why. Pure; `evicting` measures and acts.

Two kinds of reasons: a pod that uses more of the disk than it said (`over_disk_limit`), and a node
that runs short of something (`judge`, then `rank`). Order and texts are the kubelet's
(`pkg/kubelet/eviction`): those over their requests go first, then those of low priority, then those
furthest over. Critical pods stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from navarch.api.node_selection import tolerates
from navarch.api.quantity import Format, Quantity, parse_quantity
from navarch.api.types.core_v1 import Pod, Taint

from .podspec import is_critical, qos_class
from .resources import amount, pod_limits, pod_requests
from .thresholds import INODES, STORAGE, Threshold

REASON = "Evicted"


@dataclass(frozen=True, slots=True)
class Disk:
    """What files take."""

    bytes: int = 0
    inodes: int = 0

    def __add__(self, other: Disk) -> Disk:
        return Disk(self.bytes + other.bytes, self.inodes + other.inodes)

    def of(self, resource: str) -> int:
        return self.inodes if resource == INODES else self.bytes


@dataclass(frozen=True, slots=True)
class ContainerUse:
    """What one container uses now."""

    memory: int = 0
    root: Disk = Disk()
    """Its writable layer."""
    logs: Disk = Disk()


@dataclass(frozen=True)
class PodUse:
    """What a pod uses now."""

    containers: Mapping[str, ContainerUse] = field(default_factory=dict)
    volumes: Mapping[str, Disk] = field(default_factory=dict)
    """Its local volumes on disk: emptyDir (those in memory are not counted) and configMap."""
    other: Disk = Disk()
    """Files of the node that its containers write: /etc/hosts and termination messages."""
    processes: int = 0

    @property
    def memory(self) -> int:
        return sum(each.memory for each in self.containers.values())

    def disk(self, parts: Iterable[str] = ("root", "logs", "volumes", "other")) -> Disk:
        total = Disk()
        for part in parts:
            if part == "volumes":
                total = sum(self.volumes.values(), total)
            elif part == "other":
                total += self.other
            else:
                total = sum((getattr(each, part) for each in self.containers.values()), total)
        return total


# A pod over its own limits


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """A pod uses more of the disk than it said; `signal` is how metrics name the limit."""

    signal: str
    message: str


def over_disk_limit(
    pod: Pod, use: PodUse, *, image_filesystem: bool = False
) -> LimitExceeded | None:
    """Why the pod must go for its use of the disk. Writable layers on a file system of their own
    (`image_filesystem`) do not count against their container's limit."""
    for volume in pod.spec.volumes:
        if volume.emptyDir is None or not volume.emptyDir.sizeLimit:
            continue
        limit = parse_quantity(volume.emptyDir.sizeLimit)
        if limit and use.volumes.get(volume.name, Disk()).bytes > limit.value():
            return LimitExceeded(
                "emptydirfs.limit",
                f'Usage of EmptyDir volume "{volume.name}" exceeds the limit "{limit}". ',
            )
    total = pod_limits(pod).get(STORAGE)
    if total is not None and use.disk().bytes > total:
        return LimitExceeded(
            "ephemeralpodfs.limit",
            "Pod ephemeral local storage usage exceeds the total limit of containers "
            f"{_total_limit(pod, total)}. ",
        )
    for container in pod.spec.containers:
        text = container.resources.limits.get(STORAGE, "")
        used = use.containers.get(container.name, ContainerUse())
        count = used.logs if image_filesystem else used.logs + used.root
        if text and (limit := parse_quantity(text)) and count.bytes > limit.value():
            return LimitExceeded(
                "ephemeralcontainerfs.limit",
                f"Container {container.name} exceeded its local ephemeral storage limit "
                f'"{limit}". ',
            )
    return None


def _total_limit(pod: Pod, total: int) -> Quantity:
    """The sum, printed in the format of its first part (as upstream's sums of quantities are)."""
    for each in (*pod.spec.containers, *pod.spec.initContainers):
        text = each.resources.limits.get(STORAGE)
        if text:
            quantity = parse_quantity(text)
            return quantity if quantity.value() == total else Quantity.of(total, quantity.format)
    return Quantity.of(total, Format.BINARY)


def has_disk_limits(pod: Pod) -> bool:
    """Whether measuring the pod's use of the disk can have a consequence by itself."""
    return any(
        each.emptyDir is not None and each.emptyDir.sizeLimit for each in pod.spec.volumes
    ) or any(
        STORAGE in each.resources.limits
        for each in (*pod.spec.containers, *pod.spec.initContainers)
    )


# A node that runs short


@dataclass(frozen=True, slots=True)
class Observation:
    """What is left of something, and how much there is in all."""

    available: int
    capacity: int
    is_binary: bool = True
    """Whether messages print it as bytes."""

    def __str__(self) -> str:
        form = Format.BINARY if self.is_binary else Format.DECIMAL
        return str(Quantity.of(self.available, form))


Observations = Mapping[str, Observation]


@dataclass(frozen=True)
class Judgement:
    """What the thresholds say at one moment; the next moment's is made from it."""

    first_met: Mapping[Threshold, float] = field(default_factory=dict)
    condition_seen: Mapping[str, float] = field(default_factory=dict)
    due: Sequence[Threshold] = ()
    """Met for as long as their grace period: something must be done. Memory comes first."""
    conditions: frozenset[str] = frozenset()
    """The node's conditions: seen now, or no longer ago than the transition period."""


def judge(
    before: Judgement,
    thresholds: Sequence[Threshold],
    observed: Observations,
    now: float,
    transition_seconds: float,
) -> Judgement:
    """The state after a look. A threshold that was due stays met until its minimum reclaim is
    satisfied, too, so that the node does not swing about the threshold."""
    met = [each for each in thresholds if is_met(each, observed)]
    met += [
        each for each in before.due if each not in met and is_met(each, observed, with_reclaim=True)
    ]
    first_met = {each: before.first_met.get(each, now) for each in met}
    seen = {**before.condition_seen, **{each.condition: now for each in met}}
    due = [each for each, since in first_met.items() if now - since >= each.grace]
    return Judgement(
        first_met,
        seen,
        sorted(due, key=lambda each: each.resource != "memory"),
        frozenset(name for name, at in seen.items() if now - at < transition_seconds)
        | {each.condition for each in met},
    )


def is_met(threshold: Threshold, observed: Observations, *, with_reclaim: bool = False) -> bool:
    found = observed.get(threshold.signal)
    if found is None:
        return False
    wanted = threshold.value.of(found.capacity)
    if with_reclaim and threshold.minimum_reclaim is not None:
        wanted += threshold.minimum_reclaim.of(found.capacity)
    return wanted > Quantity.of(found.available)


_Rank = Callable[[Pod, PodUse], tuple[int, ...]]


def rank(
    pods: Sequence[Pod], uses: Mapping[str, PodUse], signal: str, *, image_filesystem: bool
) -> list[Pod]:
    """The pods in the order they are to go; those that could not be measured come first."""
    key = _rank_of(signal, image_filesystem)

    def position(pod: Pod) -> tuple[int, ...]:
        use = uses.get(pod.metadata.uid)
        return (0,) if use is None else (1, *key(pod, use))

    return sorted(pods, key=position)


def _rank_of(signal: str, image_filesystem: bool) -> _Rank:
    if signal == "pid.available":
        return lambda pod, use: (pod.spec.priority or 0, -use.processes)

    def over(pod: Pod, used: int, resource: str, base: str) -> tuple[int, ...]:
        requests = pod_requests(pod)
        exceeds = used > requests.get(resource, 0)
        return not exceeds, pod.spec.priority or 0, requests.get(base, 0) - used

    if "memory" in signal.casefold():
        return lambda pod, use: over(pod, use.memory, "memory", "memory")
    resource = INODES if signal.endswith("inodesFree") else STORAGE
    parts = disk_parts(signal, image_filesystem)
    return lambda pod, use: over(pod, use.disk(parts).of(resource), resource, STORAGE)


def disk_parts(signal: str, image_filesystem: bool) -> tuple[str, ...]:
    """What a pod's use of a file system consists of. Images may lie on one of their own, and the
    containers' writable layers with them."""
    if not image_filesystem:
        return ("root", "logs", "volumes")
    return ("logs", "volumes") if signal.startswith("nodefs") else ("root",)


def reclaims(signal: str, image_filesystem: bool) -> tuple[str, ...]:
    """What can be cleared away (`containers`, `images`) before a pod has to go."""
    is_disk = signal.startswith(("nodefs", "imagefs"))
    if not is_disk or (image_filesystem and signal.startswith("nodefs")):
        return ()
    return "containers", "images"


@dataclass(frozen=True)
class Explanation:
    """What an evicted pod's status and event say."""

    message: str
    annotations: Mapping[str, str]


def explain(
    pod: Pod, use: PodUse | None, resource: str, due: Sequence[Threshold], observed: Observations
) -> Explanation:
    """Why this pod goes: what is short, by how much, and which containers took more than asked."""
    message = f"The node was low on resource: {resource}. "
    for threshold in due:
        found = observed.get(threshold.signal)
        if threshold.resource == resource and found is not None:
            quantity = threshold.value.of(found.capacity)
            message += f"Threshold quantity: {quantity}, available: {found}. "
            break
    if use is None:
        return Explanation(message, {})
    annotations: dict[str, str] = {}
    whole = pod.spec.resources
    if resource == "memory" and whole is not None and "memory" in whole.requests:
        used, request = _bytes(use.memory), whole.requests["memory"]
        message += _consumption("Pod", pod.metadata.name, used, request, resource)
        annotations |= {"offending_pod": pod.metadata.name, "offending_pod_usage": used}
    names, amounts = [], []
    for container in (*pod.spec.containers, *pod.spec.initContainers):
        one = use.containers.get(container.name)
        if one is None or resource not in ("memory", STORAGE):
            continue
        taken = one.memory if resource == "memory" else (one.root + one.logs).bytes
        if taken > amount(container.resources.requests, resource):
            request = container.resources.requests.get(resource, "0")
            message += _consumption("Container", container.name, _bytes(taken), request, resource)
            names.append(container.name)
            amounts.append(_bytes(taken))
    annotations |= {
        "offending_containers": ",".join(names),
        "offending_containers_usage": ",".join(amounts),
        "starved_resource": resource,
    }
    return Explanation(message, annotations)


def _consumption(kind: str, name: str, used: str, request: str, resource: str) -> str:
    return (
        f"{kind} {name} was using {used}, request is {request}, has larger consumption of "
        f"{resource}. "
    )


def _bytes(value: int) -> str:
    return str(Quantity.of(value, Format.BINARY))


# New pods on a node under pressure


def refuses(pod: Pod, conditions: Iterable[str]) -> str:
    """Why a node under pressure does not take a new pod; empty if it does.

    Short of memory it still takes pods that have asked for some, and those that tolerate it;
    short of anything else only critical ones.
    """
    present = sorted(conditions)
    if not present or is_critical(pod):
        return ""
    if present == ["MemoryPressure"]:
        tolerant = any(tolerates(each, _MEMORY_TAINT) for each in pod.spec.tolerations)
        if qos_class(pod) != "BestEffort" or tolerant:
            return ""
    return f"The node had condition: [{' '.join(present)}]. "


_MEMORY_TAINT = Taint(key="node.kubernetes.io/memory-pressure", effect="NoSchedule")
