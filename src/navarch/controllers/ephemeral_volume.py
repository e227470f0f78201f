"""The ephemeral volume controller: claims for volumes that live as long as their pod.

A pod's volume with an `ephemeral.volumeClaimTemplate` is a claim of its own, `<pod>-<volume>`, made
here and owned by the pod, so that it goes with it. A claim of that name which is not the pod's is
never used: the pod waits, and an event says why. A claim that somebody deletes is made again.
Source: KEP-1698, upstream's `pkg/controller/volume/ephemeral`.
"""

from __future__ import annotations

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object
from navarch.api.persistent_volumes import claim_name
from navarch.api.types.core_v1 import PersistentVolumeClaim, Pod, Volume
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Controller, ControllerContext, controller_of, owner_reference

INDEX = "ephemeral claims"


def ephemeral_claims(pod: Pod) -> list[str]:
    """The keys of the claims that are to be made for a pod."""
    return [
        f"{pod.metadata.namespace}/{claim_name(pod, volume)}"
        for volume in pod.spec.volumes
        if volume.ephemeral is not None
    ]


def claim_for(pod: Pod, volume: Volume) -> PersistentVolumeClaim:
    ephemeral = volume.ephemeral
    assert ephemeral is not None and ephemeral.volumeClaimTemplate is not None
    template = copy_object(ephemeral.volumeClaimTemplate)
    return PersistentVolumeClaim(
        metadata=ObjectMeta(
            name=claim_name(pod, volume),
            namespace=pod.metadata.namespace,
            labels=template.metadata.labels,
            annotations=template.metadata.annotations,
            ownerReferences=[owner_reference(pod)],
        ),
        spec=template.spec,
    )


class EphemeralVolumeController(Controller):
    """Watches: pods with such volumes; claims, for those that are deleted."""

    name = "ephemeral-volume"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.recorder = context.recorder("ephemeral_volume")
        self.pods = context.informers.informer(Pod)
        self.claims = context.informers.informer(PersistentVolumeClaim)
        self.pods.add_index(INDEX, ephemeral_claims)
        self.pods.add_handler(on_add=self._pod_seen)
        self.claims.add_handler(on_delete=self._claim_gone)
        self.depends_on(self.pods)
        self.depends_on(self.claims)

    def _pod_seen(self, pod: Pod) -> None:
        if not pod.metadata.deletionTimestamp and ephemeral_claims(pod):
            self.enqueue(f"{pod.metadata.namespace}/{pod.metadata.name}")

    def _claim_gone(self, claim: PersistentVolumeClaim) -> None:
        key = f"{claim.metadata.namespace}/{claim.metadata.name}"
        for pod in self.pods.cache.by_index(INDEX, key):
            self._pod_seen(pod)

    async def reconcile(self, key: str) -> None:
        pod = self.pods.cache.get(key)
        if pod is None or pod.metadata.deletionTimestamp:
            return
        for volume in pod.spec.volumes:
            if volume.ephemeral is not None:
                await self._ensure(pod, volume)

    async def _ensure(self, pod: Pod, volume: Volume) -> None:
        namespace, name = pod.metadata.namespace, claim_name(pod, volume)
        claim = self.claims.cache.get(f"{namespace}/{name}")
        if claim is None:
            try:
                await self.client.resource(PersistentVolumeClaim).create(claim_for(pod, volume))
            except ApiError as error:
                self._complain(pod, volume, f"create PVC {name}: {error.message}")
                raise
            return
        owner = controller_of(claim)
        if owner is None or owner.uid != pod.metadata.uid:
            where = f"{namespace}/{name} was not created for pod {namespace}/{pod.metadata.name}"
            text = f"PVC {where} (pod is not owner)"
            self._complain(pod, volume, text)
            raise ApiError(409, "Conflict", text)

    def _complain(self, pod: Pod, volume: Volume, text: str) -> None:
        message = f"ephemeral volume {volume.name}: {text}"
        self.recorder.event(pod, "Warning", "FailedBinding", message)
