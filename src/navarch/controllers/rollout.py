"""How a rollout proceeds: which ReplicaSet gets how many replicas next. Pure functions.

`plan` says what one pass does. A change of `spec.replicas` is spread over the ReplicaSets there
are (`resized`, `proportional`); a change of the template moves replicas from the old ones to the
new one, all at once or step by step within maxSurge and maxUnavailable (`rolling_update`).

Source: upstream's `pkg/controller/deployment/{rolling,recreate,sync}.go`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from navarch.api.intstr import scaled_value
from navarch.api.numbers import natural
from navarch.api.types.apps_v1 import Deployment, ReplicaSet
from navarch.controllers.revisions import DESIRED_REPLICAS, MAX_REPLICAS, revision_of, same_template

NO_LIMIT = 2**31 - 1
Scale = Mapping[str, int]
"""The wanted number of replicas by ReplicaSet name; those not named stay as they are."""


@dataclass(frozen=True, slots=True)
class View:
    """A Deployment, the set of its present template if there is one, and all others."""

    deployment: Deployment
    new: ReplicaSet | None
    old: Sequence[ReplicaSet]
    has_old_pods: bool = False
    """Whether pods of old sets, being deleted or not, have not ended yet."""

    @property
    def sets(self) -> list[ReplicaSet]:
        return [*self.old, *([self.new] if self.new is not None else [])]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one pass does. The sizes are given together with notes on the Deployment's size, which
    tell later that it has changed."""

    create: bool = False
    """Make the new set first; the rest is for the passes after."""
    sizes: Scale = field(default_factory=dict)
    is_rollout: bool = True
    """Whether progress is to be judged: not while nothing but the size changes."""


def plan(view: View) -> Plan:
    deployment, new, old = view.deployment, view.new, view.old
    if deployment.metadata.deletionTimestamp:
        return Plan(is_rollout=False)
    if deployment.spec.paused or is_scaling(view):
        return Plan(sizes=resized(view), is_rollout=False)
    if is_rolling(deployment):
        if new is None:
            return Plan(create=True)
        return Plan(sizes=rolling_update(deployment, new, old))
    if any(map(replicas_of, old)):
        return Plan(sizes={rs.metadata.name: 0 for rs in old if replicas_of(rs)})
    if view.has_old_pods or any(rs.status.replicas for rs in old):
        return Plan()
    if new is None:
        return Plan(create=True)
    if replicas_of(new) == replicas_of(deployment):
        return Plan()
    return Plan(sizes={new.metadata.name: replicas_of(deployment)})


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
    ordered = sorted(filter(replicas_of, old), key=_age)
    least = replicas_of(deployment) - max_unavailable(deployment)
    total = sum(map(replicas_of, (*ordered, new)))
    new_unready = replicas_of(new) - new.status.availableReplicas
    removable = total - least - new_unready
    if removable <= 0:
        return {}
    remaining = {rs.metadata.name: replicas_of(rs) for rs in ordered}
    for rs in ordered:
        if removable <= 0:
            break
        unready = replicas_of(rs) - rs.status.availableReplicas
        if unready < 0:
            # It was just made smaller and still reports pods that are about to go.
            return {}
        taken = min(removable, unready)
        remaining[rs.metadata.name] -= taken
        removable -= taken
    available = sum(min(rs.status.availableReplicas, replicas_of(rs)) for rs in (*ordered, new))
    spare = max(0, available - least)
    for rs in ordered:
        taken = min(spare, remaining[rs.metadata.name])
        remaining[rs.metadata.name] -= taken
        spare -= taken
    return {
        rs.metadata.name: remaining[rs.metadata.name]
        for rs in ordered
        if remaining[rs.metadata.name] != replicas_of(rs)
    }


def _age(rs: ReplicaSet) -> tuple[str, str]:
    return rs.metadata.creationTimestamp or "", rs.metadata.name


def find_new(deployment: Deployment, sets: Sequence[ReplicaSet]) -> ReplicaSet | None:
    """The set that runs the Deployment's present template; the oldest where there are two."""
    matching = [rs for rs in sets if same_template(rs.spec.template, deployment.spec.template)]
    return min(matching, key=_age, default=None)


def is_scaling(view: View) -> bool:
    """Whether `spec.replicas` changed since the sets were last sized."""
    wanted = replicas_of(view.deployment)
    noted = (_noted(rs, DESIRED_REPLICAS) for rs in view.sets if replicas_of(rs) > 0)
    return any(number not in (None, wanted) for number in noted)


def _noted(rs: ReplicaSet, annotation: str) -> int | None:
    """The number in an annotation; None where there is none that makes sense."""
    number = natural(rs.metadata.annotations.get(annotation, ""))
    return number if number is not None and number <= NO_LIMIT else None


def size_annotations(deployment: Deployment) -> dict[str, str]:
    """What a set notes of the Deployment's size."""
    return {
        DESIRED_REPLICAS: str(replicas_of(deployment)),
        MAX_REPLICAS: str(replicas_of(deployment) + bounds_of(deployment).surge),
    }


def resized(view: View) -> Scale:
    """What a change of `spec.replicas` (or a pause) makes of the sets."""
    deployment, new = view.deployment, view.new
    wanted = replicas_of(deployment)
    active = [rs for rs in view.sets if replicas_of(rs) > 0]
    if len(active) <= 1:
        latest = new if new is not None else max(view.old, key=_age, default=None)
        only = active[0] if active else latest
        return {} if only is None else {only.metadata.name: wanted}
    if new is not None and is_saturated(deployment, new):
        return {rs.metadata.name: 0 for rs in active if rs is not new}
    return proportional(deployment, active) if is_rolling(deployment) else {}


def is_saturated(deployment: Deployment, rs: ReplicaSet) -> bool:
    """The set alone already gives all that the Deployment asks for, and knows it."""
    wanted = replicas_of(deployment)
    given = (replicas_of(rs), _noted(rs, DESIRED_REPLICAS), rs.status.availableReplicas)
    return given == (wanted, wanted, wanted)


def proportional(deployment: Deployment, active: Sequence[ReplicaSet]) -> Scale:
    """Spread a changed number of replicas over the sets that have any, each in proportion to its
    share; what rounding leaves over goes to the largest."""
    wanted = replicas_of(deployment)
    allowed = wanted + bounds_of(deployment).surge if wanted else 0
    to_add = allowed - sum(map(replicas_of, active))
    # Growing begins with the newest of equal size, shrinking with the oldest.
    ordered = sorted(active, key=_age, reverse=to_add > 0)
    ordered.sort(key=replicas_of, reverse=True)
    result: dict[str, int] = {}
    left = to_add
    for rs in ordered:
        share = _share(rs, deployment, allowed) if left else 0
        part = min(share, left) if to_add > 0 else max(share, left)
        result[rs.metadata.name] = replicas_of(rs) + part
        left -= part
    first = ordered[0].metadata.name
    result[first] = max(0, result[first] + left)
    return result


def _share(rs: ReplicaSet, deployment: Deployment, allowed: int) -> int:
    """By how much one set changes so as to keep its part of the whole."""
    if not replicas_of(deployment):
        return -replicas_of(rs)
    before = _noted(rs, MAX_REPLICAS) or deployment.status.replicas
    if not before:
        return 0
    grown = (2 * replicas_of(rs) * allowed + before) // (2 * before)
    return grown - replicas_of(rs)


def sets_to_delete(deployment: Deployment, old: Sequence[ReplicaSet]) -> list[ReplicaSet]:
    """Old sets beyond the history limit that are wholly done with, oldest revision first."""
    limit = deployment.spec.revisionHistoryLimit
    if limit is None or limit == NO_LIMIT:
        return []
    alive = [rs for rs in old if not rs.metadata.deletionTimestamp]
    alive.sort(key=lambda rs: (revision_of(rs.metadata.annotations), *_age(rs)))
    return [
        rs
        for rs in alive[: max(0, len(alive) - limit)]
        if not rs.status.replicas
        and not replicas_of(rs)
        and rs.metadata.generation <= rs.status.observedGeneration
    ]
