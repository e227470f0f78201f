"""Which pods are taken away because nobody else will."""

from __future__ import annotations

import pytest

from navarch.api.types.core_v1 import (
    Node,
    NodeCondition,
    NodeSpec,
    NodeStatus,
    Pod,
    PodSpec,
    PodStatus,
    Taint,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.controllers.pod_gc import OUT_OF_SERVICE, Verdict, judge, surplus


def pod(node: str = "", deleted: bool = False, phase: str = "", reason: str = "") -> Pod:
    stamp = "2026-01-01T00:00:00Z" if deleted else None
    return Pod(
        metadata=ObjectMeta(name="p", deletionTimestamp=stamp),
        spec=PodSpec(nodeName=node),
        status=PodStatus(phase=phase, reason=reason),
    )


def node(ready: str = "True", *taints: str) -> Node:
    return Node(
        spec=NodeSpec(taints=[Taint(key=key, effect="NoExecute") for key in taints]),
        status=NodeStatus(conditions=[NodeCondition(type="Ready", status=ready)]),
    )


@pytest.mark.parametrize(
    ("pod", "node", "verdict"),
    [
        (pod(), None, Verdict.KEEP),
        (pod(deleted=True), None, Verdict.UNSCHEDULED),
        (pod("n"), None, Verdict.NO_NODE),
        (pod("n", True), node(), Verdict.KEEP),
        (pod("n", True), node("True", OUT_OF_SERVICE), Verdict.KEEP),
        (pod("n", True), node("Unknown", OUT_OF_SERVICE), Verdict.OUT_OF_SERVICE),
        (pod("n"), node("Unknown", OUT_OF_SERVICE), Verdict.KEEP),
    ],
)
def test_verdicts(pod: Pod, node: Node | None, verdict: Verdict) -> None:
    assert judge(pod, node) is verdict


def finished(name: str, created: int, reason: str = "", phase: str = "Failed") -> Pod:
    made = pod(phase=phase, reason=reason)
    made.metadata.name = name
    made.metadata.creationTimestamp = f"2026-01-01T00:00:{created:02}Z"
    return made


def test_evicted_and_old_pods_go_first() -> None:
    pods = [
        finished("old", 1),
        finished("young", 9),
        finished("evicted", 5, "Evicted"),
        finished("alive", 0, phase="Running"),
    ]
    names = [p.metadata.name for p in surplus(pods, 1)]
    assert names == ["evicted", "old"]
    assert not surplus(pods, 3)
    assert not surplus(pods, 0)
