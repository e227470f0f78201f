"""NamespaceLifecycle: nothing new in a namespace that ends or is not there; some never end."""

from __future__ import annotations

import time
from collections.abc import Callable

from navarch.api.errors import forbidden, not_found
from navarch.apiserver.admission.base import AdmissionAccess, Plugin, denied
from navarch.apiserver.contracts import AdmissionRequest, Object

IMMORTAL = frozenset({"default", "kube-system", "kube-public"})
DOUBT_SECONDS = 30.0
"""How long after a DELETE of a namespace the cache is not trusted to say it is active."""
_REVIEWS = ("authorization.k8s.io", "localsubjectaccessreviews")


class NamespaceLifecycle(Plugin):
    name = "NamespaceLifecycle"
    operations = ("CREATE", "UPDATE", "DELETE")

    def __init__(self, access: AdmissionAccess, now: Callable[[], float] = time.monotonic) -> None:
        self._access = access
        self._now = now
        self._doubtful: dict[str, float] = {}

    def handles(self, request: AdmissionRequest) -> bool:
        info = request.info
        if (info.group, info.resource) == ("", "namespaces"):
            return request.operation == "DELETE" and not info.subresource
        return bool(info.namespace) and request.operation in ("CREATE", "UPDATE")

    async def admit(self, request: AdmissionRequest) -> None:
        info = request.info
        if info.resource == "namespaces":
            if info.name in IMMORTAL:
                raise forbidden("namespaces", "", info.name, "this namespace may not be deleted")
            self._doubtful[info.name] = self._now() + DOUBT_SECONDS
            return
        if (info.group, info.resource) == _REVIEWS:
            return  # an answer about the namespace would tell who may not know of it
        namespace = await self._namespace(info.namespace)
        if namespace is None:
            raise not_found("namespaces", "", info.namespace)
        if request.operation == "CREATE" and _phase(namespace) == "Terminating":
            raise _terminating(request)

    async def _namespace(self, name: str) -> Object | None:
        found = self._access.lookup.get("namespaces", "", name)
        if name in self._doubtful:
            if self._doubtful[name] < self._now():
                del self._doubtful[name]
            elif found is not None and _phase(found) == "Active":
                found = None
        return found if found is not None else await self._access.get("namespaces", "", name)


def _phase(namespace: Object) -> str:
    return str((namespace.get("status") or {}).get("phase", "Active"))


def _terminating(request: AdmissionRequest) -> Exception:
    name = request.info.namespace
    why = f"unable to create new content in namespace {name} because it is being terminated"
    error = denied(request, why)
    cause = {
        "reason": "NamespaceTerminating",
        "message": f"namespace {name} is being terminated",
        "field": "metadata.namespace",
    }
    error.details = {**(error.details or {}), "causes": [cause]}
    return error
