"""What a Job needs: whether it is decided, and if not, which pods to create or delete.

Pure. `decide` looks for a reason to end the Job, `manage` says how the number of pods is to change,
`is_complete` whether it has reached its completions. Reasons and messages are upstream's
(`pkg/controller/job`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from navarch.api.times import parse_time
from navarch.api.types.batch_v1 import Job, JobCondition
from navarch.api.types.core_v1 import Pod
from navarch.controllers.job_indexes import parse_indexes
from navarch.controllers.job_pods import (
    index_backoff_left,
    index_of,
    is_failed,
    is_indexed,
    match_failure,
    replaces_only_failed,
    valid_index,
)
from navarch.controllers.job_view import (
    FAILED,
    FAILURE_TARGET,
    SUCCESS_MET,
    View,
    backoff_limit,
    condition,
    indexes_of,
    is_suspended,
    true_condition,
)
from navarch.controllers.pods import deletion_order, is_terminating

BURST = 500
"""How many pods are created or deleted in one pass."""


def decide(view: View) -> JobCondition | None:
    """Why the Job is to end, if it is: what an earlier pass has decided stands; then failures are
    looked for, then the success policy."""
    job, now = view.job, view.now
    if (met := true_condition(job, SUCCESS_MET)) is not None:
        return met
    if (target := true_condition(job, FAILURE_TARGET)) is not None:
        return condition(FAILED, target.reason, target.message, now)
    reason, message = _failure(view)
    if reason:
        return condition(FAILURE_TARGET, reason, message, now)
    message = success_policy_message(job, view.completed)
    return condition(SUCCESS_MET, "SuccessPolicy", message, now) if message else None


def _failure(view: View) -> tuple[str, str]:
    job = view.job
    for pod in view.pods:
        match = match_failure(job.spec.podFailurePolicy, pod)
        if match.message and is_failed(pod, job):
            return "PodFailurePolicy", match.message
    if view.failed > backoff_limit(job) or restarts_too_often(job, view.pods):
        return "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    left = deadline_left(job, view.now)
    if left is not None and left <= 0:
        return "DeadlineExceeded", "Job was active longer than specified deadline"
    if view.failed_indexes:
        most = job.spec.maxFailedIndexes
        if most is not None and len(view.failed_indexes) > most:
            text = "Job has exceeded the specified maximal number of failed indexes"
            return "MaxFailedIndexesExceeded", text
        if len(view.failed_indexes) + len(view.completed) >= (job.spec.completions or 0):
            return "FailedIndexes", "Job has failed indexes"
    return "", ""


def deadline_left(job: Job, now: datetime) -> float | None:
    """Seconds until `activeDeadlineSeconds` have passed; None if they cannot."""
    limit, started = job.spec.activeDeadlineSeconds, job.status.startTime
    if limit is None or not started or is_suspended(job):
        return None
    return limit - (now - parse_time(started)).total_seconds()


def restarts_too_often(job: Job, pods: Iterable[Pod]) -> bool:
    """Containers restarted in place count as failures, where the template wants them restarted."""
    if job.spec.template.spec.restartPolicy != "OnFailure":
        return False
    restarts = sum(
        status.restartCount
        for pod in pods
        if pod.status.phase in ("Running", "Pending")
        for status in (*pod.status.initContainerStatuses, *pod.status.containerStatuses)
    )
    return restarts >= max(1, backoff_limit(job))


def success_policy_message(job: Job, completed: Collection[int]) -> str:
    """Which rule of the success policy is met; empty if none."""
    policy = job.spec.successPolicy
    if policy is None or not completed:
        return ""
    for number, rule in enumerate(policy.rules):
        matched, wanted = len(completed), rule.succeededCount
        if rule.succeededIndexes is not None:
            named = parse_indexes(rule.succeededIndexes, job.spec.completions or 0)
            matched = len(named.intersection(completed))
            wanted = len(named) if wanted is None else min(wanted, len(named))
            if not named:
                continue
        if wanted is not None and matched >= wanted:
            return f"Matched rules at index {number}"
    return ""


def is_complete(view: View, active: int) -> bool:
    """Without a number of completions one success is enough, once nobody works any more."""
    completions = view.job.spec.completions
    needed = 1 if completions is None else completions
    return view.succeeded >= needed and active == 0


@dataclass(frozen=True, slots=True)
class Change:
    """How the number of pods is to change. `create` has an index for each new pod, None for pods
    without; `wait` says in how many seconds more may be created."""

    delete: Sequence[Pod] = ()
    create: Sequence[int | None] = ()
    wait: float = 0.0


def manage(view: View) -> Change:
    """Either deletions or creations, never both in one pass; deletions come first."""
    job = view.job
    active = len(view.active)
    if is_suspended(job):
        return Change(delete=view.active)
    wanted = wanted_active(view)
    surplus = pods_to_remove(view, max(0, active - wanted))[:BURST]
    if surplus:
        return Change(delete=surplus)
    leaving = view.terminating if replaces_only_failed(job) else 0
    missing = min(wanted - leaving - active, BURST)
    if missing <= 0:
        return Change()
    if job.spec.backoffLimitPerIndex is None and (left := view.backoff.left(view.now)) > 0:
        return Change(wait=left)
    if not is_indexed(job):
        return Change(create=[None] * missing)
    pending = pending_indexes(view, missing)
    if job.spec.backoffLimitPerIndex is None:
        return Change(create=pending)
    waits = {index: index_backoff_left(view.replaced.get(index), view.now) for index in pending}
    now = [index for index, left in waits.items() if left <= 0]
    later = [left for left in waits.values() if left > 0]
    return Change(create=now, wait=min(later, default=0.0))


def wanted_active(view: View) -> int:
    parallelism = view.job.spec.parallelism
    parallelism = 1 if parallelism is None else parallelism
    if view.job.spec.completions is None:
        # After a success the others are to come to an end, but nobody is sent away.
        return len(view.active) if view.succeeded else parallelism
    return max(0, min(view.job.spec.completions - view.succeeded, parallelism))


def pods_to_remove(view: View, at_least: int) -> list[Pod]:
    """Pods without an index of the Job's, all but the best of an index, then those that serve
    least."""
    removed: list[Pod] = []
    left: list[Pod] = deletion_order(view.active, (), view.now)
    if is_indexed(view.job):
        best = {index_of(pod): pod for pod in left if valid_index(pod, view.job) is not None}
        chosen = {pod.metadata.uid for pod in best.values()}
        removed = [pod for pod in left if pod.metadata.uid not in chosen]
        left = [pod for pod in left if pod.metadata.uid in chosen]
    return removed + left[: max(0, at_least - len(removed))]


def pending_indexes(view: View, count: int) -> list[int]:
    """The first indexes that nobody works on and that are not settled."""
    job = view.job
    taken = view.completed | (view.failed_indexes or frozenset()) | indexes_of(view.active, job)
    if replaces_only_failed(job):
        taken |= indexes_of(filter(is_terminating, view.pods), job)
    found: list[int] = []
    for index in range(job.spec.completions or 0):
        if len(found) == count:
            break
        if index not in taken:
            found.append(index)
    return found
