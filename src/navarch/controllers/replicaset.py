"""The ReplicaSet controller: as many pods as `spec.replicas` says, no more and no fewer.

It counts the pods that it controls. Pods which match the selector and belong to nobody are adopted,
controlled pods that no longer match are released; then the difference is created, in batches that
double, or deleted, beginning with the pods that serve least. While its own writes have not come
back through the informer it does not count again ("expectations"), so a slow watch never makes it
create twice. A ReplicationController is the same thing with an older selector.

Source: apps/v1 API; upstream's `pkg/controller/replicaset`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, cast

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object
from navarch.api.selectors import (
    LabelSelector,
    label_selector_from_map,
    label_selector_from_object,
)
from navarch.api.times import format_time
from navarch.api.types.apps_v1 import ReplicaSet, ReplicaSetCondition, ReplicaSetStatus
from navarch.api.types.core_v1 import (
    Pod,
    PodTemplateSpec,
    ReplicationController,
    ReplicationControllerCondition,
)
from navarch.client import (
    Claimant,
    Controller,
    ControllerContext,
    Expectations,
    ResourceClient,
    claim,
    slow_start,
)
from navarch.client.objects import KubernetesObject, object_key
from navarch.controllers.pods import (
    PodControl,
    controller_key,
    deletion_order,
    is_active,
    is_available,
    is_namespace_terminating,
    is_ready,
    is_terminating,
    pod_from_template,
    seconds_until_available,
)

BURST = 500
"""How many pods are created or deleted in one go."""

Set = ReplicaSet | ReplicationController


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about the number of pods."""

    create: int = 0
    delete: Sequence[Pod] = field(default=())


def plan(replicas: int, pods: Sequence[Pod], related: Sequence[Pod], now: datetime) -> Plan:
    """`pods` are the active ones that are owned, `related` all of the same workload."""
    difference = len(pods) - replicas
    if difference < 0:
        return Plan(create=min(-difference, BURST))
    if difference > 0:
        return Plan(delete=deletion_order(pods, related, now)[: min(difference, BURST)])
    return Plan()


def counted(
    owner: Set, template: PodTemplateSpec, pods: Sequence[Pod], now: datetime
) -> ReplicaSetStatus:
    """The status that these owned pods (active and terminating) amount to, less conditions."""
    active = [pod for pod in pods if is_active(pod)]
    labels = template.metadata.labels.items()
    return ReplicaSetStatus(
        replicas=len(active),
        fullyLabeledReplicas=sum(labels <= pod.metadata.labels.items() for pod in active),
        readyReplicas=sum(map(is_ready, active)),
        availableReplicas=sum(is_available(pod, owner.spec.minReadySeconds, now) for pod in active),
        terminatingReplicas=sum(map(is_terminating, pods)),
        observedGeneration=owner.metadata.generation,
    )


class ReplicaSetController(Controller):
    """Watches: ReplicaSets, and pods by the ReplicaSet that controls (or could adopt) them."""

    name = "replicaset"
    kind: ClassVar[type[Set]] = ReplicaSet
    kind_name: ClassVar[str] = "ReplicaSet"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.resource = cast("ResourceClient[Set]", self.client.resource(self.kind))
        self.sets = context.informers.informer(self.kind)
        self.pods = context.informers.informer(Pod)
        self.recorder = context.recorder(f"{self.name}-controller")
        self.control = PodControl(self.client, self.recorder)
        self.expectations = Expectations(self.clock)
        self.watch(self.sets)
        self.depends_on(self.pods)
        self.pods.add_handler(self._pod_added, self._pod_changed, self._pod_deleted)

    def _pod_added(self, pod: Pod) -> None:
        if pod.metadata.deletionTimestamp:
            self._pod_deleted(pod)
            return
        key = controller_key(pod, self.kind_name)
        if key is not None:
            self.expectations.creation_observed(key)
        self.enqueue(key or self._adopters(pod))

    def _pod_changed(self, old: Pod, new: Pod) -> None:
        key = controller_key(new, self.kind_name)
        former = controller_key(old, self.kind_name)
        if new.metadata.deletionTimestamp and key is not None:
            self.expectations.deletion_observed(key, new.metadata.uid)
        if former != key:
            self.enqueue(former)
        self.enqueue(key or self._adopters(new))

    def _pod_deleted(self, pod: Pod) -> None:
        key = controller_key(pod, self.kind_name)
        if key is not None:
            self.expectations.deletion_observed(key, pod.metadata.uid)
            self.enqueue(key)

    def _adopters(self, pod: Pod) -> list[str]:
        if pod.metadata.ownerReferences and any(r.controller for r in pod.metadata.ownerReferences):
            return []
        return [
            object_key(owner)
            for owner in self.sets.cache.list(pod.metadata.namespace)
            if not (selector := self.selector(owner)).empty
            and selector.matches(pod.metadata.labels)
        ]

    @staticmethod
    def selector(owner: Set) -> LabelSelector:
        if isinstance(owner, ReplicationController):
            return label_selector_from_map(owner.spec.selector)
        return label_selector_from_object(owner.spec.selector)

    @staticmethod
    def template(owner: Set) -> PodTemplateSpec:
        return owner.spec.template or PodTemplateSpec()

    async def reconcile(self, key: str) -> None:
        owner = self.sets.cache.get(key)
        if owner is None:
            self.expectations.forget(key)
            return
        settled = self.expectations.satisfied(key)
        selector = self.selector(owner)
        pods = await self._claim(owner, selector)
        now = self.clock.now()
        failure: ApiError | None = None
        failed = ""
        if settled and not owner.metadata.deletionTimestamp:
            active = [pod for pod in pods if is_active(pod)]
            replicas = 1 if owner.spec.replicas is None else owner.spec.replicas
            decided = plan(replicas, active, self._related(owner, active), now)
            if decided.create:
                failure, failed = await self._create(key, owner, decided.create), "FailedCreate"
            elif decided.delete:
                failure, failed = await self._delete(key, owner, decided.delete), "FailedDelete"
        await self._write_status(owner, pods, failure, failed)
        if failure is not None and not is_namespace_terminating(failure):
            raise failure
        waits = [
            wait
            for pod in pods
            if (wait := seconds_until_available(pod, owner.spec.minReadySeconds, now))
        ]
        if waits:
            self.queue.add_after(key, min(waits))

    async def _claim(self, owner: Set, selector: LabelSelector) -> list[Pod]:
        async def confirm() -> KubernetesObject:
            return await self.resource.get(owner.metadata.name, owner.metadata.namespace)

        def matches(pod: Pod) -> bool:
            return not selector.empty and selector.matches(pod.metadata.labels)

        candidates = [
            pod
            for pod in self.pods.cache.list(owner.metadata.namespace)
            if pod.status.phase not in ("Succeeded", "Failed")
        ]
        claimant: Claimant[Pod] = Claimant(owner, matches, confirm)
        return await claim(self.client.resource(Pod), claimant, candidates)

    def _related(self, owner: Set, pods: Sequence[Pod]) -> Sequence[Pod]:
        """All pods under the same Deployment, so that its nodes are emptied evenly."""
        reference = next((r for r in owner.metadata.ownerReferences if r.controller), None)
        if reference is None:
            return pods
        siblings = {
            other.metadata.uid
            for other in self.sets.cache.list(owner.metadata.namespace)
            if any(r.uid == reference.uid for r in other.metadata.ownerReferences)
        }
        return [
            pod
            for pod in self.pods.cache.list(owner.metadata.namespace)
            if any(r.uid in siblings for r in pod.metadata.ownerReferences)
        ]

    async def _create(self, key: str, owner: Set, count: int) -> ApiError | None:
        self.expectations.expect_creations(key, count)
        template = self.template(owner)

        async def create(_: int) -> None:
            try:
                await self.control.create(pod_from_template(template, owner), owner)
            except ApiError:
                self.expectations.creation_failed(key)
                raise

        succeeded, failure = await slow_start(count, create)
        if failure is not None:
            # The informer will never show those that were not tried.
            self._skip_untried(key, count, succeeded)
        return failure

    def _skip_untried(self, key: str, count: int, succeeded: int) -> None:
        tried = 0
        size = 1
        while tried < count and tried <= succeeded:
            tried += min(size, count - tried)
            size *= 2
        self.expectations.creation_failed(key, count - tried)

    async def _delete(self, key: str, owner: Set, pods: Sequence[Pod]) -> ApiError | None:
        self.expectations.expect_deletions(key, [pod.metadata.uid for pod in pods])

        async def delete(pod: Pod) -> ApiError | None:
            try:
                await self.control.delete(pod, owner)
            except ApiError as error:
                self.expectations.deletion_observed(key, pod.metadata.uid)
                return None if error.is_not_found else error
            return None

        results = await asyncio.gather(*(delete(pod) for pod in pods))
        return next((error for error in results if error is not None), None)

    async def _write_status(
        self, owner: Set, pods: Sequence[Pod], failure: ApiError | None, failed: str
    ) -> None:
        now = self.clock.now()
        status = counted(owner, self.template(owner), pods, now)
        condition = self._failure_condition(owner, failure, failed)
        kept = [c for c in owner.status.conditions if c.type != "ReplicaFailure"]
        if isinstance(owner, ReplicationController):
            status.terminatingReplicas = None
        wanted: Any = copy_object(owner)
        wanted.status.conditions = [*kept, *([condition] if condition else [])]
        for name in status.__struct_fields__:
            if name != "conditions" and hasattr(wanted.status, name):
                setattr(wanted.status, name, getattr(status, name))
        if wanted.status != owner.status:
            await self.resource.update(wanted, subresource="status")

    def _failure_condition(
        self, owner: Set, failure: ApiError | None, failed: str
    ) -> ReplicaSetCondition | ReplicationControllerCondition | None:
        """Says why pods cannot be created or deleted. It stays until nothing fails any more."""
        present = next((c for c in owner.status.conditions if c.type == "ReplicaFailure"), None)
        if failure is None:
            return None
        if present is not None and present.reason == failed and present.message == str(failure):
            return present
        made = (
            ReplicationControllerCondition
            if isinstance(owner, ReplicationController)
            else ReplicaSetCondition
        )
        return made(
            type="ReplicaFailure",
            status="True",
            reason=failed,
            message=str(failure),
            lastTransitionTime=format_time(self.clock.now()),
        )


class ReplicationControllerController(ReplicaSetController):
    """The same for the older kind."""

    name = "replication"
    kind = ReplicationController
    kind_name = "ReplicationController"
