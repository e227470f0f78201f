"""What Jobs make of failures, successes and leaving pods: their policies."""

from __future__ import annotations

import asyncio

import pytest

from navarch.api.types.batch_v1 import (
    PodFailurePolicy,
    PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern,
    PodFailurePolicyRule,
    SuccessPolicy,
    SuccessPolicyRule,
)
from navarch.api.types.core_v1 import Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.policy_v1 import Eviction
from navarch.client import Client
from navarch.controllers.job_pods import TRACKING

from .conftest import Kubelet, eventually, running
from .jobs import (
    conditions,
    make,
    make_indexed,
    pods_of,
    until_looked_at,
    until_over,
    until_running,
    until_status,
)

pytestmark = pytest.mark.usefixtures("short_backoff")


def on_exit_code(action: str) -> PodFailurePolicy:
    codes = PodFailurePolicyOnExitCodesRequirement(operator="In", values=[3])
    return PodFailurePolicy(rules=[PodFailurePolicyRule(action=action, onExitCodes=codes)])


@pytest.mark.conformance(
    "Job should allow to use the pod failure policy on exit code to fail the job early",
)
async def test_an_exit_code_fails_the_job(client: Client) -> None:
    async with running(client, "job"), Kubelet(client) as kubelet:
        await make(client, completions=2, parallelism=2, podFailurePolicy=on_exit_code("FailJob"))
        first, _ = await until_running(client, 2)
        await kubelet.finish(first, "Failed", 3)
        job = await until_over(client, "Failed")
        text = (
            f"Container main for pod default/{first.metadata.name} failed with exit code 3 "
            "matching FailJob rule at index 0"
        )
        assert conditions(job) == [
            ("FailureTarget", "PodFailurePolicy", text),
            ("Failed", "PodFailurePolicy", text),
        ]
        assert not await pods_of(client)


@pytest.mark.conformance(
    "Job should mark indexes as failed when the FailIndex action is matched in podFailurePolicy",
)
async def test_an_exit_code_fails_the_index(client: Client) -> None:
    async with running(client, "job"), Kubelet(client) as kubelet:
        pods = await make_indexed(
            client, 2, backoffLimitPerIndex=5, podFailurePolicy=on_exit_code("FailIndex")
        )
        await kubelet.finish(pods[1], "Failed", 3)
        await until_status(client, failedIndexes="1")
        await kubelet.finish(pods[0])
        job = await until_over(client, "Failed")
        assert (job.status.failedIndexes, job.status.completedIndexes) == ("1", "0")
        assert job.status.failed == 1


@pytest.mark.conformance(
    "Job should allow to use a pod failure policy to ignore failure matching on "
    "DisruptionTarget condition",
)
async def test_disrupted_pods_do_not_count(client: Client) -> None:
    pattern = PodFailurePolicyOnPodConditionsPattern(type="DisruptionTarget", status="True")
    rule = PodFailurePolicyRule(action="Ignore", onPodConditions=[pattern])
    async with running(client, "job"), Kubelet(client) as kubelet:
        await make(
            client,
            completions=1,
            backoffLimit=0,
            podFailurePolicy=PodFailurePolicy(rules=[rule]),
        )
        (first,) = await until_running(client, 1)
        name = first.metadata.name
        eviction = Eviction(metadata=ObjectMeta(name=name, namespace="default"))
        await client.resource(Pod).post_subresource(name, "default", "eviction", eviction)

        async def replaced() -> Pod | None:
            found = await pods_of(client)
            return found[0] if found and found[0].metadata.uid != first.metadata.uid else None

        await kubelet.finish(await eventually(replaced, "the replacement"))
        job = await until_over(client, "Complete")
        assert (job.status.succeeded, job.status.failed) == (1, 0)


WITH_POLICY = "Job with successPolicy "
PENDING = "should succeeded even when some indexes remain pending"


@pytest.mark.parametrize(
    ("rule", "done", "completed"),
    [
        pytest.param(
            SuccessPolicyRule(succeededIndexes="0-3"),
            [0, 1, 2, 3],
            "0-3",
            id="all",
            marks=pytest.mark.conformance(
                WITH_POLICY + "should succeeded when all indexes succeeded"
            ),
        ),
        pytest.param(
            SuccessPolicyRule(succeededIndexes="0"),
            [0],
            "0",
            id="indexes",
            marks=pytest.mark.conformance(WITH_POLICY + "succeededIndexes rule " + PENDING),
        ),
        pytest.param(
            SuccessPolicyRule(succeededCount=2),
            [1, 2],
            "1,2",
            id="count",
            marks=pytest.mark.conformance(WITH_POLICY + "succeededCount rule " + PENDING),
        ),
        pytest.param(
            SuccessPolicyRule(succeededIndexes="0-1", succeededCount=1), [1], "1", id="both"
        ),
    ],
)
async def test_success_policy(
    client: Client, rule: SuccessPolicyRule, done: list[int], completed: str
) -> None:
    async with running(client, "job"), Kubelet(client) as kubelet:
        pods = await make_indexed(client, 4, successPolicy=SuccessPolicy(rules=[rule]))
        for index in done:
            await kubelet.finish(pods[index])
        job = await until_over(client, "Complete")
        assert conditions(job) == [
            ("SuccessCriteriaMet", "SuccessPolicy", "Matched rules at index 0"),
            ("Complete", "SuccessPolicy", "Matched rules at index 0"),
        ]
        assert (job.status.completedIndexes, job.status.failed) == (completed, 0)
        assert not await pods_of(client)


@pytest.mark.parametrize("policy", ["Failed", "TerminatingOrFailed"])
async def test_when_leaving_pods_are_replaced(client: Client, policy: str) -> None:
    async with running(client, "job"), Kubelet(client) as kubelet:
        await make(client, completions=1, podReplacementPolicy=policy)
        (first,) = await until_running(client, 1)
        await client.resource(Pod).patch(
            first.metadata.name, "default", {"metadata": {"finalizers": [TRACKING, "x.io/hold"]}}
        )
        kubelet.manual = True
        finish = kubelet.finish
        kubelet.finish = lambda *_: asyncio.sleep(0)  # type: ignore[method-assign]
        await client.resource(Pod).delete(first.metadata.name, "default")
        if policy == "Failed":
            await until_status(client, terminating=1, active=0, failed=0)
            await until_looked_at(client)
            assert not await pods_of(client, "Pending")
            await finish(first, "Failed", 143)
        await until_status(client, active=1, failed=1)
        assert len(await pods_of(client, "Pending")) == 1
