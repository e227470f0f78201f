"""PersistentVolumeClaimResize: a claim may grow only if bound and its class allows expansion."""

from __future__ import annotations

from navarch.api.quantity import parse_quantity
from navarch.apiserver.admission.base import ReadingPlugin, annotations_of, denied
from navarch.apiserver.contracts import AdmissionRequest, Object

_CLASS_ANNOTATION = "volume.beta.kubernetes.io/storage-class"


class PersistentVolumeClaimResize(ReadingPlugin):
    name = "PersistentVolumeClaimResize"
    operations = ("UPDATE",)
    resources = frozenset({("", "persistentvolumeclaims")})

    async def validate(self, request: AdmissionRequest) -> None:
        new, old = request.obj, request.old
        if new is None or old is None or _size(new) <= _size(old):
            return
        if (old.get("status") or {}).get("phase") != "Bound":
            raise denied(request, "Only bound persistent volume claims can be expanded")
        name = claim_class(new)
        if name and name == claim_class(old):
            klass = self._access.lookup.get("storageclasses.storage.k8s.io", "", name)
            if (klass or {}).get("allowVolumeExpansion"):
                return
        raise denied(
            request,
            "only dynamically provisioned pvc can be resized and "
            "the storageclass that provisions the pvc must support resize",
        )


def claim_class(claim: Object) -> str:
    """The storage class of a claim, by its old annotation or its field."""
    annotation = annotations_of(claim).get(_CLASS_ANNOTATION)
    return annotation or (claim.get("spec") or {}).get("storageClassName") or ""


def _size(claim: Object) -> int:
    resources = (claim.get("spec") or {}).get("resources") or {}
    return parse_quantity((resources.get("requests") or {}).get("storage", "0")).value()
