"""What comes between choosing a node and binding the pod to it: its claims get their volumes.

The decision is assumed at once, so that the next pod does not get the same volume. Then it is
written: volumes are reserved for their claims, and claims that need a new volume are told the node.
The binder and the provisioners do the rest, and the pod is bound when they are through. What they
cannot do for this node ends the attempt, and the pod is scheduled anew.
Source: KEP-490; upstream's `pkg/scheduler/framework/plugins/volumebinding`.
"""

from __future__ import annotations

from collections.abc import Callable

from navarch.api.node_selection import selects
from navarch.api.objects import Object, copy_object, from_object
from navarch.api.persistent_volumes import (
    BOUND_BY_CONTROLLER,
    SELECTED_NODE,
    claim_reference,
    is_fully_bound,
    names_claim,
    reservation,
)
from navarch.api.types.core_v1 import Node, ObjectReference, PersistentVolume, PersistentVolumeClaim
from navarch.client import Client, object_key
from navarch.client.clock import timeout
from navarch.scheduler.framework import VolumePlan
from navarch.scheduler.lookups import InformerObjects
from navarch.scheduler.news import News
from navarch.scheduler.podinfo import PodInfo


class VolumesFailed(Exception):
    """The claims do not get their volumes on this node."""


class VolumeBinder:
    """Make it before the informers start."""

    def __init__(self, client: Client, objects: InformerObjects) -> None:
        self._client = client
        self._claims, self._volumes = objects.assumed_claims, objects.assumed_volumes
        self.news = News()
        """Of claims and their volumes, and of pods, by the claim's key or the pod's uid."""
        wake = self._wake_claim
        objects.claims.add_handler(wake, lambda _, new: wake(new), wake)
        wake_owner = self._wake_owner
        objects.volumes.add_handler(wake_owner, lambda _, new: wake_owner(new), wake_owner)

    def assume(self, plan: VolumePlan, node: str) -> None:
        """From now on the volumes are taken."""
        for claim, volume in plan.bindings:
            taken = copy_object(volume)
            if not names_claim(volume, claim):
                taken.metadata.annotations[BOUND_BY_CONTROLLER] = "yes"
            taken.spec.claimRef = from_object(ObjectReference, claim_reference(claim))
            self._volumes.put(taken)
        for claim in plan.provisions:
            told = copy_object(claim)
            told.metadata.annotations[SELECTED_NODE] = node
            self._claims.put(told)

    def forget(self, plan: VolumePlan) -> None:
        """Take back what is not written."""
        for _, volume in plan.bindings:
            self._volumes.forget(volume.metadata.name)
        for claim in plan.provisions:
            self._claims.forget(object_key(claim))

    def _wake_claim(self, claim: PersistentVolumeClaim) -> None:
        self.news.tell(object_key(claim))

    def _wake_owner(self, volume: PersistentVolume) -> None:
        if (ref := volume.spec.claimRef) is not None:
            self.news.tell(f"{ref.namespace}/{ref.name}")

    async def bind(
        self,
        info: PodInfo,
        plan: VolumePlan,
        node: Callable[[], Node | None],
        is_wanted: Callable[[], bool],
    ) -> None:
        """Return when every claim is bound. Raises VolumesFailed, or ApiError from a write."""
        claims = [*(claim for claim, _ in plan.bindings), *plan.provisions]
        with self.news.of([*map(object_key, claims), info.uid]) as woken:
            try:
                await self._write(plan, _name(node()))
                async with timeout(self._client.clock, plan.seconds):
                    while not self._is_done(plan, node(), is_wanted()):
                        await woken.wait()
                        woken.clear()
            except TimeoutError:
                raise VolumesFailed("binding volumes: context deadline exceeded") from None

    async def _write(self, plan: VolumePlan, node: str) -> None:
        for claim, volume in plan.bindings:
            body = reservation(volume, claim)
            if body is not None:
                meta = {**body.get("metadata", {}), **_guard(volume)}
                written = await self._client.resource(PersistentVolume).patch(
                    volume.metadata.name, "", {**body, "metadata": meta}
                )
                self._volumes.put(written, is_written=True)
        for claim in plan.provisions:
            if claim.metadata.annotations.get(SELECTED_NODE) == node:
                continue
            change: Object = {"annotations": {SELECTED_NODE: node}, **_guard(claim)}
            told = await self._client.resource(PersistentVolumeClaim).patch(
                claim.metadata.name, claim.metadata.namespace, {"metadata": change}
            )
            self._claims.put(told, is_written=True)

    def _is_done(self, plan: VolumePlan, node: Node | None, is_wanted: bool) -> bool:
        """Whether all claims are bound. Raises VolumesFailed when that is not to be expected."""
        if node is None or not is_wanted:
            raise VolumesFailed("binding volumes: the pod or the node does not exist any more")
        done = True
        for claim, volume in plan.bindings:
            current = self._current(claim)
            found = self._volumes.get(volume.metadata.name)
            if found is None:
                problem = f'persistentvolume "{volume.metadata.name}" not found'
                raise VolumesFailed(f"binding volumes: failed to check binding: {problem}")
            _check_affinity(found, node)
            if found.spec.claimRef is None or not found.spec.claimRef.uid:
                name = found.metadata.name
                raise VolumesFailed(f'binding volumes: ClaimRef got reset for pv "{name}"')
            done &= is_fully_bound(current)
        for claim in plan.provisions:
            current = self._current(claim)
            if current.metadata.annotations.get(SELECTED_NODE) != node.metadata.name:
                name = claim.metadata.name
                raise VolumesFailed(f'binding volumes: provisioning failed for PVC "{name}"')
            made = self._volumes.get(current.spec.volumeName) if current.spec.volumeName else None
            if made is not None:
                _check_affinity(made, node)
            done &= made is not None and is_fully_bound(current)
        return done

    def _current(self, claim: PersistentVolumeClaim) -> PersistentVolumeClaim:
        found = self._claims.get(object_key(claim))
        if found is None or found.metadata.uid != claim.metadata.uid:
            problem = f'persistentvolumeclaim "{claim.metadata.name}" not found'
            raise VolumesFailed(f"binding volumes: failed to check binding: {problem}")
        return found


def _name(node: Node | None) -> str:
    return node.metadata.name if node is not None else ""


def _guard(obj: PersistentVolume | PersistentVolumeClaim) -> Object:
    return {"resourceVersion": obj.metadata.resourceVersion}


def _check_affinity(volume: PersistentVolume, node: Node) -> None:
    affinity = volume.spec.nodeAffinity
    required = affinity.required if affinity is not None else None
    meta = node.metadata
    if required is not None and not selects(required, meta.name, meta.labels):
        raise VolumesFailed(
            f'binding volumes: pv "{volume.metadata.name}" node affinity doesn\'t match node '
            f'"{meta.name}": no matching NodeSelectorTerms'
        )
