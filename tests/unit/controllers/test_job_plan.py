"""What a Job needs next, decided on plain values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from navarch.api.objects import copy_object
from navarch.api.times import format_time
from navarch.api.types.batch_v1 import (
    Job,
    JobSpec,
    JobStatus,
    PodFailurePolicy,
    PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyRule,
    SuccessPolicy,
    SuccessPolicyRule,
    UncountedTerminatedPods,
)
from navarch.api.types.core_v1 import (
    ContainerState,
    ContainerStateTerminated,
    ContainerStatus,
    Pod,
    PodSpec,
    PodStatus,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.controllers.job_indexes import format_indexes, parse_indexes
from navarch.controllers.job_plan import decide, is_complete, manage, success_policy_message
from navarch.controllers.job_pods import (
    FAILURE_COUNT,
    IGNORED_FAILURE_COUNT,
    INDEX,
    TRACKING,
    Backoff,
    backoff_left,
    finished_at,
    match_failure,
    new_pod,
)
from navarch.controllers.job_tracking import count_released, finish, track
from navarch.controllers.job_view import View, observe

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)


def job(status: JobStatus | None = None, **spec: Any) -> Job:
    return Job(
        metadata=ObjectMeta(name="j", namespace="default", uid="job"),
        spec=JobSpec(**spec),
        status=status or JobStatus(),
    )


def indexed(completions: int = 3, status: JobStatus | None = None, **spec: Any) -> Job:
    spec = {"parallelism": completions, **spec}
    return job(status, completions=completions, completionMode="Indexed", **spec)


def pod(
    uid: str,
    phase: str = "Running",
    *,
    index: int | None = None,
    deleted: bool = False,
    counted: bool = False,
    code: int = 1,
    ago: float = 0,
    failures: int | None = None,
) -> Pod:
    annotations = {} if failures is None else {FAILURE_COUNT: str(failures)}
    if index is not None:
        annotations[INDEX] = str(index)
    ended = phase in ("Succeeded", "Failed")
    stamp = format_time(NOW - timedelta(seconds=ago))
    terminated = ContainerStateTerminated(
        exitCode=code if phase == "Failed" else 0, finishedAt=stamp
    )
    state = ContainerState(terminated=terminated) if ended else ContainerState()
    return Pod(
        metadata=ObjectMeta(
            name=uid,
            namespace="default",
            uid=uid,
            creationTimestamp=format_time(NOW - timedelta(hours=1)),
            annotations=annotations,
            finalizers=[] if counted else [TRACKING],
            deletionTimestamp=stamp if deleted else None,
        ),
        spec=PodSpec(),
        status=PodStatus(
            phase=phase, containerStatuses=[ContainerStatus(name="main", state=state)]
        ),
    )


def view(job: Job, *pods: Pod, backoff: Backoff | None = None) -> View:
    return observe(job, pods, backoff or Backoff(), NOW)


@given(st.frozensets(st.integers(0, 60)))
def test_indexes_survive_being_written(indexes: frozenset[int]) -> None:
    assert parse_indexes(format_indexes(indexes), 61) == indexes


@pytest.mark.parametrize(
    ("indexes", "text"),
    [([], ""), ([0], "0"), ([0, 1], "0,1"), ([4, 2, 3, 0], "0,2-4"), ([7, 8, 9, 11], "7-9,11")],
)
def test_how_indexes_are_written(indexes: list[int], text: str) -> None:
    assert format_indexes(indexes) == text


@pytest.mark.parametrize(
    ("text", "indexes"),
    [
        (None, []),
        ("1-3,9", [1, 2, 3]),
        ("x,2,-", [2]),
        ("4-99", [4]),
        ("3-1", []),
        ("3-" + "9" * 5000, [3, 4]),
    ],
)
def test_how_indexes_are_read(text: str | None, indexes: list[int]) -> None:
    assert sorted(parse_indexes(text, 5)) == indexes


@pytest.mark.parametrize(
    ("spec", "pods", "create", "delete"),
    [
        pytest.param({"parallelism": 2, "completions": 5}, [], 2, [], id="start"),
        pytest.param(
            {"parallelism": 2, "completions": 1}, [], 1, [], id="no more than completions"
        ),
        pytest.param({"parallelism": 0, "completions": 1}, [], 0, [], id="none at once"),
        pytest.param(
            {"parallelism": 3, "completions": 3},
            [pod("a", "Succeeded"), pod("b")],
            1,
            [],
            id="what is missing",
        ),
        pytest.param(
            {"parallelism": 1, "completions": 3}, [pod("a"), pod("b")], 0, ["a"], id="too many"
        ),
        pytest.param({"parallelism": 3}, [pod("a", "Succeeded"), pod("b")], 0, [], id="queue ends"),
        pytest.param({"parallelism": 3}, [pod("b")], 2, [], id="queue works"),
        pytest.param(
            {"parallelism": 2, "completions": 2, "suspend": True},
            [pod("a"), pod("b")],
            0,
            ["a", "b"],
            id="suspended",
        ),
        pytest.param(
            {"parallelism": 2, "completions": 2},
            [pod("a", deleted=True, ago=60), pod("b")],
            1,
            [],
            id="a leaving pod is replaced",
        ),
        pytest.param(
            {"parallelism": 2, "completions": 2, "podReplacementPolicy": "Failed"},
            [pod("a", deleted=True), pod("b")],
            0,
            [],
            id="a leaving pod is waited for",
        ),
    ],
)
def test_how_many_pods(
    spec: dict[str, Any], pods: Sequence[Pod], create: int, delete: list[str]
) -> None:
    change = manage(view(job(**spec), *pods))
    assert len(change.create) == create
    assert sorted(p.metadata.uid for p in change.delete) == delete


def test_indexes_that_are_pending() -> None:
    status = JobStatus(completedIndexes="0")
    seen = view(
        indexed(6, status, parallelism=3), pod("a", index=2), pod("b", "Succeeded", index=1)
    )
    assert manage(seen).create == [3, 4]


def test_doubled_and_foreign_indexes_are_removed() -> None:
    pods = [
        pod("a", index=0),
        pod("b", "Pending", index=0),
        pod("c", index=7),
        pod("d"),
        pod("e", index=1),
    ]
    change = manage(view(indexed(2), *pods))
    assert sorted(p.metadata.uid for p in change.delete) == ["b", "c", "d"]


@pytest.mark.parametrize("text", ["9" * 5000, "²", "٣"])
def test_an_index_that_somebody_made_up_is_foreign(text: str) -> None:
    made_up = pod("a", index=0)
    made_up.metadata.annotations[INDEX] = text
    change = manage(view(indexed(2), made_up))
    assert [each.metadata.uid for each in change.delete] == ["a"]


@pytest.mark.parametrize(
    ("failures", "ago", "left"),
    [(0, 0, 0), (1, 0, 10), (1, 4, 6), (2, 0, 20), (3, 50, 0), (7, 0, 600), (99, 0, 600)],
)
def test_back_off_doubles_up_to_ten_minutes(failures: int, ago: float, left: float) -> None:
    assert backoff_left(failures, NOW - timedelta(seconds=ago), NOW) == left


def test_a_success_ends_the_back_off() -> None:
    before = Backoff(3, NOW)
    failed = [pod("a", "Failed", ago=30), pod("b", "Failed", ago=5)]
    assert before.after([], failed) == Backoff(5, NOW - timedelta(seconds=5))
    after = before.after([pod("c", "Succeeded", ago=10)], failed)
    assert after == Backoff(1, NOW - timedelta(seconds=5))
    assert before.after([pod("c", "Succeeded")], []) == Backoff()
    assert before.after([], []) is before


def test_new_pods_wait_for_the_back_off() -> None:
    seen = view(job(parallelism=1, completions=1), pod("a", "Failed", ago=4))
    change = manage(seen)
    assert (list(change.create), change.wait) == ([], 6.0)


def test_each_index_backs_off_by_itself() -> None:
    made = indexed(2, backoffLimitPerIndex=3)
    recent = pod("a", "Failed", index=0, ago=1)
    seen = view(made, recent, pod("b", "Failed", index=1, ago=60))
    change = manage(seen)
    assert (list(change.create), change.wait) == ([1], 9.0)
    assert seen.replaced[0] is recent


@pytest.mark.parametrize(
    ("made", "pods", "reason"),
    [
        pytest.param(job(backoffLimit=0), [pod("a", "Failed")], "BackoffLimitExceeded", id="limit"),
        pytest.param(job(backoffLimit=1), [pod("a", "Failed")], "", id="below the limit"),
        pytest.param(
            job(), [pod(str(n), "Failed") for n in range(7)], "BackoffLimitExceeded", id="six"
        ),
        pytest.param(
            job(JobStatus(failed=1), backoffLimit=1),
            [pod("a", "Failed", counted=True)],
            "",
            id="counted once",
        ),
        pytest.param(
            job(
                JobStatus(uncountedTerminatedPods=UncountedTerminatedPods(failed=["a"])),
                backoffLimit=1,
            ),
            [pod("a", "Failed")],
            "",
            id="uncounted ones once",
        ),
        pytest.param(
            job(JobStatus(startTime=format_time(NOW)), activeDeadlineSeconds=1),
            [],
            "",
            id="in time",
        ),
        pytest.param(
            job(
                JobStatus(startTime=format_time(NOW - timedelta(seconds=2))),
                activeDeadlineSeconds=2,
            ),
            [],
            "DeadlineExceeded",
            id="too late",
        ),
        pytest.param(
            indexed(backoffLimitPerIndex=0, maxFailedIndexes=0),
            [pod("a", "Failed", index=1)],
            "MaxFailedIndexesExceeded",
            id="indexes",
        ),
        pytest.param(
            indexed(2, backoffLimitPerIndex=0),
            [pod("a", "Failed", index=1), pod("b", "Succeeded", index=0)],
            "FailedIndexes",
            id="all settled",
        ),
        pytest.param(
            indexed(2, backoffLimitPerIndex=1), [pod("a", "Failed", index=1)], "", id="once more"
        ),
    ],
)
def test_reasons_to_fail(made: Job, pods: Sequence[Pod], reason: str) -> None:
    verdict = decide(view(made, *pods))
    if not reason:
        assert verdict is None
        return
    assert verdict is not None
    assert (verdict.type, verdict.reason) == ("FailureTarget", reason)


def exit_codes(action: str, operator: str, *values: int, name: str | None = None) -> Any:
    codes = PodFailurePolicyOnExitCodesRequirement(
        containerName=name, operator=operator, values=[*values]
    )
    return PodFailurePolicyRule(action=action, onExitCodes=codes)


@pytest.mark.parametrize(
    ("rules", "code", "action", "counted"),
    [
        ([exit_codes("Ignore", "In", 3)], 3, "Ignore", False),
        ([exit_codes("Ignore", "In", 3)], 4, "", True),
        ([exit_codes("FailJob", "NotIn", 3)], 4, "FailJob", True),
        ([exit_codes("FailJob", "NotIn", 3)], 3, "", True),
        ([exit_codes("Ignore", "In", 3, name="other")], 3, "", True),
        ([exit_codes("Count", "In", 3), exit_codes("FailJob", "In", 3)], 3, "Count", True),
        ([exit_codes("FailIndex", "In", 3)], 3, "FailIndex", True),
    ],
)
def test_pod_failure_policy(
    rules: list[PodFailurePolicyRule], code: int, action: str, counted: bool
) -> None:
    match = match_failure(PodFailurePolicy(rules=rules), pod("a", "Failed", code=code))
    assert (match.action, match.is_counted) == (action, counted)


@pytest.mark.parametrize(
    ("rules", "completed", "message"),
    [
        ([SuccessPolicyRule(succeededIndexes="0,2")], {0}, ""),
        ([SuccessPolicyRule(succeededIndexes="0,2")], {0, 2}, "Matched rules at index 0"),
        ([SuccessPolicyRule(succeededCount=2)], {1}, ""),
        ([SuccessPolicyRule(succeededCount=2)], {1, 3}, "Matched rules at index 0"),
        ([SuccessPolicyRule(succeededIndexes="0-3", succeededCount=2)], {1, 4}, ""),
        (
            [SuccessPolicyRule(succeededIndexes="0"), SuccessPolicyRule(succeededCount=1)],
            {4},
            "Matched rules at index 1",
        ),
    ],
)
def test_success_policy(rules: list[SuccessPolicyRule], completed: set[int], message: str) -> None:
    made = indexed(5, successPolicy=SuccessPolicy(rules=rules))
    assert success_policy_message(made, completed) == message


@pytest.mark.parametrize(
    ("completions", "succeeded", "active", "complete"),
    [(2, 2, 0, True), (2, 2, 1, False), (2, 1, 0, False), (None, 1, 0, True), (None, 1, 1, False)],
)
def test_completion(completions: int | None, succeeded: int, active: int, complete: bool) -> None:
    seen = view(job(JobStatus(succeeded=succeeded), completions=completions))
    assert is_complete(seen, active) is complete


def test_a_pod_is_counted_when_its_finalizer_is_off() -> None:
    seen = view(job(completions=2, parallelism=2), pod("a", "Succeeded"), pod("b", "Failed"))
    tracking = track(seen, None)
    status = seen.job.status
    assert (seen.uncounted.succeeded, seen.uncounted.failed) == (["a"], ["b"])
    assert (status.succeeded, status.failed) == (0, 0)
    count_released(status, {"a"})
    assert (seen.uncounted.succeeded, status.failed) == (["a"], 1)
    count_released(status, set())
    assert (seen.uncounted.succeeded, status.succeeded) == ([], 1)
    assert [p.metadata.uid for p in tracking.release] == ["a", "b"]


@given(
    phases=st.lists(st.sampled_from(["Succeeded", "Failed"]), max_size=12),
    crashes=st.lists(st.integers(0, 6), max_size=8),
    vanish=st.booleans(),
)
def test_each_pod_is_counted_once_whenever_the_controller_is_killed(
    phases: list[str], crashes: list[int], vanish: bool
) -> None:
    """A crash after so many writes of a pass; pods without finalizer may go at once."""
    made = job(completions=99, parallelism=99, backoffLimit=99)
    pods = {str(number): pod(str(number), phase) for number, phase in enumerate(phases)}
    for writes_left in [*crashes, 99, 99]:
        seen = view(copy_object(made), *pods.values())
        tracking = track(seen, None)
        if writes_left == 0:
            continue
        made = copy_object(seen.job)  # the first write
        for released in tracking.release[: writes_left - 1]:
            uid = released.metadata.uid
            pods[uid].metadata.finalizers = []
            tracking.holders.discard(uid)
            if vanish:
                del pods[uid]
        if writes_left > len(tracking.release) + 1:
            count_released(seen.job.status, tracking.holders)
            made = copy_object(seen.job)  # the last one
        status = made.status
        assert status.succeeded <= phases.count("Succeeded")
        assert status.failed <= phases.count("Failed")
    counted = (made.status.succeeded, made.status.failed)
    assert counted == (phases.count("Succeeded"), phases.count("Failed"))


@pytest.mark.parametrize("made", [job(completions=1, parallelism=1), indexed(1)])
def test_a_pod_that_was_taken_for_failed_completes_nothing(made: Job) -> None:
    """It was deleted, counted as failed, and only then seen to have succeeded; that its finalizer
    was taken off nobody knows yet."""
    made = copy_object(made)
    made.status.uncountedTerminatedPods = UncountedTerminatedPods(failed=["a"])
    seen = view(made, pod("a", "Succeeded", index=0, deleted=True))
    verdict = decide(seen)
    tracking = track(seen, verdict)
    assert verdict is None
    assert (seen.succeeded, seen.failed, made.status.conditions) == (0, 1, [])
    assert [each.metadata.uid for each in tracking.release] == ["a"]
    assert made.status.uncountedTerminatedPods.succeeded == []


def test_a_failed_pod_stays_until_its_replacement_knows_its_history() -> None:
    made = indexed(2, backoffLimitPerIndex=3)
    seen = view(made, pod("a", "Failed", index=0))
    assert not track(seen, None).release
    seen = view(made, pod("a", "Failed", index=0), pod("b", index=0))
    assert [p.metadata.uid for p in track(seen, None).release] == ["a"]
    assert seen.uncounted.failed == ["a"]


def test_history_is_handed_on() -> None:
    policy = PodFailurePolicy(rules=[exit_codes("Ignore", "In", 3)])
    made = indexed(1, backoffLimitPerIndex=9, podFailurePolicy=policy)
    first = new_pod(made, 0, None).metadata.annotations
    assert (first[FAILURE_COUNT], IGNORED_FAILURE_COUNT in first) == ("0", False)
    failed = pod("a", "Failed", index=0, code=1, failures=2)
    assert new_pod(made, 0, failed).metadata.annotations[FAILURE_COUNT] == "3"
    ignored = pod("a", "Failed", index=0, code=3, failures=2)
    handed = new_pod(made, 0, ignored).metadata.annotations
    assert (handed[FAILURE_COUNT], handed[IGNORED_FAILURE_COUNT]) == ("2", "1")


def test_long_names_leave_room_for_the_index() -> None:
    made = indexed(2000)
    made.metadata.name = "x" * 63
    prefix = new_pod(made, 1999, None).metadata.generateName
    assert len(prefix) == 58
    assert prefix.endswith("x-1999-")


def test_in_a_failing_job_running_pods_count_as_failed_and_after_a_success_they_do_not() -> None:
    seen = view(job(completions=1, backoffLimit=0), pod("a", "Failed"), pod("b"))
    verdict = decide(seen)
    tracking = track(seen, verdict)
    assert seen.uncounted.failed == ["a", "b"]
    assert tracking.final is not None and tracking.final.type == "Failed"
    policy = SuccessPolicy(rules=[SuccessPolicyRule(succeededCount=1)])
    seen = view(indexed(2, successPolicy=policy), pod("a", "Succeeded", index=0), pod("b", index=1))
    tracking = track(seen, decide(seen))
    assert (seen.uncounted.failed, seen.job.status.completedIndexes) == ([], "0")
    assert len(tracking.release) == 2


def test_a_job_ends_only_when_all_is_counted_and_gone() -> None:
    seen = view(job(completions=1, backoffLimit=0), pod("a", "Failed"))
    tracking = track(seen, decide(seen))
    assert not finish(seen.job, tracking, 0)
    count_released(seen.job.status, set())
    assert not finish(seen.job, tracking, 1)
    assert finish(seen.job, tracking, 0)
    types = [c.type for c in seen.job.status.conditions]
    assert types == ["FailureTarget", "Failed"]


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (pod("a", "Failed", ago=7), NOW - timedelta(seconds=7)),
        (pod("a", deleted=True, ago=9), NOW - timedelta(seconds=9)),
        (pod("a"), NOW - timedelta(hours=1)),
    ],
)
def test_when_a_pod_ended(made: Pod, expected: datetime) -> None:
    assert finished_at(made) == expected
