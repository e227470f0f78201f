"""PodResizeValidator: a pod cannot be resized beyond what its node has (KEP-1287)."""

from __future__ import annotations

from navarch.api.pod_resources import parse_amounts, pod_requests
from navarch.api.quantity import parse_quantity
from navarch.apiserver.admission.base import ReadingPlugin, denied, labels_of, spec_of
from navarch.apiserver.contracts import AdmissionRequest, Object

_ZERO = parse_quantity("0")


class PodResizeValidator(ReadingPlugin):
    name = "PodResizeValidator"
    operations = ("UPDATE",)
    resources = frozenset({("", "pods")})
    subresources = ("resize",)

    async def validate(self, request: AdmissionRequest) -> None:
        pod, node_name = request.obj, spec_of(request.obj).get("nodeName")
        if pod is None or not node_name or spec_of(pod) == spec_of(request.old):
            return
        node = self._access.lookup.get("nodes", "", node_name)
        if node is None:
            raise denied(request, f'node "{node_name}" not found')
        system = labels_of(node).get("kubernetes.io/os", "linux")
        if system != "linux":
            why = f'pod resize is only supported on linux nodes, node "{node_name}" is "{system}"'
            raise _refusal(request, why, "UnsupportedPlatform")
        lacking = _lacking(pod, node)
        if lacking:
            why = f"node didn't have enough allocatable resources: {lacking}"
            raise _refusal(request, why, "NodeCapacity")


def _lacking(pod: Object, node: Object) -> str:
    requests = pod_requests(pod)
    allocatable = parse_amounts((node.get("status") or {}).get("allocatable"))
    parts = []
    for name in ("cpu", "memory"):
        wanted, there = requests.get(name, _ZERO), allocatable.get(name, _ZERO)
        if wanted > there:
            in_milli = name == "cpu"
            asked = wanted.milli_value() if in_milli else wanted.value()
            given = there.milli_value() if in_milli else there.value()
            parts.append(f"{name}, requested: {asked}, allocatable: {given}")
    return "; ".join(parts)


def _refusal(request: AdmissionRequest, why: str, reason: str) -> Exception:
    error = denied(request, why)
    error.details = {**(error.details or {}), "causes": [{"reason": reason}]}
    return error
