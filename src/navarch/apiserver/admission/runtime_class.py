"""RuntimeClass: a pod's runtime class must exist, and lends the pod its overhead and scheduling."""

from __future__ import annotations

from navarch.apiserver.admission.base import ReadingPlugin, denied, spec_of
from navarch.apiserver.contracts import AdmissionRequest, Object

RESOURCE = "runtimeclasses.node.k8s.io"


class RuntimeClass(ReadingPlugin):
    name = "RuntimeClass"
    operations = ("CREATE",)
    resources = frozenset({("", "pods")})

    async def admit(self, request: AdmissionRequest) -> None:
        klass = await self._class_of(request)
        if klass is None or request.obj is None:
            return
        spec, overhead = spec_of(request.obj), _overhead(klass)
        if overhead:
            if spec.get("overhead") and spec["overhead"] != overhead:
                raise _mismatch(request)
            spec["overhead"] = dict(overhead)
        scheduling = klass.get("scheduling") or {}
        selector = dict(spec.get("nodeSelector") or {})
        for key, value in (scheduling.get("nodeSelector") or {}).items():
            if selector.get(key, value) != value:
                raise denied(
                    request,
                    f"conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; "
                    f"pod.spec.nodeSelector[{key}] = {selector[key]}",
                )
            selector[key] = value
        if selector:
            spec["nodeSelector"] = selector
        tolerations = scheduling.get("tolerations") or []
        if tolerations:
            spec["tolerations"] = merge_tolerations(spec.get("tolerations") or [], tolerations)

    async def validate(self, request: AdmissionRequest) -> None:
        klass, held = await self._class_of(request), spec_of(request.obj).get("overhead")
        overhead = _overhead(klass) if klass is not None else None
        if overhead is not None:
            if overhead != (held or {}):
                raise _mismatch(request)
        elif held is not None:
            why = "Pod Overhead set without corresponding RuntimeClass defined Overhead"
            raise denied(request, f"pod rejected: {why}")

    async def _class_of(self, request: AdmissionRequest) -> Object | None:
        name = spec_of(request.obj).get("runtimeClassName")
        if name is None:
            return None
        klass = await self._access.find(RESOURCE, "", name)
        if klass is None:
            raise denied(request, f'pod rejected: RuntimeClass "{name}" not found')
        return klass


def merge_tolerations(first: list[Object], second: list[Object]) -> list[Object]:
    """Both lists without the tolerations that another one includes; of equals the first stays."""
    every, merged = [*first, *second], list[Object]()
    for index, toleration in enumerate(every):
        if any(_includes(other, toleration) for other in merged):
            continue
        later = every[index + 1 :]
        if any(other != toleration and _includes(other, toleration) for other in later):
            continue
        merged.append(toleration)
    return merged


def _includes(wider: Object, narrower: Object) -> bool:
    if wider == narrower:
        return True
    key, operator = wider.get("key", ""), wider.get("operator") or "Equal"
    if narrower.get("key", "") != key and (key or operator != "Exists"):
        return False
    effect = wider.get("effect", "")
    if effect and narrower.get("effect", "") != effect:
        return False
    seconds = wider.get("tolerationSeconds")
    if effect == "NoExecute" and seconds is not None:
        wanted = narrower.get("tolerationSeconds")
        if wanted is None or wanted > seconds:
            return False
    if operator == "Exists":
        return True
    same = narrower.get("value", "") == wider.get("value", "")
    return operator == "Equal" and narrower.get("operator") == "Equal" and same


def _overhead(klass: Object) -> Object | None:
    """What the class adds to its pods; None when it says nothing about it."""
    overhead = klass.get("overhead")
    return None if overhead is None else overhead.get("podFixed") or {}


def _mismatch(request: AdmissionRequest) -> Exception:
    why = "Pod's Overhead doesn't match RuntimeClass's defined Overhead"
    return denied(request, f"pod rejected: {why}")
