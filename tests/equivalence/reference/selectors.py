"""Which labels a selector means, and which nodes a node selector means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from navarch.api.types.core_v1 import (
    Node,
    NodeSelector,
    NodeSelectorRequirement,
    NodeSelectorTerm,
    Pod,
    Taint,
    Toleration,
)
from navarch.api.types.meta_v1 import LabelSelector

Labels = Mapping[str, str]
Requirement = tuple[str, str, tuple[str, ...]]
Selector = list[Requirement] | None
"""All of them have to hold. An empty list matches everything, None nothing at all."""


def parsed(selector: LabelSelector | None) -> Selector:
    if selector is None:
        return None
    result: list[Requirement] = []
    for key, value in selector.matchLabels.items():
        result.append((key, "In", (value,)))
    for each in selector.matchExpressions:
        result.append((each.key, each.operator, tuple(each.values)))
    return result


def exactly(labels: Labels) -> list[Requirement]:
    return [(key, "In", (value,)) for key, value in labels.items()]


def matches(selector: Selector, labels: Labels) -> bool:
    if selector is None:
        return False
    return all(holds(labels, key, operator, values) for key, operator, values in selector)


def holds(labels: Labels, key: str, operator: str, values: Iterable[str]) -> bool:
    values = list(values)
    if operator == "In":
        return key in labels and labels[key] in values
    if operator == "NotIn":
        return key not in labels or labels[key] not in values
    if operator == "Exists":
        return key in labels
    if operator == "DoesNotExist":
        return key not in labels
    if operator in ("Gt", "Lt"):
        if key not in labels or len(values) != 1:
            return False
        try:
            left, right = int(labels[key]), int(values[0])
        except ValueError:
            return False
        return left > right if operator == "Gt" else left < right
    raise ValueError(operator)


def term_selects(term: NodeSelectorTerm, name: str, labels: Labels) -> bool:
    if not term.matchExpressions and not term.matchFields:
        return False
    for each in term.matchExpressions:
        if not holds(labels, each.key, each.operator, each.values):
            return False
    return all(_holds_of_name(field, name) for field in term.matchFields)


def _holds_of_name(field: NodeSelectorRequirement, name: str) -> bool:
    if field.key != "metadata.name":
        return False
    return (name in field.values) == (field.operator == "In")


def selects(selector: NodeSelector, name: str, labels: Labels) -> bool:
    return any(term_selects(term, name, labels) for term in selector.nodeSelectorTerms)


def required_nodes(pod: Pod) -> NodeSelector | None:
    affinity = pod.spec.affinity
    if affinity is None or affinity.nodeAffinity is None:
        return None
    return affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution


def wants_node(pod: Pod, node: Node) -> bool:
    """The pod's nodeSelector and its required node affinity."""
    labels = node.metadata.labels
    for key, value in pod.spec.nodeSelector.items():
        if labels.get(key) != value:
            return False
    required = required_nodes(pod)
    return required is None or selects(required, node.metadata.name, labels)


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator in ("", "Equal"):
        return toleration.value == taint.value
    return toleration.operator == "Exists"


def is_tolerated(tolerations: Iterable[Toleration], taint: Taint) -> bool:
    return any(tolerates(toleration, taint) for toleration in tolerations)


def has_untolerated_taint(pod: Pod, node: Node) -> bool:
    for taint in node.spec.taints:
        keeps_away = taint.effect in ("NoSchedule", "NoExecute")
        if keeps_away and not is_tolerated(pod.spec.tolerations, taint):
            return True
    return False
