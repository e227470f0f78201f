"""Looks at what the node's pods use when somebody asks, and not otherwise.

A look is good for a second, so that several who ask together cost one. What lies on disks is kept
for a minute (`volumeStatsAggPeriod`): walking directories takes long. Rates need two looks; whoever
asks for the first time in a while waits for the second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from navarch.api.persistent_volumes import claim_name
from navarch.api.types.core_v1 import Pod
from navarch.client.batches import together
from navarch.client.clock import Clock

from ..cri.runtime import Images, Runtime
from ..cri.values import RuntimeFailure
from ..machine import MachineFacts, process_limits
from ..measuring import Places, measure_pods
from ..probes.manager import ProbeManager
from ..settings import NodeOptions
from ..volumes.manager import VolumeManager
from ..volumes.plugin import VolumeUsage
from ..volumes.trees import file_system
from ..worker import PodWorker
from .cgroup import CgroupReader
from .exposition import Machine, cadvisor_metrics, resource_metrics
from .figures import kubelet_metrics, probe_metrics
from .machine import boot_time, memory_information
from .snapshot import ContainerTarget, Place, PodTarget, Rates, Snapshot, take, usages_of
from .summary import NodeIdentity, Storage, VolumeUse, summary

log = logging.getLogger(__name__)

FRESH_SECONDS = 1.0
SECOND_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Sources:
    """Where figures come from."""

    options: NodeOptions
    machine: MachineFacts
    workers: Callable[[], Sequence[PodWorker]]
    runtime: Runtime
    images: Images
    volumes: VolumeManager
    places: Places
    probes: ProbeManager
    clock: Clock


class StatsCollector:
    """Implements `server.backend.Statistics`."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        cgroups = sources.places.cgroups
        qualities = ("Guaranteed", "Burstable", "BestEffort")
        self._place = Place(
            CgroupReader(cgroups.mount),
            cgroups.path() if cgroups.root else "",
            [cgroups.class_path(each) for each in qualities],
        )
        self._rates = Rates()
        self._looks: dict[bool, Snapshot] = {}
        self._storage: tuple[float, Storage] | None = None
        self._looking, self._measuring = asyncio.Lock(), asyncio.Lock()
        self._boot = datetime.fromtimestamp(boot_time(), UTC)

    # What is asked for

    async def summary(self, *, only_cpu_and_memory: bool) -> Mapping[str, Any]:
        full = not only_cpu_and_memory
        await self._look(full=full)
        if not self._rates.are_known:
            await self._sources.clock.sleep(SECOND_LOOK_SECONDS)
            self._looks.clear()
        storage = await self._stored() if full else None
        snapshot = await self._look(full=full)
        identity = NodeIdentity(self._sources.options.node_name, self._boot, process_limits())
        return summary(identity, snapshot, self._rates, storage)

    async def resource_metrics(self) -> bytes:
        try:
            snapshot = await self._look(full=False)
        except (OSError, RuntimeFailure) as failure:
            log.warning("resource metrics: %s", failure)
            return resource_metrics(None)
        return await asyncio.to_thread(resource_metrics, snapshot)

    async def cadvisor_metrics(self) -> bytes:
        storage = await self._stored()
        snapshot = await self._look(full=True)
        return await asyncio.to_thread(cadvisor_metrics, snapshot, self._machine(), storage)

    async def kubelet_metrics(self) -> bytes:
        storage = await self._stored()
        workers = self._sources.workers()
        version = 2 if self._place.reader.unified else 1
        return kubelet_metrics(self._sources.options.node_name, workers, storage, version)

    def probe_metrics(self) -> bytes:
        return probe_metrics(self._sources.probes)

    # Looking

    async def _look(self, *, full: bool) -> Snapshot:
        clock = self._sources.clock
        async with self._looking:
            known = self._looks.get(full) or self._looks.get(True)
            if known is not None and clock.monotonic() - known.at < FRESH_SECONDS:
                return known
            targets = [each for worker in self._sources.workers() for each in _target(worker, self)]
            snapshot = await asyncio.to_thread(
                take, self._place, targets, clock.now(), clock.monotonic(), full=full
            )
            self._rates.update(snapshot.at, usages_of(snapshot))
            self._looks[full] = snapshot
            return snapshot

    def cgroup_of(self, pod: Pod) -> str:
        return self._sources.places.cgroups.pod_path(pod)

    async def _stored(self) -> Storage:
        sources = self._sources
        async with self._measuring:
            period = sources.options.volume_stats_agg_period
            if self._storage is not None and period > 0:
                at, storage = self._storage
                if sources.clock.monotonic() - at < period and not self._has_new_pods(storage):
                    return storage
            try:
                storage = await self._measure()
            except (OSError, RuntimeFailure) as failure:
                # A runtime that is away does not silence the agent's own figures.
                log.warning("measuring disks: %s", failure)
                return self._storage[1] if self._storage else Storage(sources.clock.now())
            self._storage = (sources.clock.monotonic(), storage)
            return storage

    def _has_new_pods(self, storage: Storage) -> bool:
        """A pod that was not there when disks were measured would show nothing for a minute."""
        running = {each.pod.metadata.uid for each in self._sources.workers() if _runs(each)}
        return not running <= storage.pods.keys()

    async def _measure(self) -> Storage:
        sources = self._sources
        pods = [worker.pod for worker in sources.workers() if _runs(worker)]
        used, (mount, image_bytes) = await together(
            sources.runtime.usage(), sources.images.image_filesystem()
        )
        measured, volumes = await together(
            asyncio.to_thread(measure_pods, pods, used, sources.places, disk=True),
            together(*(sources.volumes.usage(pod) for pod in pods)),
        )
        node = await asyncio.to_thread(_space, sources.options.root_directory)
        images = await asyncio.to_thread(_space, Path(mount)) if mount else node
        return Storage(
            time=sources.clock.now(),
            node=node,
            images=images,
            images_used=image_bytes,
            images_inodes=images.inodes_used if images is not None else 0,
            pods=measured,
            volumes={
                pod.metadata.uid: [
                    VolumeUse(name, usage, _claim(pod, name)) for name, usage in found.items()
                ]
                for pod, found in zip(pods, volumes, strict=True)
            },
        )

    def _machine(self) -> Machine:
        facts = self._sources.machine
        ids = {
            "boot_id": facts.boot_id,
            "machine_id": facts.machine_id,
            "system_uuid": facts.system_uuid,
        }
        swap = memory_information().get("SwapTotal", 0)
        return Machine(facts.cpus, facts.memory_bytes, swap, facts.kernel, facts.os_image, ids)


def _space(path: Path) -> VolumeUsage | None:
    try:
        return file_system(path)
    except OSError:
        return None


def _runs(worker: PodWorker) -> bool:
    sandbox = worker.state.sandbox
    return sandbox is not None and sandbox.ready


def _target(worker: PodWorker, collector: StatsCollector) -> list[PodTarget]:
    """The pod of a worker, if it runs."""
    state, pod = worker.state, worker.pod
    sandbox = state.sandbox
    if sandbox is None or not sandbox.ready:
        return []
    running = [each for each in state.containers if each.running]
    return [
        PodTarget(
            name=pod.metadata.name,
            namespace=pod.metadata.namespace,
            uid=pod.metadata.uid,
            created_at=sandbox.created_at,
            cgroup=collector.cgroup_of(pod),
            sandbox=sandbox.id,
            host_network=bool(pod.spec.hostNetwork),
            containers=[
                ContainerTarget(each.id, each.name, each.image, each.created_at) for each in running
            ],
        )
    ]


def _claim(pod: Pod, volume: str) -> tuple[str, str] | None:
    found = next((each for each in pod.spec.volumes if each.name == volume), None)
    if found is None:
        return None
    name = claim_name(pod, found)
    return (pod.metadata.namespace, name) if name else None
