"""What the tests of Jobs have in common: the Job `j`, its pods, and waiting for them."""

from __future__ import annotations

from typing import Any

from navarch.api.types.batch_v1 import (
    Job,
    JobSpec,
)
from navarch.api.types.core_v1 import Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client
from navarch.controllers.job_pods import INDEX, TRACKING

from .conftest import eventually, template


async def make(client: Client, policy: str = "Never", name: str = "j", **spec: Any) -> Job:
    body = JobSpec(template=template({}, policy=policy), **spec)
    return await client.resource(Job).create(
        Job(metadata=ObjectMeta(name=name, namespace="default"), spec=body)
    )


async def make_indexed(client: Client, count: int, **spec: Any) -> dict[int, Pod]:
    """A Job of so many indexes, all at once; its pods, when they run."""
    await make(client, completions=count, parallelism=count, completionMode="Indexed", **spec)
    return by_index(await until_running(client, count))


async def get(client: Client) -> Job:
    return await client.resource(Job).get("j", "default")


async def patch(client: Client, **spec: Any) -> None:
    await client.resource(Job).patch("j", "default", {"spec": spec})


async def pods_of(client: Client, phase: str = "Running") -> list[Pod]:
    """Living pods in that phase, oldest first."""
    found = (await client.resource(Pod).list("default")).items
    chosen = [p for p in found if p.status.phase == phase and not p.metadata.deletionTimestamp]
    return sorted(chosen, key=lambda p: (p.metadata.creationTimestamp, p.metadata.name))


async def until_running(client: Client, count: int) -> list[Pod]:
    async def enough() -> list[Pod] | None:
        found = await pods_of(client)
        return found if len(found) == count else None

    return await eventually(enough, f"{count} running pods")


async def until_looked_at(client: Client) -> None:
    """The controller has looked at the Job as it is by now: only then it mends a status that is
    wrong, and what it has to say to pods it says before."""
    before = (await get(client)).status.active
    wrong = {"status": {"active": before + 7}}
    await client.resource(Job).patch("j", "default", wrong, subresource="status")
    await until_status(client, active=before)


async def until_status(client: Client, **wanted: Any) -> Job:
    async def is_so() -> Job | None:
        job = await get(client)
        assert {name: getattr(job.status, name) for name in wanted} == wanted
        return job

    return await eventually(is_so, f"status {wanted}")


async def until_over(client: Client, type_: str) -> Job:
    async def is_over() -> Job | None:
        job = await get(client)
        true = [c.type for c in job.status.conditions if c.status == "True"]
        assert type_ in true, job.status
        return job

    job = await eventually(is_over, type_)
    assert job.status.uncountedTerminatedPods is not None
    assert not job.status.uncountedTerminatedPods.succeeded
    assert not job.status.uncountedTerminatedPods.failed
    assert (job.status.active, job.status.ready, job.status.terminating) == (0, 0, 0)
    assert bool(job.status.completionTime) == (type_ == "Complete")

    async def all_free() -> bool:
        found = (await client.resource(Pod).list("default")).items
        return not [p for p in found if TRACKING in p.metadata.finalizers]

    await eventually(all_free, "pods without finalizers")
    return job


def conditions(job: Job) -> list[tuple[str, str, str]]:
    return [(c.type, c.reason, c.message) for c in job.status.conditions if c.status == "True"]


def by_index(pods: list[Pod]) -> dict[int, Pod]:
    return {int(p.metadata.annotations[INDEX]): p for p in pods}


REACHED = "Reached expected number of succeeded pods"
