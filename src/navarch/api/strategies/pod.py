"""Pods: their defaults, what each subresource may change, and the fields they are selected by."""

from __future__ import annotations

from collections.abc import Iterable

from navarch.api.patch.common import copy_json
from navarch.api.strategies.base import Object
from navarch.api.strategies.generic import GenericStrategy, Rules, keep, reset_metadata
from navarch.api.strategies.podspec import default_pod_only, default_pod_spec, quality_of_service
from navarch.api.validation import pod as validation
from navarch.api.validation.pod_warnings import pod_warnings

GATED_MESSAGE = "Scheduling is blocked due to non-empty scheduling gates"


class PodStrategy(GenericStrategy):
    has_generation = True
    default_grace_period_seconds = 30
    rules = Rules(
        validation.validate_pod,
        validation.validate_pod_update,
        status=validation.validate_pod_status_update,
        others={
            "ephemeralcontainers": validation.validate_ephemeral_containers_update,
            "resize": validation.validate_resize,
        },
    )

    def defaults(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        default_pod_spec(spec)
        default_pod_only(spec)

    def prepare_create(self, obj: Object) -> None:
        super().prepare_create(obj)
        spec = obj["spec"]
        if spec.get("schedulingGates"):
            obj["status"]["conditions"] = [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "lastProbeTime": None,
                    "lastTransitionTime": obj["metadata"].get("creationTimestamp"),
                    "reason": "SchedulingGated",
                    "message": GATED_MESSAGE,
                }
            ]
        _apply_match_label_keys(spec, obj["metadata"].get("labels") or {})

    def empty_status(self, obj: Object) -> Object:
        return {"phase": "Pending", "qosClass": quality_of_service(obj["spec"])}

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        if subresource == "ephemeralcontainers":
            containers = (obj.get("spec") or {}).get("ephemeralContainers")
            keep(obj, old, "spec")
            if containers is None:
                obj["spec"].pop("ephemeralContainers", None)
            else:
                obj["spec"]["ephemeralContainers"] = containers
            reset_metadata(obj, old)
        elif subresource == "resize":
            if not _take_only_resources(obj, old):
                keep(obj, old, "status")
                return
            reset_metadata(obj, old)
        elif subresource:
            super().prepare_update(obj, old, subresource)
            _keep_in_status(obj, old)
            return
        super().prepare_update(obj, old, "")

    def warnings(self, obj: Object, old: Object | None) -> Iterable[str]:
        # Pods that are there are hardly ever written by somebody who would read them.
        return pod_warnings(obj) if old is None else []

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        spec, status = obj.get("spec") or {}, obj.get("status") or {}
        node = spec.get("nodeName") or ""
        addresses = status.get("podIPs") or ()
        address = addresses[0].get("ip", "") if addresses else status.get("podIP") or ""
        return {
            "spec.nodeName": node,
            "spec.host": node,
            "spec.restartPolicy": spec.get("restartPolicy") or "",
            "spec.schedulerName": spec.get("schedulerName") or "",
            "spec.serviceAccountName": spec.get("serviceAccountName") or "",
            "spec.hostNetwork": "true" if spec.get("hostNetwork") else "false",
            "status.phase": status.get("phase") or "",
            "status.podIP": address,
            "status.podIPs": address,
            "status.nominatedNodeName": status.get("nominatedNodeName") or "",
        }


def _apply_match_label_keys(spec: Object, labels: Object) -> None:
    """Turn matchLabelKeys and mismatchLabelKeys into requirements on the pod's own values. Pods
    that webhooks or policies change come here twice: each requirement is made once."""
    affinity = spec.get("affinity") or {}
    for side in ("podAffinity", "podAntiAffinity"):
        rules = affinity.get(side) or {}
        for term in rules.get("requiredDuringSchedulingIgnoredDuringExecution") or ():
            _extend_selector(term, labels)
        for weighted in rules.get("preferredDuringSchedulingIgnoredDuringExecution") or ():
            _extend_selector(weighted.get("podAffinityTerm") or {}, labels)
    for constraint in spec.get("topologySpreadConstraints") or ():
        _extend_selector(constraint, labels)


def _extend_selector(term: Object, labels: Object) -> None:
    selector = term.get("labelSelector")
    if selector is None:
        return
    for field, operator in (("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")):
        for key in term.get(field) or ():
            requirement = {"key": key, "operator": operator, "values": [labels.get(key)]}
            expressions = selector.get("matchExpressions") or []
            if key in labels and requirement not in expressions:
                selector["matchExpressions"] = [*expressions, requirement]


def _keep_in_status(obj: Object, old: Object) -> None:
    """What a status update of a pod leaves alone: owners, deletion, and values it does not give."""
    for key in ("ownerReferences", "deletionTimestamp"):
        keep(obj["metadata"], old["metadata"], key)
    status, before = obj.setdefault("status", {}), old.get("status") or {}
    for key in ("qosClass", "observedGeneration"):
        if not status.get(key) and key in before:
            status[key] = before[key]
    generations: dict[str, list[int]] = {}
    for condition in before.get("conditions") or ():
        generation = condition.get("observedGeneration") or 0
        generations.setdefault(condition.get("type", ""), []).append(generation)
    for condition in status.get("conditions") or ():
        known = generations.get(condition.get("type", ""))
        generation = known.pop(0) if known else 0
        if generation and not condition.get("observedGeneration"):
            condition["observedGeneration"] = generation


def _take_only_resources(obj: Object, old: Object) -> bool:
    """Reduce a resize to the resources it names; False if the containers themselves differ, which
    validation then refuses."""
    resized = copy_json(old["spec"])
    for name in ("containers", "initContainers"):
        new, before = obj["spec"].get(name) or [], resized.get(name) or []
        if [item.get("name") for item in new] != [item.get("name") for item in before]:
            return False
        for target, source in zip(before, new, strict=True):
            for key in ("resources", "resizePolicy"):
                keep(target, source, key)
    keep(resized, obj["spec"], "resources")
    obj["spec"] = resized
    return True
