"""The DaemonSet controller: one pod on every node that fits. What is done where is decided in
`daemonset_plan`; pods that end are replaced, each node with a growing patience."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object
from navarch.api.types.apps_v1 import ControllerRevision, DaemonSet
from navarch.api.types.core_v1 import Node, Pod
from navarch.client import Clock, ControllerContext, object_key
from navarch.client.ratelimit import exponential
from navarch.controllers import daemonset_plan as plan
from navarch.controllers.history import HASH, History, RevisionedController, surplus

BURST = 250
FIRST_SECONDS, LONGEST_SECONDS = 1.0, 900.0
"""The wait before a pod that failed on a node is replaced there, doubled each time."""


@dataclass(slots=True)
class _Patience:
    """With the pods of a DaemonSet that fail on a node: how often one was replaced, and when last.
    A new generation of the DaemonSet, or a long time without failures, starts anew."""

    clock: Clock
    generation: int
    count: int = 0
    last: float = float("-inf")

    def seconds_left(self) -> float:
        """0 when the next pod may be replaced, which is then noted."""
        now = self.clock.monotonic()
        if now - self.last > 2 * LONGEST_SECONDS:
            self.count = 0
        wait = exponential(FIRST_SECONDS, LONGEST_SECONDS, self.count - 1) if self.count else 0.0
        if now - self.last < wait:
            return wait - (now - self.last)
        self.count += 1
        self.last = now
        return 0.0


class DaemonSetController(RevisionedController[DaemonSet]):
    """Watches: DaemonSets; their pods and revisions; nodes, any of which may matter to all."""

    name = "daemonset"
    kind = DaemonSet
    hash_label = HASH

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.nodes = context.informers.informer(Node)
        self.pod_resource = self.client.resource(Pod)
        self._patience: dict[str, dict[str, _Patience]] = {}
        """By the DaemonSet's key and the node."""
        self.depends_on(self.nodes)
        self.nodes.add_handler(self._node_seen, self._node_changed, self._node_seen)

    def _forget(self, key: str) -> None:
        super()._forget(key)
        self._patience.pop(key, None)

    def _node_seen(self, _: Node) -> None:
        # One that does not fit, too: it may have a pod that was made when it did.
        for owner in self.owners.cache.list():
            self.enqueue_paced(object_key(owner))

    def _node_changed(self, old: Node, new: Node) -> None:
        # Heartbeats come every few seconds and change nothing that counts here.
        if old.metadata.labels == new.metadata.labels and old.spec.taints == new.spec.taints:
            return
        for owner in self.owners.cache.list():
            if plan.fits_of(owner, [old]) != plan.fits_of(owner, [new]):
                self.enqueue_paced(object_key(owner))

    async def reconcile(self, key: str) -> None:
        owner = self.owners.cache.get(key)
        if owner is None or owner.metadata.deletionTimestamp or self.is_behind(key):
            return
        selector = self.selector(owner)
        if selector.empty:
            text = "This daemon set is selecting all pods. A non-empty selector is required."
            self.recorder.event(owner, "Warning", "SelectingAll", text)
            return
        revisions = await self._labelled(
            owner,
            await self.claim_revisions(owner, lambda each: selector.matches(each.metadata.labels)),
        )
        pods = await self.claim(
            owner,
            self.pods,
            self.dependents(self.pods, owner),
            lambda pod: selector.matches(pod.metadata.labels),
        )
        history = await self.history(owner, owner.spec.template, revisions)
        if history.duplicates:
            pods = await self._unite(owner, history, pods)
        fits = plan.fits_of(owner, self.nodes.cache.list())
        self.set_size(key, len(fits) + len(pods))
        label = history.current.metadata.labels.get(HASH, "")
        view = plan.View(owner, fits, plan.by_node(pods), label, self.clock.now())
        failure = await self._advance(view, history, pods)
        await self.put_status(owner, plan.next_status(view, history.collisions))
        self.await_availability(owner, pods, view.now)
        if failure is not None:
            raise failure

    async def _labelled(
        self, owner: DaemonSet, revisions: Sequence[ControllerRevision]
    ) -> list[ControllerRevision]:
        """The revisions, those of old without a hash named by their names."""
        result = []
        for revision in revisions:
            if HASH not in revision.metadata.labels:
                revision = copy_object(revision)
                revision.metadata.labels[HASH] = revision.metadata.name
                revision = await self.update_revision(owner, revision)
            result.append(revision)
        return result

    async def _unite(self, owner: DaemonSet, history: History, pods: Sequence[Pod]) -> list[Pod]:
        """Of several revisions of the same template only the current one stays, and all pods of
        the others become its own."""
        label = history.current.metadata.labels[HASH]
        others = {each.metadata.labels[HASH] for each in history.duplicates}
        result = []
        for pod in pods:
            if pod.metadata.labels.get(HASH) in others:
                meta = pod.metadata
                body = {"metadata": {"labels": {HASH: label}}}
                pod = await self.pod_resource.patch(meta.name, meta.namespace, body)
                self.writes.wrote(object_key(owner), self.pods, pod)
            result.append(pod)
        await self.delete_revisions(owner, history.duplicates)
        return result

    async def _advance(
        self, view: plan.View, history: History, pods: Sequence[Pod]
    ) -> ApiError | None:
        """A pod on each node, then the next step of an update, then the history."""
        owner, actions = view.owner, plan.manage(view)
        ended = [pod for pod in actions.ended if self._is_time_for(owner, pod)]
        for pod in ended:
            self._tell_of_end(owner, pod)
        actions.delete += ended
        failure = await self._act(view, actions)
        if failure is None and not (actions.create or actions.delete):
            # Else the view does not show what was just done.
            failure = await self._act(view, plan.update(view))
        if failure is None:
            live = {pod.metadata.labels.get(HASH, "") for pod in pods}
            limit = owner.spec.revisionHistoryLimit
            await self.delete_revisions(owner, surplus(history.old, live, limit))
        return failure

    async def _act(self, view: plan.View, actions: plan.Actions) -> ApiError | None:
        owner, nodes = view.owner, actions.create[:BURST]
        failure = await self.create_pods(
            owner, len(nodes), lambda index: plan.new_pod(owner, nodes[index], view.hash)
        )
        also = await self.delete_pods(owner, actions.delete[:BURST])
        return failure or also

    def _is_time_for(self, owner: DaemonSet, pod: Pod) -> bool:
        """Whether a pod that ended may be replaced now; else the key comes back later."""
        if pod.status.phase == "Succeeded":
            return True
        key, node = object_key(owner), plan.target_node(pod)
        generation = owner.status.observedGeneration
        known = self._patience.setdefault(key, {})
        patience = known.get(node)
        if patience is None or patience.generation != generation:
            patience = known[node] = _Patience(self.clock, generation)
        left = patience.seconds_left()
        if left:
            self.queue.add_after(key, left)
        return not left

    def _tell_of_end(self, owner: DaemonSet, pod: Pod) -> None:
        where = f"{object_key(pod)} on node {plan.target_node(pod)}"
        if pod.status.phase == "Failed":
            text = f"Found failed daemon pod {where}, will try to kill it"
            self.recorder.event(owner, "Warning", "FailedDaemonPod", text)
        else:
            text = f"Found succeeded daemon pod {where}, will try to delete it"
            self.recorder.event(owner, "Normal", "SucceededDaemonPod", text)
