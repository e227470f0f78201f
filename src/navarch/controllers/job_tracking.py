"""Counting a Job's finished pods exactly once, though pods vanish and controllers crash.

A pod keeps a finalizer until it is counted. In one write its uid goes into the status as
"uncounted"; then its finalizer is taken off; then, in another write, its uid moves into the
counter. Whatever happens in between, each pod is in the list, in the counter, or still there with
its finalizer, and in no two of them at a time that matters (KEP-2307). Completion indexes need no
uids: an index is counted by being named.

Pure but for the Job of the view, whose status it writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from navarch.api.times import format_time
from navarch.api.types.batch_v1 import Job, JobCondition, JobStatus
from navarch.api.types.core_v1 import Pod
from navarch.controllers.job_indexes import format_indexes
from navarch.controllers.job_pods import (
    index_of,
    is_failed,
    is_indexed,
    is_tracked,
    match_failure,
    valid_index,
)
from navarch.controllers.job_view import (
    COMPLETE,
    FAILED,
    FAILURE_TARGET,
    SUCCESS_MET,
    View,
    condition,
    is_suspended,
    true_condition,
)
from navarch.controllers.pods import find_condition

MAX_UNCOUNTED = 500
"""So many pods are taken up in one pass, which bounds the size of the status."""


@dataclass(slots=True)
class Tracking:
    """What a pass has to do after the status is written."""

    release: list[Pod] = field(default_factory=list)
    """Pods whose finalizer comes off."""
    holders: set[str] = field(default_factory=set)
    """Uids of the pods that have it still."""
    has_more: bool = False
    """Whether pods were left for the next pass."""
    final: JobCondition | None = None
    """The condition to end with, once everything is counted and every pod has ended."""


def track(view: View, verdict: JobCondition | None) -> Tracking:
    """Take the pods that have ended into the status."""
    status = view.job.status
    result = Tracking()
    result.holders = {pod.metadata.uid for pod in view.pods if is_tracked(pod)}
    count_released(status, result.holders)
    _take_up(view, verdict, result)
    _write_indexes(view)
    if verdict is not None and verdict.type in (FAILURE_TARGET, SUCCESS_MET):
        if true_condition(view.job, verdict.type) is None:
            _set_condition(status, verdict)
        type_ = FAILED if verdict.type == FAILURE_TARGET else COMPLETE
        verdict = condition(type_, verdict.reason, verdict.message, view.now)
    result.final = verdict
    return result


def _take_up(view: View, verdict: JobCondition | None, result: Tracking) -> None:
    job = view.job
    pods = [pod for pod in view.pods if pod.metadata.uid in result.holders]
    if is_indexed(job):
        pods.sort(key=lambda pod: index_of(pod) or 0)
    counted = set(view.completed_before)
    for pod in pods:
        if not _may_go(view, pod, verdict):
            continue
        result.release.append(pod)
        _take_up_one(view, pod, verdict, counted)
        new = len(counted) - len(view.completed_before)
        if new + len(view.uncounted.succeeded) + len(view.uncounted.failed) >= MAX_UNCOUNTED:
            result.has_more = True
            break
    view.completed = frozenset(counted)


def _may_go(view: View, pod: Pod, verdict: JobCondition | None) -> bool:
    """A failed pod stays until the pod that replaces it has taken over its index's history."""
    if view.job.metadata.deletionTimestamp or verdict is not None:
        return True
    if pod.status.phase == "Succeeded":
        return True
    if not is_failed(pod, view.job):
        return False
    index = index_of(pod)
    kept = view.replaced.get(index) if index is not None else None
    return kept is None or kept.metadata.uid != pod.metadata.uid


def _take_up_one(view: View, pod: Pod, verdict: JobCondition | None, counted: set[int]) -> None:
    job, uid, uncounted = view.job, pod.metadata.uid, view.uncounted
    index = valid_index(pod, job)
    if is_indexed(job) and index is None:
        return
    if pod.status.phase == "Succeeded" and uid not in uncounted.failed:
        if index is not None and is_indexed(job):
            counted.add(index)
        elif uid not in uncounted.succeeded:
            uncounted.succeeded.append(uid)
        return
    # In a Job that fails, whoever has not ended yet has failed; after a success nobody has.
    is_lost = verdict is not None and verdict.type != SUCCESS_MET
    if not (is_lost or is_failed(pod, job)) or uid in uncounted.failed:
        return
    if match_failure(job.spec.podFailurePolicy, pod).is_counted:
        uncounted.failed.append(uid)


def _write_indexes(view: View) -> None:
    status = view.job.status
    if not is_indexed(view.job):
        return
    status.succeeded = len(view.completed)
    status.completedIndexes = format_indexes(view.completed)
    indexes = view.failed_indexes
    status.failedIndexes = None if indexes is None else format_indexes(indexes)


def count_released(status: JobStatus, holders: set[str]) -> None:
    """Move pods that have lost their finalizer from the lists into the counters."""
    uncounted = status.uncountedTerminatedPods
    if uncounted is None:
        return
    waiting = [uid for uid in uncounted.succeeded if uid in holders]
    status.succeeded += len(uncounted.succeeded) - len(waiting)
    uncounted.succeeded = waiting
    waiting = [uid for uid in uncounted.failed if uid in holders]
    status.failed += len(uncounted.failed) - len(waiting)
    uncounted.failed = waiting


def finish(job: Job, tracking: Tracking, terminating: int) -> bool:
    """End the Job, if it is to end and nothing is left to count or to wait for."""
    uncounted = job.status.uncountedTerminatedPods
    is_waiting = uncounted is not None and bool(uncounted.succeeded or uncounted.failed)
    if tracking.final is None or tracking.has_more or is_waiting or terminating:
        return False
    _set_condition(job.status, tracking.final)
    if tracking.final.type == COMPLETE:
        job.status.completionTime = tracking.final.lastTransitionTime
    return True


def note_suspension(view: View) -> str:
    """Say in the status whether the Job is suspended; the reason of the event if that changed."""
    status, suspended = view.job.status, is_suspended(view.job)
    present = find_condition(status.conditions, "Suspended")
    if present is None and not suspended:
        return ""
    reason = "JobSuspended" if suspended else "JobResumed"
    state = "True" if suspended else "False"
    if present is not None and (present.status, present.reason) == (state, reason):
        return ""
    message = "Job suspended" if suspended else "Job resumed"
    changed = condition("Suspended", reason, message, view.now)
    changed.status = state
    _set_condition(status, changed)
    # The deadline counts the time of continuous activity.
    status.startTime = None if suspended else format_time(view.now)
    return "Suspended" if suspended else "Resumed"


def _set_condition(status: JobStatus, wanted: JobCondition) -> None:
    present = find_condition(status.conditions, wanted.type)
    if present is None:
        status.conditions = [*status.conditions, wanted]
    elif (present.status, present.reason, present.message) != (
        wanted.status,
        wanted.reason,
        wanted.message,
    ):
        status.conditions = [wanted if c is present else c for c in status.conditions]
