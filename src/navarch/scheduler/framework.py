"""What plugins and the scheduling cycle tell each other.

A plugin looks at all nodes at once: a filter names the slots that cannot take the pod and why, a
score gives each remaining node 0 to 100. A plugin that has nothing to say of a pod says None.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, NamedTuple

import numpy as np

from navarch.api.types.core_v1 import PersistentVolume, PersistentVolumeClaim
from navarch.scheduler.changes import Change, Interests
from navarch.scheduler.cluster import Cluster, Mask, Numbers
from navarch.scheduler.configuration.arguments import DefaultPreemptionArgs
from navarch.scheduler.dra.plans import ClaimPlan
from navarch.scheduler.objects import Objects
from navarch.scheduler.podinfo import PodInfo

MAX_SCORE = 100
BIND_SECONDS = 600.0


class Code(Enum):
    """Whether making room on a node could help a pod that was rejected there."""

    UNSCHEDULABLE = "Unschedulable"
    UNRESOLVABLE = "UnschedulableAndUnresolvable"


class Verdict(NamedTuple):
    """Nodes that a filter rejects for one reason."""

    rejected: Mask
    reason: str
    code: Code = Code.UNRESOLVABLE


class PodRejected(Exception):
    """A plugin rejects the pod for good, whatever the nodes are like."""

    def __init__(self, plugin: str, *reasons: str) -> None:
        super().__init__(", ".join(reasons))
        self.plugin = plugin
        self.reasons = reasons


class PluginFailed(Exception):
    """A plugin could not do its work, for a reason that is no fault of the scheduler's: the attempt
    ends, whatever the nodes are like."""

    def __init__(self, plugin: str, point: str, problem: str) -> None:
        super().__init__(f'running "{plugin}" {point} plugin: {problem}')


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """What has to be done about a pod's claims once its node is chosen."""

    bindings: tuple[tuple[PersistentVolumeClaim, PersistentVolume], ...] = ()
    """Claims and the volumes, free until now, that they are to get."""
    provisions: tuple[PersistentVolumeClaim, ...] = ()
    """Claims for which a volume is to be made on that node."""
    seconds: float = BIND_SECONDS
    """How long all of that may take."""


@dataclass(slots=True)
class Cycle:
    """One attempt to find a node for a pod."""

    pod: PodInfo
    cluster: Cluster
    objects: Objects
    rng: random.Random
    feasible: Mask
    """Slots that no filter has rejected so far."""
    among: Mask | None = None
    """The only slots that come into question, if the pod itself says so."""
    nodes: Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    """The slots to choose from, once filters are through: in a large cluster not all feasible ones,
    but as many as are wanted, in the order in which they were come upon."""
    state: dict[str, Any] = field(default_factory=dict)
    """What plugins keep from one point to the next, by their names."""
    skipped: set[str] = field(default_factory=set)
    """Filters that have nothing to say of the pod, and are not asked any more when only pods of
    one node change. As upstream's: what those pods are like does not count then."""
    percentage: int = 0
    """How many nodes in a hundred are enough to score; 0 goes by the number of nodes."""
    slot: int = -1
    """The only slot that is asked about, if it is one."""
    coming: Collection[PodInfo] = ()
    """Pods that are taken to be on that slot though they have no node yet."""
    away: Collection[PodInfo] = ()
    """Pods of that slot that are taken to be gone."""


class Plugin:
    """The base of all plugins; each overrides what it has something to say about."""

    name: ClassVar[str] = ""
    weight: ClassVar[int] = 1
    """What its scores count in the default profile."""
    interests: ClassVar[Interests] = frozenset()
    """The kinds of changes that `helped_by` wants to be asked about."""

    def holds_back(self, pod: PodInfo, objects: Objects) -> bool:
        """Whether it is of no use to try the pod before a change that helps it."""
        return False

    def pre_filter(self, cycle: Cycle) -> Mask | None:
        """The only nodes that come into question, if the pod itself says so. Raises `PodRejected`
        when none does whatever nodes are like."""
        return None

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        """Which nodes are out. Verdicts that come together may overlap: a node then has several
        reasons."""
        return None

    def looks_at_pods(self, cycle: Cycle) -> bool:
        """Whether what the filter says of a node depends on the pods there, for this pod."""
        return True

    def reserve(self, cycle: Cycle, slot: int) -> VolumePlan | ClaimPlan | None:
        """What the pod needs before it can be bound to this node, which passed the filters."""
        return None

    def score(self, cycle: Cycle) -> Numbers | None:
        """0 to 100 for each of `cycle.nodes`."""
        return None

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        """Whether a change may make this plugin accept a pod that it rejected."""
        return True


class NodePlugin(Plugin):
    """A plugin whose filter goes by what nodes are, whatever pods are there."""

    def looks_at_pods(self, cycle: Cycle) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Scorer:
    """A plugin that scores, and what its scores count."""

    plugin: Plugin
    weight: int


@dataclass(frozen=True, slots=True)
class Profile:
    """The plugins behind one name of a scheduler: who is asked at which point, in which order."""

    name: str
    plugins: tuple[Plugin, ...]
    """All of them."""
    pre_filters: tuple[Plugin, ...]
    filters: tuple[Plugin, ...]
    scorers: tuple[Scorer, ...]
    reserves: tuple[Plugin, ...]
    post_filters: tuple[str, ...]
    """Names of those that look for a way out when no node will do."""
    preemption: DefaultPreemptionArgs
    percentage: int = 0
    """How many nodes in a hundred are enough to score; 0 goes by the number of nodes."""


def normalised(raw: Numbers, reverse: bool = False) -> Numbers:
    """Stretch raw scores so that the highest becomes 100 (or, reversed, 0)."""
    highest = int(raw.max(initial=0))
    if highest == 0:
        return np.full_like(raw, MAX_SCORE if reverse else 0)
    scaled: Numbers = raw * MAX_SCORE // highest
    return MAX_SCORE - scaled if reverse else scaled
