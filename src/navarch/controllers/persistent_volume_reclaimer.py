"""Lets volumes made of directories go: what is on disk first, then the object.

The other half of the built-in provisioner, as its protocol has it: a volume with policy Delete that
was released is removed by its node, which is asked and answers by annotations.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from navarch.api.errors import ignoring, missing
from navarch.api.persistent_volumes import (
    EXTERNAL_FINALIZER,
    LOCAL_NODE,
    LOCAL_PROVISIONER,
    LOCAL_REMOVE,
    LOCAL_REMOVED,
    local_answers,
)
from navarch.api.types.core_v1 import Node, PersistentVolume
from navarch.client import Controller, ControllerContext, PatchType
from navarch.controllers.persistent_volume_provisioner import is_ours, is_simulated

AT_ONCE = 200
"""So many removals are asked of one node at a time: annotations are limited in size."""
GONE_SECONDS = 60.0
"""How long a node has to be away to count as gone, with its disk. One that runs on makes its object
anew when somebody has deleted it; and what is on its disk would be there for good."""


@dataclass(frozen=True, slots=True)
class Reclaim:
    """What to do about the volumes of one node."""

    request: str = ""
    """The node's annotation as it has to be."""
    done: tuple[PersistentVolume, ...] = ()
    """Nothing is left of these on disk."""
    failed: tuple[tuple[PersistentVolume, str], ...] = ()
    released: tuple[PersistentVolume, ...] = ()
    """These are kept by the user's wish, so that they need no guard (any more)."""
    unguarded: tuple[PersistentVolume, ...] = ()
    """These need one since the policy has become Delete."""


def plan_reclaim(
    volumes: Sequence[PersistentVolume], node: Node | None, *, is_away: bool = False
) -> Reclaim:
    """What is to be done; `is_away` if the missing node may come back."""
    by_policy: dict[tuple[bool, bool], list[PersistentVolume]] = defaultdict(list)
    for each in sorted(volumes, key=lambda each: each.metadata.name):
        goes = each.spec.persistentVolumeReclaimPolicy == "Delete"
        is_guarded = EXTERNAL_FINALIZER in each.metadata.finalizers
        if is_guarded or not each.metadata.deletionTimestamp:
            by_policy[goes, is_guarded].append(each)
    released, unguarded = tuple(by_policy[False, True]), tuple(by_policy[True, False])
    candidates = [*by_policy[True, True], *unguarded]
    to_go = [each for each in candidates if each.status.phase in ("Released", "Failed")]
    if node is None or is_simulated(node):
        return Reclaim("", () if is_away else tuple(to_go), (), released, unguarded)
    answers = local_answers(node)
    done = [each for each in to_go if answers.get(each.metadata.name) == ""]
    failed = [(e, answers[e.metadata.name]) for e in to_go if answers.get(e.metadata.name)]
    left = [each.metadata.name for each in to_go if each not in done]
    request = ",".join(left[:AT_ONCE])
    return Reclaim(request, tuple(done), tuple(failed), released, unguarded)


class LocalReclaimer(Controller):
    """Watches: volumes, by their nodes; nodes. Keys are names of nodes."""

    name = "local-path-reclaimer"
    workers = 2

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.volumes = context.informers.informer(PersistentVolume)
        self.nodes = context.informers.informer(Node)
        self.volumes.add_index(self.name, _node_of)
        self.watch(self.volumes, _node_of)
        self.depends_on(self.nodes)
        self.nodes.add_handler(
            lambda node: self.enqueue(node.metadata.name),
            self._node_changed,
            lambda node: self.enqueue(node.metadata.name),
        )
        self._away: dict[str, float] = {}
        """Since when (monotonic) nodes are not there that have volumes."""
        self.recorder = context.recorder(LOCAL_PROVISIONER)

    def _node_changed(self, old: Node, new: Node) -> None:
        before, after = old.metadata.annotations, new.metadata.annotations
        if any(before.get(key) != after.get(key) for key in (LOCAL_REMOVE, LOCAL_REMOVED)):
            self.enqueue(new.metadata.name)

    async def reconcile(self, key: str) -> None:
        node = self.nodes.cache.get(key)
        volumes = self.volumes.cache.by_index(self.name, key)
        todo = plan_reclaim(volumes, node, is_away=self._is_away(key, bool(volumes)))
        for volume in todo.done:
            await self._delete(volume)
        for volume in todo.released:
            await self._guard(volume, False)
        for volume in todo.unguarded:
            if volume not in todo.done:
                await self._guard(volume, True)
        for volume, problem in todo.failed:
            await self._fail(volume, problem)
        asked = node.metadata.annotations.get(LOCAL_REMOVE, "") if node is not None else ""
        if node is not None and asked != todo.request:
            body = {"metadata": {"annotations": {LOCAL_REMOVE: todo.request or None}}}
            await self.client.resource(Node).patch(key, "", body)

    def _is_away(self, name: str, has_volumes: bool) -> bool:
        """Whether the node is not there, but has not been gone for long."""
        if self.nodes.cache.get(name) is not None or not has_volumes:
            self._away.pop(name, None)
            return False
        now = self.clock.monotonic()
        left = self._away.setdefault(name, now) + GONE_SECONDS - now
        if left > 0:
            self.queue.add_after(name, left)
        return left > 0

    async def _delete(self, volume: PersistentVolume) -> None:
        if not volume.metadata.deletionTimestamp:
            await self.client.resource(PersistentVolume).remove(volume)
        await self._guard(volume, False)

    async def _guard(self, volume: PersistentVolume, is_to_be: bool) -> None:
        meta = volume.metadata
        field = "finalizers" if is_to_be else "$deleteFromPrimitiveList/finalizers"
        body = {"metadata": {"uid": meta.uid, field: [EXTERNAL_FINALIZER]}}
        with ignoring(missing):
            await self.client.resource(PersistentVolume).patch(
                meta.name, "", body, patch_type=PatchType.STRATEGIC
            )

    async def _fail(self, volume: PersistentVolume, problem: str) -> None:
        """Told once, tried again by the node."""
        if volume.status.message == problem:
            return
        self.recorder.event(volume, "Warning", "VolumeFailedDelete", problem)
        body = {"status": {"phase": "Failed", "message": problem}}
        name = volume.metadata.name
        await self.client.resource(PersistentVolume).patch(name, "", body, subresource="status")


def _node_of(volume: PersistentVolume) -> list[str]:
    node = volume.metadata.annotations.get(LOCAL_NODE)
    return [node] if node and is_ours(volume) else []
