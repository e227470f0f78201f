"""CronJobs on a clock that the test moves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.api.types.batch_v1 import (
    CronJob,
    CronJobSpec,
    Job,
    JobSpec,
    JobTemplateSpec,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.apiserver.server import Server
from navarch.client import Client, ClientConfig, RealClock

from .conftest import Kubelet, eventually, running, template

NAME = "c"


def covers(what: str) -> pytest.MarkDecorator:
    return pytest.mark.conformance(f"CronJob should {what}")


class MovedClock(RealClock):
    ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


@pytest.fixture
async def client(api_server: Server, clock: MovedClock) -> AsyncIterator[Client]:
    async with Client(ClientConfig(api_server.url), clock=clock) as client:
        yield client


async def make(
    client: Client, name: str = NAME, schedule: str = "*/1 * * * ?", **spec: Any
) -> CronJob:
    job = JobSpec(template=template({}, policy="OnFailure"))
    metadata = ObjectMeta(name=name, namespace="default")
    body = CronJobSpec(schedule=schedule, jobTemplate=JobTemplateSpec(spec=job), **spec)
    return await client.resource(CronJob).create(CronJob(metadata=metadata, spec=body))


async def a_minute_passes(client: Client, clock: MovedClock) -> None:
    """Time goes on, and something is touched so that the controller looks at it."""
    clock.ahead += timedelta(minutes=1)
    patch = {"metadata": {"annotations": {"now": str(clock.now())}}}
    await client.resource(CronJob).patch(NAME, "default", patch)


async def jobs(client: Client) -> list[Job]:
    return (await client.resource(Job).list("default")).items


async def until_active(client: Client, count: int) -> list[str]:
    """The names of the Jobs that are on the CronJob's list."""

    async def are_there() -> tuple[list[str]]:
        found = await client.resource(CronJob).get(NAME, "default")
        names = [reference.name for reference in found.status.active]
        assert len(names) == count
        return (names,)

    return (await eventually(are_there, f"{count} active Jobs"))[0]


async def until_looked(client: Client, reason: str) -> None:
    async def is_told() -> bool:
        events = await client.dynamic("", "v1", "events").list("default")
        return any(event["reason"] == reason for event in events.items)

    await eventually(is_told, f"the event {reason}")


@covers("schedule multiple jobs concurrently")
async def test_several_run_at_once(client: Client, clock: MovedClock) -> None:
    async with running(client, "cronjob"):
        await make(client, concurrencyPolicy="Allow")
        await a_minute_passes(client, clock)
        first = await until_active(client, 1)
        await a_minute_passes(client, clock)
        both = await until_active(client, 2)
        assert set(first) < set(both) == {job.metadata.name for job in await jobs(client)}


@covers("not schedule new jobs when ForbidConcurrent [Slow]")
async def test_one_at_a_time(client: Client, clock: MovedClock) -> None:
    async with running(client, "cronjob"):
        await make(client, concurrencyPolicy="Forbid")
        await a_minute_passes(client, clock)
        first = await until_active(client, 1)
        await a_minute_passes(client, clock)
        await until_looked(client, "JobAlreadyActive")
        assert await until_active(client, 1) == first
        assert len(await jobs(client)) == 1


@covers("replace jobs when ReplaceConcurrent")
async def test_the_new_one_replaces_the_old(client: Client, clock: MovedClock) -> None:
    async with running(client, "cronjob"):
        await make(client, concurrencyPolicy="Replace")
        await a_minute_passes(client, clock)
        first = await until_active(client, 1)
        await a_minute_passes(client, clock)

        async def is_replaced() -> bool:
            return await until_active(client, 1) != first

        await eventually(is_replaced, "the replacement")
        assert len(await jobs(client)) == 1


@covers("not schedule jobs when suspended [Slow]")
async def test_nothing_starts_while_suspended(client: Client, clock: MovedClock) -> None:
    async with running(client, "cronjob"):
        await make(client, suspend=True)
        for _ in range(3):
            await a_minute_passes(client, clock)
        await client.resource(CronJob).patch(NAME, "default", {"spec": {"suspend": False}})
        await until_active(client, 1)
        # Only the latest of the missed ones is made up for; had any run, there would be more.
        assert len(await jobs(client)) == 1


async def test_finished_jobs_leave_the_list_and_are_not_kept_for_ever(
    client: Client, clock: MovedClock
) -> None:
    async with running(client, "cronjob", "job"), Kubelet(client) as kubelet:
        await make(client, successfulJobsHistoryLimit=1)
        done: list[str] = []
        for _ in range(3):
            await a_minute_passes(client, clock)
            (name,) = await until_active(client, 1)

            async def has_pod(name: str = name) -> bool:
                for pod in kubelet.informer.cache.list():
                    if pod.metadata.name.startswith(name):
                        await kubelet.finish(pod)
                        return True
                return False

            await eventually(has_pod, "the pod")
            await until_active(client, 0)
            done.append(name)

        async def is_cleaned() -> bool:
            return [job.metadata.name for job in await jobs(client)] == done[-1:]

        await eventually(is_cleaned, "the end of the older Jobs")
        status = (await client.resource(CronJob).get(NAME, "default")).status
        assert status.lastSuccessfulTime
        assert status.lastScheduleTime


async def test_what_is_not_kept_at_all_is_not_told_of_as_missing(
    client: Client, clock: MovedClock
) -> None:
    async with running(client, "cronjob", "job"), Kubelet(client) as kubelet:
        await make(client, successfulJobsHistoryLimit=0)
        await a_minute_passes(client, clock)
        await until_active(client, 1)

        async def is_finished() -> bool:
            for pod in kubelet.informer.cache.list():
                await kubelet.finish(pod)
            return not await jobs(client)

        await eventually(is_finished, "the end of the Job")
        await until_active(client, 0)
        await until_looked(client, "SuccessfulDelete")
        events = (await client.dynamic("", "v1", "events").list("default")).items
        told = {e["reason"] for e in events if e["involvedObject"]["kind"] == "CronJob"}
        assert told == {"SuccessfulCreate", "SuccessfulDelete"}
        assert (await client.resource(CronJob).get(NAME, "default")).status.lastSuccessfulTime


async def test_too_late_is_too_late(client: Client, clock: MovedClock) -> None:
    await make(client, startingDeadlineSeconds=10)
    witness = await client.resource(CronJob).get(NAME, "default")
    witness.metadata = ObjectMeta(name="witness", namespace="default")
    witness.spec.startingDeadlineSeconds = None
    await client.resource(CronJob).create(witness)
    clock.ahead += timedelta(minutes=5) - timedelta(seconds=clock.now().second - 30)
    async with running(client, "cronjob"):

        async def is_witnessed() -> bool:
            return bool((await client.resource(CronJob).get("witness", "default")).status.active)

        await eventually(is_witnessed, "the other's Job")
        assert all(job.metadata.name.startswith("witness") for job in await jobs(client))
        clock.ahead += timedelta(seconds=35)
        patch = {"metadata": {"annotations": {"a": "b"}}}
        await client.resource(CronJob).patch(NAME, "default", patch)
        await until_active(client, 1)


@covers("support CronJob API operations")
async def test_the_api_of_cron_jobs(client: Client) -> None:
    resource = client.resource(CronJob)
    made = await make(client)
    listed = await resource.list()
    assert [item.metadata.uid for item in listed.items] == [made.metadata.uid]
    watch = resource.watch("default", resource_version=listed.resource_version)
    patched = await resource.patch(
        NAME, "default", {"metadata": {"annotations": {"patched": "true"}}}
    )
    patched.metadata.annotations["updated"] = "true"
    await resource.update(patched)
    async with aclosing(watch) as events:
        seen = [(await anext(events)) for _ in range(2)]
    assert [event.type for event in seen] == ["MODIFIED", "MODIFIED"]
    assert seen[1].object.metadata.annotations == {"patched": "true", "updated": "true"}
    stamp = "2026-01-01T00:00:00Z"
    body = {
        "metadata": {"annotations": {"patchedstatus": "true"}},
        "status": {"lastScheduleTime": stamp},
    }
    told = await resource.patch(NAME, "default", body, subresource="status")
    assert told.status.lastScheduleTime == stamp
    assert told.metadata.annotations["patchedstatus"] == "true"
    told.status.lastScheduleTime = "2026-01-01T00:01:00Z"
    assert (await resource.update_status(told)).status.lastScheduleTime == "2026-01-01T00:01:00Z"
    got = resource.codec.decode(await resource.get_subresource(NAME, "default", "status"))
    assert (got.kind, got.metadata.uid) == ("CronJob", made.metadata.uid)
    await resource.delete(NAME, "default", propagation="Background")
    with pytest.raises(ApiError) as caught:
        await resource.get(NAME, "default")
    assert caught.value.is_not_found
    await make(client)
    await resource.delete_collection("default")
    assert not (await resource.list()).items


async def test_a_new_schedule_has_missed_nothing(client: Client, clock: MovedClock) -> None:
    async with running(client, "cronjob"):
        await make(client, suspend=True)
        clock.ahead += timedelta(minutes=10)
        body = {"spec": {"schedule": "@every 1h", "suspend": False}}
        await client.resource(CronJob).patch(NAME, "default", body)
        body = {"spec": {"schedule": "*/2 * * * *"}}
        await client.resource(CronJob).patch(NAME, "default", body)
        await make(client, "next", schedule="0 0 31 2 *")
        await until_looked(client, "InvalidSchedule")  # at the one behind it in the queue
        assert not await jobs(client)
        await a_minute_passes(client, clock)
        await until_active(client, 1)


async def test_a_schedule_without_moments_is_told(client: Client) -> None:
    async with running(client, "cronjob"):
        await make(client)
        body = {"spec": {"schedule": "0 0 31 2 *"}}
        await client.resource(CronJob).patch(NAME, "default", body)
        await until_looked(client, "InvalidSchedule")
