"""The CronJob controller: makes Jobs at the moments of a schedule.

The state is all in the objects: which Jobs run stands in `status.active`, the moment of the last
one in `status.lastScheduleTime`, and a Job's name is made of the moment it is for, so that none is
made twice whatever is done twice. A moment that was missed (nobody was there, the CronJob was
suspended, the previous Job ran on) is made up for once, for the latest of those missed, if it is
not longer past than `startingDeadlineSeconds`.

Moments are told in the wall time of `spec.timeZone`, or else of the controller's UTC.
Source: upstream's `pkg/controller/cronjob`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from navarch.api.cron import CronError, Every, Schedule, parse_schedule
from navarch.api.errors import ApiError
from navarch.api.objects import copy_object, to_object
from navarch.api.times import format_time, parse_time
from navarch.api.types.batch_v1 import CronJob, Job
from navarch.api.types.core_v1 import ObjectReference
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import (
    Controller,
    ControllerContext,
    Writes,
    is_controlled_by,
    object_key,
    owner_reference,
    split_key,
)
from navarch.controllers.job_view import is_finished
from navarch.controllers.pods import controller_key, find_condition, is_namespace_terminating
from navarch.controllers.workload import controlled, index_by_controller

TIMESTAMP = "batch.kubernetes.io/cronjob-scheduled-timestamp"
TOO_MANY = 100
"""So many missed moments mean that something is wrong."""
MARGIN = 0.1
"""Seconds to look after the moment rather than before it."""


@dataclass(frozen=True, slots=True)
class Timetable:
    """A schedule in its time zone."""

    schedule: Schedule | Every
    zone: tzinfo = UTC

    def next_after(self, moment: datetime) -> datetime | None:
        return self.schedule.next_after(moment, self.zone)


@dataclass(frozen=True, slots=True)
class Due:
    """The latest moment that is due, if any, and how many were missed, roughly."""

    at: datetime | None
    missed: int = 0


def latest_due(cron: CronJob, table: Timetable, now: datetime) -> Due:
    """What is due by now. Moments before the starting deadline are not even looked at."""
    begin, spec = last_time(cron), cron.spec
    if spec.startingDeadlineSeconds is not None:
        floor = now - timedelta(seconds=spec.startingDeadlineSeconds)
        begin = table.schedule.earliest(begin, floor)
    first = table.next_after(begin)
    if first is None or now < first:
        return Due(None)
    second = table.next_after(first)
    if second is None or now < second:
        return Due(first)
    distance = second - first
    # Far behind, perhaps: go back from now, further each time, until a moment is found.
    steps, back = (now - first) // distance, 1
    while steps > back and not _is_within(table, first + (steps - back) * distance, now):
        back *= 2
    latest, following = first, table.next_after(first + max(0, steps - back) * distance)
    while following is not None and following <= now:
        latest, following = following, table.next_after(following)
    return Due(latest, steps + 1)


def last_time(cron: CronJob) -> datetime:
    """The moment of the last run, or else when the CronJob was made."""
    return parse_time(cron.status.lastScheduleTime or cron.metadata.creationTimestamp or "")


def _is_within(table: Timetable, begin: datetime, end: datetime) -> bool:
    found = table.next_after(begin)
    return found is not None and found <= end


def wait_for_next(cron: CronJob, table: Timetable, now: datetime) -> float | None:
    """Seconds to the next moment, which that of the last one may determine (`@every`)."""
    begin = table.schedule.earliest(last_time(cron), now)
    upcoming = table.next_after(begin)
    return None if upcoming is None else (upcoming - now).total_seconds() + MARGIN


def job_name(cron: CronJob, at: datetime) -> str:
    return f"{cron.metadata.name}-{int(at.timestamp()) // 60}"


def new_job(cron: CronJob, at: datetime, zone: tzinfo) -> Job:
    template = copy_object(cron.spec.jobTemplate)
    shown = at.astimezone(zone).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Job(
        metadata=ObjectMeta(
            name=job_name(cron, at),
            namespace=cron.metadata.namespace,
            labels=template.metadata.labels,
            annotations={**template.metadata.annotations, TIMESTAMP: shown},
            ownerReferences=[owner_reference(cron)],
        ),
        spec=template.spec,
    )


def reference_to(job: Job) -> ObjectReference:
    meta = job.metadata
    return ObjectReference(
        apiVersion=job.apiVersion,
        kind=job.kind,
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        resourceVersion=meta.resourceVersion,
    )


def outcome(job: Job) -> str:
    """Complete, Failed, or nothing yet."""
    for kind in ("Complete", "Failed"):
        condition = find_condition(job.status.conditions, kind)
        if condition is not None and condition.status == "True":
            return kind
    return ""


def surplus(cron: CronJob, jobs: Sequence[Job]) -> list[Job]:
    """The finished Jobs above the history limits, the oldest of each kind."""
    result: list[Job] = []
    limits = {
        "Complete": cron.spec.successfulJobsHistoryLimit,
        "Failed": cron.spec.failedJobsHistoryLimit,
    }
    for kind, limit in limits.items():
        if limit is None:
            continue
        finished = [job for job in jobs if outcome(job) == kind]
        finished.sort(key=lambda job: (job.status.startTime or "9", job.metadata.name))
        result += finished[: max(0, len(finished) - limit)]
    return result


@dataclass(slots=True)
class Round:
    """One look at a CronJob: `cron` is a copy whose status is brought up to date meanwhile."""

    cron: CronJob
    jobs: Sequence[Job]
    events: list[tuple[str, str, str]] = field(default_factory=list)

    def tell(self, kind: str, reason: str, message: str) -> None:
        self.events.append((kind, reason, message))

    def is_active(self, uid: str) -> bool:
        return any(reference.uid == uid for reference in self.cron.status.active)

    def drop(self, uid: str) -> None:
        active = self.cron.status.active
        self.cron.status.active = [each for each in active if each.uid != uid]

    def has_strangers(self) -> bool:
        return any(not (is_finished(j) or self.is_active(j.metadata.uid)) for j in self.jobs)

    def take_stock(self) -> None:
        """Take finished Jobs off the list, note the last success, and tell of strangers."""
        status = self.cron.status
        for job in self.jobs:
            name, kind = job.metadata.name, outcome(job)
            if not self.is_active(job.metadata.uid):
                if not is_finished(job):
                    text = f"Saw a job that the controller did not create or forgot: {name}"
                    self.tell("Warning", "UnexpectedJob", text)
            elif is_finished(job):
                self.drop(job.metadata.uid)
                text = f"Saw completed job: {name}, condition: {kind}"
                self.tell("Normal", "SawCompletedJob", text)
            if kind == "Complete" and job.status.completionTime:
                last = status.lastSuccessfulTime or ""
                status.lastSuccessfulTime = max(last, job.status.completionTime)


class CronJobController(Controller):
    """Watches: CronJobs; their Jobs."""

    name = "cronjob"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.crons = context.informers.informer(CronJob)
        self.jobs = context.informers.informer(Job)
        self.recorder = context.recorder("cronjob-controller")
        self.writes = Writes(self.clock)
        index_by_controller(self.jobs)
        self.depends_on(self.crons)
        self.crons.add_handler(lambda cron: self.queue.add(object_key(cron)), self._changed)
        self.watch(self.jobs, lambda job: controller_key(job, "CronJob"))

    def _changed(self, old: CronJob, new: CronJob) -> None:
        """A new schedule counts from now on: nothing was missed in it."""
        key, wait = object_key(new), 0.0
        if (old.spec.schedule, old.spec.timeZone) != (new.spec.schedule, new.spec.timeZone):
            table = self._timetable(Round(new, ()))
            wait = (table and wait_for_next(new, table, self.clock.now())) or 0.0
        self.queue.add_after(key, wait)

    async def reconcile(self, key: str) -> None:
        cached = self.crons.cache.get(key)
        if cached is None:
            self.writes.forget(key)
            return
        if self.writes.hold_back(key, self.queue):
            return  # else a Job just made were a stranger, and one just deleted were missing
        jobs = controlled(self.jobs, cached.metadata.uid)
        round_ = Round(copy_object(cached), jobs)
        if round_.has_strangers():
            # More likely the cache has not seen yet that we have made them.
            namespace, name = split_key(key)
            cached = await self.client.resource(CronJob).get(name, namespace)
            if any(not is_controlled_by(job, cached) for job in jobs):
                return
            round_ = Round(copy_object(cached), jobs)
        try:
            # First, or those that are to go at once would be told of as done, and as missing.
            spare = surplus(round_.cron, jobs)
            failures = [await self._delete(round_, j.metadata.name, j.metadata.uid) for j in spare]
            wait = await self._run(round_)
        finally:
            # What was done is written down even if the rest failed: a Job that was made must not
            # be taken for a stranger.
            for kind, reason, message in round_.events:
                self.recorder.event(cached, kind, reason, message)
            if round_.cron.status != cached.status:
                await self._write(round_.cron)
        if wait is not None:
            self.queue.add_after(key, wait)
        for failure in filter(None, failures):
            raise failure

    async def _write(self, cron: CronJob) -> None:
        """Nobody else writes this status, so it is right whatever else has changed meanwhile."""
        meta, status = cron.metadata, cron.status
        body = {
            "active": [to_object(each) for each in status.active] or None,
            "lastScheduleTime": status.lastScheduleTime,
            "lastSuccessfulTime": status.lastSuccessfulTime,
        }
        written = await self.client.resource(CronJob).patch(
            meta.name,
            meta.namespace,
            {"metadata": {"uid": meta.uid}, "status": body},
            subresource="status",
        )
        self.writes.wrote(object_key(cron), self.crons, written)

    async def _run(self, round_: Round) -> float | None:
        """Do what is due; the seconds until the next moment."""
        cron, now = round_.cron, self.clock.now()
        round_.take_stock()
        await self._drop_missing(round_)
        if cron.metadata.deletionTimestamp:
            return None
        table = self._timetable(round_)
        if table is None or cron.spec.suspend:
            return None
        wait = wait_for_next(cron, table, now)
        if wait is None:
            text = "time difference between two schedules is less than 1 second"
            message = f"invalid schedule: {cron.spec.schedule} : {text}"
            round_.tell("Warning", "InvalidSchedule", message)
            return None
        due = latest_due(cron, table, now)
        if due.missed > TOO_MANY:
            text = (
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or "
                "check clock skew"
            )
            round_.tell("Warning", "TooManyMissedTimes", text)
        if due.at is not None and self._may_start(round_, due.at, now):
            await self._replace(round_)
            await self._start(round_, due.at, table.zone)
        return wait

    def _timetable(self, round_: Round) -> Timetable | None:
        spec = round_.cron.spec
        zone: tzinfo = UTC
        if spec.timeZone is not None:
            try:
                zone = ZoneInfo(spec.timeZone)
            except (ValueError, OSError, LookupError) as error:
                text = f"invalid timeZone: {spec.timeZone!r}: {error}"
                round_.tell("Warning", "UnknownTimeZone", text)
                return None
        try:
            return Timetable(parse_schedule(spec.schedule), zone)
        except CronError as error:
            text = f"unparseable schedule: {spec.schedule!r} : {error}"
            round_.tell("Warning", "UnparseableSchedule", text)
            return None

    def _may_start(self, round_: Round, at: datetime, now: datetime) -> bool:
        cron = round_.cron
        spec, status = cron.spec, cron.status
        deadline = spec.startingDeadlineSeconds
        if deadline is not None and at + timedelta(seconds=deadline) < now:
            text = f"Missed scheduled time to start a job: {at:%a, %d %b %Y %H:%M:%S +0000}"
            round_.tell("Warning", "MissSchedule", text)
            return False
        name = job_name(cron, at)
        if any(each.name == name for each in status.active):
            return False
        if status.lastScheduleTime == format_time(at):
            return False
        if spec.concurrencyPolicy == "Forbid" and status.active:
            text = (
                "Not starting job because prior execution is running and concurrency policy is "
                "Forbid"
            )
            round_.tell("Normal", "JobAlreadyActive", text)
            return False
        return True

    async def _drop_missing(self, round_: Round) -> None:
        """Take Jobs off the list that are not there, whatever the cache says."""
        known = {job.metadata.uid for job in round_.jobs}
        for reference in [*round_.cron.status.active]:
            if reference.uid in known:
                continue
            found = await self.client.resource(Job).find(reference.name, reference.namespace)
            if found is not None and found.metadata.uid == reference.uid:
                continue
            round_.drop(reference.uid)
            text = f"Active job went missing: {reference.name}"
            round_.tell("Normal", "MissingJob", text)

    async def _replace(self, round_: Round) -> None:
        if round_.cron.spec.concurrencyPolicy == "Replace":
            for reference in [*round_.cron.status.active]:
                failure = await self._delete(round_, reference.name, reference.uid)
                if failure is not None:
                    raise failure

    async def _delete(self, round_: Round, name: str, uid: str) -> ApiError | None:
        namespace = round_.cron.metadata.namespace
        try:
            await self.client.resource(Job).delete(
                name, namespace, uid=uid, propagation="Background"
            )
        except ApiError as error:
            if not (error.is_not_found or error.is_conflict):
                round_.tell("Warning", "FailedDelete", f"Deleted job: {error}")
                return error
        else:
            round_.tell("Normal", "SuccessfulDelete", f"Deleted job {name}")
            known = next((job for job in round_.jobs if job.metadata.uid == uid), None)
            if known is not None:
                self.writes.deleted(object_key(round_.cron), self.jobs, known)
        round_.drop(uid)
        return None

    async def _start(self, round_: Round, at: datetime, zone: tzinfo) -> None:
        cron, resource = round_.cron, self.client.resource(Job)
        wanted = new_job(cron, at, zone)
        try:
            made = await resource.create(wanted)
        except ApiError as error:
            if is_namespace_terminating(error):
                return
            if not error.is_already_exists:
                round_.tell("Warning", "FailedCreate", f"Error creating job: {error}")
                raise
            # Made before, by one who then had no time to write it down; or somebody else's.
            made = await resource.get(wanted.metadata.name, wanted.metadata.namespace)
            if not is_controlled_by(made, cron) or made.metadata.deletionTimestamp:
                round_.tell("Warning", "FailedCreate", f"Error creating job: {error}")
                raise
        else:
            text = f"Created job {made.metadata.name}"
            round_.tell("Normal", "SuccessfulCreate", text)
            self.writes.wrote(object_key(cron), self.jobs, made)
        if not is_finished(made) and not round_.is_active(made.metadata.uid):
            cron.status.active.append(reference_to(made))
        cron.status.lastScheduleTime = format_time(at)
