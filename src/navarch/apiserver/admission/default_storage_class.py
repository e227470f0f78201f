"""DefaultStorageClass: a claim that names no class gets the one marked as the default."""

from __future__ import annotations

from navarch.apiserver.admission.base import AdmissionAccess, Plugin, annotations_of, newest_default
from navarch.apiserver.contracts import AdmissionRequest

_CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"
_DEFAULT = (
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
)


class DefaultStorageClass(Plugin):
    name = "DefaultStorageClass"
    mutates = True
    operations = ("CREATE",)
    resources = frozenset({("", "persistentvolumeclaims")})

    def __init__(self, access: AdmissionAccess) -> None:
        self._access = access

    async def admit(self, request: AdmissionRequest) -> None:
        if request.obj is None:
            return
        spec = request.obj.setdefault("spec", {})
        if spec.get("storageClassName") is not None:
            return  # "" is a wish too: no class
        if _CLASS_ANNOTATION in annotations_of(request.obj):
            return
        classes = list(self._access.lookup.list("storageclasses.storage.k8s.io"))
        default = newest_default(classes, *_DEFAULT)
        if default is not None:
            spec["storageClassName"] = default["metadata"]["name"]
