"""Features that not every node's agent has: a pod goes only where what it uses is declared.

In a cluster whose nodes are of several versions a pod may ask for what an older agent would ignore
or refuse. Each node says in `status.declaredFeatures` what it can do, as long as the feature is too
new to be taken for granted. Which features a pod uses is inferred from its spec. Source: KEP-5328.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from navarch.scheduler.changes import ADD, UPDATE, Change, Subject
from navarch.scheduler.cluster import Mask
from navarch.scheduler.framework import Cycle, NodePlugin, Verdict
from navarch.scheduler.podinfo import PodInfo

RESTART_ALL = "RestartAllContainersOnContainerExits"
USERS_ON_HOST_NETWORK = "UserNamespacesHostNetworkSupport"


class NodeDeclaredFeatures(NodePlugin):
    """Keeps pods off nodes that do not declare what they use."""

    name: ClassVar[str] = "NodeDeclaredFeatures"
    interests = Subject.NODE.when(ADD, UPDATE) | Subject.OWN_POD.when(UPDATE)

    def filter(self, cycle: Cycle) -> list[Verdict] | None:
        used = features_of(cycle.pod)
        if not used:
            return None
        cluster = cycle.cluster

        def compute() -> Mask:
            declared = (node.status.declaredFeatures if node else () for node in cluster.nodes)
            return np.array([not used.issubset(each) for each in declared])

        rejected = cluster.cached((self.name, used), compute)
        return [Verdict(rejected, "node(s) didn't match Pod's required features")]

    def helped_by(self, pod: PodInfo, change: Change) -> bool:
        if change.subject is Subject.OWN_POD:
            return features_of(change.old) != features_of(change.new)
        declared = change.new.status.declaredFeatures
        return change.old is None or bool(change.old.status.declaredFeatures != declared)


def features_of(pod: PodInfo) -> frozenset[str]:
    """What the pod uses of the features that nodes declare."""
    spec = pod.pod.spec
    rules = (r for c in (*spec.containers, *spec.initContainers) for r in c.restartPolicyRules)
    used = set()
    if any(rule.action == "RestartAllContainers" for rule in rules):
        used.add(RESTART_ALL)
    if spec.hostNetwork and spec.hostUsers is False:
        used.add(USERS_ON_HOST_NETWORK)
    return frozenset(used)
