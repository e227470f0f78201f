"""Deletes Jobs some time after they have finished, when `spec.ttlSecondsAfterFinished` says so.

Source: KEP-592; upstream's `pkg/controller/ttlafterfinished`.
"""

from __future__ import annotations

from datetime import datetime

from navarch.api.times import parse_time
from navarch.api.types.batch_v1 import Job
from navarch.client import Controller, ControllerContext, split_key


def seconds_left(job: Job, now: datetime) -> float | None:
    """How long a finished Job may still stay; None for one that is not to be deleted."""
    ttl = job.spec.ttlSecondsAfterFinished
    if ttl is None or job.metadata.deletionTimestamp:
        return None
    for condition in job.status.conditions:
        if condition.type in ("Complete", "Failed") and condition.status == "True":
            if not condition.lastTransitionTime:
                return None
            finished = parse_time(condition.lastTransitionTime)
            return ttl - (now - finished).total_seconds()
    return None


class TtlAfterFinishedController(Controller):
    """Watches: Jobs."""

    name = "ttl-after-finished"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.jobs = context.informers.informer(Job)
        self.watch(self.jobs)

    async def reconcile(self, key: str) -> None:
        cached = self.jobs.cache.get(key)
        left = seconds_left(cached, self.clock.now()) if cached is not None else None
        if left is None:
            return
        if left > 0:
            self.queue.add_after(key, left)
            return
        # The TTL may have been raised since: only what the server says now is deleted.
        namespace, name = split_key(key)
        fresh = await self.client.resource(Job).get(name, namespace)
        left = seconds_left(fresh, self.clock.now())
        if left is None:
            return
        if left > 0:
            self.queue.add_after(key, left)
            return
        await self.client.resource(Job).delete(
            name,
            namespace,
            uid=fresh.metadata.uid,
            resource_version=fresh.metadata.resourceVersion,
            propagation="Foreground",
        )
