"""The ReplicaSet's arithmetic: how many pods, which to give up first, what to report."""

from datetime import UTC, datetime, timedelta

import pytest

from navarch.api.errors import ApiError
from navarch.api.times import format_time
from navarch.api.types.apps_v1 import ReplicaSet, ReplicaSetSpec
from navarch.api.types.core_v1 import (
    Container,
    ContainerStatus,
    Pod,
    PodCondition,
    PodSpec,
    PodStatus,
    PodTemplateSpec,
    ReplicationController,
    ReplicationControllerStatus,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.controllers.pods import DELETION_COST, deletion_order, seconds_until_available
from navarch.controllers.replicaset import BURST, Plan, View, next_status, plan

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def pod(
    name: str,
    node: str = "n",
    phase: str = "Running",
    ready: int | None = 100,
    age: int = 1000,
    cost: str = "",
    restarts: int = 0,
    **meta: object,
) -> Pod:
    """`ready` seconds ago it became ready; None: it is not."""
    condition = PodCondition(type="Ready", status="False")
    if ready is not None:
        since = format_time(NOW - timedelta(seconds=ready))
        condition = PodCondition(type="Ready", status="True", lastTransitionTime=since)
    return Pod(
        metadata=ObjectMeta(
            name=name,
            uid=name,
            labels={"app": "a"},
            annotations={DELETION_COST: cost} if cost else {},
            creationTimestamp=format_time(NOW - timedelta(seconds=age)),
            **meta,  # type: ignore[arg-type]
        ),
        spec=PodSpec(nodeName=node),
        status=PodStatus(
            phase=phase,
            conditions=[condition],
            containerStatuses=[ContainerStatus(name="c", restartCount=restarts)],
        ),
    )


def with_sidecar(name: str, restarts: int) -> Pod:
    """A pod whose sidecar was restarted that often, and its first init container more often."""
    made = pod(name)
    made.spec.initContainers = [Container(name="s", restartPolicy="Always"), Container(name="i")]
    made.status.initContainerStatuses = [
        ContainerStatus(name="s", restartCount=restarts),
        ContainerStatus(name="i", restartCount=9 - restarts),
    ]
    return made


@pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(pod("a", node=""), pod("b"), id="unassigned"),
        pytest.param(pod("a", phase="Pending"), pod("b", phase="Unknown"), id="pending"),
        pytest.param(pod("a", phase="Unknown"), pod("b"), id="unknown"),
        pytest.param(pod("a", ready=None), pod("b"), id="not ready"),
        pytest.param(pod("a", cost="-5"), pod("b", cost="2"), id="cheaper"),
        pytest.param(pod("a", cost="x"), pod("b", cost="2"), id="a cost that is no number is 0"),
        pytest.param(pod("a", ready=3), pod("b", ready=900), id="ready for less time"),
        pytest.param(pod("a", restarts=4), pod("b", restarts=1), id="more restarts"),
        pytest.param(pod("a", age=10), pod("b", age=9000), id="younger"),
        pytest.param(pod("b", phase=""), pod("a", phase="Unknown"), id="no phase is pending"),
        pytest.param(pod("a", cost="+9"), pod("b", cost="2"), id="nor is one with a plus"),
        pytest.param(pod("a", ready=1000), pod("b", ready=999), id="about as long: by uid"),
        pytest.param(pod("b", ready=540), pod("a", ready=600), id="powers of two of nanoseconds"),
        pytest.param(with_sidecar("b", 3), with_sidecar("a", 1), id="restarts of sidecars"),
    ],
)
def test_deletion_order(first: Pod, second: Pod) -> None:
    for candidates in ([first, second], [second, first]):
        assert deletion_order(candidates, candidates, NOW) == [first, second]


def test_a_node_with_many_pods_of_the_workload_loses_one_first() -> None:
    crowded, alone = pod("z", node="n1"), pod("a", node="n2")
    related = [crowded, alone, pod("other", node="n1")]
    assert deletion_order([alone, crowded], related, NOW)[0] is crowded


def owned(replicas: int | None = None) -> ReplicaSet:
    return ReplicaSet(
        metadata=ObjectMeta(name="web", generation=4), spec=ReplicaSetSpec(replicas=replicas)
    )


def decided(replicas: int, pods: list[Pod]) -> Plan:
    return plan(View(owned(replicas), pods, [], NOW))


def test_plan() -> None:
    pods = [pod("a"), pod("b", ready=None)]
    assert decided(5, pods).create == 3
    assert decided(10_000, pods).create == BURST
    assert [p.metadata.name for p in decided(1, pods).delete] == ["b"]
    assert decided(0, pods).delete == pods
    assert decided(2, pods) == Plan()
    leaving = owned(5)
    leaving.metadata.deletionTimestamp = format_time(NOW)
    assert plan(View(leaving, pods, [], NOW)) == Plan()


def test_a_set_of_its_own_does_not_look_at_nodes() -> None:
    """Only sets under a common owner are spread when they shrink."""
    crowded, alone = pod("z", node="n1", ready=900), pod("a", node="n2", ready=3)
    also = pod("y", node="n1", ready=900)
    assert plan(View(owned(2), [crowded, alone, also], [], NOW)).delete == [alone]
    related = [crowded, alone, also]
    given_up = plan(View(owned(2), related, [], NOW, related)).delete
    assert [p.spec.nodeName for p in given_up] == ["n1"]


def test_a_failure_is_told_once_until_it_is_over() -> None:
    view = View(owned(3), [pod("a")], [], NOW)
    first = next_status(view, ApiError(403, "Forbidden", "exceeded quota"))
    (condition,) = first.conditions
    assert (condition.reason, condition.message) == ("FailedCreate", "exceeded quota")
    view.owner.status = first
    again = next_status(view, ApiError(403, "Forbidden", "another"))
    assert again.conditions == [condition]
    assert next_status(view).conditions == []
    many = View(owned(0), [pod("a")], [], NOW)
    assert next_status(many, ApiError(500, "", "x")).conditions[0].reason == "FailedDelete"


def test_a_replication_controller_has_a_status_of_its_own() -> None:
    old = ReplicationController(metadata=ObjectMeta(generation=2))
    status = next_status(View(old, [pod("a")], [pod("b")], NOW))
    assert isinstance(status, ReplicationControllerStatus)
    assert (status.replicas, status.observedGeneration) == (1, 2)


@pytest.mark.parametrize(
    ("of", "minimum", "expected"),
    [
        pytest.param(pod("a", ready=None), 0, None, id="not ready"),
        pytest.param(pod("a", ready=1), 0, 0.0, id="ready is enough"),
        pytest.param(pod("a", ready=4), 10, 6.0, id="too young"),
        pytest.param(pod("a", ready=40), 10, 0.0, id="old enough"),
    ],
)
def test_availability(of: Pod, minimum: int, expected: float | None) -> None:
    assert seconds_until_available(of, minimum, NOW) == expected


def test_status_counts() -> None:
    owner = owned()
    owner.spec.minReadySeconds = 10
    owner.spec.template = PodTemplateSpec(metadata=ObjectMeta(labels={"app": "a", "tier": "x"}))
    full = pod("a")
    full.metadata.labels["tier"] = "x"
    active = [full, pod("b", ready=2), pod("c", ready=None)]
    status = next_status(View(owner, active, [pod("d")], NOW))
    assert (status.replicas, status.fullyLabeledReplicas, status.readyReplicas) == (3, 1, 2)
    assert (status.availableReplicas, status.terminatingReplicas) == (1, 1)
    assert status.observedGeneration == 4
