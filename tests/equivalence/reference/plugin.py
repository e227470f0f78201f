"""What the plugins of the reference have in common. There is one object of each per decision."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from navarch.api.types.core_v1 import Node, Pod

from .world import World


@dataclass
class NodeState:
    """A node and the pods on it, which preemption adds and removes."""

    node: Node
    pods: list[Pod] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.node.metadata.name

    @property
    def labels(self) -> dict[str, str]:
        return self.node.metadata.labels

    def copy(self) -> NodeState:
        return NodeState(self.node, list(self.pods))


@dataclass(frozen=True)
class Rejection:
    """Whether preemption could help ("U"), or could not ("UU")."""

    code: Literal["U", "UU"]
    reasons: tuple[str, ...]
    plugin: str = ""


@dataclass(frozen=True)
class Facts:
    """What a decision is about. `nodes` is the state of all nodes before anything is tried."""

    world: World
    nodes: dict[str, NodeState]
    pod: Pod

    def namespace_labels(self, name: str) -> dict[str, str]:
        for namespace in self.world.namespaces:
            if namespace.metadata.name == name:
                return namespace.metadata.labels
        return {}


SKIP = "skip"
"""What PreFilter says of a pod that Filter need not be asked about."""

PreFiltered = Rejection | set[str] | Literal["skip"] | None


class FilterPlugin:
    """A plugin with a state between PreFilter and Filter keeps it in `state`."""

    name: ClassVar[str] = ""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.pod = facts.pod
        self.state: dict[object, int] = {}

    def clone(self) -> FilterPlugin:
        result = copy.copy(self)
        result.state = dict(self.state)
        return result

    def pre_filter(self) -> PreFiltered:
        """A set: the names of the only nodes that come into question."""
        return None

    def add_pod(self, pod: Pod, state: NodeState) -> None:
        """As if the pod had come to the node since PreFilter."""

    def remove_pod(self, pod: Pod, state: NodeState) -> None:
        """As if the pod had left the node since PreFilter."""

    def filter(self, state: NodeState) -> Rejection | None:
        return None

    def unschedulable(self, *reasons: str) -> Rejection:
        return Rejection("U", reasons, self.name)

    def unresolvable(self, *reasons: str) -> Rejection:
        return Rejection("UU", reasons, self.name)
