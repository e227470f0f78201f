"""The Job controller: pods that run to an end, until enough of them have succeeded.

Each pass counts the Job's pods (`job_view.observe`), looks for a reason to end the Job (`decide`),
else creates or deletes pods (`manage`), and then takes the pods that have ended into the status
(`job_tracking`). A Job that is to end first says so with an interim condition (SuccessCriteriaMet
or FailureTarget) and gets its final one when every pod is counted and none is left terminating.

Source: batch/v1 API; KEP-2307, KEP-2214, KEP-3329, KEP-3850, KEP-3939, KEP-3998, KEP-4368;
upstream's `pkg/controller/job`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object
from navarch.api.selectors import label_selector_from_object
from navarch.api.types.batch_v1 import Job, JobCondition
from navarch.api.types.core_v1 import Pod
from navarch.client import (
    Claimant,
    Controller,
    ControllerContext,
    Expectations,
    PatchType,
    claim,
    controller_of,
    is_controlled_by,
    slow_start,
)
from navarch.client.objects import KubernetesObject, object_key
from navarch.controllers.job_plan import deadline_left, decide, is_complete, manage
from navarch.controllers.job_pods import TRACKING, Backoff, is_tracked, new_pod
from navarch.controllers.job_tracking import (
    Tracking,
    count_released,
    finish,
    note_suspension,
    track,
)
from navarch.controllers.job_view import COMPLETE, View, is_finished, observe
from navarch.controllers.job_view import condition as make_condition
from navarch.controllers.pods import PodControl, is_namespace_terminating, is_ready

MANAGED_HERE = (None, "kubernetes.io/job-controller")
BATCH_SECONDS = 0.05
"""Pods that change at about the same time are looked at together."""
ORPHAN = "orphan:"
"""Begins the key of a pod that may have lost its Job."""


class JobController(Controller):
    """Watches: Jobs; pods by the Job that controls (or could adopt) them, and pods that still have
    a Job's finalizer though their Job is gone."""

    name = "job"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.resource = self.client.resource(Job)
        self.pod_resource = self.client.resource(Pod)
        self.jobs = context.informers.informer(Job)
        self.pods = context.informers.informer(Pod)
        self.recorder = context.recorder("job-controller")
        self.control = PodControl(self.client, self.recorder)
        self.expectations = Expectations(self.clock)
        self._released: dict[str, set[str]] = {}
        self._backoff: dict[str, Backoff] = {}
        self._written: dict[str, tuple[str, int]] = {}
        self.depends_on(self.jobs)
        self.depends_on(self.pods)
        self.jobs.add_handler(
            lambda job: self.enqueue(object_key(job)), self._job_changed, self._job_gone
        )
        self.pods.add_handler(self._pod_added, self._pod_changed, self._pod_gone)

    def _job_added(self, job: Job) -> None:
        self.enqueue(object_key(job))

    def _job_changed(self, old: Job, new: Job) -> None:
        is_new_spec = old.metadata.generation != new.metadata.generation
        self.queue.add_after(object_key(new), 0.0 if is_new_spec else BATCH_SECONDS)

    def _job_gone(self, job: Job) -> None:
        self.enqueue(object_key(job))
        self._look_after_orphans(job)

    def _look_after_orphans(self, job: Job) -> None:
        for pod in self.pods.cache.list(job.metadata.namespace):
            if is_tracked(pod) and is_controlled_by(pod, job):
                self.enqueue(ORPHAN + object_key(pod))

    def _job_of(self, pod: Pod) -> Job | None:
        reference = controller_of(pod)
        if reference is None or reference.kind != "Job":
            return None
        job = self.jobs.cache.get(f"{pod.metadata.namespace}/{reference.name}")
        return job if job is not None and job.metadata.uid == reference.uid else None

    def _pod_added(self, pod: Pod) -> None:
        job = self._job_of(pod)
        if job is not None and not pod.metadata.deletionTimestamp:
            self.expectations.creation_observed(object_key(job))
        self._pod_seen(pod, job)

    def _pod_changed(self, old: Pod, new: Pod) -> None:
        job, former = self._job_of(new), self._job_of(old)
        if former is not None and former is not job:
            self._forget_release(former, new)
            self.queue.add_after(object_key(former), BATCH_SECONDS)
        self._pod_seen(new, job)

    def _pod_seen(self, pod: Pod, job: Job | None) -> None:
        if (job is None or is_finished(job)) and is_tracked(pod):
            self.enqueue(ORPHAN + object_key(pod))
        if job is not None:
            key = object_key(job)
            if not is_tracked(pod):
                self._forget_release(job, pod)
            if pod.metadata.deletionTimestamp:
                self.expectations.deletion_observed(key, pod.metadata.uid)
            self.queue.add_after(key, BATCH_SECONDS)
        elif controller_of(pod) is None:
            for job in self.jobs.cache.list(pod.metadata.namespace):
                selector = label_selector_from_object(job.spec.selector)
                if not selector.empty and selector.matches(pod.metadata.labels):
                    self.queue.add_after(object_key(job), BATCH_SECONDS)

    def _pod_gone(self, pod: Pod) -> None:
        job = self._job_of(pod)
        if job is not None:
            key = object_key(job)
            self.expectations.deletion_observed(key, pod.metadata.uid)
            self._forget_release(job, pod)
            self.queue.add_after(key, BATCH_SECONDS)

    def _forget_release(self, job: Job, pod: Pod) -> None:
        self._released.get(object_key(job), set()).discard(pod.metadata.uid)

    async def reconcile(self, key: str) -> None:
        if key.startswith(ORPHAN):
            await self._free_orphan(key.removeprefix(ORPHAN))
            return
        cached = self.jobs.cache.get(key)
        if cached is None:
            self.expectations.forget(key)
            for memory in (self._released, self._backoff, self._written):
                memory.pop(key, None)
            return
        if cached.spec.managedBy not in MANAGED_HERE or self._is_stale(key, cached):
            return
        if is_finished(cached):
            self._backoff.pop(key, None)
            self._look_after_orphans(cached)
            return
        # Asked before the pods are counted: one that comes in between is then not counted twice.
        is_settled = self.expectations.satisfied(key)
        job = copy_object(cached)
        pods = await self._claim(job)
        released = frozenset(self._released.get(key, ()))
        backoff = self._backoff.get(key, Backoff())
        view = observe(job, pods, released, backoff, self.clock.now())
        await self._advance(key, view, is_settled, cached)

    def _is_stale(self, key: str, cached: Job) -> bool:
        """Whether the cache has yet to show what we wrote last. Counting pods against an old status
        would count some twice; the informer's event brings the key back."""
        uid, version = self._written.get(key, ("", 0))
        return uid == cached.metadata.uid and int(cached.metadata.resourceVersion) < version

    async def _claim(self, job: Job) -> list[Pod]:
        selector = label_selector_from_object(job.spec.selector)

        async def confirm() -> KubernetesObject:
            return await self.resource.get(job.metadata.name, job.metadata.namespace)

        def matches(pod: Pod) -> bool:
            return not selector.empty and selector.matches(pod.metadata.labels)

        claimant: Claimant[Pod] = Claimant(job, matches, confirm, (TRACKING,))
        return await claim(
            self.pod_resource, claimant, self.pods.cache.list(job.metadata.namespace)
        )

    async def _advance(self, key: str, view: View, is_settled: bool, cached: Job) -> None:
        active = len(view.active)
        waits = [left for left in (deadline_left(view.job, view.now),) if left and left > 0]
        failure: ApiError | None = None
        verdict = decide(view)
        event = ""
        if verdict is not None:
            deleted, failure = await self._delete(key, view, view.active, False)
            if deleted < active or not is_settled:
                verdict = None  # pods that may still appear have to be waited for
            active -= deleted
        else:
            is_managed = is_settled and not view.job.metadata.deletionTimestamp
            if is_managed:
                change = manage(view)
                waits += [change.wait] if change.wait else []
                deleted, failure = await self._delete(key, view, change.delete, True)
                active -= deleted
                if change.create and failure is None:
                    created, failure = await self._create(key, view, change.create)
                    active += created
            if is_complete(view, active):
                verdict = self._completed(view)
            elif is_managed:
                event = note_suspension(view)
        status = view.job.status
        status.active, status.ready, status.terminating = active, view.ready, view.terminating
        await self._write(key, view, track(view, verdict), cached)
        if event:
            self.recorder.event(cached, "Normal", event, f"Job {event.lower()}")
        if failure is not None and not is_namespace_terminating(failure):
            raise failure
        if waits:
            self.queue.add_after(key, max(min(waits), BATCH_SECONDS))

    @staticmethod
    def _completed(view: View) -> JobCondition:
        text = "Reached expected number of succeeded pods"
        return make_condition("SuccessCriteriaMet", "CompletionsReached", text, view.now)

    async def _create(
        self, key: str, view: View, indexes: Sequence[int | None]
    ) -> tuple[int, ApiError | None]:
        self.expectations.expect_creations(key, len(indexes))
        tried = 0

        async def create(number: int) -> None:
            nonlocal tried
            tried += 1
            index = indexes[number]
            replaced = view.replaced.get(index) if index is not None else None
            try:
                await self.control.create(new_pod(view.job, index, replaced), view.job)
            except ApiError:
                self.expectations.creation_failed(key)
                raise

        succeeded, failure = await slow_start(len(indexes), create)
        # The informer will never show those that were not tried.
        self.expectations.creation_failed(key, len(indexes) - tried)
        return succeeded, failure

    async def _delete(
        self, key: str, view: View, pods: Sequence[Pod], uncounted: bool
    ) -> tuple[int, ApiError | None]:
        """Delete pods; with `uncounted` they lose their finalizer first, so that nobody takes them
        for failures. How many were deleted, and what the first failure was."""
        if uncounted and pods:
            self.expectations.expect_deletions(key, [pod.metadata.uid for pod in pods])

        async def delete(pod: Pod) -> ApiError | None:
            try:
                if uncounted:
                    await self._release(pod)
                await self.control.delete(pod, view.job)
            except ApiError as error:
                self.expectations.deletion_observed(key, pod.metadata.uid)
                return None if error.is_not_found else error
            return None

        results = await asyncio.gather(*(delete(pod) for pod in pods))
        done = [pod for pod, error in zip(pods, results, strict=True) if error is None]
        view.terminating += len(done)
        view.ready -= sum(map(is_ready, done))
        return len(done), next((error for error in results if error is not None), None)

    async def _write(self, key: str, view: View, tracking: Tracking, cached: Job) -> None:
        """Status, then finalizers, then counters: the order that loses no pod."""
        job = view.job
        written = cached
        if job.status != cached.status:
            written = await self._update(key, job)
            self._backoff[key] = view.backoff
            job = copy_object(written)
        failure = await self._release_all(key, tracking)
        count_released(job.status, tracking.holders)
        is_over = failure is None and finish(job, tracking, view.terminating)
        if job.status != written.status:
            await self._update(key, job)
        if failure is not None:
            raise failure
        if is_over and tracking.final is not None:
            self._report_end(job, tracking.final)

    async def _update(self, key: str, job: Job) -> Job:
        written = await self.resource.update_status(job)
        self._written[key] = (written.metadata.uid, int(written.metadata.resourceVersion))
        return written

    async def _release_all(self, key: str, tracking: Tracking) -> ApiError | None:
        released = self._released.setdefault(key, set())

        async def release(pod: Pod) -> ApiError | None:
            uid = pod.metadata.uid
            released.add(uid)
            try:
                await self._release(pod)
            except ApiError as error:
                released.discard(uid)
                return error
            tracking.holders.discard(uid)
            return None

        results = await asyncio.gather(*(release(pod) for pod in tracking.release))
        return next((error for error in results if error is not None), None)

    async def _release(self, pod: Pod) -> None:
        """Take the finalizer off; a pod that is gone has none."""
        meta = pod.metadata
        body = {"metadata": {"uid": meta.uid, "$deleteFromPrimitiveList/finalizers": [TRACKING]}}
        try:
            await self.pod_resource.patch(
                meta.name, meta.namespace, body, patch_type=PatchType.STRATEGIC
            )
        except ApiError as error:
            if not error.is_not_found:
                raise

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
            job = await self._find_job(reference.name, pod.metadata.namespace)
            is_ours = job is not None and job.metadata.uid == reference.uid
            if is_ours and job is not None and not self._is_done_with(job):
                return
        await self._release(pod)

    @staticmethod
    def _is_done_with(job: Job) -> bool:
        """Whether it is ours, and over."""
        return job.spec.managedBy in MANAGED_HERE and is_finished(job)

    async def _find_job(self, name: str, namespace: str) -> Job | None:
        try:
            return await self.resource.get(name, namespace)
        except ApiError as error:
            if error.is_not_found:
                return None
            raise
