"""The ReplicaSet's arithmetic: how many pods, which to give up first, what to report."""

from datetime import UTC, datetime, timedelta

import pytest

from navarch.api.times import format_time
from navarch.api.types.apps_v1 import ReplicaSet, ReplicaSetSpec
from navarch.api.types.core_v1 import (
    ContainerStatus,
    Pod,
    PodCondition,
    PodSpec,
    PodStatus,
    PodTemplateSpec,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.controllers.pods import DELETION_COST, deletion_order, seconds_until_available
from navarch.controllers.replicaset import BURST, counted, plan

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
    ],
)
def test_deletion_order(first: Pod, second: Pod) -> None:
    for candidates in ([first, second], [second, first]):
        assert deletion_order(candidates, candidates, NOW) == [first, second]


def test_a_node_with_many_pods_of_the_workload_loses_one_first() -> None:
    crowded, alone = pod("z", node="n1"), pod("a", node="n2")
    related = [crowded, alone, pod("other", node="n1")]
    assert deletion_order([alone, crowded], related, NOW)[0] is crowded


def test_plan() -> None:
    pods = [pod("a"), pod("b", ready=None)]
    assert plan(5, pods, pods, NOW).create == 3
    assert plan(10_000, pods, pods, NOW).create == BURST
    assert [p.metadata.name for p in plan(1, pods, pods, NOW).delete] == ["b"]
    assert plan(2, pods, pods, NOW) == plan(2, pods, [], NOW)


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
    owner = ReplicaSet(metadata=ObjectMeta(generation=4), spec=ReplicaSetSpec(minReadySeconds=10))
    template = PodTemplateSpec(metadata=ObjectMeta(labels={"app": "a", "tier": "x"}))
    full = pod("a")
    full.metadata.labels["tier"] = "x"
    pods = [
        full,
        pod("b", ready=2),
        pod("c", ready=None),
        pod("d", deletionTimestamp=format_time(NOW)),
    ]
    status = counted(owner, template, pods, NOW)
    assert (status.replicas, status.fullyLabeledReplicas, status.readyReplicas) == (3, 1, 2)
    assert (status.availableReplicas, status.terminatingReplicas) == (1, 1)
    assert status.observedGeneration == 4
