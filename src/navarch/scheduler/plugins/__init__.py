"""The plugins of the scheduler, one per file, and the order in which they are asked.

Two of upstream's have no file: the queue itself sorts by priority (PrioritySort) and holds back
gated pods (SchedulingGates).
"""

from __future__ import annotations

from navarch.scheduler.framework import Plugin
from navarch.scheduler.plugins.balanced_allocation import NodeResourcesBalancedAllocation
from navarch.scheduler.plugins.image_locality import ImageLocality
from navarch.scheduler.plugins.inter_pod_affinity import InterPodAffinity
from navarch.scheduler.plugins.node_affinity import NodeAffinity
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


def default_plugins() -> list[Plugin]:
    """The default profile: upstream's plugins in upstream's order, with upstream's weights."""
    return [
        NodeUnschedulable(),
        NodeName(),
        TaintToleration(),
        NodeAffinity(),
        NodePorts(),
        NodeResourcesFit(),
        VolumeRestrictions(),
        NodeVolumeLimits(),
        VolumeBinding(),
        VolumeZone(),
        PodTopologySpread(),
        InterPodAffinity(),
        NodeResourcesBalancedAllocation(),
        ImageLocality(),
    ]
