"""Follows the ConfigMaps and Secrets whose files pods have mounted, so that a change is soon there,
and the claims behind their volumes: one may be bound late, or its volume may grow.

As upstream's watch-based managers do, each referenced object has a watch of its own (the node
authorizer lets a node see what its pods refer to and nothing else), shared by all pods that mount
it. To keep it small, only metadata is watched and nothing is kept but a version: pods whose files
were made from another one are told, and read the object anew. Watches have a limit; what is beyond
it is seen by the refresh that every pod has once a minute anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from navarch.api.persistent_volumes import claim_name
from navarch.api.types.core_v1 import Pod
from navarch.client.client import Client
from navarch.client.informer import Informer, Scope
from navarch.client.objects import PartialObject

from .objects import CLAIMS, ROOT_CERTIFICATES, ApiObjects, Reference
from .podspec import is_terminal
from .volumes.payload import references

WATCH_LIMIT = 100
SETTLE_SECONDS = 1.0
"""A pod's start is not slowed down by watches; and one that is over soon needs none."""


def mounted_objects(pod: Pod) -> frozenset[Reference]:
    """The objects that the pod's volumes are made of."""
    if is_terminal(pod) or pod.metadata.deletionTimestamp is not None:
        return frozenset()
    namespace = pod.metadata.namespace
    found = [references(volume) for volume in pod.spec.volumes]
    named = [
        *(("configmaps", name) for each in found for name in each.config_maps),
        *(("secrets", name) for each in found for name in each.secrets),
        *((CLAIMS, claim_name(pod, volume)) for volume in pod.spec.volumes),
    ]
    return frozenset(
        Reference(plural, namespace, name)
        for plural, name in named
        if name not in ("", ROOT_CERTIFICATES)  # those are not worth a watch
    )


@dataclass
class _Followed:
    """An object under watch."""

    pods: set[str] = field(default_factory=set)
    task: asyncio.Task[None] | None = None


class Follower:
    """The watches of one node. Its owner runs `run` and tells it of pods."""

    def __init__(self, client: Client, objects: ApiObjects, refresh: Callable[[str], None]) -> None:
        self._client, self._objects, self._refresh = client, objects, refresh
        self._followed: dict[Reference, _Followed] = {}
        self._wanted: dict[str, frozenset[Reference]] = {}
        self._group: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Follows until cancelled."""
        async with asyncio.TaskGroup() as self._group:
            for reference, followed in self._followed.items():
                self._begin(reference, followed)
            await asyncio.Event().wait()

    def follow(self, pod: Pod) -> None:
        """The pod is new, or has changed."""
        uid, wanted = pod.metadata.uid, mounted_objects(pod)
        before = self._wanted.get(uid, frozenset())
        if wanted == before:
            return
        for reference in before - wanted:
            self._leave(reference, uid)
        for reference in wanted - before:
            self._objects.remember(reference)
            followed = self._followed.setdefault(reference, _Followed())
            followed.pods.add(uid)
            self._begin(reference, followed)
        if wanted:
            self._wanted[uid] = wanted
        else:
            self._wanted.pop(uid, None)

    def forget(self, pod: Pod) -> None:
        """The pod is gone."""
        uid = pod.metadata.uid
        for reference in self._wanted.pop(uid, ()):
            self._leave(reference, uid)

    def _begin(self, reference: Reference, followed: _Followed) -> None:
        watches = sum(each.task is not None for each in self._followed.values())
        if self._group is not None and followed.task is None and watches < WATCH_LIMIT:
            followed.task = self._group.create_task(self._watch(reference), name=str(reference))

    def _leave(self, reference: Reference, uid: str) -> None:
        followed = self._followed[reference]
        followed.pods.discard(uid)
        if followed.pods:
            return
        del self._followed[reference]
        self._objects.forget(reference)
        if followed.task is not None:
            followed.task.cancel()
            waiting = (each for each in self._followed.items() if each[1].task is None)
            for each in waiting:
                self._begin(*each)
                break

    async def _watch(self, reference: Reference) -> None:
        await self._client.clock.sleep(SETTLE_SECONDS)
        resource = self._client.metadata("", "v1", reference.plural)
        selector = f"metadata.name={reference.name}"
        informer = Informer(resource, Scope(reference.namespace, field_selector=selector))

        def seen(found: PartialObject) -> None:
            self._told(reference, found.metadata.resourceVersion)

        informer.add_handler(
            seen, lambda old, new: seen(new), lambda last: self._told(reference, "")
        )
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(informer.run(), name=f"watch {reference}")
            await informer.wait_synced()
            if not informer.cache.list():
                self._told(reference, "")  # it was gone before anybody watched

    def _told(self, reference: Reference, version: str) -> None:
        if self._objects.supersede(reference, version):
            for uid in self._followed[reference].pods:
                self._refresh(uid)
