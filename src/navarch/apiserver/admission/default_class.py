"""DefaultStorageClass and DefaultIngressClass: a claim or ingress that names no class gets the one
marked as the default."""

from __future__ import annotations

from typing import ClassVar

from navarch.apiserver.admission.base import ReadingPlugin, annotations_of, newest_default
from navarch.apiserver.contracts import AdmissionRequest


class DefaultClass(ReadingPlugin):
    mutates = True
    operations = ("CREATE",)
    field: ClassVar[str]
    """Of the spec. "" there is a wish, too: no class."""
    annotation: ClassVar[str]
    """What named the class before the field did."""
    classes: ClassVar[str]
    marks: ClassVar[tuple[str, ...]]
    """Annotations of the default class."""

    async def admit(self, request: AdmissionRequest) -> None:
        if request.obj is None:
            return
        spec = request.obj.setdefault("spec", {})
        if spec.get(self.field) is not None or self.annotation in annotations_of(request.obj):
            return
        default = newest_default(list(self._access.lookup.list(self.classes)), *self.marks)
        if default is not None:
            spec[self.field] = default["metadata"]["name"]


class DefaultStorageClass(DefaultClass):
    name = "DefaultStorageClass"
    resources = frozenset({("", "persistentvolumeclaims")})
    field = "storageClassName"
    annotation = "volume.beta.kubernetes.io/storage-class"
    classes = "storageclasses.storage.k8s.io"
    marks = (
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    )


class DefaultIngressClass(DefaultClass):
    name = "DefaultIngressClass"
    resources = frozenset({("networking.k8s.io", "ingresses")})
    field = "ingressClassName"
    annotation = "kubernetes.io/ingress.class"
    classes = "ingressclasses.networking.k8s.io"
    marks = ("ingressclass.kubernetes.io/is-default-class",)
