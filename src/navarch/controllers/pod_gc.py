"""The pod garbage collector: takes away pods that nobody else will.

Four sorts: pods bound to a node that has been gone for a while (`quarantine`, for a node may be
registered anew), deleted pods that never had a node, deleted pods on a node that an operator has
declared out of service, and finished pods beyond a threshold, evicted and old ones first. None of
them has a kubelet that would end them, so they are marked as failed where they had not finished,
for Jobs count them by that, and deleted without grace.

Source: upstream's `pkg/controller/podgc`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

from navarch.api.errors import ignoring, outdated
from navarch.api.times import format_time
from navarch.api.types.core_v1 import Node, Pod
from navarch.client import Controller, ControllerContext, PatchType, object_key, slow_start
from navarch.controllers.pods import find_condition, index_by_node, is_terminal, pods_on

THRESHOLD_KEY = "finished pods"
"""No pod's key: those have a slash."""
THRESHOLD_SECONDS = 20.0
QUARANTINE_SECONDS = 40.0
AT_ONCE = 50
"""So many pods are deleted at the same time."""
OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"


class Verdict(Enum):
    KEEP = "keep"
    NO_NODE = "its node does not exist"
    UNSCHEDULED = "deleted before it had a node"
    OUT_OF_SERVICE = "deleted on a node that is out of service"


def judge(pod: Pod, node: Node | None) -> Verdict:
    """What is to become of one pod; `node` is the one it is bound to, as far as known."""
    is_deleted = bool(pod.metadata.deletionTimestamp)
    if not pod.spec.nodeName:
        return Verdict.UNSCHEDULED if is_deleted else Verdict.KEEP
    if node is None:
        return Verdict.NO_NODE
    if is_deleted and is_out_of_service(node):
        return Verdict.OUT_OF_SERVICE
    return Verdict.KEEP


def is_out_of_service(node: Node) -> bool:
    ready = find_condition(node.status.conditions, "Ready")
    is_tainted = any(taint.key == OUT_OF_SERVICE for taint in node.spec.taints)
    return is_tainted and (ready is None or ready.status != "True")


def surplus(pods: Iterable[Pod], threshold: int) -> Sequence[Pod]:
    """The finished pods beyond the threshold."""
    finished = [pod for pod in pods if is_terminal(pod)]
    excess = len(finished) - threshold
    if threshold <= 0 or excess <= 0:
        return []

    def rank(pod: Pod) -> tuple[bool, str, str]:
        is_evicted = pod.status.reason == "Evicted"
        return (not is_evicted, pod.metadata.creationTimestamp, object_key(pod))

    return sorted(finished, key=rank)[:excess]


class PodGarbageCollector(Controller):
    """Watches: pods that might need it, and the nodes they are bound to."""

    name = "pod-garbage-collector"

    def __init__(
        self,
        context: ControllerContext,
        *,
        terminated_pod_threshold: int = 12500,
        quarantine: float = QUARANTINE_SECONDS,
    ) -> None:
        super().__init__(context)
        self.threshold = terminated_pod_threshold
        self.quarantine = quarantine
        self.pods = context.informers.informer(Pod)
        index_by_node(self.pods)
        self.nodes = context.informers.informer(Node)
        self.resource = self.client.resource(Pod)
        for informer in (self.pods, self.nodes):
            self.depends_on(informer)
        self.pods.add_handler(self._consider, lambda old, new: self._consider(new))
        self.nodes.add_handler(
            on_update=lambda old, new: self._node_changed(new), on_delete=self._node_gone
        )

    def _consider(self, pod: Pod) -> None:
        if is_terminal(pod) and self.threshold > 0:
            self.queue.add_after(THRESHOLD_KEY, THRESHOLD_SECONDS)
        verdict = judge(pod, self.nodes.cache.get(pod.spec.nodeName))
        if verdict is Verdict.NO_NODE:
            self.queue.add_after(object_key(pod), self.quarantine)
        elif verdict is not Verdict.KEEP:
            self.enqueue(object_key(pod))

    def _node_changed(self, node: Node) -> None:
        if is_out_of_service(node):
            self._node_gone(node)

    def _node_gone(self, node: Node) -> None:
        for pod in pods_on(self.pods, node.metadata.name):
            self._consider(pod)

    async def reconcile(self, key: str) -> None:
        if key == THRESHOLD_KEY:
            excess = surplus(self.pods.cache.list(), self.threshold)
            _, failure = await slow_start(
                len(excess), lambda index: self._take(excess[index], Verdict.KEEP), AT_ONCE
            )
            if failure is not None:
                raise failure
            return
        pod = self.pods.cache.get(key)
        if pod is None:
            return
        verdict = judge(pod, self.nodes.cache.get(pod.spec.nodeName))
        if verdict is Verdict.KEEP:
            return
        # The server is asked, for a cache that lags must not cost pods.
        nodes = self.client.resource(Node)
        if verdict is not Verdict.NO_NODE or await nodes.find(pod.spec.nodeName) is None:
            await self._take(pod, verdict)

    async def _take(self, pod: Pod, verdict: Verdict) -> None:
        meta = pod.metadata
        # Gone, or made anew under the same name, which the uid tells.
        with ignoring(outdated):
            if not is_terminal(pod):
                await self.resource.patch(
                    meta.name,
                    meta.namespace,
                    self._failed(pod, verdict),
                    subresource="status",
                    patch_type=PatchType.STRATEGIC,
                )
            await self.resource.delete(meta.name, meta.namespace, uid=meta.uid, grace_period=0)

    def _failed(self, pod: Pod, verdict: Verdict) -> dict[str, Any]:
        generation = pod.metadata.generation
        status: dict[str, Any] = {"phase": "Failed", "observedGeneration": generation}
        if verdict is Verdict.NO_NODE:
            condition = {
                "type": "DisruptionTarget",
                "observedGeneration": generation,
                "status": "True",
                "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists",
                "lastTransitionTime": format_time(self.clock.now()),
            }
            status["conditions"] = [condition]
        return {"metadata": {"uid": pod.metadata.uid}, "status": status}
