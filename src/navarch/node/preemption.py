"""Which pods make room on the node for a critical one that would not fit. Pure.

A static or system-critical pod is placed (by a manifest, or by somebody who knows) whether or not
there is room; the node then takes the room from others: from the lower class of service before the
higher, and few pods rather than many (`pkg/kubelet/preemption`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from navarch.api.types.core_v1 import Pod

from .admission import Lacking
from .podspec import is_critical, qos_class
from .resources import pod_requests

REASON = "Preempting"
MESSAGE = "Preempted in order to admit critical pod"
DISRUPTION = "Pod was preempted by Kubelet to accommodate a critical pod."

_CLASSES = ("BestEffort", "Burstable", "Guaranteed")

Need = Mapping[str, int]


class NoVictims(Exception):
    """All pods that could go would not be enough."""

    def __init__(self, needs: Need) -> None:
        listed = "".join(f"(res: {name}, q: {value}), " for name, value in needs.items())
        super().__init__(
            "preemption: error finding a set of pods to preempt: no set of running pods found to "
            f"reclaim resources: [{listed}]"
        )


def victims(pod: Pod, others: Sequence[Pod], lacking: Sequence[Lacking]) -> list[Pod]:
    """The pods to end so that `pod` fits; raises `NoVictims`."""
    needs = {each.resource: each.amount for each in lacking}
    by_class = {name: [each for each in others if _may_preempt(pod, each)
                       and qos_class(each) == name] for name in _CLASSES}  # fmt: skip
    best_effort, burstable, guaranteed = (by_class[name] for name in _CLASSES)
    left = _less(needs, [*best_effort, *burstable, *guaranteed])
    if left:
        raise NoVictims(left)
    # Each class gives only what the classes below it, gone altogether, would not have given.
    from_guaranteed = _choose(guaranteed, _less(needs, [*best_effort, *burstable]))
    from_burstable = _choose(burstable, _less(needs, [*best_effort, *from_guaranteed]))
    from_best_effort = _choose(best_effort, _less(needs, [*from_burstable, *from_guaranteed]))
    return [*from_best_effort, *from_burstable, *from_guaranteed]


def _may_preempt(pod: Pod, other: Pod) -> bool:
    if is_critical(pod) and not is_critical(other):
        return True
    mine, theirs = pod.spec.priority, other.spec.priority
    return mine is not None and theirs is not None and mine > theirs


def _given(pod: Pod, name: str) -> int:
    return 1 if name == "pods" else pod_requests(pod).get(name, 0)


def _less(needs: Need, pods: Sequence[Pod]) -> dict[str, int]:
    """What is still needed once these pods are gone."""
    left = {name: value - sum(_given(pod, name) for pod in pods) for name, value in needs.items()}
    return {name: value for name, value in left.items() if value > 0}


def _choose(pods: Sequence[Pod], needs: Need) -> list[Pod]:
    """Again and again the pod that brings the needs closest to nothing, the smaller of two."""
    remaining, chosen = list(pods), []
    while needs and remaining:
        best = min(
            remaining,
            key=lambda pod: (_distance(pod, needs), _given(pod, "memory"), _given(pod, "cpu")),
        )
        remaining.remove(best)
        chosen.append(best)
        needs = _less(needs, [best])
    return chosen


def _distance(pod: Pod, needs: Need) -> float:
    """How far from enough, each resource weighing the same whatever its unit."""
    return sum(max(0, need - _given(pod, name)) ** 2 / need**2 for name, need in needs.items())
