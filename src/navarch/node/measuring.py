"""Measures what pods use and what the node has left. Walks directories: call it in a thread."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from navarch.api.types.core_v1 import Pod

from .cgroups import Cgroups
from .cri.values import ContainerUsage
from .eviction import ContainerUse, Disk, Observation, PodUse
from .machine import memory_total_and_available, process_limits
from .runtime_config import log_directory
from .thresholds import ALLOCATABLE_MEMORY
from .volumes.trees import measure


def measure_path(path: Path) -> Disk:
    """What a file or a directory takes on its disk, each file once. What vanishes meanwhile does
    not count, and other file systems mounted below do not either."""
    try:
        found = measure(path)
    except OSError:
        return Disk()
    return Disk(found.used, found.inodes_used)


@dataclass(frozen=True)
class Places:
    """Where a node keeps what pods write."""

    pods: Path
    """`<root>/pods`."""
    logs: Path
    cgroups: Cgroups


def measure_pods(
    pods: Sequence[Pod], used: Sequence[ContainerUsage], places: Places, *, disk: bool
) -> dict[str, PodUse]:
    """What each pod uses, by uid; files are only measured where `disk` is asked for."""
    by_pod: dict[str, list[ContainerUsage]] = {}
    for each in used:
        by_pod.setdefault(each.pod_uid, []).append(each)
    result = {}
    for pod in pods:
        uid = pod.metadata.uid
        containers = by_pod.get(uid, [])
        if disk:
            result[uid] = _measure_pod(pod, containers, places)
        elif containers:
            result[uid] = PodUse(
                {each.name: ContainerUse(each.memory_working_set) for each in containers},
                processes=places.cgroups.processes(pod),
            )
    return result


def _measure_pod(pod: Pod, used: Sequence[ContainerUsage], places: Places) -> PodUse:
    meta = pod.metadata
    directory = places.pods / meta.uid
    logs = log_directory(places.logs, meta.namespace, meta.name, meta.uid)
    running = {each.name: each for each in used}
    names = [each.name for each in (*pod.spec.initContainers, *pod.spec.containers)]
    names += [each.name for each in pod.spec.ephemeralContainers]
    containers = {}
    for name in names:
        one = running.get(name)
        containers[name] = ContainerUse(
            memory=one.memory_working_set if one else 0,
            root=Disk(one.filesystem_bytes, one.filesystem_inodes) if one else Disk(),
            logs=measure_path(logs / name),
        )
    return PodUse(
        containers,
        {
            volume.name: measure_path(directory / "volumes" / kind / volume.name)
            for volume in pod.spec.volumes
            for kind in _local_kinds(volume)
        },
        # /etc/hosts and termination messages: files of the node that containers may write to.
        measure_path(directory / "etc-hosts") + measure_path(directory / "containers"),
        places.cgroups.processes(pod),
    )


def _local_kinds(volume: object) -> tuple[str, ...]:
    empty = getattr(volume, "emptyDir", None)
    if empty is not None and not empty.medium:
        return ("kubernetes.io~empty-dir",)
    return ("kubernetes.io~configmap",) if getattr(volume, "configMap", None) is not None else ()


def has_image_filesystem(root: Path, images: str) -> bool:
    """Whether images lie on another disk than the directories of pods."""
    node = _device(str(root), 0)
    return _device(images, node) != node


def observe(root: Path, images: str, cgroups: Cgroups) -> Mapping[str, Observation]:
    """What is left of everything that eviction looks at, by signal."""
    total, available = memory_total_and_available()
    limit, processes = process_limits()
    result = {
        "memory.available": Observation(available, total),
        "pid.available": Observation(limit - processes, limit, is_binary=False),
    }
    pods = cgroups.memory_of_pods()
    if pods is not None:
        capacity, working_set = pods
        result[ALLOCATABLE_MEMORY] = Observation(max(0, capacity - working_set), capacity)
    for name, path in (("nodefs", str(root)), ("imagefs", images)):
        try:
            disk = os.statvfs(path or root)
        except OSError:
            continue
        block = disk.f_frsize
        result[f"{name}.available"] = Observation(disk.f_bavail * block, disk.f_blocks * block)
        if disk.f_files:  # some file systems (btrfs) do not count theirs
            result[f"{name}.inodesFree"] = Observation(disk.f_favail, disk.f_files, is_binary=False)
    return result


def _device(path: str, otherwise: int) -> int:
    try:
        return os.stat(path).st_dev if path else otherwise
    except OSError:
        return otherwise
