"""The DaemonSet controller: one pod on every node that fits. What is done where is decided in
`daemonset_plan`; pods that end are replaced, each node with a growing patience."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object
from navarch.api.selectors import LabelSelector, label_selector_from_object
from navarch.api.types.apps_v1 import ControllerRevision, DaemonSet
from navarch.api.types.core_v1 import Node, Pod
from navarch.client import (
    Claimant,
    Controller,
    ControllerContext,
    Expectations,
    KubernetesObject,
    claim,
    object_key,
    slow_start,
)
from navarch.client.ratelimit import exponential
from navarch.controllers import daemonset_plan as plan
from navarch.controllers.history import HASH, Collision, History, bring_up_to_date, surplus
from navarch.controllers.pods import (
    PodControl,
    controller_key,
    is_namespace_terminating,
    seconds_until_available,
)

BURST = 250
FIRST_SECONDS, LONGEST_SECONDS = 1.0, 900.0
"""The wait before a pod that failed on a node is replaced there, doubled each time."""


class DaemonSetController(Controller):
    """Watches: DaemonSets; their pods and revisions; nodes, any of which may matter to all."""

    name = "daemonset"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        informer = context.informers.informer
        self.sets = informer(DaemonSet)
        self.pods = informer(Pod)
        self.nodes = informer(Node)
        self.revisions = informer(ControllerRevision)
        self.recorder = context.recorder("daemonset-controller")
        self.control = PodControl(self.client, self.recorder)
        self.expectations = Expectations(self.clock)
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}
        """By the DaemonSet's uid and the node: how often a pod failed there, and when last."""
        self.watch(self.sets)
        self.watch(self.pods, self._sets_of)
        self.watch(self.revisions, lambda revision: controller_key(revision, "DaemonSet"))
        self.depends_on(self.nodes)
        self.pods.add_handler(self._pod_added, self._pod_changed, self._pod_gone)
        self.nodes.add_handler(self._node_seen, self._node_changed, self._node_seen)

    def _sets_of(self, pod: Pod) -> list[str]:
        if key := controller_key(pod, "DaemonSet"):
            return [key]
        if pod.metadata.deletionTimestamp or any(
            r.controller for r in pod.metadata.ownerReferences
        ):
            return []
        return [
            object_key(owner)
            for owner in self.sets.cache.list(pod.metadata.namespace)
            if self._selector(owner).matches(pod.metadata.labels)
        ]

    def _pod_added(self, pod: Pod) -> None:
        if key := controller_key(pod, "DaemonSet"):
            self.expectations.creation_observed(key)

    def _pod_changed(self, _: Pod, pod: Pod) -> None:
        if pod.metadata.deletionTimestamp:
            self._pod_gone(pod)

    def _pod_gone(self, pod: Pod) -> None:
        if key := controller_key(pod, "DaemonSet"):
            self.expectations.deletion_observed(key, pod.metadata.uid)

    def _node_seen(self, _: Node) -> None:
        self.enqueue(self.sets.cache.keys())

    def _node_changed(self, old: Node, new: Node) -> None:
        # Heartbeats come every few seconds and change nothing that counts here.
        if old.metadata.labels != new.metadata.labels or old.spec.taints != new.spec.taints:
            self._node_seen(new)

    @staticmethod
    def _selector(owner: DaemonSet) -> LabelSelector:
        return label_selector_from_object(owner.spec.selector)

    async def reconcile(self, key: str) -> None:
        owner = self.sets.cache.get(key)
        if owner is None:
            self.expectations.forget(key)
            return
        selector = self._selector(owner)
        if selector.empty:
            text = "This daemon set is selecting all pods. A non-empty selector is required."
            self.recorder.event(owner, "Warning", "SelectingAll", text)
            return
        if owner.metadata.deletionTimestamp:
            return
        settled = self.expectations.satisfied(key)
        pods = await self._claim(owner, selector)
        try:
            history = await self._history(owner, selector)
        except Collision:
            counted = copy_object(owner)
            counted.status.collisionCount = (owner.status.collisionCount or 0) + 1
            await self.client.resource(DaemonSet).update_status(counted)
            return
        view = self._view(owner, history, pods)
        failure = None
        if settled:
            actions = plan.manage(view)
            failure = await self._act(key, view, actions)
            if not (actions.create or actions.delete):
                # Else the view does not show what was just done.
                failure = failure or await self._act(key, view, plan.update(view))
            await self._clean(owner, history, pods)
        await self._write_status(view)
        if failure is not None and not is_namespace_terminating(failure):
            raise failure
        least = owner.spec.minReadySeconds
        waits = [w for pod in pods if (w := seconds_until_available(pod, least, view.now))]
        if waits:
            self.queue.add_after(key, min(waits))

    async def _claim(self, owner: DaemonSet, selector: LabelSelector) -> list[Pod]:
        def matches(pod: Pod) -> bool:
            return selector.matches(pod.metadata.labels)

        present = self.pods.cache.list(owner.metadata.namespace)
        claimant: Claimant[Pod] = Claimant(owner, matches, self._confirm(owner))
        return await claim(self.client.resource(Pod), claimant, present)

    def _confirm(self, owner: DaemonSet) -> Callable[[], Awaitable[KubernetesObject]]:
        async def confirm() -> KubernetesObject:
            meta = owner.metadata
            return await self.client.resource(DaemonSet).get(meta.name, meta.namespace)

        return confirm

    async def _history(self, owner: DaemonSet, selector: LabelSelector) -> History:
        def matches(revision: ControllerRevision) -> bool:
            return selector.matches(revision.metadata.labels)

        resource = self.client.resource(ControllerRevision)
        present = self.revisions.cache.list(owner.metadata.namespace)
        claimant: Claimant[ControllerRevision] = Claimant(owner, matches, self._confirm(owner))
        owned = await claim(resource, claimant, present)
        template, collisions = owner.spec.template, owner.status.collisionCount
        return await bring_up_to_date(resource, owner, template, owned, collisions)

    def _view(self, owner: DaemonSet, history: History, pods: Sequence[Pod]) -> plan.View:
        by_node: dict[str, list[Pod]] = {}
        for pod in pods:
            by_node.setdefault(plan.target_node(pod), []).append(pod)
        label = history.current.metadata.labels.get(HASH, "")
        return plan.View(owner, self.nodes.cache.list(), by_node, label, self.clock.now())

    async def _act(self, key: str, view: plan.View, actions: plan.Actions) -> ApiError | None:
        owner = view.owner
        doomed = actions.delete + [pod for pod in actions.failed if self._is_time_for(key, pod)]
        for pod in doomed:
            if pod.status.phase in ("Failed", "Succeeded"):
                self._tell_of_end(owner, pod)
        create = actions.create[:BURST]
        doomed = doomed[:BURST]
        self.expectations.expect_creations(key, len(create))
        self.expectations.expect_deletions(key, [pod.metadata.uid for pod in doomed])
        attempted = 0

        async def make(index: int) -> None:
            nonlocal attempted
            attempted += 1
            try:
                await self.control.create(plan.new_pod(owner, create[index], view.hash), owner)
            except ApiError:
                self.expectations.creation_failed(key)
                raise

        async def remove(pod: Pod) -> ApiError | None:
            try:
                await self.control.delete(pod, owner)
            except ApiError as error:
                self.expectations.deletion_observed(key, pod.metadata.uid)
                return None if error.is_not_found else error
            return None

        _, failure = await slow_start(len(create), make)
        self.expectations.creation_failed(key, len(create) - attempted)
        results = await asyncio.gather(*(remove(pod) for pod in doomed))
        return failure or next((error for error in results if error is not None), None)

    def _is_time_for(self, key: str, pod: Pod) -> bool:
        """Whether a pod that ended may be replaced now; else the key comes back later."""
        if pod.status.phase == "Succeeded":
            return True
        owner = next(r.uid for r in pod.metadata.ownerReferences if r.controller)
        place = owner, plan.target_node(pod)
        count, last = self._failures.get(place, (0, float("-inf")))
        now = self.clock.monotonic()
        wait = exponential(FIRST_SECONDS, LONGEST_SECONDS, count - 1) if count else 0.0
        if now - last > 2 * LONGEST_SECONDS:
            count = 0
        elif now - last < wait:
            self.queue.add_after(key, wait - (now - last))
            return False
        self._failures[place] = (count + 1, now)
        return True

    def _tell_of_end(self, owner: DaemonSet, pod: Pod) -> None:
        where = f"{object_key(pod)} on node {plan.target_node(pod)}"
        if pod.status.phase == "Failed":
            text = f"Found failed daemon pod {where}, will try to kill it"
            self.recorder.event(owner, "Warning", "FailedDaemonPod", text)
        else:
            text = f"Found succeeded daemon pod {where}, will try to delete it"
            self.recorder.event(owner, "Normal", "SucceededDaemonPod", text)

    async def _clean(self, owner: DaemonSet, history: History, pods: Sequence[Pod]) -> None:
        live = {pod.metadata.labels.get(HASH, "") for pod in pods}
        resource = self.client.resource(ControllerRevision)
        for each in surplus(history.old, live, owner.spec.revisionHistoryLimit):
            meta = each.metadata
            try:
                await resource.delete(meta.name, meta.namespace, uid=meta.uid)
            except ApiError as error:
                if not error.is_not_found:
                    raise

    async def _write_status(self, view: plan.View) -> None:
        wanted = copy_object(view.owner)
        wanted.status = plan.next_status(view)
        if wanted.status != view.owner.status:
            await self.client.resource(DaemonSet).update_status(wanted)
