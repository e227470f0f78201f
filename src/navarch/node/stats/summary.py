"""`/stats/summary` (stats.kubelet.k8s.io/v1alpha1) out of a snapshot. Pure.

Fields that nothing is known of are left out, as upstream leaves them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from navarch.api.times import format_time

from ..eviction import ContainerUse, Disk, PodUse
from ..volumes.plugin import VolumeUsage
from .cgroup import CgroupUsage, Pressure
from .machine import Interface
from .snapshot import KUBELET, NODE, ContainerLook, PodLook, Rates, Snapshot

DEFAULT_INTERFACE = "eth0"
Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class VolumeUse:
    """A mounted volume. `claim` names the claim it came from, if it came from one."""

    name: str
    space: VolumeUsage
    claim: tuple[str, str] | None = None
    """Namespace and name."""


@dataclass(frozen=True)
class Storage:
    """What lies on disks: measured seldom, because it takes long."""

    time: datetime
    node: VolumeUsage | None = None
    images: VolumeUsage | None = None
    images_used: int = 0
    images_inodes: int = 0
    pods: Mapping[str, PodUse] = field(default_factory=dict)
    """By uid."""
    volumes: Mapping[str, Sequence[VolumeUse]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    name: str
    started: datetime
    """When the machine was."""
    processes: tuple[int, int] = (0, 0)
    """How many there may be, and are."""


def summary(
    identity: NodeIdentity, snapshot: Snapshot, rates: Rates, storage: Storage | None
) -> Document:
    """The document; without storage only processor time and memory."""
    time = format_time(snapshot.time)
    node: Document = {
        "nodeName": identity.name,
        "systemContainers": _system(snapshot, rates, time),
        "startTime": format_time(identity.started),
        **_common(snapshot.node, rates.of(NODE), time, full=storage is not None),
    }
    if storage is not None:
        most, running = identity.processes
        node["network"] = _network(snapshot.interfaces, time)
        node["fs"] = _space(storage.node, storage.time)
        images = _space(storage.images, storage.time)
        images |= {"usedBytes": storage.images_used, "inodesUsed": storage.images_inodes}
        node["runtime"] = {"imageFs": images, "containerFs": images}
        node["rlimit"] = {"time": time, "maxpid": most, "curproc": running}
    return {
        "node": {name: value for name, value in node.items() if value},
        "pods": [_pod(pod, rates, time, storage) for pod in snapshot.pods],
    }


def _system(snapshot: Snapshot, rates: Rates, time: str) -> list[Document]:
    found = [("kubelet", KUBELET, snapshot.kubelet)]
    found += [("pods", path, usage) for path, usage in list(snapshot.cgroups.items())[:1]]
    return [
        {"name": name, "startTime": None, **_common(usage, rates.of(path), time, full=False)}
        for name, path, usage in found
    ]


def _common(usage: CgroupUsage, rate: int | None, time: str, *, full: bool) -> Document:
    """Processor time, memory and swap, and pressure where it was asked for."""
    result: Document = {}
    if usage.cpu_nanoseconds is not None:
        result["cpu"] = {"time": time, "usageCoreNanoSeconds": usage.cpu_nanoseconds}
        if rate is not None:
            result["cpu"]["usageNanoCores"] = rate
    if usage.memory is not None:
        working_set = usage.working_set or 0
        result["memory"] = {
            "time": time,
            "usageBytes": usage.memory,
            "workingSetBytes": working_set,
            "rssBytes": usage.rss,
            "pageFaults": usage.page_faults,
            "majorPageFaults": usage.major_page_faults,
        }
        if usage.memory_limit is not None:
            result["memory"]["availableBytes"] = max(0, usage.memory_limit - working_set)
    if usage.swap is not None:
        result["swap"] = {"time": time, "swapUsageBytes": usage.swap}
        if usage.swap_limit is not None:
            result["swap"]["swapAvailableBytes"] = max(0, usage.swap_limit - usage.swap)
    for resource, lines in usage.pressure.items() if full else ():
        section = result.setdefault(resource, {"time": time})
        section["psi"] = {kind: _psi(lines.get(kind, Pressure())) for kind in ("full", "some")}
    return result


def _psi(pressure: Pressure) -> Document:
    return {
        # Nanoseconds, though the kernel counts microseconds.
        "total": pressure.total * 1000,
        "avg10": pressure.avg10,
        "avg60": pressure.avg60,
        "avg300": pressure.avg300,
    }


def _network(found: Sequence[Interface], time: str) -> Document:
    if not found:
        return {}
    shown = [
        {
            "name": each.name,
            "rxBytes": each.rx_bytes,
            "rxErrors": each.rx_errors,
            "txBytes": each.tx_bytes,
            "txErrors": each.tx_errors,
        }
        for each in found
    ]
    main = next((each for each in shown if each["name"] == DEFAULT_INTERFACE), {"name": ""})
    return {"time": time, **main, "interfaces": shown}


def _space(found: VolumeUsage | None, time: datetime) -> Document:
    if found is None:
        return {}
    return {
        "time": format_time(time),
        "availableBytes": found.available,
        "capacityBytes": found.capacity,
        "usedBytes": found.used,
        "inodesFree": found.inodes_free,
        "inodes": found.inodes,
        "inodesUsed": found.inodes_used,
    }


def _moment(nanoseconds: int) -> str:
    return format_time(datetime.fromtimestamp(nanoseconds / 1e9, UTC))


def _pod(pod: PodLook, rates: Rates, time: str, storage: Storage | None) -> Document:
    target = pod.target
    use = storage.pods.get(target.uid, PodUse()) if storage is not None else PodUse()
    result: Document = {
        "podRef": {"name": target.name, "namespace": target.namespace, "uid": target.uid},
        "startTime": _moment(target.created_at),
        "containers": [_container(each, rates, time, use, storage) for each in pod.containers],
        **_common(pod.usage, rates.of(target.cgroup), time, full=storage is not None),
    }
    if storage is None:
        return result
    network = _network(pod.interfaces, time)
    if network:
        result["network"] = network
    volumes = storage.volumes.get(target.uid, ())
    if volumes:
        result["volume"] = [_volume(each, storage.time) for each in volumes]
    disk = use.disk()
    result["ephemeral-storage"] = {
        **_space(storage.node, storage.time),
        "usedBytes": disk.bytes,
        "inodesUsed": disk.inodes,
    }
    result["process_stats"] = {"process_count": pod.usage.processes}
    return result


def _volume(use: VolumeUse, time: datetime) -> Document:
    shown = {**_space(use.space, time), "name": use.name}
    if use.claim is not None:
        namespace, name = use.claim
        shown["pvcRef"] = {"name": name, "namespace": namespace}
    return shown


def _container(
    look: ContainerLook, rates: Rates, time: str, use: PodUse, storage: Storage | None
) -> Document:
    result: Document = {
        "name": look.target.name,
        "startTime": _moment(look.target.created_at),
        **_common(look.usage, rates.of(look.cgroup), time, full=storage is not None),
    }
    if storage is not None:
        mine = use.containers.get(look.target.name, ContainerUse())
        result["rootfs"] = _part(mine.root, storage.images, storage.time)
        result["logs"] = _part(mine.logs, storage.node, storage.time)
    return result


def _part(disk: Disk, whole: VolumeUsage | None, time: datetime) -> Document:
    return {**_space(whole, time), "usedBytes": disk.bytes, "inodesUsed": disk.inodes}
