"""What is said of namespaces that are being deleted, and for how long their pods may stay."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import NamespaceCondition, Pod, PodSpec, PodStatus
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import PartialObject
from navarch.controllers.discovery import ApiResource
from navarch.controllers.namespace import FINALIZER_SECONDS, PODS, grace_left, judge
from navarch.controllers.namespace_status import FINE, Leftovers, next_conditions

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def pod(grace: int, phase: str = "Running") -> Pod:
    return Pod(spec=PodSpec(terminationGracePeriodSeconds=grace), status=PodStatus(phase=phase))


@pytest.mark.parametrize(
    ("pods", "ago", "left"),
    [
        ([], 0, 0),
        ([pod(30), pod(60)], 0, 60),
        ([pod(30)], 31, 0),
        ([pod(60, "Succeeded"), pod(1)], 0, 1),
    ],
)
def test_grace(pods: list[Pod], ago: float, left: float) -> None:
    assert grace_left(pods, NOW - timedelta(seconds=ago), NOW) == left


def item(*finalizers: str) -> PartialObject:
    return PartialObject(metadata=ObjectMeta(finalizers=[*finalizers]))


def test_what_remains_is_waited_for_or_a_failure() -> None:
    jobs = ApiResource("batch", "v1", "jobs", "Job", True, frozenset())
    assert judge(jobs, [], 30, "a") == Leftovers()
    assert judge(jobs, [item()], 30, "a").estimate == 30
    held = judge(jobs, [item("f"), item("f", "g")], 0, "a")
    assert held.remaining == {"jobs.batch": 2}
    assert (held.estimate, held.finalizers) == (FINALIZER_SECONDS, {"f": 2, "g": 1})
    for resource, gvr in ((jobs, "batch/v1, Resource=jobs"), (PODS, "/v1, Resource=pods")):
        (failure,) = judge(resource, [item()], 0, "a").failures
        assert str(failure) == f"unexpected items still remain in namespace: a for gvr: {gvr}"


def test_all_conditions_are_there_and_say_what_is_wrong() -> None:
    left = Leftovers({"pods.": 2, "jobs.batch": 1}, {"f": 3}, [ApiError(500, "", "no")], ["g/v1"])
    told = {c.type: c for c in next_conditions([], left, NOW)}
    assert list(told) == list(FINE)
    assert told["NamespaceContentRemaining"].message == (
        "Some resources are remaining: "
        "jobs.batch has 1 resource instances, pods. has 2 resource instances"
    )
    assert told["NamespaceFinalizersRemaining"].message.endswith("f in 3 resource instances")
    assert told["NamespaceDeletionContentFailure"].message == (
        "Failed to delete all resource types, 1 remaining: no"
    )
    assert told["NamespaceDeletionDiscoveryFailure"].reason == "DiscoveryFailed"
    assert told["NamespaceDeletionGroupVersionParsingFailure"].status == "False"


def test_conditions_keep_their_time_and_those_of_others_stay() -> None:
    before = next_conditions([], Leftovers({"pods.": 1}), NOW)
    before.append(NamespaceCondition(type="Custom", status="True"))
    later = NOW + timedelta(seconds=5)
    after = {c.type: c for c in next_conditions(before, Leftovers(), later)}
    assert after["Custom"].status == "True"
    assert after["NamespaceContentRemaining"].lastTransitionTime == "2026-01-01T00:00:05Z"
    assert after["NamespaceFinalizersRemaining"].lastTransitionTime == "2026-01-01T00:00:00Z"
    assert next_conditions([*after.values()], Leftovers(), later + timedelta(1)) == [
        *after.values()
    ]
