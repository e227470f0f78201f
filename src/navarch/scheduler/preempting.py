"""Carrying out a preemption: the victims are told why, then deleted with the grace they asked for.

The condition comes before the deletion, so that whoever looks at the pod that goes (a Job with a
pod failure policy) finds the reason there. The pod that needs the room is not tried meanwhile: it
would find itself unschedulable and choose further victims. Source: KEP-3329, KEP-4832.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from navarch.api.errors import ApiError
from navarch.api.objects import to_object
from navarch.api.times import format_time
from navarch.api.types.core_v1 import Pod
from navarch.client import ControllerContext, together
from navarch.scheduler.pod_status import patch_status
from navarch.scheduler.podinfo import DEFAULT_SCHEDULER, PodInfo
from navarch.scheduler.preemption import disruption

log = logging.getLogger(__name__)

EVICTIONS_AT_ONCE = 16


class Evictor:
    """Makes pods leave. `cancel` takes back, in memory, the choice of a node for a pod that is
    being prepared for it, and says whether it could: such a pod need not be deleted."""

    def __init__(self, context: ControllerContext, cancel: Callable[[PodInfo], bool]) -> None:
        self._context = context
        self._client = context.client
        self._cancel = cancel
        self._slots = asyncio.Semaphore(EVICTIONS_AT_ONCE)

    async def evict(self, victims: Iterable[PodInfo], pod: PodInfo, node: str) -> bool:
        """Returns when all of them are on their way out, False if one could not be made to."""
        staying = [each for each in victims if not each.deleting]
        results = await together(*(self._evict(each, pod, node) for each in staying))
        return all(results)

    async def clear(self, pods: Iterable[PodInfo]) -> None:
        """Publish that these wait for no node any more."""
        for each in pods:
            try:
                await patch_status(self._client, each.pod, {"nominatedNodeName": None})
            except ApiError as error:
                if not (error.is_not_found or error.is_conflict):
                    log.warning("%s: nomination not cleared: %s", each.key, error)

    async def _evict(self, victim: PodInfo, pod: PodInfo, node: str) -> bool:
        note = f"Preempted by pod {pod.uid} on node {node}"
        if self._cancel(victim):
            note += " (in kube-scheduler memory)."
        else:
            try:
                async with self._slots:
                    await self._delete(victim.pod, pod.pod.spec.schedulerName)
            except ApiError as error:
                if error.is_not_found or error.is_conflict:
                    return True  # it is gone; another may have its name
                log.warning("%s: not preempted for %s: %s", victim.key, pod.key, error)
                return False
        recorder = self._context.recorder(pod.pod.spec.schedulerName or DEFAULT_SCHEDULER)
        recorder.event(victim.pod, "Normal", "Preempted", note)
        return True

    async def _delete(self, pod: Pod, scheduler: str) -> None:
        now = format_time(self._client.clock.now())
        condition = disruption(pod, scheduler or DEFAULT_SCHEDULER, now)
        if condition is not None:
            await patch_status(self._client, pod, {"conditions": [to_object(condition)]})
        meta = pod.metadata
        await self._client.resource(Pod).delete(meta.name, meta.namespace, uid=meta.uid)
