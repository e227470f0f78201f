"""Says who makes a claim's volume larger.

No kind of volume is grown by the control plane itself any more: CSI drivers bring a resizer, and
the volumes that were built in once are theirs, too. So this controller only tells the user, and
those resizers, that there is something to do.
Source: upstream's `pkg/controller/volume/expand`.
"""

from __future__ import annotations

from navarch.api.objects import Object
from navarch.api.persistent_volumes import (
    MIGRATED_PROVISIONERS,
    MIGRATED_SOURCES,
    is_to_grow,
    requested,
)
from navarch.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim
from navarch.client import Controller, ControllerContext, object_key, split_key

RESIZER = "volume.kubernetes.io/storage-resizer"


def in_tree_plugin(volume: PersistentVolume) -> str:
    """The built-in kind of the volume that a CSI driver acts for; empty for all others."""
    for source, plugin in MIGRATED_SOURCES.items():
        if getattr(volume.spec, source) is not None:
            return plugin
    return ""


class PersistentVolumeExpander(Controller):
    """Watches: claims that are bound, when they begin to ask for more."""

    name = "persistentvolume-expander"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.claims = context.informers.informer(PersistentVolumeClaim)
        self.volumes = context.informers.informer(PersistentVolume)
        self.depends_on(self.claims)
        self.depends_on(self.volumes)
        self.claims.add_handler(self._seen, self._changed)
        self.recorder = context.recorder("volume_expand")

    def _seen(self, claim: PersistentVolumeClaim) -> None:
        if is_to_grow(claim):
            self.queue.add(object_key(claim))

    def _changed(self, old: PersistentVolumeClaim, new: PersistentVolumeClaim) -> None:
        if is_to_grow(new) and requested(old) < requested(new):
            self.queue.add(object_key(new))

    async def reconcile(self, key: str) -> None:
        claim = self.claims.cache.get(key)
        volume = self.volumes.cache.get(claim.spec.volumeName) if claim is not None else None
        if claim is None or volume is None or not is_to_grow(claim):
            return
        plugin = in_tree_plugin(volume)
        if not plugin:
            text = "waiting for an external controller to expand this PVC"
            self.recorder.event(claim, "Normal", "ExternalExpanding", text)
            return
        text = f"CSI migration enabled for {plugin}; waiting for external resizer to expand the pvc"
        self.recorder.event(claim, "Normal", "ExternalExpanding", text)
        namespace, name = split_key(key)
        body: Object = {"metadata": {"annotations": {RESIZER: MIGRATED_PROVISIONERS[plugin]}}}
        await self.client.resource(PersistentVolumeClaim).patch(name, namespace, body)
