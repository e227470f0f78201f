"""What a DaemonSet wants on each node."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from navarch.api.objects import from_object
from navarch.api.types.apps_v1 import (
    ControllerRevision,
    DaemonSet,
    DaemonSetSpec,
    DaemonSetUpdateStrategy,
    RollingUpdateDaemonSet,
)
from navarch.api.types.core_v1 import (
    Affinity,
    Container,
    Node,
    NodeAffinity,
    NodeSelector,
    NodeSelectorRequirement,
    NodeSelectorTerm,
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
    by_node,
    fit,
    fits_of,
    manage,
    new_pod,
    next_status,
    target_node,
    update,
    with_tolerations,
)
from navarch.controllers.history import (
    HASH,
    new_revision,
    snapshot,
    sort_out,
    surplus,
    template_of,
    with_defaults,
)

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
    places = [node(f"n{i}") for i in range(1, nodes + 1)]
    return View(owner, fits_of(owner, places), by_node(pods), "new", NOW)


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
    assert names(actions.ended) == ["failed"]


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
    assert names(manage(grown).delete) == names(update(grown).delete) == ["1"]
    assert update(grown).create == ["n2"]
    ill = view(owner, *old[:3], pod("4", "n4", "old", ready=False), young)
    assert update(ill).create == ["n4"], "what does not work anyway is replaced at once"
    assert update(view(owner, *old[1:])).create == ["n2"]


def test_with_a_surge_a_node_is_not_left_without_a_pod() -> None:
    leaving = pod("1", "n1", "old", deleted=True)
    assert manage(view(daemons(0, 1), leaving, nodes=1)).create == ["n1"]
    assert manage(view(daemons(1), leaving, nodes=1)).create == []


def test_with_a_surge_pods_leave_their_nodes_when_others_serve() -> None:
    """Where the template no longer belongs, an available pod waits until there are enough."""
    owner = daemons(0, 1)
    owner.spec.template.spec.nodeSelector = {"new": "home"}
    places = [node("n1", taint("NoSchedule")), node("n2", new="home")]
    old = pod("1", "n1", "old")

    def step(*pods: Pod) -> list[str]:
        fits = fits_of(owner, places)
        fits["n1"] = Fit(False, True)
        return names(update(View(owner, fits, by_node(pods), "new", NOW)).delete)

    assert step(old) == []
    assert step(old, pod("2", "n2", ready=False)) == []
    assert step(old, pod("2", "n2")) == ["1"]
    assert step(pod("1", "n1", "old", ready=False)) == ["1"]


def test_pods_that_ended_and_are_going_do_not_keep_their_place() -> None:
    ended = pod("1", "n1", phase="Failed", deleted=True)
    assert manage(view(daemons(), ended, nodes=1)).create == ["n1"]
    unknown = pod("x", "")
    assert "" not in by_node([unknown])


def test_of_two_pods_the_one_that_is_there_stays() -> None:
    early = Pod(
        metadata=ObjectMeta(name="0", creationTimestamp="0"),
        spec=new_pod(daemons(), "n1", "new").spec,
        status=PodStatus(phase="Pending"),
    )
    assert names(manage(view(daemons(), early, pod("1"), nodes=1)).delete) == ["0"]


def test_two_generations_on_a_node_count_as_unavailable() -> None:
    old = [pod(str(i), f"n{i}", "old") for i in range(1, 4)]
    assert update(view(daemons(1), *old, pod("new1", "n1"), nodes=3)).delete == []
    assert update(view(daemons(1), *old[1:], nodes=3)).delete == [], "a node without any, too"


def test_the_status_counts_nodes() -> None:
    owner = daemons()
    pods = [pod("1"), pod("2", "n2", "old", ready=False), pod("3", "n3"), pod("9", "n3", "old")]
    status = next_status(view(owner, *pods), None)
    assert status.observedGeneration == 3
    assert (status.desiredNumberScheduled, status.currentNumberScheduled) == (4, 3)
    assert (status.numberReady, status.numberAvailable, status.numberUnavailable) == (2, 2, 2)
    assert (status.updatedNumberScheduled, status.numberMisscheduled) == (2, 0)
    owner.spec.template.spec.nodeSelector = {"c": "d"}
    assert next_status(view(owner, *pods), None).numberMisscheduled == 3


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


def test_what_the_template_asks_of_nodes_is_not_asked_again() -> None:
    owner = daemons()
    wanted = [NodeSelectorRequirement(key="a", operator="Exists")]
    terms = NodeSelector(nodeSelectorTerms=[NodeSelectorTerm(matchExpressions=wanted)])
    owner.spec.template.spec.affinity = Affinity(
        nodeAffinity=NodeAffinity(requiredDuringSchedulingIgnoredDuringExecution=terms)
    )
    made = new_pod(owner, "n1", "h")
    assert made.spec.affinity is not None
    assert made.spec.affinity.nodeAffinity is not None
    required = made.spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution
    assert required is not None
    assert [len(term.matchExpressions) for term in required.nodeSelectorTerms] == [0]


def test_a_toleration_that_would_end_is_replaced() -> None:
    short = Toleration(
        key="node.kubernetes.io/not-ready",
        operator="Exists",
        effect="NoExecute",
        tolerationSeconds=5,
    )
    found = with_tolerations(PodSpec(tolerations=[short])).tolerations
    assert len(found) == 6
    assert all(each.tolerationSeconds is None for each in found)


def revision(number: int, image: str = "a", created: str = "") -> ControllerRevision:
    template = PodTemplateSpec(spec=PodSpec(containers=[Container(name="c", image=image)]))
    made = new_revision(daemons(), template, number, HASH, f"h{number}")
    made.metadata.creationTimestamp = created
    return made


def test_old_revisions_that_nobody_has_go() -> None:
    made = [revision(number) for number in range(5)]
    assert [each.revision for each in surplus(made, {"h1"}, 2)] == [0, 2, 3]
    assert surplus(made, {"h1"}, None) == []
    assert surplus(made, (), -1) == []


def test_the_revision_of_a_template_gets_the_highest_number() -> None:
    data = revision(0).data
    history, number = sort_out([revision(2, "b"), revision(1), revision(3, "c")], data)
    assert history is not None
    assert (history.current.revision, number) == (1, 4)
    assert [each.revision for each in history.old] == [2, 3]
    twice, number = sort_out([revision(1), revision(3), revision(2, "b")], data)
    assert twice is not None
    assert (twice.current.revision, number) == (3, 3)
    assert [each.revision for each in twice.duplicates] == [1]
    assert sort_out([revision(5, "b")], data) == (None, 6)


def test_a_revision_that_only_lacks_defaults_is_the_same() -> None:
    old = revision(1)
    template = with_defaults(template_of(old))
    assert template.spec.restartPolicy == "Always"
    assert template.spec.containers[0].imagePullPolicy == "Always"
    history, _ = sort_out([old], snapshot(template))
    assert history is not None
    assert history.current is old
    template.spec.hostNetwork = True
    assert sort_out([old], snapshot(template))[0] is None
    old.data = {"something": "else"}
    assert sort_out([old], snapshot(template))[0] is None


def test_a_revision_is_written_to_the_byte_as_upstream_would() -> None:
    template = from_object(
        PodTemplateSpec,
        {
            "spec": {
                "volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}],
                "initContainers": [{"name": "first", "env": [{"value": "2", "name": "B"}]}],
                "containers": [{"name": "c", "image": "i", "args": ["z", "a"]}],
            }
        },
    )
    assert msgspec.json.encode(snapshot(template)).decode() == (
        '{"spec":{"template":{"$patch":"replace","metadata":{},"spec":{'
        '"containers":[{"args":["z","a"],"image":"i","name":"c","resources":{}}],'
        '"initContainers":[{"env":[{"name":"B","value":"2"}],"name":"first","resources":{}}],'
        '"volumes":[{"ephemeral":{"volumeClaimTemplate":{"metadata":{},"spec":{"resources":{}}}},'
        '"name":"v"}]}}}}'
    )
