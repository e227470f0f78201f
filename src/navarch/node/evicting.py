"""Watches what the node has left and evicts the pods that must go (`eviction` decides).

One look every ten seconds, and at once when the kernel tells of memory running out
(`kernel_memcg_notification`). Files are measured only where a pod has a limit or a disk is short,
so that an idle node costs a few system calls. Before a pod goes, what nobody needs is cleared away:
containers that have ended, then images that no container uses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from navarch.api.types.core_v1 import Pod

from .admission import Refusal
from .cri.values import RuntimeFailure
from .eviction import (
    REASON,
    Explanation,
    Judgement,
    Observations,
    PodUse,
    explain,
    has_disk_limits,
    is_met,
    judge,
    over_disk_limit,
    rank,
    reclaims,
    refuses,
)
from .figures import evictions
from .images.collector import CollectionFailed
from .measuring import Places, has_image_filesystem, measure_pods, observe
from .podspec import is_critical, pod_key
from .starting import NodeServices
from .thresholds import STORAGE, Threshold, parse_thresholds
from .worker import PodWorker

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 10.0
CLEANUP_SECONDS = 30.0
"""How long the next victim waits for the last one to be gone: its share may be enough."""
CLEANUP_LOOK_SECONDS = 1.0
IMMEDIATE_GRACE = 1


class EvictionManager:
    """The node's pressure: its conditions, and what is done about it."""

    def __init__(self, services: NodeServices, workers: Callable[[], Sequence[PodWorker]]) -> None:
        self._services, self._workers = services, workers
        self.remove_dead: Callable[[], Awaitable[object]] | None = None
        """Removes the containers of pods that have ended."""
        options = services.options
        self._thresholds = parse_thresholds(options)
        self._images = ""
        """Where images are; empty until the runtime has said it."""
        self._has_image_filesystem = False
        self._judgement = Judgement()
        self._places = Places(
            options.root_directory / "pods", options.pod_logs_directory, services.cgroups
        )
        self._alarm = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        """Called when the conditions have changed."""

    @property
    def conditions(self) -> frozenset[str]:
        """The pressures the node is under, such as `DiskPressure`."""
        return self._judgement.conditions

    def admit(self, pod: Pod) -> Refusal | None:
        """Whether a node under pressure takes a new pod."""
        message = refuses(pod, self.conditions)
        return Refusal(REASON, message) if message else None

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self._services.options.kernel_memcg_notification:
                tasks.create_task(self._listen(), name="memory-notifications")
            while True:
                evicted: Sequence[PodWorker] = ()
                try:
                    evicted = await self.look()
                except (RuntimeFailure, OSError) as failure:
                    log.warning("eviction: %s", failure)
                if evicted:
                    await self._wait_for_cleanup(evicted)
                else:
                    await self._wait()

    async def _wait(self) -> None:
        self._alarm.clear()
        timer = self._services.clock.call_later(INTERVAL_SECONDS, self._alarm.set)
        try:
            await self._alarm.wait()
        finally:
            timer.cancel()

    async def _listen(self) -> None:
        from .memory_events import memory_events

        limit = next((each for each in self._thresholds if each.signal == "memory.available"), None)
        if limit is None:
            return
        try:
            async for _ in memory_events(self._services.cgroups, limit):
                self._alarm.set()
        except OSError as error:
            log.warning("the kernel does not tell of memory running out: %s", error)

    async def _wait_for_cleanup(self, evicted: Sequence[PodWorker]) -> None:
        for _ in range(int(CLEANUP_SECONDS / CLEANUP_LOOK_SECONDS)):
            await self._services.clock.sleep(CLEANUP_LOOK_SECONDS)
            if all(each.is_cleaned for each in evicted):
                return
        log.warning("evicted pods are still there: %s", [pod_key(each.pod) for each in evicted])

    async def look(self) -> Sequence[PodWorker]:
        """One round; the pods that were told to go."""
        if not self._images:
            self._images = await self._services.collector.directory()
            root = self._services.options.root_directory
            self._has_image_filesystem = has_image_filesystem(root, self._images)
        observed = await self._observe()
        before = self._judgement.conditions
        clock, options = self._services.clock, self._services.options
        self._judgement = judge(
            self._judgement,
            self._thresholds,
            observed,
            clock.monotonic(),
            options.eviction_pressure_transition_period,
        )
        if self._judgement.conditions != before:
            log.info("node conditions: %s", sorted(self._judgement.conditions) or "no pressure")
            self.on_change()
        active = [each for each in self._workers() if each.active and not each.is_rejected]
        if options.local_storage_capacity_isolation:
            evicted = await self._evict_over_limits(active)
            if evicted:
                return evicted
        if not self._judgement.due:
            return ()
        return await self._relieve(active, self._judgement.due, observed)

    async def _observe(self) -> Observations:
        root, cgroups = self._services.options.root_directory, self._services.cgroups
        # A file system that hangs must not hold up the pods.
        return await asyncio.to_thread(observe, root, self._images, cgroups)

    async def _measure(self, workers: Sequence[PodWorker], *, disk: bool) -> dict[str, PodUse]:
        used = await self._services.runtime.usage()
        pods = [each.pod for each in workers]
        return await asyncio.to_thread(measure_pods, pods, used, self._places, disk=disk)

    async def _evict_over_limits(self, active: Sequence[PodWorker]) -> list[PodWorker]:
        limited = [each for each in active if has_disk_limits(each.pod)]
        if not limited:
            return []
        uses = await self._measure(limited, disk=True)
        evicted = []
        for worker in limited:
            use = uses[worker.pod.metadata.uid]
            exceeded = over_disk_limit(worker.pod, use, image_filesystem=self._has_image_filesystem)
            if exceeded is not None and self._evict(
                worker, Explanation(exceeded.message, {}), IMMEDIATE_GRACE, disruption=False
            ):
                evictions.labels(exceeded.signal).inc()
                evicted.append(worker)
        return evicted

    async def _relieve(
        self, active: Sequence[PodWorker], due: Sequence[Threshold], observed: Observations
    ) -> Sequence[PodWorker]:
        threshold = due[0]
        resource = threshold.resource
        log.warning("attempting to reclaim %s (%s)", resource, threshold.signal)
        self._services.events.node(
            "Warning", "EvictionThresholdMet", f"Attempting to reclaim {resource}"
        )
        if await self._clear_away(reclaims(threshold.signal, self._has_image_filesystem)):
            return ()
        if not active:
            log.error("eviction thresholds have been met, but no pods are active to evict")
            return ()
        disk = threshold.condition == "DiskPressure" or resource == STORAGE
        uses = await self._measure(active, disk=disk)
        workers = {each.pod.metadata.uid: each for each in active}
        order = rank(
            [each.pod for each in active],
            uses,
            threshold.signal,
            image_filesystem=self._has_image_filesystem,
        )
        for pod in order:
            why = explain(pod, uses.get(pod.metadata.uid), resource, due, observed)
            grace = IMMEDIATE_GRACE
            if not threshold.is_hard:
                grace = self._services.options.eviction_max_pod_grace_period
                if pod.spec.terminationGracePeriodSeconds is not None:
                    grace = min(grace, pod.spec.terminationGracePeriodSeconds)
            worker = workers[pod.metadata.uid]
            if self._evict(worker, why, grace, disruption=True):
                evictions.labels(threshold.signal).inc()
                return [worker]
        log.error("unable to evict any pods from the node")
        return ()

    async def _clear_away(self, kinds: Sequence[str]) -> bool:
        """Whether clearing away containers and images was enough."""
        if not kinds:
            return False
        steps = {"containers": self.remove_dead, "images": self._services.collector.free}
        for kind in kinds:
            step = steps[kind]
            try:
                if step is not None:
                    await step()
            except (RuntimeFailure, CollectionFailed) as failure:
                log.warning("clearing away %s: %s", kind, failure)
        observed = await self._observe()
        return not any(is_met(each, observed, with_reclaim=True) for each in self._thresholds)

    def _evict(self, worker: PodWorker, why: Explanation, grace: int, *, disruption: bool) -> bool:
        pod = worker.pod
        if is_critical(pod):
            log.error("cannot evict the critical pod %s", pod_key(pod))
            return False
        log.warning("evicting %s: %s", pod_key(pod), why.message)
        self._services.events.pod(pod, "Warning", REASON, why.message, why.annotations)
        worker.reject(REASON, why.message, grace, why.message if disruption else "")
        return True
