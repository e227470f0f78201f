"""DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or unreachable."""

from __future__ import annotations

from navarch.apiserver.admission.base import Plugin
from navarch.apiserver.contracts import AdmissionRequest

SECONDS = 300
TAINTS = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


class DefaultTolerationSeconds(Plugin):
    name = "DefaultTolerationSeconds"
    resources = frozenset({("", "pods")})

    async def admit(self, request: AdmissionRequest) -> None:
        if request.obj is None:
            return
        spec = request.obj.setdefault("spec", {})
        tolerations = spec.get("tolerations") or []
        for taint in TAINTS:
            if not any(
                t.get("key", "") in (taint, "") and t.get("effect", "") in ("NoExecute", "")
                for t in tolerations
            ):
                toleration = {"key": taint, "operator": "Exists", "effect": "NoExecute"}
                tolerations = [*tolerations, {**toleration, "tolerationSeconds": SECONDS}]
        if tolerations:
            spec["tolerations"] = tolerations
