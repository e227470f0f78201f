"""One look at everything a node's pods use. `take` reads the cgroups; the rest are values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from .cgroup import CgroupReader, CgroupUsage
from .machine import Interface, interfaces, memory_information, own_usage, whole_machine


@dataclass(frozen=True, slots=True)
class ContainerTarget:
    """A running container to look at; `created_at` in nanoseconds since the epoch."""

    id: str
    name: str
    image: str
    created_at: int


@dataclass(frozen=True, slots=True)
class PodTarget:
    """A pod to look at, and where its cgroup is."""

    name: str
    namespace: str
    uid: str
    created_at: int
    cgroup: str
    sandbox: str
    host_network: bool
    containers: Sequence[ContainerTarget]


@dataclass(frozen=True, slots=True)
class ContainerLook:
    target: ContainerTarget
    cgroup: str
    usage: CgroupUsage


@dataclass(frozen=True, slots=True)
class PodLook:
    target: PodTarget
    usage: CgroupUsage
    containers: Sequence[ContainerLook]
    interfaces: Sequence[Interface] = ()


@dataclass(frozen=True)
class Snapshot:
    """What was used at one moment."""

    time: datetime
    at: float
    """The same moment on the clock that never jumps."""
    node: CgroupUsage
    kubelet: CgroupUsage
    pods: Sequence[PodLook]
    cgroups: Mapping[str, CgroupUsage] = field(default_factory=dict)
    """The cgroups above the pods', by path."""
    interfaces: Sequence[Interface] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look: this node's own part of the cgroup tree, and its classes of pods in it."""

    reader: CgroupReader
    root: str
    classes: Sequence[str]
    """The cgroup of all pods first."""


def take(
    place: Place, targets: Iterable[PodTarget], time: datetime, at: float, *, full: bool
) -> Snapshot:
    """Looks at all of it. Reads many small files: call it in a thread."""
    reader = place.reader
    shown = place.classes if full else place.classes[:1]
    cgroups = {path: reader.read(path, full=full) for path in shown}
    own = own_usage()
    return Snapshot(
        time,
        at,
        _node(place, own),
        own,
        [_pod(reader, target, full=full) for target in targets],
        cgroups,
        interfaces() if full else (),
    )


def _node(place: Place, own: CgroupUsage) -> CgroupUsage:
    """The machine; or this node's share of it, where several nodes share one."""
    if not place.root:
        return whole_machine(place.reader)
    pods = place.reader.read(place.root, full=True)
    # The agent lives beside its node's cgroup, not in it.
    return replace(
        pods,
        cpu_nanoseconds=_sum(pods.cpu_nanoseconds, own.cpu_nanoseconds),
        memory=_sum(pods.memory, own.memory),
        working_set=_sum(pods.working_set, own.working_set),
        rss=pods.rss + own.rss,
        memory_limit=pods.memory_limit or memory_information()["MemTotal"],
    )


def _sum(first: int | None, second: int | None) -> int | None:
    return first if second is None else second if first is None else first + second


def _pod(reader: CgroupReader, target: PodTarget, *, full: bool) -> PodLook:
    names = reader.children(target.cgroup)
    looks = []
    for container in target.containers:
        # Runtimes name the cgroup after the container, with a prefix where systemd makes it.
        name = next((each for each in names if container.id in each), "")
        if name:
            path = f"{target.cgroup}/{name}"
            looks.append(ContainerLook(container, path, reader.read(path, full=full)))
    found: Sequence[Interface] = ()
    if full and not target.host_network:
        found = _interfaces(reader, target, names)
    return PodLook(target, reader.read(target.cgroup, full=full), looks, found)


def _interfaces(
    reader: CgroupReader, target: PodTarget, names: Sequence[str]
) -> Sequence[Interface]:
    """Any process of the pod is in the pod's network; the sandbox's is there longest."""
    for name in sorted(names, key=lambda each: target.sandbox not in each):
        for pid in reader.pids(f"{target.cgroup}/{name}")[:1]:
            found = interfaces(pid)
            if found:
                return found
    return ()


class Rates:
    """How fast each cgroup uses processor time: the difference between two looks.

    Two looks must lie `shortest` seconds apart, or the rate before stands: bursts of requests would
    measure noise."""

    def __init__(self, shortest: float = 0.4, oldest: float = 120.0) -> None:
        self._shortest, self._oldest = shortest, oldest
        self._known: dict[str, tuple[float, int, int | None]] = {}

    def update(self, at: float, usages: Mapping[str, CgroupUsage]) -> None:
        """Takes in a look; what is not in it any more is forgotten."""
        fresh: dict[str, tuple[float, int, int | None]] = {}
        for path, usage in usages.items():
            cpu = usage.cpu_nanoseconds
            if cpu is None:
                continue
            before = self._known.get(path)
            if before is None or cpu < before[1] or at - before[0] > self._oldest:
                fresh[path] = (at, cpu, None)
            elif at - before[0] < self._shortest:
                fresh[path] = before
            else:
                fresh[path] = (at, cpu, int((cpu - before[1]) / (at - before[0])))
        self._known = fresh

    def of(self, path: str) -> int | None:
        """Nanoseconds of processor time a second (billionths of a core)."""
        known = self._known.get(path)
        return None if known is None else known[2]

    @property
    def are_known(self) -> bool:
        return any(rate is not None for _, _, rate in self._known.values())


NODE, KUBELET = "node", "kubelet"


def usages_of(snapshot: Snapshot) -> dict[str, CgroupUsage]:
    """All that has a rate, by cgroup (and the node and the agent by name)."""
    result = {NODE: snapshot.node, KUBELET: snapshot.kubelet, **snapshot.cgroups}
    for pod in snapshot.pods:
        result[pod.target.cgroup] = pod.usage
        result.update({each.cgroup: each.usage for each in pod.containers})
    return result
