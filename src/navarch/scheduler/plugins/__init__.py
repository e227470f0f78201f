"""The plugins of the scheduler, one per file, and the order in which they are asked.

Some of upstream's have no file: the queue itself sorts by priority (PrioritySort) and holds back
gated pods (SchedulingGates), and what becomes of a chosen node (DefaultBinder) or of pods without
one (DefaultPreemption) is the cycle's business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from navarch.scheduler.configuration.arguments import Arguments
from navarch.scheduler.framework import Plugin
from navarch.scheduler.plugins.balanced_allocation import NodeResourcesBalancedAllocation
from navarch.scheduler.plugins.dynamic_resources import DynamicResources
from navarch.scheduler.plugins.image_locality import ImageLocality
from navarch.scheduler.plugins.inter_pod_affinity import InterPodAffinity
from navarch.scheduler.plugins.node_affinity import NodeAffinity
from navarch.scheduler.plugins.node_declared_features import NodeDeclaredFeatures
from navarch.scheduler.plugins.node_name import NodeName
from navarch.scheduler.plugins.node_ports import NodePorts
from navarch.scheduler.plugins.node_resources_fit import NodeResourcesFit
from navarch.scheduler.plugins.node_unschedulable import NodeUnschedulable
from navarch.scheduler.plugins.node_volume_limits import NodeVolumeLimits
from navarch.scheduler.plugins.pod_topology_spread import PodTopologySpread
from navarch.scheduler.plugins.taint_toleration import TaintToleration
from navarch.scheduler.plugins.volume_binding import VolumeBinding
from navarch.scheduler.plugins.volume_restrictions import VolumeRestrictions
from navarch.scheduler.plugins.volume_zone import VolumeZone


@dataclass(frozen=True, slots=True)
class Registered:
    """A plugin that a configuration may name."""

    points: str
    """Those at which upstream's has something to do; a configuration may speak of no other."""
    make: Callable[..., Plugin] | None = None
    """None: what it does is not a plugin's work here."""
    weight: int = 0


PLUGINS: Mapping[str, Registered] = {
    "SchedulingGates": Registered("preEnqueue"),
    "PrioritySort": Registered("queueSort"),
    "NodeUnschedulable": Registered("filter", NodeUnschedulable),
    "NodeName": Registered("filter", NodeName),
    "TaintToleration": Registered("filter preScore score", TaintToleration, 3),
    "NodeAffinity": Registered("preFilter filter preScore score", NodeAffinity, 2),
    "NodePorts": Registered("preFilter filter", NodePorts),
    "NodeResourcesFit": Registered("preFilter filter preScore score", NodeResourcesFit, 1),
    "VolumeRestrictions": Registered("preFilter filter", VolumeRestrictions),
    "NodeVolumeLimits": Registered("preFilter filter", NodeVolumeLimits),
    "VolumeBinding": Registered("preFilter filter reserve preBind preScore score", VolumeBinding),
    "VolumeZone": Registered("preFilter filter", VolumeZone),
    "PodTopologySpread": Registered("preFilter filter preScore score", PodTopologySpread, 2),
    "InterPodAffinity": Registered("preFilter filter preScore score", InterPodAffinity, 2),
    "DynamicResources": Registered(
        "preEnqueue preFilter filter postFilter score reserve preBind", DynamicResources, 2
    ),
    "DefaultPreemption": Registered("preEnqueue postFilter"),
    "NodeResourcesBalancedAllocation": Registered(
        "preScore score", NodeResourcesBalancedAllocation, 1
    ),
    "ImageLocality": Registered("score", ImageLocality, 1),
    "DefaultBinder": Registered("bind"),
    "NodeDeclaredFeatures": Registered("preFilter filter", NodeDeclaredFeatures),
}
"""Upstream's plugins in the order of its default profile, with the weights that they have there."""


def default_plugins() -> list[Plugin]:
    """Those of the default profile."""
    return made_plugins(PLUGINS.keys(), {})


def made_plugins(names: Collection[str], arguments: Mapping[str, Arguments]) -> list[Plugin]:
    """Those of these names, with these arguments or their default ones."""
    found = []
    for name, registered in PLUGINS.items():
        if registered.make is None or name not in names:
            continue
        given = [arguments[name]] if name in arguments else []
        found.append(registered.make(*given))
    return found
