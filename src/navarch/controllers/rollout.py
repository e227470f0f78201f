"""How a rollout proceeds: which ReplicaSet gets how many replicas next. Pure functions.

`rolling_update` takes the next step from old pods to new ones within the bounds of maxSurge and
maxUnavailable; `proportional` spreads a change of `spec.replicas` over several ReplicaSets in the
middle of a rollout. Source: upstream's `pkg/controller/deployment/{rolling,sync}.go`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from navarch.api.intstr import scaled_value
from navarch.api.types.apps_v1 import Deployment, ReplicaSet
from navarch.controllers.revisions import MAX_REPLICAS

Scale = Mapping[str, int]
"""The wanted number of replicas by ReplicaSet name; those not named stay as they are."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a rolling update may go above and below the wanted number of pods."""

    surge: int
    unavailable: int


def replicas_of(obj: Deployment | ReplicaSet) -> int:
    return 1 if obj.spec.replicas is None else obj.spec.replicas


def is_rolling(deployment: Deployment) -> bool:
    return (deployment.spec.strategy.type or "RollingUpdate") == "RollingUpdate"


def bounds_of(deployment: Deployment) -> Bounds:
    """The bounds in pods: surge rounds up, unavailable down; both zero would stop everything."""
    if not is_rolling(deployment):
        return Bounds(0, 0)
    update = deployment.spec.strategy.rollingUpdate
    surge = update.maxSurge if update is not None and update.maxSurge is not None else "25%"
    away = (
        update.maxUnavailable if update is not None and update.maxUnavailable is not None else "25%"
    )
    total = replicas_of(deployment)
    bounds = Bounds(scaled_value(surge, total, True), scaled_value(away, total, False))
    return bounds if bounds.surge or bounds.unavailable else Bounds(0, 1)


def max_unavailable(deployment: Deployment) -> int:
    """Never more than there are to be."""
    return min(bounds_of(deployment).unavailable, replicas_of(deployment))


def new_replicas(deployment: Deployment, sets: Sequence[ReplicaSet], new: ReplicaSet) -> int:
    """How many replicas the new ReplicaSet may have now. `sets` are all of them."""
    wanted = replicas_of(deployment)
    if not is_rolling(deployment):
        return wanted
    allowed = wanted + bounds_of(deployment).surge
    total = sum(map(replicas_of, sets))
    current = replicas_of(new)
    if total >= allowed:
        return current
    return current + min(allowed - total, wanted - current)


def rolling_update(deployment: Deployment, new: ReplicaSet, old: Sequence[ReplicaSet]) -> Scale:
    """The next step: the new ReplicaSet grows as surge allows; if it cannot, the old ones shrink
    as availability allows. Empty where there is nothing to do but wait."""
    target = new_replicas(deployment, [*old, new], new)
    if replicas_of(new) > replicas_of(deployment):
        target = replicas_of(deployment)
    if target != replicas_of(new):
        return {new.metadata.name: target}
    return shrink_old(deployment, new, old)


def shrink_old(deployment: Deployment, new: ReplicaSet, old: Sequence[ReplicaSet]) -> Scale:
    """Take replicas from the old sets: unready ones first, for they serve nobody, then as many
    available ones as the bound lets go, from the oldest set on."""
    if not any(map(replicas_of, old)):
        return {}
    least = replicas_of(deployment) - max_unavailable(deployment)
    total = sum(map(replicas_of, old)) + replicas_of(new)
    new_unready = replicas_of(new) - new.status.availableReplicas
    removable = total - least - new_unready
    if removable <= 0:
        return {}
    remaining = {rs.metadata.name: replicas_of(rs) for rs in old}
    ordered = sorted(old, key=lambda rs: rs.metadata.creationTimestamp or "")
    for rs in ordered:
        unready = replicas_of(rs) - rs.status.availableReplicas
        taken = min(removable, max(0, unready), remaining[rs.metadata.name])
        remaining[rs.metadata.name] -= taken
        removable -= taken
    # A set that was just made smaller still reports pods that are about to go: they do not count.
    available = sum(min(rs.status.availableReplicas, replicas_of(rs)) for rs in (*old, new))
    spare = available - least
    for rs in ordered:
        taken = min(max(0, spare), remaining[rs.metadata.name])
        remaining[rs.metadata.name] -= taken
        spare -= taken
    return {
        rs.metadata.name: remaining[rs.metadata.name]
        for rs in old
        if remaining[rs.metadata.name] != replicas_of(rs)
    }


def proportional(deployment: Deployment, sets: Sequence[ReplicaSet]) -> Scale:
    """Spread a changed number of replicas over the sets that have any, each in proportion to its
    share; what rounding leaves over goes to the largest."""
    active = [rs for rs in sets if replicas_of(rs) > 0]
    allowed = 0
    if replicas_of(deployment) > 0:
        allowed = replicas_of(deployment) + bounds_of(deployment).surge
    to_add = allowed - sum(map(replicas_of, active))
    if to_add == 0:
        return {}
    # Growing begins with the newest of equal size, shrinking with the oldest.
    active.sort(key=lambda rs: rs.metadata.creationTimestamp or "", reverse=to_add > 0)
    active.sort(key=replicas_of, reverse=True)
    result: dict[str, int] = {}
    added = 0
    for rs in active:
        share = _share(rs, deployment, allowed)
        left = to_add - added
        part = min(share, left) if to_add > 0 else max(share, left)
        result[rs.metadata.name] = replicas_of(rs) + part
        added += part
    if active:
        first = active[0].metadata.name
        result[first] = max(0, result[first] + to_add - added)
    return {
        rs.metadata.name: result[rs.metadata.name]
        for rs in active
        if result[rs.metadata.name] != replicas_of(rs)
    }


def _share(rs: ReplicaSet, deployment: Deployment, allowed: int) -> int:
    """By how much one set changes so as to keep its part of the whole."""
    if not replicas_of(deployment):
        return -replicas_of(rs)
    try:
        before = int(rs.metadata.annotations[MAX_REPLICAS])
    except (KeyError, ValueError):
        before = deployment.status.replicas
    if before <= 0:
        return 0
    grown = (2 * replicas_of(rs) * allowed + before) // (2 * before)
    return grown - replicas_of(rs)
