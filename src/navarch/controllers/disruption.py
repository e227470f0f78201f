"""The disruption controller: how many pods of a PodDisruptionBudget may be evicted just now.

`status.disruptionsAllowed` is what the eviction subresource spends. A budget given as a number
needs nothing but the count of its healthy pods; a percentage, or `maxUnavailable`, is of the number
of pods there ought to be, which only their controllers know: the sum of the scales of all
controllers of the pods. Whatever goes wrong while counting, nothing may be evicted.

A pod that the eviction subresource has let go is listed in `status.disruptedPods` until its
deletion is seen, so that it does not count as healthy in between; after two minutes it is believed
that it stays after all. The same patience holds for the condition `DisruptionTarget` of a pod that
was to be deleted and is not.

Source: upstream's `pkg/controller/disruption`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from navarch.api.errors import ApiError
from navarch.api.intstr import IntOrString, scaled_value
from navarch.api.objects import copy_object
from navarch.api.selectors import label_selector_from_object
from navarch.api.times import format_time, parse_time
from navarch.api.types.apps_v1 import Deployment, ReplicaSet
from navarch.api.types.autoscaling_v1 import Scale
from navarch.api.types.core_v1 import Pod, ReplicationController
from navarch.api.types.meta_v1 import Condition, OwnerReference
from navarch.api.types.policy_v1 import (
    PodDisruptionBudget,
    PodDisruptionBudgetSpec,
    PodDisruptionBudgetStatus,
)
from navarch.client import (
    Controller,
    ControllerContext,
    PatchType,
    Writes,
    controller_of,
    object_key,
    split_key,
)
from navarch.controllers.discovery import Discovered, discover
from navarch.controllers.garbage_collector_monitors import path_of
from navarch.controllers.pods import find_condition, is_ready, is_terminal

ALLOWED = "DisruptionAllowed"
DELETION_TIMEOUT = timedelta(minutes=2)
"""An eviction whose pod is still there after that is forgotten."""
STALE_TIMEOUT = timedelta(minutes=2)
"""The same for the condition on a pod."""
POD = "pod:"
"""Starts the keys of pods, whose condition is to be looked at; others are budgets."""

_scale = msgspec.json.Decoder(Scale)


class CountError(Exception):
    """The expected number of pods cannot be told."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """How many pods there ought to be, and how many of them healthy."""

    pods: int = 0
    healthy: int = 0


@dataclass(slots=True)
class Counted:
    """What became of the evictions that a budget has allowed."""

    disrupted: dict[str, str] = field(default_factory=dict)
    overdue: list[Pod] = field(default_factory=list)
    recheck: datetime | None = None
    """When the first of them is overdue."""


def needs_scale(spec: PodDisruptionBudgetSpec) -> bool:
    return spec.maxUnavailable is not None or isinstance(spec.minAvailable, str)


def expectation(spec: PodDisruptionBudgetSpec, expected: int) -> Expectation:
    """`expected` is the controllers' scale, or the number of pods where no scale is needed.
    Raises ValueError for a malformed percentage."""
    most: IntOrString | None = spec.maxUnavailable
    least: IntOrString | None = spec.minAvailable
    if most is not None:
        return Expectation(expected, max(0, expected - scaled_value(most, expected, True)))
    if least is not None:
        return Expectation(expected, scaled_value(least, expected, True))
    return Expectation()


def still_disrupted(listed: Mapping[str, str], pods: Iterable[Pod], now: datetime) -> Counted:
    """The evictions whose pods are there and not yet being deleted."""
    result = Counted()
    for pod in pods:
        since = listed.get(pod.metadata.name)
        if since is None or pod.metadata.deletionTimestamp:
            continue
        due = parse_time(since) + DELETION_TIMEOUT
        if due < now:
            result.overdue.append(pod)
            continue
        result.disrupted[pod.metadata.name] = since
        result.recheck = min(result.recheck or due, due)
    return result


def count_healthy(pods: Iterable[Pod], disrupted: Mapping[str, str]) -> int:
    return sum(
        is_ready(pod)
        for pod in pods
        if not pod.metadata.deletionTimestamp and pod.metadata.name not in disrupted
    )


def next_status(
    budget: PodDisruptionBudget,
    expected: Expectation,
    healthy: int,
    disrupted: Mapping[str, str],
    now: datetime,
) -> PodDisruptionBudgetStatus:
    """Without any pod expected nothing is allowed: the first pods of a workload may appear before
    this controller has counted them."""
    allowed = max(0, healthy - expected.healthy) if expected.pods > 0 else 0
    status = PodDisruptionBudgetStatus(
        observedGeneration=budget.metadata.generation,
        disruptedPods=dict(disrupted),
        disruptionsAllowed=allowed,
        currentHealthy=healthy,
        desiredHealthy=expected.healthy,
        expectedPods=expected.pods,
        conditions=budget.status.conditions,
    )
    reason = "SufficientPods" if allowed else "InsufficientPods"
    status.conditions = with_allowed(status, bool(allowed), reason, "", now)
    return status


def with_allowed(
    status: PodDisruptionBudgetStatus, allowed: bool, reason: str, message: str, now: datetime
) -> list[Condition]:
    """The conditions with the one on whether disruptions are allowed renewed."""
    old = find_condition(status.conditions, ALLOWED)
    text = "True" if allowed else "False"
    since = old.lastTransitionTime if old is not None and old.status == text else None
    condition = Condition(
        type=ALLOWED,
        status=text,
        observedGeneration=status.observedGeneration,
        lastTransitionTime=since or format_time(now),
        reason=reason,
        message=message,
    )
    return [condition if each is old else each for each in status.conditions] + (
        [condition] if old is None else []
    )


def stale_after(pod: Pod, now: datetime) -> timedelta | None:
    """How long until the pod's `DisruptionTarget` means nothing any more; None if it has none that
    could get stale. The kubelet's own stays: a pod takes its time to end."""
    condition = find_condition(pod.status.conditions, "DisruptionTarget")
    if (
        pod.metadata.deletionTimestamp
        or is_terminal(pod)
        or condition is None
        or condition.status != "True"
        or condition.reason == "TerminationByKubelet"
        or not condition.lastTransitionTime
    ):
        return None
    passed = now - parse_time(condition.lastTransitionTime)
    return max(timedelta(), STALE_TIMEOUT - passed)


class DisruptionController(Controller):
    """Watches: budgets; pods, by the budgets that select them. Reads the pods' controllers."""

    name = "disruption"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        informer = context.informers.informer
        self.budgets = informer(PodDisruptionBudget)
        self.pods = informer(Pod)
        self.sets = informer(ReplicaSet)
        self.deployments = informer(Deployment)
        self.controllers = informer(ReplicationController)
        self.recorder = context.recorder("controllermanager")
        self.writes = Writes(self.clock)
        self._discovered = Discovered(())
        self.watch(self.budgets)
        self.watch(self.pods, self._keys_of_pod)
        for needed in (self.sets, self.deployments, self.controllers):
            self.depends_on(needed)

    def _keys_of_pod(self, pod: Pod) -> list[str]:
        labels = pod.metadata.labels
        keys = [
            object_key(budget)
            for budget in self.budgets.cache.list(pod.metadata.namespace)
            if label_selector_from_object(budget.spec.selector).matches(labels)
        ]
        if len(keys) > 1:
            meta = pod.metadata
            text = f'Pod "{meta.namespace}"/"{meta.name}" matches multiple PodDisruptionBudgets.'
            self.recorder.event(pod, "Warning", "MultiplePodDisruptionBudgets", text)
        if stale_after(pod, self.clock.now()) is not None:
            keys.append(POD + object_key(pod))
        return keys

    async def reconcile(self, key: str) -> None:
        if key.startswith(POD):
            await self._look_at_pod(key)
            return
        if self.writes.hold_back(key, self.queue):
            return
        budget = self.budgets.cache.get(key)
        if budget is None:
            self.writes.forget(key)
            return
        now = self.clock.now()
        try:
            status, recheck = await self._judge(budget, now)
        except (CountError, ValueError, ApiError) as error:
            self.log.warning("%s: %s", key, error)
            status, recheck = copy_object(budget.status), None
            status.disruptionsAllowed = 0
            status.conditions = with_allowed(status, False, "SyncFailed", str(error), now)
        if status != budget.status:
            written = copy_object(budget)
            written.status = status
            answer = await self.client.resource(PodDisruptionBudget).update_status(written)
            self.writes.wrote(key, self.budgets, answer)
        if recheck is not None:
            self.queue.add_after(key, (recheck - now).total_seconds() + 1)

    async def _judge(
        self, budget: PodDisruptionBudget, now: datetime
    ) -> tuple[PodDisruptionBudgetStatus, datetime | None]:
        selector = label_selector_from_object(budget.spec.selector)
        present = self.pods.cache.list(budget.metadata.namespace)
        pods = [pod for pod in present if selector.matches(pod.metadata.labels)]
        if not pods:
            self.recorder.event(budget, "Normal", "NoPods", "No matching pods found")
        expected = len(pods)
        if needs_scale(budget.spec):
            try:
                expected = await self._scale(budget, pods)
            except (CountError, ApiError) as error:
                text = f"Failed to calculate the number of expected pods: {error}"
                self.recorder.event(budget, "Warning", "CalculateExpectedPodCountFailed", text)
                raise
        counted = still_disrupted(budget.status.disruptedPods, pods, now)
        for pod in counted.overdue:
            text = f"Pod was expected by PDB {object_key(budget)} to be deleted but it wasn't"
            self.recorder.event(pod, "Warning", "NotDeleted", text)
        healthy = count_healthy(pods, counted.disrupted)
        expectations = expectation(budget.spec, expected)
        status = next_status(budget, expectations, healthy, counted.disrupted, now)
        return status, counted.recheck

    async def _scale(self, budget: PodDisruptionBudget, pods: Sequence[Pod]) -> int:
        """The replicas that the pods' controllers want, each controller once. Raises CountError,
        ApiError."""
        scales: dict[str, int] = {}
        is_managed: dict[str, bool] = {}
        for pod in pods:
            owner = controller_of(pod)
            if owner is None:
                is_managed[pod.metadata.name] = False
            elif owner.uid not in is_managed:
                found = await self._scale_of(owner, pod.metadata.namespace)
                if found is None:
                    raise CountError(f'found no controllers for pod "{pod.metadata.name}"')
                is_managed[owner.uid] = True
                scales[found[0]] = found[1]
        if not all(is_managed.values()):
            selector = label_selector_from_object(budget.spec.selector)
            self.recorder.event(
                budget,
                "Warning",
                "UnmanagedPods",
                f"Pods selected by this PodDisruptionBudget (selector: {selector}) were found to "
                "be unmanaged. As a result, the status of the PDB cannot be calculated correctly, "
                "which may result in undefined behavior. To account for these pods please set "
                '".spec.minAvailable" field of the PDB to an integer value.',
            )
        return sum(scales.values())

    async def _scale_of(self, owner: OwnerReference, namespace: str) -> tuple[str, int] | None:
        """The uid and replicas of the controller that an owner is, or that is above it. What the
        informers do not know, or not yet, may tell its scale itself."""
        group = owner.apiVersion.rpartition("/")[0]
        known = self._known_scale(owner, group, namespace)
        return known or await self._scale_subresource(owner, group, namespace)

    def _known_scale(
        self, owner: OwnerReference, group: str, namespace: str
    ) -> tuple[str, int] | None:
        key = f"{namespace}/{owner.name}"
        owned: ReplicaSet | ReplicationController | None = None
        if (group, owner.kind) == ("apps", "ReplicaSet"):
            owned = self.sets.cache.get(key)
        elif (group, owner.kind) == ("", "ReplicationController"):
            owned = self.controllers.cache.get(key)
        if owned is None or owned.metadata.uid != owner.uid:
            return None
        above = controller_of(owned)
        if above is None or above.kind != "Deployment":
            return owner.uid, _replicas(owned.spec.replicas)
        deployment = self.deployments.cache.get(f"{namespace}/{above.name}")
        if deployment is None or deployment.metadata.uid != above.uid:
            return None
        return above.uid, _replicas(deployment.spec.replicas)

    async def _scale_subresource(
        self, owner: OwnerReference, group: str, namespace: str
    ) -> tuple[str, int] | None:
        """What the owner says in its subresource `scale`."""
        if (group, owner.kind) not in self._discovered.kinds:
            self._discovered = await discover(self.client)
        resource = self._discovered.kinds.get((group, owner.kind))
        if resource is None:
            raise CountError(f'no matches for kind "{owner.kind}" in group "{group}"')
        if "scale" not in resource.subresources:
            name = f"{resource.plural}.{group}" if group else resource.plural
            self._discovered = Discovered(())
            raise CountError(f"{name} does not implement the scale subresource")
        path = path_of(resource).path(namespace, owner.name, "scale")
        try:
            scale = _scale.decode(await self.client.request("GET", path))
        except ApiError as error:
            if error.is_not_found:
                return None
            raise
        if scale.metadata.uid != owner.uid:
            return None
        return owner.uid, scale.spec.replicas

    async def _look_at_pod(self, key: str) -> None:
        """Take back a `DisruptionTarget` after which nothing happened."""
        pod = self.pods.cache.get(key.removeprefix(POD))
        left = stale_after(pod, self.clock.now()) if pod is not None else None
        if pod is None or left is None:
            return
        if left:
            self.queue.add_after(key, left.total_seconds())
            return
        condition = {
            "type": "DisruptionTarget",
            "observedGeneration": pod.metadata.generation,
            "status": "False",
            "lastTransitionTime": format_time(self.clock.now()),
            "reason": None,
            "message": None,
        }
        meta = pod.metadata
        guard = {"uid": meta.uid, "resourceVersion": meta.resourceVersion}
        namespace, name = split_key(key.removeprefix(POD))
        await self.client.resource(Pod).patch(
            name,
            namespace,
            {"metadata": guard, "status": {"conditions": [condition]}},
            subresource="status",
            patch_type=PatchType.STRATEGIC,
        )


def _replicas(replicas: int | None) -> int:
    return 1 if replicas is None else replicas
