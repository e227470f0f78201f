"""Volumes, claims and classes that are in use outlive their deletion.

Admission gives each a finalizer. A claim that is being deleted loses it when no pod on a node uses
the claim any more; a volume, when no claim is bound to it; a class of attributes, when no claim and
no volume names it. Pods that have no node yet do not count: a kubelet does not start a pod whose
claim is being deleted. Since caches may not know the newest objects, the API server is asked before
anything is let go.
Source: upstream's `pkg/controller/volume/pvcprotection`, `pvprotection` and `vacprotection`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, TypeVar

from navarch.api.persistent_volumes import claim_name
from navarch.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim, Pod
from navarch.api.types.storage_v1 import VolumeAttributesClass
from navarch.client import (
    Controller,
    ControllerContext,
    KubernetesObject,
    PatchType,
    is_controlled_by,
)

T = TypeVar("T", bound=KubernetesObject)
INDEX = "claims"


def claims_of(pod: Pod) -> list[str]:
    """The keys of the claims that a pod's volumes name, its own ephemeral ones among them."""
    names = [claim_name(pod, volume) for volume in pod.spec.volumes]
    return [f"{pod.metadata.namespace}/{name}" for name in names if name]


def is_used_by(claim: PersistentVolumeClaim, pod: Pod) -> bool:
    """Whether a pod keeps a claim. Its ephemeral claims it keeps only until the kubelet is done
    with it: the pod may itself wait for their end."""
    if not pod.spec.nodeName:
        return False
    meta = pod.metadata
    is_done = bool(meta.deletionTimestamp) and meta.deletionGracePeriodSeconds == 0
    return any(
        volume.ephemeral is None or (is_controlled_by(claim, pod) and not is_done)
        for volume in pod.spec.volumes
        if claim_name(pod, volume) == claim.metadata.name
    )


def classes_of(user: PersistentVolumeClaim | PersistentVolume) -> list[str]:
    """The classes of attributes that a claim or a volume has or is to get."""
    found = {user.spec.volumeAttributesClassName}
    if isinstance(user, PersistentVolumeClaim):
        found.add(user.status.currentVolumeAttributesClassName)
        if user.status.modifyVolumeStatus is not None:
            found.add(user.status.modifyVolumeStatus.targetVolumeAttributesClassName)
    return [name for name in found if name]


class Protection(Controller, Generic[T]):
    """Gives objects of a kind their finalizer, and takes it away from deleted ones out of use."""

    finalizer = ""

    def __init__(self, context: ControllerContext, kind: type[T]) -> None:
        super().__init__(context)
        self.kind = kind
        self.objects = context.informers.informer(kind)
        self.watch(self.objects)

    @abstractmethod
    async def is_used(self, obj: T, key: str) -> bool:
        """Whether anybody needs the object; deleted ones stay as long as that is so."""

    async def reconcile(self, key: str) -> None:
        obj = self.objects.cache.get(key)
        if obj is None:
            return
        meta = obj.metadata
        is_protected = self.finalizer in meta.finalizers
        if meta.deletionTimestamp:
            if not is_protected or await self.is_used(obj, key):
                return
            field = "$deleteFromPrimitiveList/finalizers"
        elif is_protected:
            return
        else:
            field = "finalizers"
        body = {"metadata": {"uid": meta.uid, field: [self.finalizer]}}
        await self.client.resource(self.kind).patch(
            meta.name, meta.namespace, body, patch_type=PatchType.STRATEGIC
        )


class ClaimProtectionController(Protection[PersistentVolumeClaim]):
    """Watches: claims; pods, by the claims they use."""

    name = "pvc-protection"
    finalizer = "kubernetes.io/pvc-protection"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context, PersistentVolumeClaim)
        self.pods = context.informers.informer(Pod)
        self.pods.add_index(INDEX, claims_of)
        self.watch(self.pods, claims_of)

    async def is_used(self, obj: PersistentVolumeClaim, key: str) -> bool:
        if any(is_used_by(obj, pod) for pod in self.pods.cache.by_index(INDEX, key)):
            return True
        live = await self.client.resource(Pod).list(obj.metadata.namespace)
        return any(is_used_by(obj, pod) for pod in live.items)


class VolumeProtectionController(Protection[PersistentVolume]):
    """Watches: volumes."""

    name = "pv-protection"
    finalizer = "kubernetes.io/pv-protection"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context, PersistentVolume)

    async def is_used(self, obj: PersistentVolume, key: str) -> bool:
        return obj.status.phase == "Bound"


class ClassProtectionController(Protection[VolumeAttributesClass]):
    """Watches: classes of attributes; claims and volumes, by the classes they name."""

    name = "vac-protection"
    finalizer = "kubernetes.io/vac-protection"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context, VolumeAttributesClass)
        self.watch(context.informers.informer(PersistentVolumeClaim), classes_of)
        self.watch(context.informers.informer(PersistentVolume), classes_of)

    async def is_used(self, obj: VolumeAttributesClass, key: str) -> bool:
        volumes = await self.client.resource(PersistentVolume).list()
        claims = await self.client.resource(PersistentVolumeClaim).list()
        users: list[PersistentVolumeClaim | PersistentVolume] = [*volumes.items, *claims.items]
        return any(obj.metadata.name in classes_of(each) for each in users)
