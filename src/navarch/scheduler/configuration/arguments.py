"""The arguments of plugins (`pluginConfig` of a profile): upstream's types with its defaults.

They are frozen, because a plugin may keep what it works out from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from navarch.api.component_config import Duration
from navarch.api.types.core_v1 import NodeAffinity, TopologySpreadConstraint

LEAST, MOST, RATIO = "LeastAllocated", "MostAllocated", "RequestedToCapacityRatio"
SYSTEM, LIST = "System", "List"

Int32 = Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]


class Arguments(msgspec.Struct, frozen=True, kw_only=True):
    """What all have in common; both may be left out in a profile."""

    apiVersion: str = ""
    kind: str = ""


class ResourceSpec(msgspec.Struct, frozen=True):
    name: str = ""
    weight: Int64 = 1


class ShapePoint(msgspec.Struct, frozen=True):
    """What a node is worth (0 to 10) that is used by so many per cent."""

    utilization: Int32 = 0
    score: Int32 = 0


DEFAULT_RESOURCES = (ResourceSpec("cpu"), ResourceSpec("memory"))


class RatioParameters(msgspec.Struct, frozen=True):
    shape: tuple[ShapePoint, ...] = ()


class ScoringStrategy(msgspec.Struct, frozen=True):
    type: str = ""
    resources: tuple[ResourceSpec, ...] = ()
    requestedToCapacityRatio: RatioParameters | None = None

    @property
    def counted(self) -> tuple[ResourceSpec, ...]:
        """The resources that count, which are the default ones if none are given."""
        return self.resources or DEFAULT_RESOURCES


class NodeResourcesFitArgs(Arguments, frozen=True):
    ignoredResources: tuple[str, ...] = ()
    ignoredResourceGroups: tuple[str, ...] = ()
    scoringStrategy: ScoringStrategy = ScoringStrategy(LEAST)


class NodeResourcesBalancedAllocationArgs(Arguments, frozen=True):
    resources: tuple[ResourceSpec, ...] = DEFAULT_RESOURCES

    @property
    def counted(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.resources or DEFAULT_RESOURCES)


class NodeAffinityArgs(Arguments, frozen=True):
    addedAffinity: NodeAffinity | None = None


class PodTopologySpreadArgs(Arguments, frozen=True):
    defaultConstraints: tuple[TopologySpreadConstraint, ...] = ()
    defaultingType: str = SYSTEM


class InterPodAffinityArgs(Arguments, frozen=True):
    hardPodAffinityWeight: Int32 = 1
    ignorePreferredTermsOfExistingPods: bool = False


class VolumeBindingArgs(Arguments, frozen=True):
    bindTimeoutSeconds: Int64 = 600
    shape: tuple[ShapePoint, ...] | None = None


class DefaultPreemptionArgs(Arguments, frozen=True):
    minCandidateNodesPercentage: Int32 = 10
    minCandidateNodesAbsolute: Int32 = 100


class DynamicResourcesArgs(Arguments, frozen=True):
    filterTimeout: Duration = Duration(10)
    bindingTimeout: Duration = Duration(600)


ARGUMENTS: Mapping[str, type[Arguments]] = {
    kind.__name__.removesuffix("Args"): kind for kind in Arguments.__subclasses__()
}
"""By the name of the plugin."""
