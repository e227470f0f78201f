"""What a Deployment reports: counts, and whether it is available, progressing, complete or stuck.

Pure. Reasons and messages are upstream's (`pkg/controller/deployment/progress.go`), because
`kubectl rollout status` and people read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from navarch.api.objects import copy_object
from navarch.api.times import format_time, parse_time
from navarch.api.types.apps_v1 import (
    Deployment,
    DeploymentCondition,
    DeploymentStatus,
    ReplicaSet,
)
from navarch.controllers.pods import find_condition
from navarch.controllers.rollout import max_unavailable, replicas_of

NO_DEADLINE = 2**31 - 1


class ProgressNote(Enum):
    """What this pass did that the Progressing condition should tell."""

    NONE = "none"
    CREATED = "created the new replica set"
    CREATE_FAILED = "could not create the new replica set"


@dataclass(frozen=True, slots=True)
class DeploymentStatusResult:
    """The Deployment with its new status."""

    deployment: Deployment
    is_complete: bool


def next_status(
    deployment: Deployment,
    sets: Sequence[ReplicaSet],
    new: ReplicaSet | None,
    now: datetime,
    note: ProgressNote = ProgressNote.NONE,
    failure: str = "",
) -> DeploymentStatusResult:
    """The status after this pass. `sets` are all ReplicaSets, `new` the one of the template."""
    result = copy_object(deployment)
    before = deployment.status
    status = result.status
    status.observedGeneration = deployment.metadata.generation
    status.replicas = sum(rs.status.replicas for rs in sets)
    status.updatedReplicas = new.status.replicas if new is not None else 0
    status.readyReplicas = sum(rs.status.readyReplicas for rs in sets)
    status.availableReplicas = sum(rs.status.availableReplicas for rs in sets)
    wanted = sum(map(replicas_of, sets))
    status.unavailableReplicas = max(0, wanted - status.availableReplicas)
    status.terminatingReplicas = sum(rs.status.terminatingReplicas or 0 for rs in sets)
    _set(status, _availability(deployment, status), now)
    complete = is_complete(deployment, status)
    _progress(deployment, before, status, new, now, (note, failure))
    _replica_failure(status, sets, new, now)
    return DeploymentStatusResult(result, complete)


def is_complete(deployment: Deployment, status: DeploymentStatus) -> bool:
    """Every pod is of the present template and available, and no other is left."""
    wanted = replicas_of(deployment)
    return (
        status.updatedReplicas == wanted
        and status.replicas == wanted
        and status.availableReplicas == wanted
        and status.observedGeneration >= deployment.metadata.generation
    )


def _availability(deployment: Deployment, status: DeploymentStatus) -> DeploymentCondition:
    enough = status.availableReplicas >= replicas_of(deployment) - max_unavailable(deployment)
    if enough:
        return DeploymentCondition(
            type="Available",
            status="True",
            reason="MinimumReplicasAvailable",
            message="Deployment has minimum availability.",
        )
    return DeploymentCondition(
        type="Available",
        status="False",
        reason="MinimumReplicasUnavailable",
        message="Deployment does not have minimum availability.",
    )


def _progress(
    deployment: Deployment,
    before: DeploymentStatus,
    status: DeploymentStatus,
    new: ReplicaSet | None,
    now: datetime,
    told: tuple[ProgressNote, str],
) -> None:
    note, failure = told
    present = find_condition(before.conditions, "Progressing")
    if note is ProgressNote.CREATE_FAILED:
        _set(status, _progressing("False", "ReplicaSetCreateError", failure), now)
        return
    if not has_deadline(deployment):
        status.conditions = [c for c in status.conditions if c.type != "Progressing"]
        return
    if deployment.spec.paused:
        if present is None or present.reason != "DeploymentPaused":
            text = "Deployment is paused"
            _set(status, _progressing("Unknown", "DeploymentPaused", text), now)
        return
    if present is not None and present.reason == "DeploymentPaused":
        text = "Deployment is resumed"
        _set(status, _progressing("Unknown", "DeploymentResumed", text), now)
        return
    name = f'ReplicaSet "{new.metadata.name}"' if new is not None else "Deployment"
    if note is ProgressNote.CREATED and new is not None:
        text = f'Created new replica set "{new.metadata.name}"'
        _set(status, _progressing("True", "NewReplicaSetCreated", text), now, renew=True)
        return
    settled = (
        status.replicas == status.updatedReplicas
        and present is not None
        and present.reason == "NewReplicaSetAvailable"
    )
    if settled:
        return
    if is_complete(deployment, status):
        text = f"{name} has successfully progressed."
        _set(status, _progressing("True", "NewReplicaSetAvailable", text), now, renew=True)
    elif _has_progressed(before, status):
        text = f"{name} is progressing."
        _set(status, _progressing("True", "ReplicaSetUpdated", text), now, renew=True)
    elif present is None:
        text = f'Found new replica set "{new.metadata.name}"' if new is not None else name
        _set(status, _progressing("True", "FoundNewReplicaSet", text), now)
    elif (left := seconds_until_deadline(deployment, now)) is not None and left <= 0:
        text = f"{name} has timed out progressing."
        _set(status, _progressing("False", "ProgressDeadlineExceeded", text), now)


def has_deadline(deployment: Deployment) -> bool:
    seconds = deployment.spec.progressDeadlineSeconds
    return seconds is not None and seconds != NO_DEADLINE


def _has_progressed(before: DeploymentStatus, status: DeploymentStatus) -> bool:
    old_before = before.replicas - before.updatedReplicas
    old_now = status.replicas - status.updatedReplicas
    return (
        status.updatedReplicas > before.updatedReplicas
        or old_now < old_before
        or status.readyReplicas > before.readyReplicas
        or status.availableReplicas > before.availableReplicas
    )


def seconds_until_deadline(deployment: Deployment, now: datetime) -> float | None:
    """Seconds until a rollout that makes no progress counts as stuck; None when it cannot."""
    present = find_condition(deployment.status.conditions, "Progressing")
    if (
        present is None
        or not has_deadline(deployment)
        or present.reason in ("NewReplicaSetAvailable", "ProgressDeadlineExceeded")
        or deployment.spec.paused
        or not present.lastUpdateTime
    ):
        return None
    deadline = deployment.spec.progressDeadlineSeconds or 0
    return deadline - (now - parse_time(present.lastUpdateTime)).total_seconds()


def _replica_failure(
    status: DeploymentStatus, sets: Sequence[ReplicaSet], new: ReplicaSet | None, now: datetime
) -> None:
    """Pass on why a ReplicaSet cannot make its pods."""
    ordered = [*([new] if new is not None else []), *sets]
    failures = [c for rs in ordered for c in rs.status.conditions if c.type == "ReplicaFailure"]
    if not failures:
        status.conditions = [c for c in status.conditions if c.type != "ReplicaFailure"]
        return
    first = failures[0]
    condition = DeploymentCondition(
        type="ReplicaFailure", status=first.status, reason=first.reason, message=first.message
    )
    _set(status, condition, now)


def _progressing(state: str, reason: str, message: str) -> DeploymentCondition:
    return DeploymentCondition(type="Progressing", status=state, reason=reason, message=message)


def _set(
    status: DeploymentStatus, condition: DeploymentCondition, now: datetime, renew: bool = False
) -> None:
    """Put a condition in its place. The transition time changes only with the status; the update
    time with any word of it, or when `renew` says that there was progress."""
    present = find_condition(status.conditions, condition.type)
    stamp = format_time(now)
    same = (
        present is not None
        and present.status == condition.status
        and present.reason == condition.reason
        and present.message == condition.message
    )
    if same and not renew:
        return
    kept = present.lastTransitionTime if present and present.status == condition.status else stamp
    condition.lastTransitionTime = kept
    condition.lastUpdateTime = stamp
    others = [c for c in status.conditions if c.type != condition.type]
    status.conditions = [*others, condition]
