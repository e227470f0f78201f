"""Which nodes a node selector means: evaluated on whole columns of labels."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from navarch.api.node_selection import may_be_on
from navarch.api.types.core_v1 import Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm
from navarch.api.types.meta_v1 import LabelSelector
from navarch.scheduler.cluster import Cluster, Mask
from navarch.scheduler.podinfo import PodInfo

_INTEGER = re.compile(r"[+-]?[0-9]{1,19}", re.ASCII)


def matching_nodes(cluster: Cluster, pod: PodInfo) -> Mask:
    """Nodes that satisfy a pod's nodeSelector and its required node affinity."""

    def compute() -> Mask:
        matching = has_labels(cluster, pod.pod.spec.nodeSelector)
        if (required := pod.required_nodes) is not None:
            matching = matching & selected(cluster, required)
        return matching

    return cluster.cached(("nodes of", pod.node_affinity_key), compute)


def has_labels(cluster: Cluster, labels: Mapping[str, str]) -> Mask:
    result: Mask = np.ones(cluster.size, np.bool_)
    for key, value in labels.items():
        column = cluster.label(key)
        result &= column.column == column.numbers.get(value, -2)
    return result


def matches_labels(cluster: Cluster, selector: LabelSelector) -> Mask:
    """Nodes whose labels match a label selector; one that asks for nothing matches all."""
    result = has_labels(cluster, selector.matchLabels)
    for each in selector.matchExpressions:
        requirement = NodeSelectorRequirement(
            key=each.key, operator=each.operator, values=each.values
        )
        result &= _matches_label(cluster, requirement)
    return result


def selected(cluster: Cluster, selector: NodeSelector) -> Mask:
    """Nodes that match any of the selector's terms."""
    result: Mask = np.zeros(cluster.size, np.bool_)
    for term in selector.nodeSelectorTerms:
        result |= matches_term(cluster, term)
    return result


def matches_term(cluster: Cluster, term: NodeSelectorTerm) -> Mask:
    """Nodes that match all of a term; a term that asks for nothing matches nothing."""
    result: Mask = np.zeros(cluster.size, np.bool_)
    if not term.matchExpressions and not term.matchFields:
        return result
    result[:] = True
    for requirement in term.matchExpressions:
        result &= _matches_label(cluster, requirement)
    for requirement in term.matchFields:
        result &= _matches_name(cluster, requirement)
    return result


def _matches_label(cluster: Cluster, requirement: NodeSelectorRequirement) -> Mask:
    column = cluster.label(requirement.key)
    match requirement.operator:
        case "In":
            numbers = [column.numbers.get(value, -2) for value in requirement.values]
            return np.isin(column.column, numbers)
        case "NotIn":
            numbers = [column.numbers.get(value, -2) for value in requirement.values]
            return np.isin(column.column, numbers, invert=True)
        case "Exists":
            return column.column >= 0
        case "DoesNotExist":
            return column.column < 0
        case "Gt" | "Lt":
            return _compared(cluster, requirement)
    return np.zeros(cluster.size, np.bool_)


def _compared(cluster: Cluster, requirement: NodeSelectorRequirement) -> Mask:
    """Labels that are integers greater (or less) than the one given."""
    column = cluster.label(requirement.key)
    if len(requirement.values) != 1 or not _INTEGER.fullmatch(requirement.values[0]):
        return np.zeros(cluster.size, np.bool_)
    limit = int(requirement.values[0])
    greater = requirement.operator == "Gt"
    passes = np.zeros(len(column.values) + 1, np.bool_)
    for number, value in enumerate(column.values):
        if _INTEGER.fullmatch(value):
            passes[number] = int(value) > limit if greater else int(value) < limit
    return passes[column.column]  # -1, for no label, is the last place: False


def _matches_name(cluster: Cluster, requirement: NodeSelectorRequirement) -> Mask:
    """The only field of nodes that can be asked for is `metadata.name`."""
    result: Mask = np.zeros(cluster.size, np.bool_)
    if requirement.key != "metadata.name":
        return result
    for name in requirement.values:
        if (slot := cluster.slots.get(name)) is not None:
            result[slot] = True
    return result if requirement.operator == "In" else ~result


def is_selected(node: Node, pod: PodInfo) -> bool:
    """`matching_nodes` for one node, which need not be part of the cluster (any more)."""
    return may_be_on(pod.pod.spec, node.metadata.name, node.metadata.labels)
