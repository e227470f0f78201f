"""Which moment of a schedule is due, and which Jobs are kept."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from navarch.api.cron import parse_schedule
from navarch.api.times import format_time, parse_time
from navarch.api.types.batch_v1 import (
    CronJob,
    CronJobSpec,
    CronJobStatus,
    Job,
    JobCondition,
    JobStatus,
    JobTemplateSpec,
)
from navarch.api.types.core_v1 import ObjectReference
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.controllers.cronjob import (
    TIMESTAMP,
    Round,
    Timetable,
    latest_due,
    new_job,
    surplus,
    wait_for_next,
)

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


def cron(since: datetime, deadline: int | None = None, last: str | None = None) -> CronJob:
    return CronJob(
        metadata=ObjectMeta(name="c", namespace="a", uid="u", creationTimestamp=format_time(since)),
        spec=CronJobSpec(startingDeadlineSeconds=deadline),
        status=CronJobStatus(lastScheduleTime=last),
    )


def hours(count: float) -> timedelta:
    return timedelta(hours=count)


@pytest.mark.parametrize(
    ("schedule", "behind", "due"),
    [
        pytest.param("0 * * * ?", hours(0.5), NOON, id="one"),
        pytest.param("30 * * * *", hours(0.4), None, id="none yet"),
        pytest.param("30 * * * *", hours(5), NOON - hours(0.5), id="the latest of several"),
        pytest.param("*/5 * * * *", hours(24 * 365), NOON, id="of very many"),
        pytest.param("* 3 * * *", hours(24 * 9), NOON - hours(8) - hours(1 / 60), id="in bursts"),
        pytest.param("0 0 1 1 *", hours(24 * 900), datetime(2026, 1, 1, tzinfo=UTC), id="yearly"),
    ],
)
def test_what_is_due(schedule: str, behind: timedelta, due: datetime | None) -> None:
    table = Timetable(parse_schedule(schedule))
    assert latest_due(cron(NOON - behind), table, NOON).at == due


def test_the_last_run_and_the_deadline_limit_what_is_due() -> None:
    table = Timetable(parse_schedule("0 * * * *"))
    last = format_time(NOON)
    assert latest_due(cron(NOON - hours(9), last=last), table, NOON + hours(0.9)).at is None
    assert latest_due(cron(NOON - hours(9)), table, NOON + hours(0.9)).missed == 9
    late = cron(NOON - hours(9), deadline=600)
    assert latest_due(late, table, NOON + hours(0.1)).at == NOON
    assert latest_due(late, table, NOON + hours(0.5)).at is None
    assert latest_due(cron(NOON - hours(900)), table, NOON).missed > 100


def test_time_zones_count() -> None:
    table = Timetable(parse_schedule("0 9 * * *"), ZoneInfo("Asia/Tokyo"))
    at = latest_due(cron(NOON - hours(24)), table, NOON).at
    assert at == parse_time("2026-03-02T00:00:00Z")
    assert at is not None
    job = new_job(cron(NOON), at, table.zone)
    assert job.metadata.name == f"c-{int(at.timestamp()) // 60}"
    assert job.metadata.annotations[TIMESTAMP] == "2026-03-02T09:00:00+09:00"
    assert new_job(cron(NOON), at, UTC).metadata.annotations[TIMESTAMP] == "2026-03-02T00:00:00Z"
    assert job.metadata.ownerReferences[0].controller


def test_when_to_look_again() -> None:
    made, later = cron(NOON), NOON + timedelta(seconds=30)
    table = Timetable(parse_schedule("*/10 * * * *"))
    assert wait_for_next(made, table, later) == pytest.approx(570.1)
    assert wait_for_next(made, Timetable(parse_schedule("0 0 30 2 *")), NOON) is None


@pytest.mark.parametrize(
    ("behind", "deadline", "due", "missed", "wait"),
    [
        pytest.param(hours(0.9), None, None, 0, hours(0.1), id="none yet"),
        pytest.param(hours(1), None, hours(0), 0, hours(1), id="one"),
        pytest.param(hours(7.25), None, hours(0.25), 7, hours(0.75), id="the latest of several"),
        pytest.param(hours(7.25), 1000, hours(0.25), 0, hours(0.75), id="within the deadline"),
        pytest.param(hours(7.25), 800, None, 0, hours(0.75), id="past the deadline"),
    ],
)
def test_at_the_same_distance(
    behind: timedelta, deadline: int | None, due: timedelta | None, missed: int, wait: timedelta
) -> None:
    table = Timetable(parse_schedule("@every 1h"))
    made = cron(NOON - behind, deadline)
    found = latest_due(made, table, NOON)
    assert found.at == (None if due is None else NOON - due)
    assert found.missed == missed
    assert wait_for_next(made, table, NOON) == pytest.approx(wait.total_seconds() + 0.1)


def job(name: str, kind: str = "", start: int = 0, uid: str = "") -> Job:
    conditions = [JobCondition(type=kind, status="True")] if kind else []
    at = format_time(NOON + timedelta(minutes=start))
    status = JobStatus(conditions=conditions, startTime=at)
    if kind == "Complete":
        status.completionTime = at
    return Job(metadata=ObjectMeta(name=name, uid=uid or name), status=status)


def test_the_oldest_finished_jobs_go() -> None:
    jobs = [
        job("c2", "Complete", 2),
        job("c1", "Complete", 1),
        job("c3", "Complete", 3),
        job("f1", "Failed", 1),
        job("f2", "Failed", 2),
        job("running"),
    ]
    limited = cron(NOON)
    limited.spec.successfulJobsHistoryLimit = 1
    limited.spec.failedJobsHistoryLimit = 0
    assert [j.metadata.name for j in surplus(limited, jobs)] == ["c1", "c2", "f1", "f2"]
    limited.spec.successfulJobsHistoryLimit = None
    assert [j.metadata.name for j in surplus(limited, jobs)] == ["f1", "f2"]


def test_taking_stock() -> None:
    limited = cron(NOON)
    limited.status.active = [ObjectReference(name=name, uid=name) for name in ("done", "runs")]
    round_ = Round(limited, [job("done", "Complete", 5), job("runs"), job("strange")])
    assert round_.has_strangers()
    round_.take_stock()
    assert [reference.name for reference in limited.status.active] == ["runs"]
    assert limited.status.lastSuccessfulTime == format_time(NOON + timedelta(minutes=5))
    reasons = [reason for _, reason, _ in round_.events]
    assert reasons == ["SawCompletedJob", "UnexpectedJob"]


def test_a_template_gives_labels_and_annotations() -> None:
    made = cron(NOON)
    made.spec.jobTemplate = JobTemplateSpec(
        metadata=ObjectMeta(labels={"a": "b"}, annotations={"c": "d"})
    )
    result = new_job(made, NOON, UTC)
    assert result.metadata.labels == {"a": "b"}
    assert result.metadata.annotations["c"] == "d"
