"""Binds claims for storage to volumes, and lets volumes go when their claims are gone.

A claim gets the smallest free volume that fits, or the one it names, or the one that is reserved
for it. If there is none, whoever provisions volumes for its class is asked for one. Claims of
classes that wait for their first consumer are bound when the scheduler has chosen a node: it
reserves a volume (or names the node for the provisioner), and the binding is completed here.
Source: upstream's `pkg/controller/volume/persistentvolume`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from navarch.api.objects import Object
from navarch.api.persistent_volumes import (
    BETA_STORAGE_PROVISIONER,
    BIND_COMPLETED,
    DEFAULT_CLASS,
    MIGRATED_TO,
    STORAGE_PROVISIONER,
    claim_class,
    default_class,
    reservation,
    volume_class,
    waits_for_consumer,
)
from navarch.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim, Pod
from navarch.api.types.storage_v1 import StorageClass
from navarch.client import Controller, ControllerContext, Informer, object_key, split_key
from navarch.controllers.persistent_volume_plan import (
    SETTLED,
    AskProvisioner,
    AssignClass,
    Bind,
    ClaimAction,
    HandOver,
    Say,
    SayOfClaim,
    SetClaimPhase,
    SetVolumePhase,
    Unbind,
    VolumeAction,
    Wake,
    link_patch,
    phase_patch,
    plan_claim,
    plan_volume,
    status_patch,
    unbind_patch,
)
from navarch.controllers.volume_protection import claims_of

T = TypeVar("T", PersistentVolume, PersistentVolumeClaim)

BY_CLASS, BY_VOLUME, BY_CLAIM, BY_USE = "class", "volume", "claim", "binder claims"


class Newest:
    """Volumes and claims as the informers know them, or newer, if it was us who changed them: what
    was decided a moment ago must count when the next claim looks for a volume."""

    def __init__(
        self, volumes: Informer[PersistentVolume], claims: Informer[PersistentVolumeClaim]
    ) -> None:
        self._volumes, self._claims = volumes, claims
        self._own_volumes: dict[str, PersistentVolume] = {}
        self._own_claims: dict[str, PersistentVolumeClaim] = {}

    def note(self, obj: PersistentVolume | PersistentVolumeClaim) -> None:
        """The answer to one of our writes."""
        if isinstance(obj, PersistentVolume):
            self._own_volumes[object_key(obj)] = obj
        else:
            self._own_claims[object_key(obj)] = obj

    def volume(self, name: str) -> PersistentVolume | None:
        return _newer(self._volumes.cache.get(name), self._own_volumes, name)

    def claim(self, key: str) -> PersistentVolumeClaim | None:
        return _newer(self._claims.cache.get(key), self._own_claims, key)

    def reserved_for(self, key: str) -> list[PersistentVolume]:
        names = {each.metadata.name for each in self._volumes.cache.by_index(BY_CLAIM, key)}
        # Our own writes are not in the index yet.
        return [each for each in self._of({*names, *self._own_volumes}) if key in _claim_of(each)]

    def of_class(self, name: str) -> list[PersistentVolume]:
        found = self._volumes.cache.by_index(BY_CLASS, name)
        return self._of(each.metadata.name for each in found)

    def _of(self, names: Iterable[str]) -> list[PersistentVolume]:
        return [each for name in names if (each := self.volume(name)) is not None]


def _newer(known: T | None, own: dict[str, T], key: str) -> T | None:
    mine = own.get(key)
    if mine is None:
        return known
    is_same = known is not None and known.metadata.uid == mine.metadata.uid
    if known is not None and is_same and _version(known) < _version(mine):
        return mine
    del own[key]
    return known


def _version(obj: PersistentVolume | PersistentVolumeClaim) -> int:
    return int(obj.metadata.resourceVersion)


def _claim_of(volume: PersistentVolume) -> list[str]:
    ref = volume.spec.claimRef
    return [f"{ref.namespace}/{ref.name}"] if ref is not None else []


def _class_of_waiting(claim: PersistentVolumeClaim) -> list[str]:
    return [] if BIND_COMPLETED in claim.metadata.annotations else [claim_class(claim)]


class PersistentVolumeBinder(Controller):
    """Watches: claims and volumes, each waking the other; classes, which wake the claims that
    wait; pods without a node, which claims tell of while they wait for one. Keys with a slash are
    claims, the others volumes. One worker: of two claims that fit one volume only one may get it.
    """

    name = "persistentvolume-binder"
    workers = 1

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        informers = context.informers
        self.volumes = informers.informer(PersistentVolume)
        self.claims = informers.informer(PersistentVolumeClaim)
        self.classes = informers.informer(StorageClass)
        self.pods = informers.informer(Pod)
        self.volumes.add_index(BY_CLASS, lambda volume: [volume_class(volume)])
        self.volumes.add_index(BY_CLAIM, _claim_of)
        self.claims.add_index(BY_CLASS, _class_of_waiting)
        self.claims.add_index(BY_VOLUME, lambda claim: [claim.spec.volumeName])
        self.pods.add_index(BY_USE, claims_of)
        self.watch(self.volumes, self._woken_by_volume)
        self.watch(self.claims, _woken_by_claim)
        self.watch(self.classes, self._woken_by_class)
        self.watch(self.pods, self._woken_by_pod)
        self.newest = Newest(self.volumes, self.claims)
        self.recorder = context.recorder("persistentvolume-controller")

    # What the plans ask for

    def volume(self, name: str) -> PersistentVolume | None:
        return self.newest.volume(name)

    def reserved_for(self, claim: PersistentVolumeClaim) -> Sequence[PersistentVolume]:
        return self.newest.reserved_for(object_key(claim))

    def of_class(self, name: str) -> Sequence[PersistentVolume]:
        return self.newest.of_class(name)

    def storage_class(self, name: str) -> StorageClass | None:
        return self.classes.cache.get(name)

    def default_class(self) -> StorageClass | None:
        return default_class(self.classes.cache.list())

    def waiting_pods(self, claim: PersistentVolumeClaim) -> Sequence[str]:
        users = self.pods.cache.by_index(BY_USE, object_key(claim))
        return [
            each.metadata.name
            for each in users
            if not each.spec.nodeName and each.status.phase not in ("Succeeded", "Failed")
        ]

    # Who is woken

    def _woken_by_volume(self, volume: PersistentVolume) -> list[str]:
        name = volume.metadata.name
        keys = [name, *_claim_of(volume)]
        keys += map(object_key, self.claims.cache.by_index(BY_VOLUME, name))
        if volume.status.phase == "Available" and volume.spec.claimRef is None:
            wanted = volume_class(volume)
            if not waits_for_consumer(self.classes.cache.get(wanted)):
                keys += map(object_key, self.claims.cache.by_index(BY_CLASS, wanted))
        return keys

    def _woken_by_class(self, storage_class: StorageClass) -> list[str]:
        names = {storage_class.metadata.name}
        if not storage_class.metadata.annotations.keys().isdisjoint(DEFAULT_CLASS):
            names.add("")
        cache = self.claims.cache
        return [object_key(each) for name in names for each in cache.by_index(BY_CLASS, name)]

    def _woken_by_pod(self, pod: Pod) -> list[str]:
        if pod.spec.nodeName:
            return []
        found = [self.claims.cache.get(key) for key in claims_of(pod)]
        return [object_key(each) for each in found if each is not None and _class_of_waiting(each)]

    # At work

    async def reconcile(self, key: str) -> None:
        if "/" in key:
            claim = self.newest.claim(key)
            if claim is not None:
                for action in plan_claim(claim, self):
                    claim = await self._apply_to_claim(claim, action)
            return
        volume = self.newest.volume(key)
        if volume is not None:
            for step in plan_volume(volume, await self._claim_of(volume)):
                volume = await self._apply_to_volume(volume, step)

    async def _claim_of(self, volume: PersistentVolume) -> PersistentVolumeClaim | None:
        """The claim that the volume is bound to. Before a volume is given up, the API server is
        asked: a cache may not know yet of a claim that somebody else bound."""
        ref = volume.spec.claimRef
        if ref is None or not ref.uid:
            return None
        claim = self.newest.claim(f"{ref.namespace}/{ref.name}")
        is_it = claim is not None and claim.metadata.uid == ref.uid
        if not is_it and (claim is not None or volume.status.phase not in SETTLED):
            claims = self.client.resource(PersistentVolumeClaim)
            claim = await claims.find(ref.name, ref.namespace)
        return claim if claim is not None and claim.metadata.uid == ref.uid else None

    async def _apply_to_claim(
        self, claim: PersistentVolumeClaim, action: ClaimAction
    ) -> PersistentVolumeClaim:
        match action:
            case Say(kind, reason, message):
                self.recorder.event(claim, kind, reason, message)
                return claim
            case SetClaimPhase(phase):
                return await self._patch(claim, status_patch(claim, phase, None), "status")
            case Bind(volume):
                volume = await self._patch(volume, reservation(volume, claim))
                await self._patch(volume, phase_patch(volume, "Bound"), "status")
                claim = await self._patch(claim, link_patch(claim, volume))
                return await self._patch(claim, status_patch(claim, "Bound", volume), "status")
            case AssignClass(name):
                return await self._patch(claim, {"spec": {"storageClassName": name}})
            case AskProvisioner(name, migrated):
                wanted = {STORAGE_PROVISIONER: name, BETA_STORAGE_PROVISIONER: name}
                if migrated:
                    wanted[MIGRATED_TO] = name
                if claim.metadata.annotations.get(STORAGE_PROVISIONER) == name:
                    return claim
                return await self._patch(claim, {"metadata": {"annotations": wanted}})

    async def _apply_to_volume(
        self, volume: PersistentVolume, action: VolumeAction
    ) -> PersistentVolume:
        match action:
            case Say(kind, reason, message):
                self.recorder.event(volume, kind, reason, message)
            case SayOfClaim(claim, say):
                self.recorder.event(claim, say.type, say.reason, say.message)
            case SetVolumePhase(phase, message):
                return await self._patch(volume, phase_patch(volume, phase, message), "status")
            case HandOver(driver):
                body: Object = {"metadata": {"annotations": {MIGRATED_TO: driver}}}
                return await self._patch(volume, body)
            case Unbind():
                volume = await self._patch(volume, unbind_patch(volume))
                return await self._patch(volume, phase_patch(volume, "Available"), "status")
            case Wake(key):
                self.queue.add(key)
        return volume

    async def _patch(self, obj: T, body: Object | None, subresource: str = "") -> T:
        """Write a change, if there is one, provided that nobody else changed the object since."""
        if body is None:
            return obj
        guard = {"resourceVersion": obj.metadata.resourceVersion}
        body = {**body, "metadata": {**body.get("metadata", {}), **guard}}
        namespace, name = split_key(object_key(obj))
        new = await self.client.resource(type(obj)).patch(
            name, namespace, body, subresource=subresource
        )
        self.newest.note(new)
        return new


def _woken_by_claim(claim: PersistentVolumeClaim) -> list[str]:
    name = claim.spec.volumeName
    return [object_key(claim), name] if name else [object_key(claim)]
