"""Navarch's scheduler, brought to decide upon a given world.

It learns of the world as it does at work: its informers tell their handlers what came, changed and
went. So what is tried is all between an event and a decision, with every array and every cache.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any, cast

from navarch.api.objects import ApiStruct, copy_object, encode
from navarch.api.types.apps_v1 import ReplicaSet, StatefulSet
from navarch.api.types.core_v1 import (
    Namespace,
    Node,
    PersistentVolume,
    PersistentVolumeClaim,
    Pod,
    ReplicationController,
    Service,
)
from navarch.api.types.policy_v1 import PodDisruptionBudget
from navarch.api.types.storage_v1 import (
    CSIDriver,
    CSINode,
    CSIStorageCapacity,
    StorageClass,
    VolumeAttachment,
)
from navarch.client import ControllerContext, FakeClock, object_key
from navarch.client.cache import Cache
from navarch.client.objects import drop_managed_fields
from navarch.scheduler.cycle import Choice, Failure, schedule
from navarch.scheduler.podinfo import PodInfo
from navarch.scheduler.scheduler import Scheduler

from .reference.world import World


class FakeInformer:
    """What an informer is to its readers; `show` and `hide` are the server's events."""

    def __init__(self, transform: Callable[[Any], Any] = lambda obj: obj) -> None:
        self.cache: Cache[Any] = Cache()
        self.add_index = self.cache.add_index
        self.synced = True
        self._transform = transform
        self._handlers: list[tuple[Any, Any, Any]] = []
        self._version = 0

    def add_handler(self, on_add: Any = None, on_update: Any = None, on_delete: Any = None) -> None:
        self._handlers.append((on_add, on_update, on_delete))

    def show(self, key: str, obj: ApiStruct) -> None:
        new: Any = copy_object(obj)
        self._version += 1
        new.metadata.resourceVersion = str(self._version)
        new = self._transform(new)
        old = self.cache.get(key)
        self.cache.put(key, new)
        for on_add, on_update, _ in self._handlers:
            if old is None and on_add is not None:
                on_add(new)
            elif old is not None and on_update is not None:
                on_update(old, new)

    def hide(self, key: str) -> None:
        old = self.cache.get(key)
        self.cache.remove(key)
        for *_, on_delete in self._handlers:
            if on_delete is not None:
                on_delete(old)


class Product:
    """A scheduler whose informers have seen a world."""

    def __init__(self) -> None:
        self._informers: dict[type, FakeInformer] = {}
        self._seen: dict[tuple[type, str], bytes] = {}
        self._rng = random.Random(0)
        nobody = SimpleNamespace(event=lambda *_: None)
        informers = SimpleNamespace(informer=self._informer)
        context = SimpleNamespace(
            client=SimpleNamespace(resource=lambda kind: None, clock=FakeClock()),
            informers=informers,
            clock=FakeClock(),
            recorder=lambda component: nobody,
        )
        self.scheduler = Scheduler(cast("ControllerContext", context))

    def _informer(self, kind: type, transform: Any = None, **_: Any) -> FakeInformer:
        if kind not in self._informers:
            self._informers[kind] = FakeInformer(transform or (lambda obj: obj))
        return self._informers[kind]

    def follow(self, world: World, *, pods_first: bool = False) -> None:
        """Tell of all that is not as it was when this was last called."""
        new: dict[tuple[type, str], Any] = {}
        for kind, objects in _collections(world, pods_first):
            new.update({(kind, object_key(obj)): obj for obj in objects})
        for place in [place for place in self._seen if place not in new]:
            kind, key = place
            self._informers[kind].hide(key)
            del self._seen[place]
        for place, obj in new.items():
            data = encode(obj)
            if self._seen.get(place) != data:
                kind, key = place
                self._informer(kind).show(key, obj)
                self._seen[place] = data

    def decide(self, pod: Pod) -> Choice | Failure:
        scheduler = self.scheduler
        info = PodInfo(drop_managed_fields(copy_object(pod)))
        [profile] = scheduler.profiles.values()
        return schedule(info, scheduler.cluster, scheduler.objects, profile, self._rng)

    def assume(self, pod: Pod, node: str) -> None:
        """The pod counts on the node before the server has told so."""
        self.scheduler.cluster.set_pod(PodInfo(drop_managed_fields(copy_object(pod))), node)


def _collections(world: World, pods_first: bool) -> Iterator[tuple[type, Iterable[Any]]]:
    pods = [pod for pod in world.pods if pod.status.phase not in ("Succeeded", "Failed")]
    if pods_first:
        yield Pod, pods
    yield Namespace, world.namespaces
    yield Node, world.nodes
    yield Service, world.services
    yield ReplicaSet, world.replica_sets
    yield StatefulSet, world.stateful_sets
    yield ReplicationController, world.controllers
    yield PodDisruptionBudget, world.budgets
    yield PersistentVolumeClaim, world.claims
    yield PersistentVolume, world.volumes
    yield StorageClass, world.classes
    yield CSINode, world.csi_nodes
    yield CSIDriver, world.csi_drivers
    yield CSIStorageCapacity, world.capacities
    yield VolumeAttachment, world.attachments
    if not pods_first:
        yield Pod, pods
