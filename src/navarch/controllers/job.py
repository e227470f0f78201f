"""The Job controller: pods that run to an end, until enough of them have succeeded.

Each pass counts the Job's pods (`job_view.observe`), looks for a reason to end the Job (`decide`),
else creates or deletes pods (`manage`), and then takes the pods that have ended into the status
(`job_tracking`). A Job that is to end first says so with an interim condition (SuccessCriteriaMet
or FailureTarget) and gets its final one when every pod is counted and none is left terminating.

Source: batch/v1 API; KEP-2307, KEP-2214, KEP-3329, KEP-3850, KEP-3939, KEP-3998, KEP-4368;
upstream's `pkg/controller/job`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from navarch.api.errors import ApiError, ignoring, missing
from navarch.api.objects import copy_object
from navarch.api.types.batch_v1 import Job, JobCondition
from navarch.api.types.core_v1 import Pod
from navarch.client import ControllerContext, PatchType, controller_of, object_key, together
from navarch.client.objects import KubernetesObject
from navarch.controllers.job_plan import deadline_left, decide, is_complete, manage
from navarch.controllers.job_pods import TRACKING, Backoff, is_tracked, new_pod
from navarch.controllers.job_tracking import (
    Tracking,
    count_released,
    finish,
    note_suspension,
    track,
)
from navarch.controllers.job_view import COMPLETE, SUCCESS_MET, View, is_finished, observe
from navarch.controllers.job_view import condition as make_condition
from navarch.controllers.pods import is_ready
from navarch.controllers.workload import WorkloadController, controlled

MANAGED_HERE = (None, "kubernetes.io/job-controller")
SHORTEST_WAIT_SECONDS = 0.05
ORPHAN = "orphan:"
"""Begins the key of a pod that may have lost its Job."""


class JobController(WorkloadController[Job]):
    """Watches: Jobs; pods by the Job that controls (or could adopt) them, and pods that still have
    a Job's finalizer though their Job is gone."""

    name = "job"
    kind = Job
    finalizers: ClassVar[tuple[str, ...]] = (TRACKING,)
    shortest_delay = 1.0
    longest_delay = 60.0

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self._backoff: dict[str, Backoff] = {}
        self.follow(self.pods)
        self.owners.add_handler(on_delete=self._free_pods)
        self.pods.add_handler(self._look_after, lambda _, pod: self._look_after(pod))

    def _forget(self, key: str) -> None:
        super()._forget(key)
        self._backoff.pop(key, None)

    def _look_after(self, pod: KubernetesObject) -> None:
        """A pod that has its finalizer still although nobody is going to count it."""
        if TRACKING in pod.metadata.finalizers:
            key = self.owner_key(pod)
            job = self.owners.cache.get(key) if key is not None else None
            if job is None or is_finished(job):
                self.enqueue(ORPHAN + object_key(pod))

    def _free_pods(self, job: Job) -> None:
        for pod in controlled(self.pods, job.metadata.uid):
            if is_tracked(pod):
                self.enqueue(ORPHAN + object_key(pod))

    async def reconcile(self, key: str) -> None:
        if key.startswith(ORPHAN):
            await self._free_orphan(key.removeprefix(ORPHAN))
            return
        cached = self.owners.cache.get(key)
        if cached is None or cached.spec.managedBy not in MANAGED_HERE or self.is_behind(key):
            return
        if is_finished(cached):
            self._backoff.pop(key, None)
            self._free_pods(cached)
            return
        job = copy_object(cached)
        pods = await self._pods_of(job)
        self.set_size(key, len(pods))
        view = observe(job, pods, self._backoff.get(key, Backoff()), self.clock.now())
        await self._advance(key, view, cached)

    async def _pods_of(self, job: Job) -> list[Pod]:
        selector = self.selector(job)

        def is_member(pod: Pod) -> bool:
            return not selector.empty and selector.matches(pod.metadata.labels)

        return await self.claim(job, self.pods, self.dependents(self.pods, job), is_member)

    async def _advance(self, key: str, view: View, cached: Job) -> None:
        job = view.job
        waits = [left for left in (deadline_left(job, view.now),) if left and left > 0]
        failure: ApiError | None = None
        verdict, event = decide(view), ""
        active = len(view.active)
        if verdict is not None:
            failure = await self._remove(view, view.active)
            if failure is None:
                active = 0
            else:
                verdict = None  # those that are left have to be waited for
        else:
            if is_managed := not job.metadata.deletionTimestamp:
                change = manage(view)
                waits += [change.wait] if change.wait else []
                failure = await self._change(view, change.delete, change.create)
                if failure is None:
                    active += len(change.create) - len(change.delete)
            if is_complete(view, active):
                text = "Reached expected number of succeeded pods"
                verdict = make_condition(SUCCESS_MET, "CompletionsReached", text, view.now)
            elif is_managed:
                event = note_suspension(view)
        status = job.status
        status.active, status.ready, status.terminating = active, view.ready, view.terminating
        await self._write(key, view, track(view, verdict), cached)
        if event:
            self.recorder.event(cached, "Normal", event, f"Job {event.lower()}")
        if waits:
            self.queue.add_after(key, max(min(waits), SHORTEST_WAIT_SECONDS))
        if failure is not None:
            raise failure

    async def _change(
        self, view: View, delete: Sequence[Pod], create: Sequence[int | None]
    ) -> ApiError | None:
        """Pods that are to go lose their finalizer first, so that nobody takes them for
        failures."""
        failure = await self._release_all(view.job, delete)
        if failure is None:
            failure = await self._remove(view, delete)
        if failure is not None:
            return failure

        def build(number: int) -> Pod:
            index = create[number]
            replaced = view.replaced.get(index) if index is not None else None
            return new_pod(view.job, index, replaced)

        return await self.create_pods(view.job, len(create), build)

    async def _remove(self, view: View, pods: Sequence[Pod]) -> ApiError | None:
        failure = await self.delete_pods(view.job, pods)
        if failure is None:
            view.terminating += len(pods)
            view.ready -= sum(map(is_ready, pods))
        return failure

    async def _write(self, key: str, view: View, tracking: Tracking, cached: Job) -> None:
        """Status, then finalizers, then counters: the order that loses no pod."""
        job = view.job
        written = cached
        if job.status != cached.status:
            written = await self.write_status(job)
            self._backoff[key] = view.backoff
            job = copy_object(written)
        failure = await self._release_all(job, tracking.release, tracking.holders)
        count_released(job.status, tracking.holders)
        is_over = failure is None and finish(job, tracking, view.terminating)
        if job.status != written.status:
            await self.write_status(job)
        if failure is not None:
            raise failure
        if is_over and tracking.final is not None:
            self._report_end(job, tracking.final)

    async def _release_all(
        self, job: Job, pods: Sequence[Pod], holders: set[str] | None = None
    ) -> ApiError | None:
        """Take the finalizers off, and the uids of the pods that have lost it out of `holders`;
        the first failure."""
        key = object_key(job)

        async def release(pod: Pod) -> ApiError | None:
            try:
                freed = await self._release(pod)
            except ApiError as error:
                return error
            if freed is None:
                self.writes.deleted(key, self.pods, pod, is_gone=True)
            else:
                self.writes.wrote(key, self.pods, freed)
            if holders is not None:
                holders.discard(pod.metadata.uid)
            return None

        results = await together(*map(release, filter(is_tracked, pods)))
        return next((error for error in results if error is not None), None)

    async def _release(self, pod: Pod) -> Pod | None:
        """Take the finalizer off; None if the pod is gone."""
        meta = pod.metadata
        body = {"metadata": {"uid": meta.uid, "$deleteFromPrimitiveList/finalizers": [TRACKING]}}
        with ignoring(missing):
            return await self.pods.resource.patch(
                meta.name, meta.namespace, body, patch_type=PatchType.STRATEGIC
            )
        return None

    def _report_end(self, job: Job, final: JobCondition) -> None:
        if final.type != COMPLETE:
            self.recorder.event(job, "Warning", final.reason, final.message)
            return
        completions = job.spec.completions
        if completions is not None and job.status.succeeded > completions:
            text = "Too many succeeded pods running after completion count reached"
            self.recorder.event(job, "Warning", "TooManySucceededPods", text)
        self.recorder.event(job, "Normal", "Completed", "Job completed")

    async def _free_orphan(self, key: str) -> None:
        """Take the finalizer off a pod that no Job is going to count any more."""
        pod = self.pods.cache.get(key)
        if pod is None or not is_tracked(pod):
            return
        reference = controller_of(pod)
        if reference is not None:
            if (reference.kind, reference.apiVersion) != ("Job", "batch/v1"):
                return
            job = await self.resource.find(reference.name, pod.metadata.namespace)
            is_ours = job is not None and job.metadata.uid == reference.uid
            if is_ours and job is not None and not self._is_done_with(job):
                return
        await self._release(pod)

    @staticmethod
    def _is_done_with(job: Job) -> bool:
        """Whether it is ours, and over."""
        return job.spec.managedBy in MANAGED_HERE and is_finished(job)
