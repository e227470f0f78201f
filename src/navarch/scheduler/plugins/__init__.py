"""The plugins of the scheduler, one per file, and the order in which they are asked."""

from __future__ import annotations

from navarch.scheduler.framework import Plugin
from navarch.scheduler.plugins.node_affinity import NodeAffinity
from navarch.scheduler.plugins.node_name import NodeName
from navarch.scheduler.plugins.node_resources_fit import NodeResourcesFit
from navarch.scheduler.plugins.node_unschedulable import NodeUnschedulable
from navarch.scheduler.plugins.taint_toleration import TaintToleration


def default_plugins() -> list[Plugin]:
    """The default profile: upstream's plugins in upstream's order, with upstream's weights."""
    return [
        NodeUnschedulable(),
        NodeName(),
        TaintToleration(),
        NodeAffinity(),
        NodeResourcesFit(),
    ]
