"""The message for a pod that no node can take, in upstream's words.

It counts the nodes behind each reason. What follows is what removing other pods (preemption) could
do about it, as far as that is certain: nothing, where no pod of lower priority is in the way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from navarch.scheduler.cluster import Cluster, Mask
from navarch.scheduler.podinfo import PodInfo

NO_NODES = "no nodes available to schedule pods"
NO_CLAIMS = "no new claims to deallocate"
NO_STATE = "not found"
NEVER = "preemption: not eligible due to preemptionPolicy=Never."
NOT_HELPFUL = "Preemption is not helpful for scheduling"
NO_VICTIMS = "No preemption victims found for incoming pod"


def available(count: int, body: str) -> str:
    return f"0/{count} nodes are available: {body}."


def histogram(counts: Mapping[str, int]) -> str:
    """`2 Insufficient cpu, 1 Too many pods`, sorted as text."""
    return ", ".join(sorted(f"{count} {reason}" for reason, count in counts.items() if count))


def rejected_early(cluster: Cluster, reasons: Iterable[str]) -> str:
    """A plugin rejected the pod for good before looking at nodes."""
    return f"{available(cluster.count, ', '.join(reasons))} {NO_STATE}"


def rejected(pod: PodInfo, cluster: Cluster, counts: Mapping[str, int], resolvable: Mask) -> str:
    """Plugins rejected all nodes; on those that are `resolvable`, making room might help."""
    message = available(cluster.count, histogram(counts))
    if pod.pod.spec.preemptionPolicy == "Never":
        return f"{message} {NO_CLAIMS}, {NEVER}"
    slots = np.flatnonzero(resolvable)
    if any(_has_lower(cluster, int(slot), pod.priority) for slot in slots):
        return message
    hopeless = Counter({NO_VICTIMS: len(slots), NOT_HELPFUL: cluster.count - len(slots)})
    preemption = available(cluster.count, histogram(hopeless))
    return f"{message} {NO_CLAIMS}, preemption: {preemption}"


def _has_lower(cluster: Cluster, slot: int, priority: int) -> bool:
    return any(other.priority < priority for other in cluster.pods_at[slot].values())
