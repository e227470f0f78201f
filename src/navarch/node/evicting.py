"""Watches what pods use and evicts those that must go (`eviction` decides)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from navarch.api.types.core_v1 import Pod

from .cri.values import ContainerUsage, RuntimeFailure
from .eviction import (
    REASON,
    PodUsage,
    has_disk_limits,
    measure_directory,
    memory_message,
    memory_victim,
    over_disk_limit,
)
from .machine import read_pressure
from .node_object import MEMORY_THRESHOLD
from .runtime_config import log_directory
from .starting import NodeServices
from .worker import PodWorker

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0


class EvictionManager:
    """Looks every ten seconds; measures only where there is a limit or a shortage."""

    def __init__(self, services: NodeServices, workers: Callable[[], Sequence[PodWorker]]) -> None:
        self._services, self._workers = services, workers

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            await self._services.clock.sleep(INTERVAL_SECONDS)
            try:
                await self.look()
            except (RuntimeFailure, OSError) as failure:
                log.warning("eviction: %s", failure)

    async def look(self) -> None:
        """One round."""
        active = [worker for worker in self._workers() if worker.active]
        limited = [worker for worker in active if has_disk_limits(worker.pod)]
        pressure = read_pressure(self._services.options.root_directory)
        short_of_memory = pressure.memory_available < MEMORY_THRESHOLD
        if not limited and not short_of_memory:
            return
        used = await self._services.runtime.usage()
        for worker in limited:
            usage = await asyncio.to_thread(self._measure, worker.pod, used)
            reason = over_disk_limit(worker.pod, usage)
            if reason:
                self._evict(worker, reason)
        if short_of_memory:
            usages = {worker.pod.metadata.uid: _memory(worker.pod, used) for worker in active}
            victim = memory_victim((worker.pod for worker in active), usages)
            for worker in active:
                if victim is not None and worker.pod is victim:
                    message = memory_message(victim, usages[victim.metadata.uid])
                    self._evict(worker, message)

    def _evict(self, worker: PodWorker, message: str) -> None:
        self._services.events.pod(worker.pod, "Warning", REASON, message)
        worker.reject(REASON, message, grace=1)

    def _measure(self, pod: Pod, used: Sequence[ContainerUsage]) -> PodUsage:
        meta = pod.metadata
        volumes = self._services.volumes.pod_directory(meta.uid) / "volumes"
        logs = log_directory(
            self._services.options.pod_logs_directory, meta.namespace, meta.name, meta.uid
        )
        layers = {each.name: each.filesystem_bytes for each in used if each.pod_uid == meta.uid}
        return PodUsage(
            empty_dirs={
                volume.name: measure_directory(_empty_dir(volumes, volume.name))
                for volume in pod.spec.volumes
                if volume.emptyDir is not None and not volume.emptyDir.medium
            },
            containers={
                each.name: layers.get(each.name, 0) + measure_directory(logs / each.name)
                for each in pod.spec.containers
            },
        )


def _empty_dir(volumes: Path, name: str) -> Path:
    return volumes / "kubernetes.io~empty-dir" / name


def _memory(pod: Pod, used: Sequence[ContainerUsage]) -> PodUsage:
    uid = pod.metadata.uid
    return PodUsage(memory=sum(each.memory_working_set for each in used if each.pod_uid == uid))
