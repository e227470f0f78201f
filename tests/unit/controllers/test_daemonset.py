"""What a DaemonSet wants on each node."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from navarch.api.types.apps_v1 import (
    ControllerRevision,
    DaemonSet,
    DaemonSetSpec,
    DaemonSetUpdateStrategy,
    RollingUpdateDaemonSet,
)
from navarch.api.types.core_v1 import (
    Node,
    NodeSelectorRequirement,
    NodeSpec,
    Pod,
    PodCondition,
    PodSpec,
    PodStatus,
    PodTemplateSpec,
    Taint,
    Toleration,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.controllers.daemonset_plan import (
    Fit,
    View,
    fit,
    manage,
    new_pod,
    next_status,
    target_node,
    update,
    with_tolerations,
)
from navarch.controllers.history import HASH, new_revision, surplus

NOW = datetime(2026, 1, 1, tzinfo=UTC)
READY = PodCondition(type="Ready", status="True", lastTransitionTime="2025-01-01T00:00:00Z")


def node(name: str, *taints: Taint, **labels: str) -> Node:
    metadata = ObjectMeta(name=name, labels=labels)
    return Node(metadata=metadata, spec=NodeSpec(taints=[*taints]))


def taint(effect: str, key: str = "example.com/x") -> Taint:
    return Taint(key=key, effect=effect)


@pytest.mark.parametrize(
    ("spec", "given", "expected"),
    [
        (PodSpec(), node("a"), Fit(True, True)),
        (PodSpec(nodeName="b"), node("a"), Fit(False, False)),
        (PodSpec(nodeSelector={"c": "d"}), node("a"), Fit(False, False)),
        (PodSpec(nodeSelector={"c": "d"}), node("a", c="d"), Fit(True, True)),
        (PodSpec(), node("a", taint("NoSchedule")), Fit(False, True)),
        (PodSpec(), node("a", taint("NoExecute")), Fit(False, False)),
        (PodSpec(), node("a", taint("PreferNoSchedule")), Fit(True, True)),
        (
            PodSpec(tolerations=[Toleration(operator="Exists")]),
            node("a", taint("NoExecute")),
            Fit(True, True),
        ),
        (
            PodSpec(),
            node("a", taint("NoExecute", "node.kubernetes.io/not-ready")),
            Fit(True, True),
        ),
        (
            PodSpec(),
            node("a", taint("NoSchedule", "node.kubernetes.io/unschedulable")),
            Fit(True, True),
        ),
        (
            PodSpec(),
            node("a", taint("NoSchedule", "node.kubernetes.io/network-unavailable")),
            Fit(False, True),
        ),
        (
            PodSpec(hostNetwork=True),
            node("a", taint("NoSchedule", "node.kubernetes.io/network-unavailable")),
            Fit(True, True),
        ),
    ],
)
def test_which_nodes_fit(spec: PodSpec, given: Node, expected: Fit) -> None:
    assert fit(with_tolerations(spec), given) == expected


def daemons(unavailable: int | str = 1, surge: int | str = 0, strategy: str = "") -> DaemonSet:
    rolling = RollingUpdateDaemonSet(maxUnavailable=unavailable, maxSurge=surge)
    return DaemonSet(
        metadata=ObjectMeta(name="d", namespace="a", uid="u", generation=3),
        spec=DaemonSetSpec(
            updateStrategy=DaemonSetUpdateStrategy(type=strategy, rollingUpdate=rolling)
        ),
    )


def pod(name: str, at: str = "n1", hash_: str = "new", ready: bool = True, **more: Any) -> Pod:
    metadata = ObjectMeta(name=name, uid=name, labels={HASH: hash_}, creationTimestamp=name)
    if more.get("deleted"):
        metadata.deletionTimestamp = "2026-01-01T00:00:00Z"
    status = PodStatus(phase=more.get("phase", "Running"), conditions=[READY] if ready else [])
    return Pod(metadata=metadata, spec=PodSpec(nodeName=at), status=status)


def view(owner: DaemonSet, *pods: Pod, nodes: int = 4) -> View:
    by_node: dict[str, list[Pod]] = {}
    for each in pods:
        by_node.setdefault(target_node(each), []).append(each)
    return View(owner, [node(f"n{i}") for i in range(1, nodes + 1)], by_node, "new", NOW)


def names(pods: list[Pod]) -> list[str]:
    return [each.metadata.name for each in pods]


def test_one_pod_on_each_node() -> None:
    leaving = pod("leaving", "n2", deleted=True)
    twice = [pod("2", "n3"), pod("1", "n3")]
    failed = pod("failed", "n4", phase="Failed")
    lost = Pod(metadata=ObjectMeta(name="lost"), spec=new_pod(daemons(), "n9", "new").spec)
    actions = manage(view(daemons(), leaving, *twice, failed, lost))
    assert actions.create == ["n1"]
    assert names(actions.delete) == ["2", "lost"]
    assert names(actions.failed) == ["failed"]


def test_pods_leave_nodes_that_do_not_fit() -> None:
    owner = daemons()
    owner.spec.template.spec.nodeSelector = {"c": "d"}
    actions = manage(view(owner, pod("p"), pod("gone", "n2", deleted=True)))
    assert (actions.create, names(actions.delete)) == ([], ["p"])


@pytest.mark.parametrize(
    ("pods", "limit", "deleted"),
    [
        pytest.param([], 1, ["1"], id="one at a time"),
        pytest.param([], "50%", ["1", "2"], id="half at a time"),
        pytest.param([pod("4", "n4")], 1, ["1"], id="the next"),
        pytest.param([pod("4", "n4", ready=False)], 1, [], id="the last is not ready"),
        pytest.param([pod("4", "n4", deleted=True)], 1, [], id="the last is going"),
        pytest.param(
            [pod("4", "n4", "old", ready=False)], 1, ["4"], id="what does not work goes first"
        ),
    ],
)
def test_rolling_update(pods: list[Pod], limit: int | str, deleted: list[str]) -> None:
    present = {str(i): pod(str(i), f"n{i}", "old") for i in range(1, 5)}
    present |= {each.metadata.name: each for each in pods}
    assert names(update(view(daemons(limit), *present.values())).delete) == deleted
    assert not update(view(daemons(limit, strategy="OnDelete"), *present.values())).delete


def test_a_surge_adds_before_it_takes_away() -> None:
    owner = daemons(0, 1)
    old = [pod(str(i), f"n{i}", "old") for i in range(1, 5)]
    assert update(view(owner, *old)).create == ["n1"]
    young = pod("new1", "n1", ready=False)
    waiting = view(owner, *old, young)
    assert (update(waiting).create, manage(waiting).delete) == ([], [])
    grown = view(owner, *old, pod("new1", "n1"))
    assert names(manage(grown).delete) == ["1"]
    assert update(grown).create == ["n2"]


def test_the_status_counts_nodes() -> None:
    owner = daemons()
    pods = [pod("1"), pod("2", "n2", "old", ready=False), pod("3", "n3"), pod("9", "n3", "old")]
    status = next_status(view(owner, *pods))
    assert status.observedGeneration == 3
    assert (status.desiredNumberScheduled, status.currentNumberScheduled) == (4, 3)
    assert (status.numberReady, status.numberAvailable, status.numberUnavailable) == (2, 2, 2)
    assert (status.updatedNumberScheduled, status.numberMisscheduled) == (2, 0)
    owner.spec.template.spec.nodeSelector = {"c": "d"}
    assert next_status(view(owner, *pods)).numberMisscheduled == 3


def test_a_pod_is_pinned_and_marked() -> None:
    made = new_pod(daemons(), "n7", "hash")
    assert target_node(made) == "n7"
    assert made.metadata.labels == {HASH: "hash"}
    assert made.metadata.ownerReferences[0].controller
    affinity = made.spec.affinity
    assert affinity is not None
    required = affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution  # type: ignore[union-attr]
    assert required is not None
    wanted = [NodeSelectorRequirement(key="metadata.name", operator="In", values=["n7"])]
    assert [term.matchFields for term in required.nodeSelectorTerms] == [wanted]


def test_old_revisions_that_nobody_has_go() -> None:
    template = PodTemplateSpec()
    made = [new_revision(daemons(), template, number, number) for number in range(5)]
    live = {made[1].metadata.labels[HASH]}
    assert [each.revision for each in surplus(made, live, 2)] == [0, 2, 3]
    assert surplus(made, live, None) == []
    assert isinstance(made[0], ControllerRevision)
