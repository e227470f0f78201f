"""What makes the arguments of a plugin unusable, in upstream's words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from navarch.api.errors import (
    FieldError,
    duplicate,
    forbidden_field,
    invalid,
    not_supported,
    required,
)
from navarch.api.names import label_value, qualified_name
from navarch.api.objects import to_object
from navarch.api.times import format_duration
from navarch.api.types.core_v1 import NodeSelectorRequirement, NodeSelectorTerm

from .arguments import (
    LEAST,
    LIST,
    MOST,
    RATIO,
    SYSTEM,
    DefaultPreemptionArgs,
    DynamicResourcesArgs,
    InterPodAffinityArgs,
    NodeAffinityArgs,
    NodeResourcesBalancedAllocationArgs,
    NodeResourcesFitArgs,
    PodTopologySpreadArgs,
    ShapePoint,
    VolumeBindingArgs,
)

_INTEGER = re.compile(r"[+-]?[0-9]+", re.ASCII)
Found = Iterator[FieldError]


def default_preemption(path: str, args: DefaultPreemptionArgs) -> Found:
    percentage, absolute = args.minCandidateNodesPercentage, args.minCandidateNodesAbsolute
    one, other = f"{path}.minCandidateNodesPercentage", f"{path}.minCandidateNodesAbsolute"
    if not 0 <= percentage <= 100:
        yield invalid(one, percentage, "not in valid range [0, 100]")
    if absolute < 0:
        yield invalid(other, absolute, "not in valid range [0, inf)")
    if percentage == absolute == 0:
        both = "cannot be zero at the same time as"
        yield invalid(one, 0, f"{both} minCandidateNodesAbsolute")
        yield invalid(other, 0, f"{both} minCandidateNodesPercentage")


def inter_pod_affinity(path: str, args: InterPodAffinityArgs) -> Found:
    weight = args.hardPodAffinityWeight
    if not 0 <= weight <= 100:
        yield invalid(f"{path}.hardPodAffinityWeight", weight, "not in valid range [0, 100]")


def pod_topology_spread(path: str, args: PodTopologySpreadArgs) -> Found:
    kind = args.defaultingType
    if kind not in (SYSTEM, LIST):
        yield not_supported(f"{path}.defaultingType", kind, (SYSTEM, LIST))
    elif kind == SYSTEM and args.defaultConstraints:
        yield invalid(f"{path}.defaultingType", kind, "when .defaultConstraints are not empty")
    seen = set()
    for index, each in enumerate(args.defaultConstraints):
        here = f"{path}.defaultConstraints[{index}]"
        if each.maxSkew <= 0:
            yield invalid(f"{here}.maxSkew", each.maxSkew, "not in valid range (0, inf)")
        if not each.topologyKey:
            yield required(f"{here}.topologyKey", "can not be empty")
        else:
            yield from _label_name(f"{here}.topologyKey", each.topologyKey)
        if not each.whenUnsatisfiable:
            yield required(f"{here}.whenUnsatisfiable", "can not be empty")
        elif each.whenUnsatisfiable not in ("DoNotSchedule", "ScheduleAnyway"):
            choices = ("DoNotSchedule", "ScheduleAnyway")
            yield not_supported(f"{here}.whenUnsatisfiable", each.whenUnsatisfiable, choices)
        if each.labelSelector is not None:
            yield forbidden_field(
                f"{here}.labelSelector",
                "constraint must not define a selector, as they deduced for each pod",
            )
        which = (each.topologyKey, each.whenUnsatisfiable)
        if which in seen:
            yield duplicate(here, f"{{{which[0]}, {which[1]}}}")
        seen.add(which)


def balanced_allocation(path: str, args: NodeResourcesBalancedAllocationArgs) -> Found:
    seen = set()
    for index, each in enumerate(args.resources):
        if each.name in seen:
            yield duplicate(f"{path}.resources[{index}].name", each.name)
        seen.add(each.name)
        if each.weight != 1:
            yield invalid(f"{path}.resources[{index}].weight", each.weight, "must be 1")


def node_affinity(path: str, args: NodeAffinityArgs) -> Found:
    added = args.addedAffinity
    if added is None:
        return
    here = f"{path}.addedAffinity"
    chosen = added.requiredDuringSchedulingIgnoredDuringExecution
    for index, term in enumerate(chosen.nodeSelectorTerms if chosen else ()):
        at = f"{here}.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[{index}]"
        yield from _node_term(at, term)
    for index, each in enumerate(added.preferredDuringSchedulingIgnoredDuringExecution):
        at = f"{here}.preferredDuringSchedulingIgnoredDuringExecution[{index}]"
        if each.weight:
            yield from _node_term(at, each.preference)


def volume_binding(path: str, args: VolumeBindingArgs) -> Found:
    if args.bindTimeoutSeconds < 0:
        yield invalid(
            f"{path}.bindTimeoutSeconds",
            args.bindTimeoutSeconds,
            "invalid BindTimeoutSeconds, should not be a negative value",
        )
    if args.shape is not None:
        yield invalid(
            f"{path}.shape",
            [{"Utilization": each.utilization, "Score": each.score} for each in args.shape],
            "unexpected field `shape`, remove it or turn on the feature gate "
            "StorageCapacityScoring",
        )


def dynamic_resources(path: str, args: DynamicResourcesArgs) -> Found:
    for name, least, detail in (
        ("filterTimeout", 0, "must be zero or positive"),
        ("bindingTimeout", 1, "must be at least 1 second"),
    ):
        value = getattr(args, name)
        if value < least:
            yield invalid(f"{path}.{name}", format_duration(value), detail)


def node_resources_fit(path: str, args: NodeResourcesFitArgs) -> Found:
    prefix = f"{path}." if path else ""
    for index, name in enumerate(args.ignoredResources):
        yield from _label_name(f"{prefix}ignoredResources[{index}]", name)
    for index, group in enumerate(args.ignoredResourceGroups):
        here = f"{prefix}ignoredResourceGroups[{index}]"
        if "/" in group:
            yield invalid(here, group, "resource group name can't contain '/'")
        yield from _label_name(here, group)
    strategy, here = args.scoringStrategy, f"{prefix}scoringStrategy"
    if strategy.type not in (LEAST, MOST, RATIO):
        yield not_supported(f"{here}.type", strategy.type, (LEAST, MOST, RATIO))
    for index, resource in enumerate(strategy.counted):
        if not 0 < resource.weight <= 100:
            detail = f"resource weight of {resource.name} not in valid range (0, 100]"
            yield invalid(f"{here}.resources[{index}].weight", resource.weight, detail)
    ratio, here = strategy.requestedToCapacityRatio, f"{here}.requestedToCapacityRatio"
    if strategy.type != RATIO:
        if ratio is not None:
            yield forbidden_field(here, "must be nil when type is not RequestedToCapacityRatio")
    elif ratio is None:
        yield required(here, "must be specified when type is RequestedToCapacityRatio")
    else:
        yield from _shape(f"{here}.shape", ratio.shape)


def _shape(path: str, shape: tuple[ShapePoint, ...]) -> Found:
    if not shape:
        yield required(path, "at least one point must be specified")
    for index, (one, next_one) in enumerate(pairwise(shape), 1):
        if one.utilization >= next_one.utilization:
            detail = "values must be sorted in increasing order"
            yield invalid(f"{path}[{index}].utilization", next_one.utilization, detail)
            break
    for index, each in enumerate(shape):
        for name, value, most in (
            ("utilization", each.utilization, 100),
            ("score", each.score, 10),
        ):
            if not 0 <= value <= most:
                yield invalid(f"{path}[{index}].{name}", value, f"not in valid range [0, {most}]")


def _label_name(path: str, name: str) -> Iterable[FieldError]:
    return (invalid(path, name, text) for text in qualified_name(name))


def _node_term(path: str, term: NodeSelectorTerm) -> Found:
    for index, each in enumerate(term.matchExpressions):
        yield from _expression(f"{path}.matchExpressions[{index}]", each)
    for index, each in enumerate(term.matchFields):
        here = f"{path}.matchFields[{index}]"
        if each.operator not in ("In", "NotIn"):
            yield not_supported(f"{here}.operator", each.operator, ("In", "NotIn"))
        elif len(each.values) != 1:
            yield invalid(f"{here}.values", each.values or None, "must have one element")


_NUMBERS_OF_VALUES: Mapping[str, tuple[Callable[[int], bool], str]] = {
    **dict.fromkeys(
        ("In", "NotIn"), (bool, "for 'in', 'notin' operators, values set can't be empty")
    ),
    **dict.fromkeys(
        ("Exists", "DoesNotExist"),
        (lambda count: not count, "values set must be empty for exists and does not exist"),
    ),
    **dict.fromkeys(
        ("Gt", "Lt"),
        (lambda count: count == 1, "for 'Gt', 'Lt' operators, exactly one value is required"),
    ),
}


def _expression(path: str, each: NodeSelectorRequirement) -> Found:
    if each.operator not in _NUMBERS_OF_VALUES:
        yield not_supported(f"{path}.operator", each.operator, tuple(_NUMBERS_OF_VALUES))
        return
    yield from _label_name(f"{path}.key", each.key)
    is_right, text = _NUMBERS_OF_VALUES[each.operator]
    if not is_right(len(each.values)):
        yield invalid(f"{path}.values", to_object(each).get("values"), text)
    for index, value in enumerate(each.values):
        if each.operator in ("Gt", "Lt") and not _INTEGER.fullmatch(value):
            detail = "for 'Gt', 'Lt' operators, the value must be an integer"
            yield invalid(f"{path}.values[{index}]", value, detail)
        for text in label_value(value):
            yield invalid(f"{path}.values[{index}]", value, text)


CHECKS: Mapping[str, Callable[[str, Any], Found]] = {
    "DefaultPreemption": default_preemption,
    "InterPodAffinity": inter_pod_affinity,
    "NodeAffinity": node_affinity,
    "NodeResourcesBalancedAllocation": balanced_allocation,
    "NodeResourcesFit": node_resources_fit,
    "PodTopologySpread": pod_topology_spread,
    "VolumeBinding": volume_binding,
    "DynamicResources": dynamic_resources,
}
"""By the plugin's name."""
