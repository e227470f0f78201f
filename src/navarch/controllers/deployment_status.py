"""What a Deployment reports: counts, and whether it is available, progressing, complete or stuck.

Pure. Reasons and messages are upstream's (`pkg/controller/deployment/{sync,progress}.go`), because
`kubectl rollout status` and people read them. A condition that has the wanted status and reason
already stays as it is, whatever its message says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from navarch.api.times import format_time, parse_time
from navarch.api.types.apps_v1 import Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet
from navarch.controllers.pods import find_condition
from navarch.controllers.rollout import NO_LIMIT, max_unavailable, replicas_of

PROGRESSING, REPLICA_FAILURE = "Progressing", "ReplicaFailure"
COMPLETE, TIMED_OUT = "NewReplicaSetAvailable", "ProgressDeadlineExceeded"
PAUSED = "DeploymentPaused"


def next_status(
    deployment: Deployment,
    new: ReplicaSet | None,
    sets: Sequence[ReplicaSet],
    now: datetime,
    is_rollout: bool,
) -> DeploymentStatus:
    """The status after this pass; `sets` are all ReplicaSets, `new` the one of the template. How
    the rollout goes is judged only where one could: not by a pass that changes the size."""
    available = sum(rs.status.availableReplicas for rs in sets)
    status = DeploymentStatus(
        observedGeneration=deployment.metadata.generation,
        replicas=sum(rs.status.replicas for rs in sets),
        updatedReplicas=new.status.replicas if new is not None else 0,
        readyReplicas=sum(rs.status.readyReplicas for rs in sets),
        availableReplicas=available,
        unavailableReplicas=max(0, sum(map(replicas_of, sets)) - available),
        terminatingReplicas=_terminating(sets),
        collisionCount=deployment.status.collisionCount,
        conditions=[*deployment.status.conditions],
    )
    is_enough = available >= replicas_of(deployment) - max_unavailable(deployment)
    if is_enough:
        told = "True", "MinimumReplicasAvailable", "Deployment has minimum availability."
    else:
        told = (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    set_condition(status, "Available", told, now)
    if is_rollout:
        _judge(deployment, new, status, now)
        _pass_on_failure(status, [*([new] if new is not None else []), *sets])
    return status


def _terminating(sets: Iterable[ReplicaSet]) -> int | None:
    """The sum; None while a set that was looked at does not tell."""
    known = [rs.status for rs in sets if rs.status.observedGeneration]
    if any(status.terminatingReplicas is None for status in known):
        return None
    return sum(status.terminatingReplicas or 0 for status in known)


def is_complete(deployment: Deployment, status: DeploymentStatus) -> bool:
    """Every pod is of the present template and available, and no other is left."""
    counts = {status.updatedReplicas, status.replicas, status.availableReplicas}
    is_observed = status.observedGeneration >= deployment.metadata.generation
    return counts == {replicas_of(deployment)} and is_observed


def has_deadline(deployment: Deployment) -> bool:
    return deployment.spec.progressDeadlineSeconds not in (None, NO_LIMIT)


def note_progress(deployment: Deployment, told: tuple[str, str, str], now: datetime) -> None:
    """Say of a Deployment (a copy) how its rollout stands, if anybody asked for a deadline."""
    if has_deadline(deployment):
        set_condition(deployment.status, PROGRESSING, told, now)


def note_pause(deployment: Deployment, now: datetime) -> None:
    """While a rollout is paused its deadline does not run, and it begins anew afterwards. One that
    was late already stays so."""
    present = find_condition(deployment.status.conditions, PROGRESSING)
    reason = present.reason if present is not None else ""
    if deployment.spec.paused and reason not in (PAUSED, TIMED_OUT):
        note_progress(deployment, ("Unknown", PAUSED, "Deployment is paused"), now)
    elif not deployment.spec.paused and reason == PAUSED:
        note_progress(deployment, ("Unknown", "DeploymentResumed", "Deployment is resumed"), now)


def _judge(
    deployment: Deployment, new: ReplicaSet | None, status: DeploymentStatus, now: datetime
) -> None:
    if not has_deadline(deployment):
        _remove(status, PROGRESSING)
        return
    present = find_condition(deployment.status.conditions, PROGRESSING)
    reason = present.reason if present is not None else ""
    if status.replicas == status.updatedReplicas and reason == COMPLETE:
        return
    name = f'Deployment "{deployment.metadata.name}"'
    if new is not None:
        name = f'ReplicaSet "{new.metadata.name}"'
    if is_complete(deployment, status):
        told = "True", COMPLETE, f"{name} has successfully progressed."
        set_condition(status, PROGRESSING, told, now)
    elif _has_progressed(deployment.status, status):
        # Any progress renews the time of the update, and with it the deadline.
        told = "True", "ReplicaSetUpdated", f"{name} is progressing."
        set_condition(status, PROGRESSING, told, now, renew=True)
    elif present is not None and _is_late(deployment, present, now):
        told = "False", TIMED_OUT, f"{name} has timed out progressing."
        set_condition(status, PROGRESSING, told, now)


def _has_progressed(before: DeploymentStatus, status: DeploymentStatus) -> bool:
    old_before = before.replicas - before.updatedReplicas
    old_now = status.replicas - status.updatedReplicas
    return (
        status.updatedReplicas > before.updatedReplicas
        or old_now < old_before
        or status.readyReplicas > before.readyReplicas
        or status.availableReplicas > before.availableReplicas
    )


def _is_late(deployment: Deployment, present: DeploymentCondition, now: datetime) -> bool:
    if present.reason in (COMPLETE, TIMED_OUT):
        return present.reason == TIMED_OUT
    left = _seconds_left(deployment, present, now)
    return left is not None and left < 0


def _seconds_left(
    deployment: Deployment, present: DeploymentCondition, now: datetime
) -> float | None:
    if not present.lastUpdateTime:
        return None
    deadline = deployment.spec.progressDeadlineSeconds or 0
    return deadline - (now - parse_time(present.lastUpdateTime)).total_seconds()


def seconds_until_deadline(
    deployment: Deployment, status: DeploymentStatus, now: datetime
) -> float | None:
    """Seconds until a rollout that makes no progress counts as stuck; None when it cannot."""
    present = find_condition(status.conditions, PROGRESSING)
    if (
        present is None
        or not has_deadline(deployment)
        or present.reason in (COMPLETE, TIMED_OUT)
        or deployment.spec.paused
    ):
        return None
    return _seconds_left(deployment, present, now)


def _pass_on_failure(status: DeploymentStatus, sets: Iterable[ReplicaSet]) -> None:
    """Tell why a ReplicaSet, the new one before the others, cannot make its pods."""
    failures = (find_condition(rs.status.conditions, REPLICA_FAILURE) for rs in sets)
    failure = next(filter(None, failures), None)
    if failure is None:
        _remove(status, REPLICA_FAILURE)
        return
    since = failure.lastTransitionTime
    present = find_condition(status.conditions, REPLICA_FAILURE)
    if present is not None and present.status == failure.status:
        if present.reason == failure.reason:
            return
        since = present.lastTransitionTime
    _remove(status, REPLICA_FAILURE)
    status.conditions.append(
        DeploymentCondition(
            type=REPLICA_FAILURE,
            status=failure.status,
            reason=failure.reason,
            message=failure.message,
            lastUpdateTime=failure.lastTransitionTime,
            lastTransitionTime=since,
        )
    )


def _remove(status: DeploymentStatus, type_: str) -> None:
    status.conditions = [each for each in status.conditions if each.type != type_]


def set_condition(
    status: DeploymentStatus,
    type_: str,
    told: tuple[str, str, str],
    now: datetime,
    renew: bool = False,
) -> None:
    """Put a condition (its status, reason and message) in its place. The transition time changes
    only with the status; `renew` writes one anew that has the same status and reason."""
    state, reason, message = told
    present = find_condition(status.conditions, type_)
    if present is not None and not renew and (present.status, present.reason) == (state, reason):
        return
    stamp = format_time(now)
    is_same = present is not None and present.status == state
    condition = DeploymentCondition(
        type=type_,
        status=state,
        reason=reason,
        message=message,
        lastUpdateTime=stamp,
        lastTransitionTime=present.lastTransitionTime if is_same and present else stamp,
    )
    _remove(status, type_)
    status.conditions.append(condition)
