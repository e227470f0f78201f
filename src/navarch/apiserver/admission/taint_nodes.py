"""TaintNodesByCondition: a new node is tainted not-ready until a controller has seen it ready.

Without the taint pods could be bound to it in the moment before."""

from __future__ import annotations

from navarch.apiserver.admission.base import Plugin
from navarch.apiserver.contracts import AdmissionRequest

NOT_READY = {"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}


class TaintNodesByCondition(Plugin):
    name = "TaintNodesByCondition"
    mutates = True
    operations = ("CREATE",)
    resources = frozenset({("", "nodes")})

    async def admit(self, request: AdmissionRequest) -> None:
        if request.obj is None:
            return
        spec = request.obj.setdefault("spec", {})
        taints = spec.get("taints") or []
        same = ("key", "effect")
        if not any(all(t.get(f) == NOT_READY[f] for f in same) for t in taints):
            spec["taints"] = [*taints, dict(NOT_READY)]
