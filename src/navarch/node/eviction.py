"""Which pods must go before the node suffers: those over their own disk limits, and, when memory
runs out, those that use more than they asked for. Pure; measuring is `measure_directory`.

Order and texts are the kubelet's (`pkg/kubelet/eviction`). Images are never deleted to win room:
on a machine without a registry a deleted image would be lost.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Pod

from .podspec import is_critical, is_static
from .resources import amount, pod_limits, pod_requests

REASON = "Evicted"


@dataclass(frozen=True)
class PodUsage:
    """Bytes a pod uses."""

    empty_dirs: Mapping[str, int] = field(default_factory=dict)
    """Disk used by each emptyDir volume (those in memory are not counted)."""
    containers: Mapping[str, int] = field(default_factory=dict)
    """Disk used by each container: its writable layer and its logs."""
    memory: int = 0


def over_disk_limit(pod: Pod, usage: PodUsage) -> str:
    """Why the pod must go for its use of the disk; empty if it need not."""
    for volume in pod.spec.volumes:
        if volume.emptyDir is None or not volume.emptyDir.sizeLimit:
            continue
        limit = parse_quantity(volume.emptyDir.sizeLimit).value()
        if limit and usage.empty_dirs.get(volume.name, 0) > limit:
            return (
                f'Usage of EmptyDir volume "{volume.name}" exceeds the limit '
                f'"{volume.emptyDir.sizeLimit}". '
            )
    total = sum(usage.empty_dirs.values()) + sum(usage.containers.values())
    limit = pod_limits(pod).get("ephemeral-storage", 0)
    limited = all(
        amount(each.resources.limits, "ephemeral-storage") for each in pod.spec.containers
    )
    if limited and limit and total > limit:
        return f"Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
    for container in pod.spec.containers:
        text = container.resources.limits.get("ephemeral-storage", "")
        if text and usage.containers.get(container.name, 0) > parse_quantity(text).value():
            return (
                f'Container {container.name} exceeded its local ephemeral storage limit "{text}". '
            )
    return ""


def memory_victim(pods: Iterable[Pod], usage: Mapping[str, PodUsage]) -> Pod | None:
    """Who goes when memory runs out: pods over their requests before others, then by priority,
    then those that are furthest over. Critical pods stay."""

    def rank(pod: Pod) -> tuple[bool, int, int]:
        used = usage.get(pod.metadata.uid, PodUsage()).memory
        over = used - pod_requests(pod).get("memory", 0)
        return over <= 0, pod.spec.priority or 0, -over

    candidates = [pod for pod in pods if not is_critical(pod) and not is_static(pod)]
    return min(candidates, key=rank, default=None)


def memory_message(pod: Pod, usage: PodUsage) -> str:
    """What an evicted pod's status says."""
    request = pod_requests(pod).get("memory", 0)
    text = "The node was low on resource: memory. "
    if usage.memory > request:
        text += (
            f"Pod {pod.metadata.name} was using {usage.memory // 1024}Ki, request is "
            f"{request // 1024}Ki, has larger consumption of memory. "
        )
    return text


def has_disk_limits(pod: Pod) -> bool:
    """Whether measuring the pod's use of the disk can have a consequence."""
    return any(
        each.emptyDir is not None and each.emptyDir.sizeLimit for each in pod.spec.volumes
    ) or any("ephemeral-storage" in each.resources.limits for each in pod.spec.containers)


def measure_directory(path: Path) -> int:
    """Bytes on disk under a directory, each file once. What vanishes meanwhile does not count."""
    total = 0
    seen: set[tuple[int, int]] = set()
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                status = os.lstat(os.path.join(directory, name))
            except OSError:
                continue
            identity = (status.st_dev, status.st_ino)
            if identity not in seen:
                seen.add(identity)
                total += status.st_blocks * 512
    return total
