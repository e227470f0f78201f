"""A Job's pods: their index, whether they failed and when, what a failure means, new ones.

Pure. Source: KEP-2214 (indexes), KEP-3329 (pod failure policy), KEP-3850 (limits per index),
KEP-3939 (replacement policy); upstream's `pkg/controller/job`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from navarch.api.numbers import natural
from navarch.api.times import parse_time
from navarch.api.types.batch_v1 import (
    Job,
    PodFailurePolicy,
    PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyRule,
)
from navarch.api.types.core_v1 import (
    Container,
    ContainerStatus,
    EnvVar,
    EnvVarSource,
    ObjectFieldSelector,
    Pod,
)
from navarch.controllers.pods import pod_from_template, ready_condition

TRACKING = "batch.kubernetes.io/job-tracking"
"""The finalizer that keeps a pod until it is counted."""
INDEX = "batch.kubernetes.io/job-completion-index"
FAILURE_COUNT = "batch.kubernetes.io/job-index-failure-count"
IGNORED_FAILURE_COUNT = "batch.kubernetes.io/job-index-ignored-failure-count"
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
LONGEST_PREFIX = 58
MAX_COUNT = 2**31 - 1
FIRST_BACKOFF_SECONDS = 10.0
LONGEST_BACKOFF_SECONDS = 600.0


def is_indexed(job: Job) -> bool:
    return job.spec.completionMode == "Indexed"


def is_tracked(pod: Pod) -> bool:
    """Not counted yet."""
    return TRACKING in pod.metadata.finalizers


def replaces_only_failed(job: Job) -> bool:
    """Whether a pod that is on its way out is still waited for."""
    return job.spec.podReplacementPolicy == "Failed" or job.spec.podFailurePolicy is not None


def is_failed(pod: Pod, job: Job) -> bool:
    """A deleted pod counts as failed, for it may never get to say so itself, unless the Job waits
    for what becomes of it."""
    if pod.status.phase == "Failed":
        return True
    is_leaving = bool(pod.metadata.deletionTimestamp) and pod.status.phase != "Succeeded"
    return is_leaving and not replaces_only_failed(job)


def index_of(pod: Pod) -> int | None:
    return natural(pod.metadata.annotations.get(INDEX, ""))


def valid_index(pod: Pod, job: Job) -> int | None:
    """The pod's index if it is one of the Job's."""
    index = index_of(pod)
    return index if index is not None and index < (job.spec.completions or 0) else None


def failure_count(pod: Pod) -> int:
    return _count(pod, FAILURE_COUNT)


def total_failure_count(pod: Pod) -> int:
    """Failures of the index before this pod, ignored ones included."""
    return failure_count(pod) + _count(pod, IGNORED_FAILURE_COUNT)


def _count(pod: Pod, annotation: str) -> int:
    value = natural(pod.metadata.annotations.get(annotation, "")) or 0
    return value if value <= MAX_COUNT else 0


def finished_at(pod: Pod) -> datetime:
    """When the pod ended: by its containers, by its readiness, by its deletion, or at the worst
    by its creation."""
    moments = _container_ends(pod)
    if moments:
        return max(moments)
    ready = ready_condition(pod)
    if ready is not None and ready.status == "False" and ready.lastTransitionTime:
        return parse_time(ready.lastTransitionTime)
    meta = pod.metadata
    if meta.deletionTimestamp:
        grace = timedelta(seconds=meta.deletionGracePeriodSeconds or 0)
        return parse_time(meta.deletionTimestamp) - grace
    return parse_time(meta.creationTimestamp)


def _container_ends(pod: Pod) -> list[datetime]:
    """Empty if one has not ended. Of init containers only sidecars count: they end last."""
    sidecars = {c.name for c in pod.spec.initContainers if c.restartPolicy == "Always"}
    statuses = [
        *pod.status.containerStatuses,
        *(status for status in pod.status.initContainerStatuses if status.name in sidecars),
    ]
    ends: list[datetime] = []
    for status in statuses:
        terminated = status.state.terminated
        if terminated is None or not terminated.finishedAt:
            return []
        ends.append(parse_time(terminated.finishedAt))
    return ends


@dataclass(frozen=True, slots=True)
class FailureMatch:
    """What the pod failure policy says of a failed pod. `message` is set if the Job is to fail."""

    action: str = ""
    is_counted: bool = True
    message: str = ""


NO_MATCH = FailureMatch()


def match_failure(policy: PodFailurePolicy | None, pod: Pod) -> FailureMatch:
    """The first rule that matches decides."""
    for number, rule in enumerate(policy.rules if policy is not None else ()):
        what = _matched(rule, pod)
        if not what:
            continue
        if rule.action == "FailJob":
            text = f"{what} matching FailJob rule at index {number}"
            return FailureMatch(rule.action, True, text)
        return FailureMatch(rule.action, rule.action != "Ignore")
    return NO_MATCH


def _matched(rule: PodFailurePolicyRule, pod: Pod) -> str:
    """What of the pod the rule matches, in words; empty if nothing."""
    name = f"{pod.metadata.namespace}/{pod.metadata.name}"
    if rule.onExitCodes is not None:
        for statuses in (pod.status.containerStatuses, pod.status.initContainerStatuses):
            for status in statuses:
                if (code := _matching_exit_code(rule.onExitCodes, status)) is not None:
                    return f"Container {status.name} for pod {name} failed with exit code {code}"
        return ""
    for condition in pod.status.conditions:
        for pattern in rule.onPodConditions:
            if (condition.type, condition.status) == (pattern.type, pattern.status):
                return f"Pod {name} has condition {condition.type}"
    return ""


def _matching_exit_code(
    requirement: PodFailurePolicyOnExitCodesRequirement, status: ContainerStatus
) -> int | None:
    terminated = status.state.terminated
    if terminated is None or terminated.exitCode == 0:
        return None
    if requirement.containerName not in (None, status.name):
        return None
    is_listed = terminated.exitCode in requirement.values
    return terminated.exitCode if is_listed == (requirement.operator == "In") else None


def backoff_left(failures: int, last: datetime | None, now: datetime) -> float:
    """Seconds until a pod may be created again after so many failures in a row."""
    if not failures or last is None:
        return 0.0
    # The exponent is bounded so that no huge number is built only to be cut.
    delay = min(FIRST_BACKOFF_SECONDS * (1 << min(failures - 1, 10)), LONGEST_BACKOFF_SECONDS)
    return max(0.0, delay - (now - last).total_seconds())


@dataclass(frozen=True, slots=True)
class Backoff:
    """A Job's failures since its last success. Kept in memory only: a restart forgives them."""

    failures: int = 0
    last: datetime | None = None

    def after(self, succeeded: Iterable[Pod], failed: Iterable[Pod]) -> Backoff:
        """The record after these pods have ended."""
        failures = sorted(map(finished_at, failed))
        success = max(map(finished_at, succeeded), default=None)
        if success is None:
            if not failures:
                return self
            return Backoff(self.failures + len(failures), failures[-1])
        later = [moment for moment in failures if moment > success]
        return Backoff(len(later), later[-1] if later else None)

    def left(self, now: datetime) -> float:
        return backoff_left(self.failures, self.last, now)


def index_backoff_left(replaced: Pod | None, now: datetime) -> float:
    """The same for one index, whose history is written on its last failed pod."""
    if replaced is None:
        return 0.0
    return backoff_left(total_failure_count(replaced) + 1, finished_at(replaced), now)


def new_pod(job: Job, index: int | None, replaced: Pod | None) -> Pod:
    """A pod for the Job; for an indexed Job with its index, in which `replaced` failed before."""
    pod = pod_from_template(job.spec.template, job)
    meta = pod.metadata
    if TRACKING not in meta.finalizers:
        meta.finalizers = [*meta.finalizers, TRACKING]
    if index is None:
        return pod
    meta.annotations[INDEX] = meta.labels[INDEX] = str(index)
    suffix = f"-{index}-"
    meta.generateName = job.metadata.name[: LONGEST_PREFIX - len(suffix)] + suffix
    pod.spec.hostname = f"{job.metadata.name}-{index}"
    for container in (*pod.spec.initContainers, *pod.spec.containers):
        _tell_index(container)
    if job.spec.backoffLimitPerIndex is not None:
        counted, ignored = 0, 0
        if replaced is not None:
            is_counted = match_failure(job.spec.podFailurePolicy, replaced).is_counted
            counted = failure_count(replaced) + is_counted
            ignored = _count(replaced, IGNORED_FAILURE_COUNT) + (not is_counted)
        meta.annotations[FAILURE_COUNT] = str(counted)
        if ignored:
            meta.annotations[IGNORED_FAILURE_COUNT] = str(ignored)
    return pod


def _tell_index(container: Container) -> None:
    if any(variable.name == INDEX_VARIABLE for variable in container.env):
        return
    field = ObjectFieldSelector(fieldPath=f"metadata.labels['{INDEX}']")
    source = EnvVarSource(fieldRef=field)
    container.env = [*container.env, EnvVar(name=INDEX_VARIABLE, valueFrom=source)]
