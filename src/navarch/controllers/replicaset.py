"""The ReplicaSet controller: as many pods as `spec.replicas` says, no more and no fewer.

It counts the active pods that it controls; the difference is created, in batches that double, or
deleted, beginning with the pods that serve least. A ReplicationController is the same thing with an
older selector, which can be changed.

Source: apps/v1 API; upstream's `pkg/controller/replicaset`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, ClassVar

from navarch.api.errors import ApiError
from navarch.api.selectors import LabelSelector, label_selector_from_map
from navarch.api.times import format_time
from navarch.api.types.apps_v1 import ReplicaSet, ReplicaSetCondition, ReplicaSetStatus
from navarch.api.types.core_v1 import (
    Pod,
    PodTemplateSpec,
    ReplicationController,
    ReplicationControllerCondition,
    ReplicationControllerStatus,
)
from navarch.client import ControllerContext, controller_of, object_key
from navarch.controllers.pods import (
    deletion_order,
    find_condition,
    is_active,
    is_available,
    is_ready,
    is_terminating,
    pod_from_template,
)
from navarch.controllers.workload import WorkloadController, controlled, index_by_controller

BURST = 500
"""How many pods are created or deleted in one go."""
FAILURE = "ReplicaFailure"

Set = ReplicaSet | ReplicationController


@dataclass(frozen=True, slots=True)
class View:
    """A set, its pods that are active, and those on their way out."""

    owner: Set
    active: Sequence[Pod]
    terminating: Sequence[Pod]
    now: datetime
    related: Sequence[Pod] = ()
    """The pods of all sets under the same Deployment, so that its nodes are emptied evenly; only
    asked for when pods have to go."""

    @property
    def surplus(self) -> int:
        wanted = self.owner.spec.replicas
        return len(self.active) - (1 if wanted is None else wanted)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about the number of pods."""

    create: int = 0
    delete: Sequence[Pod] = field(default=())


def plan(view: View) -> Plan:
    if view.owner.metadata.deletionTimestamp or not view.surplus:
        return Plan()
    count = min(abs(view.surplus), BURST)
    if view.surplus < 0:
        return Plan(create=count)
    if count == len(view.active):
        return Plan(delete=view.active)
    return Plan(delete=deletion_order(view.active, view.related, view.now)[:count])


def next_status(view: View, failure: ApiError | None = None) -> Any:
    """The status that the pods amount to; `failure` is why not all could be made or deleted."""
    owner, active = view.owner, view.active
    labels = (owner.spec.template or PodTemplateSpec()).metadata.labels.items()
    least = owner.spec.minReadySeconds
    counts: dict[str, Any] = {
        "replicas": len(active),
        "fullyLabeledReplicas": sum(labels <= pod.metadata.labels.items() for pod in active),
        "readyReplicas": sum(map(is_ready, active)),
        "availableReplicas": sum(is_available(pod, least, view.now) for pod in active),
        "observedGeneration": owner.metadata.generation,
        "conditions": _conditions(view, failure),
    }
    if isinstance(owner, ReplicationController):
        return ReplicationControllerStatus(**counts)
    return ReplicaSetStatus(terminatingReplicas=len(view.terminating), **counts)


def _conditions(view: View, failure: ApiError | None) -> list[Any]:
    """Those there are, and whether pods cannot be made: said once, with the first reason, until
    nothing fails any more."""
    present: list[Any] = [*view.owner.status.conditions]
    if failure is None:
        return [condition for condition in present if condition.type != FAILURE]
    if find_condition(present, FAILURE) is not None:
        return present
    is_old_kind = isinstance(view.owner, ReplicationController)
    made = ReplicationControllerCondition if is_old_kind else ReplicaSetCondition
    condition = made(
        type=FAILURE,
        status="True",
        reason="FailedCreate" if view.surplus < 0 else "FailedDelete",
        message=str(failure),
        lastTransitionTime=format_time(view.now),
    )
    return [*present, condition]


class ReplicaSetController(WorkloadController[Set]):
    """Watches: ReplicaSets and pods."""

    name = "replicaset"
    kind: ClassVar[type[Set]] = ReplicaSet

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        index_by_controller(self.owners)
        self.follow(self.pods)

    async def reconcile(self, key: str) -> None:
        owner = self.owners.cache.get(key)
        if owner is None or self.is_behind(key):
            return
        view = await self._view(owner)
        decided = plan(view)
        failure = None
        if decided.create:
            template = owner.spec.template or PodTemplateSpec()
            failure = await self.create_pods(
                owner, decided.create, lambda _: pod_from_template(template, owner)
            )
        elif decided.delete:
            failure = await self.delete_pods(owner, decided.delete)
        await self.put_status(owner, next_status(view, failure))
        self.await_availability(owner, view.active, view.now)
        if failure is not None:
            raise failure

    async def _view(self, owner: Set) -> View:
        selector = self.selector(owner)

        def is_member(pod: Pod) -> bool:
            return not selector.empty and selector.matches(pod.metadata.labels)

        present = self.dependents(self.pods, owner)
        active = await self.claim(owner, self.pods, filter(is_active, present), is_member)
        self.set_size(object_key(owner), len(present))
        terminating = [
            pod
            for pod in controlled(self.pods, owner.metadata.uid)
            if is_terminating(pod) and is_member(pod)
        ]
        view = View(owner, active, terminating, self.clock.now())
        return replace(view, related=self._related(owner)) if view.surplus > 0 else view

    def _related(self, owner: Set) -> Sequence[Pod]:
        reference = controller_of(owner)
        siblings = controlled(self.owners, reference.uid) if reference is not None else ()
        return [pod for each in siblings for pod in controlled(self.pods, each.metadata.uid)]


class ReplicationControllerController(ReplicaSetController):
    """The same for the older kind."""

    name = "replication"
    kind = ReplicationController

    @staticmethod
    def selector(owner: Any) -> LabelSelector:
        return label_selector_from_map(owner.spec.selector)
