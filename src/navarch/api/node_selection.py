"""Which nodes a pod may be on, as far as its `nodeSelector`, its required node affinity and its
tolerations say.

Whoever places pods and whoever checks afterwards have to agree on this: the scheduler, the kubelet
and the DaemonSet controller.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from navarch.api.types.core_v1 import (
    NodeSelector,
    NodeSelectorRequirement,
    PodSpec,
    Taint,
    Toleration,
)

_INTEGER = re.compile(r"[+-]?\d{1,19}", re.ASCII)


def may_be_on(spec: PodSpec, name: str, labels: Mapping[str, str]) -> bool:
    """Whether a pod chooses the node of that name with these labels."""
    if any(labels.get(key) != value for key, value in spec.nodeSelector.items()):
        return False
    affinity = spec.affinity.nodeAffinity if spec.affinity is not None else None
    required = affinity.requiredDuringSchedulingIgnoredDuringExecution if affinity else None
    return required is None or selects(required, name, labels)


def selects(selector: NodeSelector, name: str, labels: Mapping[str, str]) -> bool:
    """One of the terms has to hold in all its parts; a term without parts holds for no node."""
    fields = {"metadata.name": name}
    return any(
        (term.matchExpressions or term.matchFields)
        and all(holds(item, labels) for item in term.matchExpressions)
        and all(holds(item, fields) for item in term.matchFields)
        for term in selector.nodeSelectorTerms
    )


def holds(requirement: NodeSelectorRequirement, values: Mapping[str, str]) -> bool:
    value, wanted = values.get(requirement.key), requirement.values
    match requirement.operator:
        case "In":
            return value is not None and value in wanted
        case "NotIn":
            return value is None or value not in wanted
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt":
            if value is None or len(wanted) != 1:
                return False
            if not (_INTEGER.fullmatch(value) and _INTEGER.fullmatch(wanted[0])):
                return False
            is_greater = requirement.operator == "Gt"
            number, bound = int(value), int(wanted[0])
            return number > bound if is_greater else number < bound
    return False


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """Whether a toleration matches a taint (core/v1 Toleration)."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return toleration.operator in ("", "Equal") and toleration.value == taint.value
