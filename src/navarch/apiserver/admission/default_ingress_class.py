"""DefaultIngressClass: an ingress that names no class gets the one marked as the default."""

from __future__ import annotations

from navarch.apiserver.admission.base import AdmissionAccess, Plugin, annotations_of, newest_default
from navarch.apiserver.contracts import AdmissionRequest

_CLASS_ANNOTATION = "kubernetes.io/ingress.class"
_DEFAULT = "ingressclass.kubernetes.io/is-default-class"


class DefaultIngressClass(Plugin):
    name = "DefaultIngressClass"
    mutates = True
    operations = ("CREATE",)
    resources = frozenset({("networking.k8s.io", "ingresses")})

    def __init__(self, access: AdmissionAccess) -> None:
        self._access = access

    async def admit(self, request: AdmissionRequest) -> None:
        if request.obj is None:
            return
        spec = request.obj.setdefault("spec", {})
        if spec.get("ingressClassName") is not None:
            return
        if _CLASS_ANNOTATION in annotations_of(request.obj):
            return
        classes = list(self._access.lookup.list("ingressclasses.networking.k8s.io"))
        default = newest_default(classes, _DEFAULT)
        if default is not None:
            spec["ingressClassName"] = default["metadata"]["name"]
