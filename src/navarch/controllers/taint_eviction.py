"""The taint eviction controller: pods leave nodes with NoExecute taints they do not tolerate.

A pod without a matching toleration is deleted at once; one whose tolerations are limited in time is
deleted when the shortest of them runs out, counted from the taint's `timeAdded`; a taint that is
taken away in time cancels it. Nothing is remembered: what is due is worked out anew each time.

Source: KEP-166 (taint based evictions), upstream's `pkg/controller/tainteviction`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from navarch.api.errors import ApiError
from navarch.api.node_selection import tolerates
from navarch.api.times import format_time, parse_time
from navarch.api.types.core_v1 import Node, Pod, Taint, Toleration
from navarch.client import Controller, ControllerContext, PatchType
from navarch.client.objects import object_key
from navarch.controllers.pods import is_active


def seconds_to_live(
    tolerations: Sequence[Toleration], taints: Sequence[Taint], now: datetime
) -> float | None:
    """How long a pod may stay on a node with these NoExecute taints: None for ever, 0 or less not
    at all."""
    left: list[float] = []
    for taint in taints:
        matching = [t for t in tolerations if tolerates(t, taint)]
        if not matching:
            return 0.0
        limits = [t.tolerationSeconds for t in matching if t.tolerationSeconds is not None]
        if limits:
            since = parse_time(taint.timeAdded) if taint.timeAdded else now
            left.append(max(0, min(limits)) - (now - since).total_seconds())
    return min(left, default=None)


class TaintEvictionController(Controller):
    """Watches: nodes (which wake the pods on them) and pods."""

    name = "taint-eviction"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.recorder = context.recorder("taint-eviction-controller")
        self.nodes = context.informers.informer(Node)
        self.pods = context.informers.informer(Pod)
        self._tainted: dict[str, list[Taint]] = {}
        self.watch(self.pods)
        self.depends_on(self.nodes)
        self.nodes.add_handler(self._node_seen, lambda _, node: self._node_seen(node))

    def _node_seen(self, node: Node) -> None:
        taints = [taint for taint in node.spec.taints if taint.effect == "NoExecute"]
        before = self._tainted.get(node.metadata.name, [])
        self._tainted[node.metadata.name] = taints
        if taints != before:
            self.enqueue(
                object_key(pod)
                for pod in self.pods.cache.list()
                if pod.spec.nodeName == node.metadata.name
            )

    async def reconcile(self, key: str) -> None:
        pod = self.pods.cache.get(key)
        if pod is None or not pod.spec.nodeName or not is_active(pod):
            return
        node = self.nodes.cache.get(pod.spec.nodeName)
        taints = [t for t in node.spec.taints if t.effect == "NoExecute"] if node else []
        if not taints:
            return
        left = seconds_to_live(pod.spec.tolerations, taints, self.clock.now())
        if left is None:
            return
        if left > 0:
            self.queue.add_after(key, left)
            return
        await self._evict(pod)

    async def _evict(self, pod: Pod) -> None:
        meta = pod.metadata
        text = f"Marking for deletion Pod {meta.namespace}/{meta.name}"
        self.recorder.event(pod, "Normal", "TaintManagerEviction", text)
        condition = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint",
            "lastTransitionTime": format_time(self.clock.now()),
        }
        pods = self.client.resource(Pod)
        try:
            await pods.patch(
                meta.name,
                meta.namespace,
                {"metadata": {"uid": meta.uid}, "status": {"conditions": [condition]}},
                subresource="status",
                patch_type=PatchType.STRATEGIC,
            )
            await pods.delete(meta.name, meta.namespace, uid=meta.uid)
        except ApiError as error:
            if not error.is_not_found and not error.is_conflict:
                raise
