"""The taint eviction controller: pods leave nodes with NoExecute taints they do not tolerate.

A pod without a matching toleration is deleted at once, also one that has ended; one whose
tolerations are limited in time is deleted when the shortest of them runs out. The time begins when
the controller sees pod and taint together, whenever the taint was added: a pod that came later to
such a node has its time as well, and taints that people add do not say when. A taint that is taken
away in time cancels it. What is due is remembered by this process alone, so the times of a new one
begin anew.

Source: KEP-166 (taint based evictions), upstream's `pkg/controller/tainteviction`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from navarch.api.errors import ignoring, outdated
from navarch.api.node_selection import tolerates
from navarch.api.times import format_time
from navarch.api.types.core_v1 import Node, Pod, Taint, Toleration
from navarch.client import Client, Controller, ControllerContext, PatchType
from navarch.client.objects import object_key
from navarch.controllers.pods import index_by_node, pods_on


def seconds_to_live(tolerations: Sequence[Toleration], taints: Sequence[Taint]) -> float | None:
    """How long a pod may stay on a node with these NoExecute taints: None for ever, 0 not at all.
    Of several tolerations of one taint the first counts."""
    limits: list[float] = []
    for taint in taints:
        matching = next((t for t in tolerations if tolerates(t, taint)), None)
        if matching is None:
            return 0.0
        if matching.tolerationSeconds is not None:
            limits.append(max(0, matching.tolerationSeconds))
    return min(limits, default=None)


@dataclass(frozen=True)
class Eviction:
    """A pod that has to go, and when, by the monotonic clock."""

    uid: str
    due: float


class TaintEvictionController(Controller):
    """Watches: nodes (which wake the pods on them) and pods."""

    name = "taint-eviction"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.recorder = context.recorder("taint-eviction-controller")
        self.nodes = context.informers.informer(Node)
        self.pods = context.informers.informer(Pod)
        self._tainted: dict[str, list[Taint]] = {}
        self._evictions: dict[str, Eviction] = {}
        index_by_node(self.pods)
        self.watch(self.pods, self._concerned)
        self.depends_on(self.nodes)
        self.nodes.add_handler(
            self._node_seen,
            lambda _, node: self._node_seen(node),
            lambda node: self._tainted.pop(node.metadata.name, None),
        )

    def _node_seen(self, node: Node) -> None:
        taints = [taint for taint in node.spec.taints if taint.effect == "NoExecute"]
        before = self._tainted.get(node.metadata.name, [])
        self._tainted[node.metadata.name] = taints
        if taints != before:
            self.enqueue(map(object_key, pods_on(self.pods, node.metadata.name)))

    def _concerned(self, pod: Pod) -> str | None:
        """Most nodes are not tainted, and of their pods nothing need be known."""
        key = object_key(pod)
        is_concerned = self._tainted.get(pod.spec.nodeName) or key in self._evictions
        return key if is_concerned else None

    async def reconcile(self, key: str) -> None:
        pod = self.pods.cache.get(key)
        if pod is None or not pod.spec.nodeName or pod.metadata.deletionTimestamp:
            self._evictions.pop(key, None)
            return
        left = seconds_to_live(pod.spec.tolerations, self._tainted.get(pod.spec.nodeName, []))
        planned = self._evictions.get(key)
        now = self.clock.monotonic()
        if left is None:
            if planned is not None:
                del self._evictions[key]
                self._tell(pod, "Cancelling deletion of")
            return
        if planned is None or planned.uid != pod.metadata.uid:
            planned = self._evictions[key] = Eviction(pod.metadata.uid, now + left)
        if left > 0 and planned.due > now:
            self.queue.add_after(key, planned.due - now)
            return
        await self._evict(pod)

    def _tell(self, pod: Pod, what: str) -> None:
        text = f"{what} Pod {object_key(pod)}"
        self.recorder.event(pod, "Normal", "TaintManagerEviction", text)

    async def _evict(self, pod: Pod) -> None:
        self._tell(pod, "Marking for deletion")
        message = "Taint manager: deleting due to NoExecute taint"
        await evict(self.client, pod, "DeletionByTaintManager", message)


async def evict(client: Client, pod: Pod, reason: str, message: str) -> None:
    """Say why, then delete; a pod that is gone, or another by now, is left alone."""
    meta = pod.metadata
    condition = {
        "type": "DisruptionTarget",
        "observedGeneration": meta.generation,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": format_time(client.clock.now()),
    }
    pods = client.resource(Pod)
    with ignoring(outdated):
        await pods.patch(
            meta.name,
            meta.namespace,
            {"metadata": {"uid": meta.uid}, "status": {"conditions": [condition]}},
            subresource="status",
            patch_type=PatchType.STRATEGIC,
        )
        await pods.delete(meta.name, meta.namespace, uid=meta.uid)
