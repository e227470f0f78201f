"""PodTopologyLabels: a pod gets its node's zone and region as labels when it is bound (KEP-4742).

A binding carries the labels to the pod, so the plug-in puts them on the binding; a pod that is
created with a node gets them directly."""

from __future__ import annotations

from navarch.apiserver.admission.base import ReadingPlugin, spec_of
from navarch.apiserver.contracts import AdmissionRequest

LABELS = ("topology.kubernetes.io/zone", "topology.kubernetes.io/region")


class PodTopologyLabels(ReadingPlugin):
    name = "PodTopologyLabels"
    operations = ("CREATE",)
    resources = frozenset({("", "pods")})
    subresources = ("", "binding")

    async def admit(self, request: AdmissionRequest) -> None:
        obj = request.obj
        if obj is None:
            return
        if request.info.subresource:
            target = obj.get("target") or {}
            node_name = target.get("name") if target.get("kind") == "Node" else None
        else:
            node_name = spec_of(obj).get("nodeName")
        if not node_name:
            return
        labels = self._access.lookup.labels("nodes", "", node_name)
        found = {key: labels[key] for key in LABELS if key in labels}
        if found:
            metadata = obj.setdefault("metadata", {})
            metadata["labels"] = {**(metadata.get("labels") or {}), **found}
