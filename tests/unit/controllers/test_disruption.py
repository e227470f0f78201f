"""The arithmetic of disruption budgets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from navarch.api.objects import copy_object
from navarch.api.times import format_time
from navarch.api.types.core_v1 import Pod, PodCondition, PodStatus
from navarch.api.types.meta_v1 import Condition, ObjectMeta
from navarch.api.types.policy_v1 import (
    PodDisruptionBudget,
    PodDisruptionBudgetSpec,
    PodDisruptionBudgetStatus,
)
from navarch.client import Client, ClientConfig, ControllerContext, FakeClock, InformerFactory
from navarch.client.objects import WatchEvent
from navarch.client.writes import LAG_SECONDS
from navarch.controllers.disruption import (
    DisruptionController,
    Expectation,
    count_healthy,
    expectation,
    next_status,
    stale_after,
    still_disrupted,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def ago(**ago: float) -> str:
    return format_time(NOW - timedelta(**ago))


def pod(name: str, *conditions: PodCondition, deleted: bool = False, phase: str = "Running") -> Pod:
    metadata = ObjectMeta(name=name, deletionTimestamp=ago(seconds=1) if deleted else None)
    return Pod(metadata=metadata, status=PodStatus(phase=phase, conditions=[*conditions]))


READY = PodCondition(type="Ready", status="True")


@pytest.mark.parametrize(
    ("spec", "pods", "healthy"),
    [
        ({"minAvailable": 2}, 5, 2),
        ({"minAvailable": "50%"}, 5, 3),
        ({"minAvailable": "0%"}, 5, 0),
        ({"maxUnavailable": 2}, 5, 3),
        ({"maxUnavailable": 9}, 5, 0),
        ({"maxUnavailable": "30%"}, 5, 3),
        ({"maxUnavailable": "1%"}, 5, 4),
    ],
)
def test_how_many_have_to_be_healthy(spec: dict[str, Any], pods: int, healthy: int) -> None:
    assert expectation(PodDisruptionBudgetSpec(**spec), pods) == Expectation(pods, healthy)


def test_a_budget_of_nothing_expects_nothing() -> None:
    assert expectation(PodDisruptionBudgetSpec(), 3) == Expectation()


def test_evictions_are_remembered_for_two_minutes_or_until_they_are_seen() -> None:
    listed = {
        "young": ago(seconds=10),
        "older": ago(seconds=60),
        "overdue": ago(seconds=121),
        "leaving": ago(seconds=10),
        "gone": ago(seconds=10),
    }
    pods = [pod("young"), pod("older"), pod("overdue"), pod("leaving", deleted=True), pod("other")]
    counted = still_disrupted(listed, pods, NOW)
    assert counted.disrupted == {"young": listed["young"], "older": listed["older"]}
    assert [each.metadata.name for each in counted.overdue] == ["overdue"]
    assert counted.recheck == NOW + timedelta(seconds=60)


def test_who_counts_as_healthy() -> None:
    pods = [pod("a", READY), pod("b"), pod("c", READY, deleted=True), pod("d", READY)]
    assert count_healthy(pods, {"d": ago(seconds=1)}) == 1


@pytest.mark.parametrize(
    ("expected", "healthy", "allowed"),
    [
        (Expectation(3, 2), 3, 1),
        (Expectation(3, 2), 2, 0),
        (Expectation(3, 2), 1, 0),
        (Expectation(0, 0), 2, 0),
    ],
)
def test_what_is_allowed(expected: Expectation, healthy: int, allowed: int) -> None:
    foreign = Condition(type="Foreign", status="True")
    old = Condition(type="DisruptionAllowed", status="False", lastTransitionTime=ago(hours=1))
    budget = PodDisruptionBudget(
        metadata=ObjectMeta(generation=4),
        status=PodDisruptionBudgetStatus(conditions=[foreign, old]),
    )
    status = next_status(budget, expected, healthy, {}, NOW)
    assert status.disruptionsAllowed == allowed
    assert status.observedGeneration == 4
    assert status.conditions == [
        foreign,
        Condition(
            type="DisruptionAllowed",
            status="True" if allowed else "False",
            observedGeneration=4,
            lastTransitionTime=format_time(NOW) if allowed else ago(hours=1),
            reason="SufficientPods" if allowed else "InsufficientPods",
        ),
    ]


def target(reason: str = "EvictionByEvictionAPI", status: str = "True") -> PodCondition:
    return PodCondition(
        type="DisruptionTarget", status=status, reason=reason, lastTransitionTime=ago(seconds=90)
    )


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (pod("p", target()), 30),
        (pod("p", target("TerminationByKubelet")), None),
        (pod("p", target(status="False")), None),
        (pod("p", target(), deleted=True), None),
        (pod("p", target(), phase="Failed"), None),
        (pod("p"), None),
    ],
)
def test_a_disruption_that_does_not_come_gets_stale(given: Pod, seconds: int | None) -> None:
    expected = None if seconds is None else timedelta(seconds=seconds)
    assert stale_after(given, NOW) == expected


async def test_a_status_is_written_once_though_the_informer_lags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or each attempt is a conflict with what was just written."""
    clock = FakeClock()
    client = Client(ClientConfig("http://nowhere.example"), clock=clock)
    context = ControllerContext(client, InformerFactory(client), clock)
    controller = DisruptionController(context)
    written: list[PodDisruptionBudget] = []

    async def update_status(budget: PodDisruptionBudget) -> PodDisruptionBudget:
        written.append(copy_object(budget))
        written[-1].metadata.resourceVersion = "2"
        return written[-1]

    monkeypatch.setattr(client.resource(PodDisruptionBudget), "update_status", update_status)
    monkeypatch.setattr(controller.recorder, "event", lambda *_: None)
    meta = ObjectMeta(name="b", namespace="a", uid="u", generation=1, resourceVersion="1")
    spec = PodDisruptionBudgetSpec(minAvailable=1)
    controller.budgets._handle(WatchEvent("ADDED", PodDisruptionBudget(metadata=meta, spec=spec)))
    assert await controller.queue.get() == "a/b"
    for _ in range(3):
        await controller.reconcile("a/b")
    controller.queue.done("a/b")
    assert len(written) == 1
    # A list that is read anew tells of nothing that was known: so the key comes again by itself.
    assert len(controller.queue) == 0
    await clock.advance(LAG_SECONDS)
    assert len(controller.queue) == 1
    controller.budgets._handle(WatchEvent("MODIFIED", copy_object(written[0])))
    changed = copy_object(written[0])
    changed.metadata.generation = 2
    changed.metadata.resourceVersion = "3"
    controller.budgets._handle(WatchEvent("MODIFIED", changed))
    await controller.reconcile("a/b")
    assert [each.status.observedGeneration for each in written] == [1, 2]
