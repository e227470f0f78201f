"""A Job as one pass of its controller sees it: which pods there are and what they add up to.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from navarch.api.times import format_time
from navarch.api.types.batch_v1 import Job, JobCondition, UncountedTerminatedPods
from navarch.api.types.core_v1 import Pod
from navarch.controllers.job_indexes import parse_indexes
from navarch.controllers.job_pods import (
    MAX_COUNT,
    Backoff,
    failure_count,
    finished_at,
    is_failed,
    is_indexed,
    is_tracked,
    match_failure,
    total_failure_count,
    valid_index,
)
from navarch.controllers.pods import find_condition, is_active, is_ready, is_terminating

DEFAULT_BACKOFF_LIMIT = 6
COMPLETE, FAILED = "Complete", "Failed"
SUCCESS_MET, FAILURE_TARGET = "SuccessCriteriaMet", "FailureTarget"


def condition(type_: str, reason: str, message: str, now: datetime) -> JobCondition:
    stamp = format_time(now)
    return JobCondition(
        type=type_,
        status="True",
        lastProbeTime=stamp,
        lastTransitionTime=stamp,
        reason=reason,
        message=message,
    )


def true_condition(job: Job, type_: str) -> JobCondition | None:
    found = find_condition(job.status.conditions, type_)
    return found if found is not None and found.status == "True" else None


def is_finished(job: Job) -> bool:
    return any(true_condition(job, type_) is not None for type_ in (COMPLETE, FAILED))


def is_suspended(job: Job) -> bool:
    return bool(job.spec.suspend)


def backoff_limit(job: Job) -> int:
    if job.spec.backoffLimit is not None:
        return job.spec.backoffLimit
    return DEFAULT_BACKOFF_LIMIT if job.spec.backoffLimitPerIndex is None else MAX_COUNT


@dataclass(slots=True)
class View:
    """A Job as one pass sees it. `job` is the pass's own copy, whose status it writes."""

    job: Job
    pods: Sequence[Pod]
    now: datetime
    active: list[Pod] = field(default_factory=list)
    ready: int = 0
    terminating: int = 0
    succeeded: int = 0
    failed: int = 0
    completed_before: frozenset[int] = frozenset()
    completed: frozenset[int] = frozenset()
    failed_indexes: frozenset[int] | None = None
    """None unless failures are limited per index."""
    replaced: dict[int, Pod] = field(default_factory=dict)
    """The failed pods whose replacements have yet to take over their failure counts, by index.
    They are kept until then."""
    backoff: Backoff = field(default_factory=Backoff)

    @property
    def uncounted(self) -> UncountedTerminatedPods:
        uncounted = self.job.status.uncountedTerminatedPods
        if uncounted is None:
            uncounted = self.job.status.uncountedTerminatedPods = UncountedTerminatedPods()
        return uncounted


def observe(job: Job, pods: Sequence[Pod], backoff: Backoff, now: datetime) -> View:
    if not job.status.startTime and not is_suspended(job):
        job.status.startTime = format_time(now)
    view = View(job, pods, now)
    view.active = [pod for pod in pods if is_active(pod)]
    view.ready = sum(map(is_ready, view.active))
    view.terminating = sum(map(is_terminating, pods))
    succeeded, failed = view.uncounted.succeeded, view.uncounted.failed
    # Who was taken for failed while it was being ended stays so, though it then succeeds.
    taken = {*succeeded, *failed}
    new_succeeded = _uncounted(view, taken, lambda pod: pod.status.phase == "Succeeded")
    new_failed = _uncounted(view, taken, lambda pod: is_failed(pod, job))
    policy = job.spec.podFailurePolicy
    counted = sum(match_failure(policy, pod).is_counted for pod in new_failed)
    view.succeeded = job.status.succeeded + len(new_succeeded) + len(succeeded)
    view.failed = job.status.failed + counted + len(failed)
    view.backoff = backoff.after(new_succeeded, new_failed)
    if is_indexed(job):
        _observe_indexes(view)
    return view


def _uncounted(view: View, known: Collection[str], test: Callable[[Pod], bool]) -> list[Pod]:
    """Pods of the Job that pass the test and are in no counter yet."""
    return [
        pod
        for pod in view.pods
        if is_tracked(pod)
        and pod.metadata.uid not in known
        and (not is_indexed(view.job) or valid_index(pod, view.job) is not None)
        and test(pod)
    ]


def _observe_indexes(view: View) -> None:
    job = view.job
    completions = job.spec.completions or 0
    view.completed_before = parse_indexes(job.status.completedIndexes, completions)
    tracked = [pod for pod in view.pods if is_tracked(pod)]
    succeeded = (pod for pod in tracked if pod.status.phase == "Succeeded")
    done = indexes_of((p for p in succeeded if p.metadata.uid not in view.uncounted.failed), job)
    view.completed = view.completed_before | done
    view.succeeded = len(view.completed)
    if job.spec.backoffLimitPerIndex is None:
        return
    lost = indexes_of((pod for pod in tracked if fails_index(pod, job)), job)
    view.failed_indexes = parse_indexes(job.status.failedIndexes, completions) | lost
    settled = view.completed | view.failed_indexes | indexes_of(view.active, job)
    for pod in _uncounted(view, (), lambda pod: is_failed(pod, job)):
        index = valid_index(pod, job)
        if index is None or index in settled:
            continue
        other = view.replaced.get(index)
        if other is None or _history(other) <= _history(pod):
            view.replaced[index] = pod


def _history(pod: Pod) -> tuple[int, datetime]:
    return total_failure_count(pod), finished_at(pod)


def indexes_of(pods: Iterable[Pod], job: Job) -> set[int]:
    return {index for pod in pods if (index := valid_index(pod, job)) is not None}


def fails_index(pod: Pod, job: Job) -> bool:
    """Whether this pod's failure is the end of its index."""
    if not is_failed(pod, job):
        return False
    match = match_failure(job.spec.podFailurePolicy, pod)
    if match.action == "FailIndex":
        return True
    return match.is_counted and failure_count(pod) >= (job.spec.backoffLimitPerIndex or 0)
