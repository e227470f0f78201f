"""The TTL controller: tells kubelets for how long they may trust what they have read of secrets and
ConfigMaps, the longer the bigger the cluster.

The number of seconds is an annotation on each node. The sizes at which it changes overlap, so that
a cluster around a boundary does not change all its nodes again and again.
Source: upstream's `pkg/controller/ttl`.
"""

from __future__ import annotations

from typing import NamedTuple

from navarch.api.types.core_v1 import Node
from navarch.client import Controller, ControllerContext, PatchType

ANNOTATION = "node.alpha.kubernetes.io/ttl"


class Step(NamedTuple):
    least: int
    most: int
    seconds: int


STEPS = (
    Step(0, 100, 0),
    Step(90, 500, 15),
    Step(450, 1000, 30),
    Step(900, 2000, 60),
    Step(1800, 2**31 - 1, 300),
)


def next_step(step: int, nodes: int) -> int:
    """The index of the step for so many nodes, coming from another."""
    while nodes > STEPS[step].most:
        step += 1
    while nodes < STEPS[step].least:
        step -= 1
    return step


class TtlController(Controller):
    """Watches: nodes."""

    name = "ttl"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.nodes = context.informers.informer(Node)
        self._step = 0
        self.watch(self.nodes)
        self.nodes.add_handler(on_add=self._counted, on_delete=self._counted)

    def _counted(self, _: Node) -> None:
        before = self._step
        self._step = next_step(before, len(self.nodes.cache))
        if self._step != before:
            self.enqueue([*self.nodes.cache.keys()])

    async def reconcile(self, key: str) -> None:
        node = self.nodes.cache.get(key)
        wanted = str(STEPS[self._step].seconds)
        if node is None or node.metadata.annotations.get(ANNOTATION) == wanted:
            return
        body = {"metadata": {"annotations": {ANNOTATION: wanted}}}
        await self.client.resource(Node).patch(key, "", body, patch_type=PatchType.STRATEGIC)
