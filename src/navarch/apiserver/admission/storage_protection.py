"""StorageObjectInUseProtection: volumes, claims and attribute classes are born with a finalizer.

Controllers remove it when nothing uses the object any more, so data is not pulled from under a pod.
"""

from __future__ import annotations

from navarch.apiserver.admission.base import Plugin
from navarch.apiserver.contracts import AdmissionRequest

FINALIZERS = {
    ("", "persistentvolumes"): "kubernetes.io/pv-protection",
    ("", "persistentvolumeclaims"): "kubernetes.io/pvc-protection",
    ("storage.k8s.io", "volumeattributesclasses"): "kubernetes.io/vac-protection",
}


class StorageObjectInUseProtection(Plugin):
    name = "StorageObjectInUseProtection"
    mutates = True
    operations = ("CREATE",)
    resources = frozenset(FINALIZERS)

    async def admit(self, request: AdmissionRequest) -> None:
        if request.obj is None:
            return
        finalizer = FINALIZERS[request.info.group, request.info.resource]
        metadata = request.obj["metadata"]
        if finalizer not in (metadata.get("finalizers") or ()):
            metadata["finalizers"] = [*(metadata.get("finalizers") or ()), finalizer]
