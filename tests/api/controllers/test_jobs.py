"""Jobs against the API server; the test starts and ends the pods."""

from __future__ import annotations

import pytest

from navarch.api.errors import ApiError
from navarch.api.types.batch_v1 import (
    Job,
    JobCondition,
    JobSpec,
)
from navarch.api.types.core_v1 import ContainerStatus, Event, Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client, copy_object
from navarch.controllers import job_pods
from navarch.controllers.job_pods import FAILURE_COUNT, INDEX, TRACKING

from .conftest import Kubelet, eventually, pod, running, selector, template
from .jobs import (
    REACHED,
    by_index,
    conditions,
    get,
    make,
    make_indexed,
    patch,
    pods_of,
    until_looked_at,
    until_over,
    until_running,
    until_status,
)

pytestmark = pytest.mark.usefixtures("short_backoff")


async def test_completions_with_parallelism(client: Client) -> None:
    async with running(client, "job"), Kubelet(client) as kubelet:
        await make(client, completions=3, parallelism=2)
        two = await until_running(client, 2)
        await until_status(client, active=2, ready=2, succeeded=0)
        await kubelet.finish(two[0])
        await until_status(client, active=2, succeeded=1)
        for one in await until_running(client, 2):
            await kubelet.finish(one)
        job = await until_over(client, "Complete")
        assert (job.status.succeeded, job.status.failed) == (3, 0)
        assert conditions(job) == [
            ("SuccessCriteriaMet", "CompletionsReached", REACHED),
            ("Complete", "CompletionsReached", REACHED),
        ]
        assert job.status.startTime
        assert len((await client.resource(Pod).list("default")).items) == 3

        async def told() -> bool:
            events = (await client.resource(Event).list("default")).items
            return {"Completed", "SuccessfulCreate"} <= {e.reason for e in events}

        await eventually(told, "the events")


async def test_a_work_queue_ends_with_its_last_worker(client: Client) -> None:
    async with running(client, "job"), Kubelet(client) as kubelet:
        await make(client, parallelism=2)
        one, two = await until_running(client, 2)
        await kubelet.finish(one)
        await until_status(client, active=1, succeeded=1)
        assert not [c for c in (await get(client)).status.conditions if c.type == "Complete"]
        await kubelet.finish(two)
        assert (await until_over(client, "Complete")).status.succeeded == 2


async def test_failures_are_replaced_until_the_limit(client: Client) -> None:
    async with running(client, "job"), Kubelet(client) as kubelet:
        await make(client, completions=1, backoffLimit=1)
        (first,) = await until_running(client, 1)
        await kubelet.finish(first, "Failed", 1)
        await until_status(client, failed=1)
        (second,) = await until_running(client, 1)
        await kubelet.finish(second, "Failed", 1)
        job = await until_over(client, "Failed")
        text = "Job has reached the specified backoff limit"
        assert job.status.failed == 2
        assert conditions(job) == [
            ("FailureTarget", "BackoffLimitExceeded", text),
            ("Failed", "BackoffLimitExceeded", text),
        ]


async def test_a_failure_is_not_replaced_at_once(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_pods, "FIRST_BACKOFF_SECONDS", 60.0)
    async with running(client, "job"), Kubelet(client) as kubelet:
        await make(client, completions=1)
        (first,) = await until_running(client, 1)
        await kubelet.finish(first, "Failed", 1)
        await until_status(client, failed=1, active=0)
        await until_looked_at(client)
        assert kubelet.seen == {first.metadata.uid}


async def test_restarts_in_place_count(client: Client) -> None:
    async with running(client, "job"), Kubelet(client):
        await make(client, policy="OnFailure", completions=1, backoffLimit=2)
        (only,) = await until_running(client, 1)
        fresh = await client.resource(Pod).get(only.metadata.name, "default")
        fresh.status.containerStatuses = [ContainerStatus(name="main", restartCount=2)]
        await client.resource(Pod).update_status(fresh)
        job = await until_over(client, "Failed")
        assert conditions(job)[-1][1] == "BackoffLimitExceeded"
        assert job.status.failed == 1
        assert not await pods_of(client)


async def test_a_deadline_ends_the_job(client: Client) -> None:
    async with running(client, "job"), Kubelet(client):
        await make(client, completions=1, activeDeadlineSeconds=2)
        await until_running(client, 1)
        job = await until_over(client, "Failed")
        text = "Job was active longer than specified deadline"
        assert conditions(job)[-1] == ("Failed", "DeadlineExceeded", text)


async def test_suspending_and_resuming(client: Client) -> None:
    async with running(client, "job"), Kubelet(client) as kubelet:
        await make(client, completions=2, parallelism=2, suspend=True)
        job = await until_status(client, active=0, startTime=None)
        await until_looked_at(client)
        assert not kubelet.seen
        job = await get(client)
        assert conditions(job) == [("Suspended", "JobSuspended", "Job suspended")]
        await patch(client, suspend=False)
        await until_running(client, 2)
        job = await until_status(client, active=2)
        assert [(c.status, c.reason) for c in job.status.conditions] == [("False", "JobResumed")]
        assert job.status.startTime
        await patch(client, suspend=True)
        await until_status(client, active=0, startTime=None, terminating=0)
        assert not (await client.resource(Pod).list("default")).items
        await patch(client, suspend=False)
        for one in await until_running(client, 2):
            await kubelet.finish(one)
        job = await until_over(client, "Complete")
        assert (job.status.succeeded, job.status.failed) == (2, 0)


async def test_parallelism_can_change(client: Client) -> None:
    async with running(client, "job"), Kubelet(client):
        await make(client, completions=5, parallelism=1)
        await until_running(client, 1)
        await patch(client, parallelism=3)
        await until_running(client, 3)
        await patch(client, parallelism=1)
        await until_running(client, 1)
        await until_status(client, active=1, failed=0)


@pytest.mark.conformance(
    "Job should create pods for an Indexed job with completion indexes and specified hostname",
)
async def test_indexed_pods_know_their_index(client: Client) -> None:
    async with running(client, "job"), Kubelet(client) as kubelet:
        pods = await make_indexed(client, 3)
        assert sorted(pods) == [0, 1, 2]
        for index, one in pods.items():
            assert one.metadata.labels[INDEX] == str(index)
            assert one.metadata.name.startswith(f"j-{index}-")
            assert one.spec.hostname == f"j-{index}"
            (variable,) = one.spec.containers[0].env
            assert variable.name == "JOB_COMPLETION_INDEX"
            assert variable.valueFrom is not None and variable.valueFrom.fieldRef is not None
            assert variable.valueFrom.fieldRef.fieldPath == f"metadata.labels['{INDEX}']"
        await kubelet.finish(pods[0])
        await kubelet.finish(pods[2])
        await until_status(client, completedIndexes="0,2", succeeded=2)
        await kubelet.finish(pods[1], "Failed", 1)
        await until_status(client, failed=1)
        again = by_index(await until_running(client, 1))
        await kubelet.finish(again[1])
        job = await until_over(client, "Complete")
        assert (job.status.completedIndexes, job.status.succeeded) == ("0-2", 3)


@pytest.mark.conformance(
    "Job should execute all indexes despite some failing when using backoffLimitPerIndex",
)
async def test_limits_per_index(client: Client) -> None:
    async with running(client, "job"), Kubelet(client) as kubelet:
        pods = await make_indexed(client, 2, backoffLimitPerIndex=1)
        assert pods[1].metadata.annotations[FAILURE_COUNT] == "0"
        await kubelet.finish(pods[1], "Failed", 1)

        async def replaced() -> Pod | None:
            found = by_index(await pods_of(client)).get(1)
            return found if found and found.metadata.uid != pods[1].metadata.uid else None

        again = await eventually(replaced, "the replacement")
        assert again.metadata.annotations[FAILURE_COUNT] == "1"
        await kubelet.finish(again, "Failed", 1)
        await until_status(client, failedIndexes="1", failed=2)
        await kubelet.finish(pods[0])
        job = await until_over(client, "Failed")
        assert job.status.completedIndexes == "0"
        assert conditions(job)[-1] == ("Failed", "FailedIndexes", "Job has failed indexes")


@pytest.mark.conformance(
    "Job should terminate job execution when the number of failed indexes exceeds maxFailedIndexes",
)
async def test_too_many_failed_indexes(client: Client) -> None:
    async with running(client, "job"), Kubelet(client) as kubelet:
        pods = await make_indexed(client, 3, backoffLimitPerIndex=0, maxFailedIndexes=0)
        await kubelet.finish(pods[0], "Failed", 1)
        job = await until_over(client, "Failed")
        assert job.status.failedIndexes == "0"
        assert conditions(job)[-1][1] == "MaxFailedIndexesExceeded"
        assert not await pods_of(client)


async def test_an_indexed_job_is_made_smaller(client: Client) -> None:
    """What succeeded beyond its new end does not count any more."""
    async with running(client, "job"), Kubelet(client) as kubelet:
        pods = await make_indexed(client, 3)
        await kubelet.finish(pods[2])
        await kubelet.finish(pods[0])
        await until_status(client, completedIndexes="0,2", succeeded=2)
        await patch(client, completions=2, parallelism=2)
        await until_status(client, completedIndexes="0", succeeded=1)
        await kubelet.finish(pods[1])
        job = await until_over(client, "Complete")
        assert (job.status.completedIndexes, job.status.succeeded) == ("0,1", 2)


async def test_a_job_that_has_nothing_to_do_ends_though_suspended(client: Client) -> None:
    async with running(client, "job"):
        await make(client, completions=0, suspend=True)
        job = await until_over(client, "Complete")
        assert job.status.startTime is None


async def test_jobs_of_other_controllers_are_left_alone(client: Client) -> None:
    async with running(client, "job"):
        await make(client, completions=1, managedBy="example.com/other")
        await make(client, completions=1, name="next")

        async def the_next_has_begun() -> bool:
            return bool((await client.resource(Job).get("next", "default")).status.startTime)

        await eventually(the_next_has_begun, "the begin of the Job behind it")
        job = await get(client)
        assert not job.status.startTime
        names = [each.metadata.name for each in (await client.resource(Pod).list("default")).items]
        assert not [name for name in names if not name.startswith("next-")]


@pytest.mark.conformance(
    "Job should adopt matching orphans and release non-matching pods",
)
async def test_adoption_and_release(client: Client) -> None:
    async with running(client, "job"), Kubelet(client):
        job = await make(client, completions=2, parallelism=2)
        first, _ = await until_running(client, 2)
        name = first.metadata.name
        await client.resource(Pod).patch(
            name, "default", {"metadata": {"ownerReferences": None, "finalizers": None}}
        )

        async def is_adopted() -> bool:
            found = (await client.resource(Pod).get(name, "default")).metadata
            owners = [r.uid for r in found.ownerReferences]
            return owners == [job.metadata.uid] and TRACKING in found.finalizers

        await eventually(is_adopted, "the adoption")
        labels = dict.fromkeys(first.metadata.labels)
        await client.resource(Pod).patch(name, "default", {"metadata": {"labels": labels}})

        async def is_released() -> bool:
            found = (await client.resource(Pod).get(name, "default")).metadata
            return not found.ownerReferences and not found.finalizers

        await eventually(is_released, "the release")
        await until_running(client, 3)


async def test_foreign_conditions_stay(client: Client) -> None:
    async with running(client, "job"), Kubelet(client) as kubelet:
        await make(client, completions=1)
        (first,) = await until_running(client, 1)
        await until_status(client, active=1, ready=1)

        async def added() -> bool:
            job = copy_object(await get(client))
            job.status.conditions.append(JobCondition(type="Custom", status="True"))
            await client.resource(Job).update_status(job)
            return True

        await eventually(added, "the foreign condition")
        await kubelet.finish(first)
        job = await until_over(client, "Complete")
        assert [c.type for c in job.status.conditions] == [
            "Custom",
            "SuccessCriteriaMet",
            "Complete",
        ]


@pytest.mark.conformance(
    "Job should delete a job",
)
async def test_pods_of_a_deleted_job_lose_the_finalizer(client: Client) -> None:
    names = ("job", "garbagecollector")
    async with running(client, *names), Kubelet(client):
        await make(client, completions=2, parallelism=2)
        await until_running(client, 2)
        await client.resource(Job).delete("j", "default", propagation="Background")

        async def all_gone() -> bool:
            return not (await client.resource(Pod).list("default")).items

        await eventually(all_gone, "the pods' end")


async def test_orphaned_pods_lose_the_finalizer_and_stay(client: Client) -> None:
    names = ("job", "garbagecollector")
    async with running(client, *names), Kubelet(client):
        await make(client, completions=2, parallelism=2)
        await until_running(client, 2)
        await client.resource(Job).delete("j", "default", propagation="Orphan")

        async def all_free() -> bool:
            found = await pods_of(client)
            assert len(found) == 2
            return not any(p.metadata.finalizers or p.metadata.ownerReferences for p in found)

        await eventually(all_free, "free pods")


async def test_a_finished_job_goes_when_its_time_is_over(client: Client) -> None:
    names = ("job", "ttl-after-finished", "garbagecollector")
    async with running(client, *names), Kubelet(client) as kubelet:
        await make(client, completions=1, ttlSecondsAfterFinished=1)
        (only,) = await until_running(client, 1)
        await kubelet.finish(only)

        async def is_gone() -> bool:
            try:
                await get(client)
            except ApiError as error:
                return error.is_not_found
            return False

        await eventually(is_gone, "the Job's end")
        assert not (await client.resource(Pod).list("default")).items


async def test_a_manager_that_starts_anew_counts_no_pod_twice(client: Client) -> None:
    async with Kubelet(client) as kubelet:
        async with running(client, "job"):
            await make(client, completions=6, parallelism=3)
            for one in await until_running(client, 3):
                await kubelet.finish(one)
        # The first manager ends while pods come to their end and are being counted.
        async with running(client, "job"):

            async def all_done() -> bool:
                for one in await pods_of(client):
                    await kubelet.finish(one)
                return (await get(client)).status.completionTime is not None

            await eventually(all_done, "the Job's end")
            job = await until_over(client, "Complete")
        assert job.status.succeeded == 6
        assert len((await client.resource(Pod).list("default")).items) == 6


async def test_manual_selectors(client: Client) -> None:
    labels = {"mine": "yes"}
    body = JobSpec(
        template=template(labels, policy="Never"),
        manualSelector=True,
        selector=selector(labels),
        completions=1,
    )
    ready_made = pod("ready-made", labels)
    ready_made.spec.restartPolicy = "Never"
    await client.resource(Pod).create(ready_made)
    async with running(client, "job"), Kubelet(client) as kubelet:
        meta = ObjectMeta(name="j", namespace="default")
        await client.resource(Job).create(Job(metadata=meta, spec=body))
        (only,) = await until_running(client, 1)
        assert only.metadata.name == "ready-made"
        await until_status(client, active=1)
        await kubelet.finish(only)
        await until_over(client, "Complete")
