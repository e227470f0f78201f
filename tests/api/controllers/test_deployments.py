"""Deployments against the API server, with their ReplicaSets at work and pods that get ready."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest

from navarch.api.types.apps_v1 import (
    Deployment,
    DeploymentSpec,
    DeploymentStrategy,
    ReplicaSet,
    ReplicaSetSpec,
    RollingUpdateDeployment,
)
from navarch.api.types.core_v1 import Event, Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client, PatchType
from navarch.controllers.pods import is_ready

from .conftest import Kubelet, eventually, running, selector, template

LABELS = {"app": "web"}
BOTH = ("deployment", "replicaset")
REVISION = "deployment.kubernetes.io/revision"


def rolling(surge: int | str, unavailable: int | str) -> DeploymentStrategy:
    bounds = RollingUpdateDeployment(maxSurge=surge, maxUnavailable=unavailable)
    return DeploymentStrategy(type="RollingUpdate", rollingUpdate=bounds)


def build(replicas: int = 3, image: str = "one", **spec: Any) -> Deployment:
    body = DeploymentSpec(
        replicas=replicas, selector=selector(LABELS), template=template(LABELS, image), **spec
    )
    return Deployment(metadata=ObjectMeta(name="web", namespace="default"), spec=body)


async def make(client: Client, replicas: int = 3, image: str = "one", **spec: Any) -> Deployment:
    return await client.resource(Deployment).create(build(replicas, image, **spec))


async def get(client: Client) -> Deployment:
    return await client.resource(Deployment).get("web", "default")


async def patch(client: Client, **spec: Any) -> None:
    await client.resource(Deployment).patch("web", "default", {"spec": spec})


async def set_image(client: Client, image: str) -> None:
    containers = [{"name": "main", "image": image}]
    await patch(client, template={"spec": {"containers": containers}})


async def sets(client: Client) -> dict[str, ReplicaSet]:
    """By the image of their template."""
    found = (await client.resource(ReplicaSet).list("default")).items
    return {rs.spec.template.spec.containers[0].image: rs for rs in found}


async def pods(client: Client) -> list[Pod]:
    return (await client.resource(Pod).list("default")).items


async def sizes(client: Client) -> dict[str, int]:
    return {image: rs.spec.replicas or 0 for image, rs in (await sets(client)).items()}


async def until_sizes(client: Client, wanted: dict[str, int]) -> None:
    async def is_so() -> bool:
        assert await sizes(client) == wanted
        return True

    await eventually(is_so, f"sizes {wanted}")


async def until_complete(client: Client, replicas: int = 3) -> Deployment:
    async def is_complete() -> Deployment:
        found = await get(client)
        status = found.status
        assert status.observedGeneration == found.metadata.generation
        assert (
            status.replicas,
            status.updatedReplicas,
            status.readyReplicas,
            status.availableReplicas,
            status.unavailableReplicas,
        ) == (replicas, replicas, replicas, replicas, 0), status
        reasons = {c.type: (c.status, c.reason) for c in status.conditions}
        assert reasons["Available"] == ("True", "MinimumReplicasAvailable")
        assert reasons["Progressing"] == ("True", "NewReplicaSetAvailable")
        return found

    return await eventually(is_complete, "a complete rollout")


async def test_a_rollout(client: Client) -> None:
    async with running(client, *BOTH), Kubelet(client) as kubelet:
        made = await make(client)
        found = await until_complete(client)
        assert found.metadata.annotations[REVISION] == "1"
        (rs,) = (await sets(client)).values()
        digest = rs.metadata.labels["pod-template-hash"]
        assert rs.metadata.name == f"web-{digest}"
        assert rs.spec.selector is not None
        assert rs.spec.selector.matchLabels == {**LABELS, "pod-template-hash": digest}
        assert rs.metadata.ownerReferences[0].uid == made.metadata.uid
        assert rs.metadata.annotations["deployment.kubernetes.io/desired-replicas"] == "3"
        assert rs.metadata.annotations["deployment.kubernetes.io/max-replicas"] == "4"
        assert kubelet.most == 3
        (progressing,) = [c for c in found.status.conditions if c.type == "Progressing"]
        assert (
            progressing.message == f'ReplicaSet "{rs.metadata.name}" has successfully progressed.'
        )

        async def told() -> bool:
            text = f"Scaled up replica set {rs.metadata.name} from 0 to 3"
            events = (await client.resource(Event).list("default")).items
            return ("ScalingReplicaSet", text) in {(e.reason, e.message) for e in events}

        await eventually(told, "the event")


async def test_scaling(client: Client) -> None:
    async with running(client, *BOTH), Kubelet(client):
        await make(client)
        await until_complete(client)
        for replicas in (7, 2, 0, 3):
            await patch(client, replicas=replicas)
            await until_complete(client, replicas)
        assert len(await sets(client)) == 1
        assert (await get(client)).metadata.annotations[REVISION] == "1"


@pytest.mark.parametrize(
    ("surge", "unavailable", "most", "least"),
    [(1, 0, 5, 4), (0, 1, 4, 3), ("25%", "25%", 5, 3), ("100%", 0, 8, 4)],
)
async def test_a_rolling_update_keeps_its_bounds(
    client: Client, surge: int | str, unavailable: int | str, most: int, least: int
) -> None:
    async with running(client, *BOTH), Kubelet(client) as kubelet:
        await make(client, 4, strategy=rolling(surge, unavailable))
        await until_complete(client, 4)
        fewest = 4

        def count(_: Any, pod: Pod | None = None) -> None:
            nonlocal fewest
            ready = [
                p
                for p in kubelet.informer.cache.list()
                if is_ready(p) and not p.metadata.deletionTimestamp
            ]
            fewest = min(fewest, len(ready))

        kubelet.informer.add_handler(None, count, count)
        kubelet.most = 0
        await set_image(client, "two")
        found = await until_complete(client, 4)
        assert await sizes(client) == {"one": 0, "two": 4}
        assert found.metadata.annotations[REVISION] == "2"
        assert kubelet.most <= most
        assert fewest >= least
        assert {p.spec.containers[0].image for p in await pods(client)} == {"two"}


async def test_going_back_uses_the_old_set_again(client: Client) -> None:
    async with running(client, *BOTH), Kubelet(client):
        await make(client)
        await until_complete(client)
        first = (await sets(client))["one"]
        await set_image(client, "two")
        await until_complete(client)
        await set_image(client, "one")
        found = await until_complete(client)
        assert found.metadata.annotations[REVISION] == "3"
        both = await sets(client)
        assert both["one"].metadata.uid == first.metadata.uid
        assert both["one"].metadata.annotations[REVISION] == "3"
        history = both["one"].metadata.annotations["deployment.kubernetes.io/revision-history"]
        assert history == "1"
        assert both["two"].metadata.annotations[REVISION] == "2"
        assert await sizes(client) == {"one": 3, "two": 0}


@pytest.mark.conformance(
    "Deployment deployment should support rollover",
)
async def test_a_broken_version_stops_within_the_bounds_and_can_be_rolled_over(
    client: Client,
) -> None:
    async with running(client, *BOTH), Kubelet(client):
        await make(client, 4, strategy=rolling(1, 1), progressDeadlineSeconds=1)
        await until_complete(client, 4)
        await set_image(client, "broken")
        await until_sizes(client, {"one": 3, "broken": 2})

        async def is_stuck() -> bool:
            conditions = {c.type: c for c in (await get(client)).status.conditions}
            assert conditions["Available"].status == "True"
            progressing = conditions["Progressing"]
            return (progressing.status, progressing.reason) == ("False", "ProgressDeadlineExceeded")

        await eventually(is_stuck, "the deadline")
        assert await sizes(client) == {"one": 3, "broken": 2}
        await set_image(client, "three")
        await until_complete(client, 4)
        assert await sizes(client) == {"one": 0, "broken": 0, "three": 4}


@pytest.mark.conformance(
    "Deployment RecreateDeployment should delete old pods and create new ones",
)
async def test_recreate_never_mixes_versions(client: Client) -> None:
    async with running(client, *BOTH), Kubelet(client) as kubelet:
        await make(client, strategy=DeploymentStrategy(type="Recreate"))
        await until_complete(client)
        mixed: list[set[str]] = []

        def look(*_: Any) -> None:
            present = {p.spec.containers[0].image for p in kubelet.informer.cache.list()}
            if len(present) > 1:
                mixed.append(present)

        kubelet.informer.add_handler(look, look, look)
        await set_image(client, "two")
        await until_complete(client)
        assert not mixed


async def test_a_paused_deployment_scales_but_does_not_roll(client: Client) -> None:
    async with running(client, *BOTH), Kubelet(client):
        await make(client)
        await until_complete(client)
        await patch(client, paused=True)

        async def is_paused() -> bool:
            conditions = {c.type: c for c in (await get(client)).status.conditions}
            progressing = conditions["Progressing"]
            return (progressing.status, progressing.reason) == ("Unknown", "DeploymentPaused")

        await eventually(is_paused, "the condition")
        await set_image(client, "two")
        await patch(client, replicas=5)
        await until_sizes(client, {"one": 5})
        await patch(client, paused=False)
        await until_complete(client, 5)
        assert await sizes(client) == {"one": 0, "two": 5}


@pytest.mark.conformance(
    "Deployment deployment should support proportional scaling",
)
async def test_proportional_scaling_in_the_middle_of_a_rollout(client: Client) -> None:
    async with running(client, *BOTH), Kubelet(client):
        await make(client, 10, strategy=rolling(3, 2))
        await until_complete(client, 10)
        await set_image(client, "broken")
        await until_sizes(client, {"one": 8, "broken": 5})
        await patch(client, replicas=30)
        await until_sizes(client, {"one": 20, "broken": 13})


@pytest.mark.conformance(
    "Deployment RollingUpdateDeployment should delete old pods and create new ones",
)
async def test_adopting_a_set_counts_on_from_its_revision(client: Client) -> None:
    old = ReplicaSet(
        metadata=ObjectMeta(
            name="earlier",
            namespace="default",
            labels=LABELS,
            annotations={REVISION: "3546343826724305832"},
        ),
        spec=ReplicaSetSpec(
            replicas=1, selector=selector(LABELS), template=template(LABELS, "old")
        ),
    )
    async with running(client, *BOTH), Kubelet(client):
        await client.resource(ReplicaSet).create(old)
        made = await make(client, 1)
        found = await until_complete(client, 1)
        assert found.metadata.annotations[REVISION] == "3546343826724305833"
        both = await sets(client)
        assert both["old"].metadata.ownerReferences[0].uid == made.metadata.uid
        assert both["one"].metadata.annotations[REVISION] == "3546343826724305833"
        assert await sizes(client) == {"old": 0, "one": 1}


async def test_a_set_that_no_longer_matches_is_let_go(client: Client) -> None:
    async with running(client, *BOTH), Kubelet(client):
        await make(client, 1)
        await until_complete(client, 1)
        (rs,) = (await sets(client)).values()
        patch_ = {"metadata": {"labels": {"app": "other"}}}
        await client.resource(ReplicaSet).patch(rs.metadata.name, "default", patch_)

        async def is_free() -> bool:
            found = await client.resource(ReplicaSet).get(rs.metadata.name, "default")
            return not found.metadata.ownerReferences

        await eventually(is_free, "the release")


@pytest.mark.conformance(
    "Deployment deployment should delete old replica sets",
)
@pytest.mark.parametrize("limit", [0, 1])
async def test_history_is_cut(client: Client, limit: int) -> None:
    async with running(client, *BOTH), Kubelet(client):
        await make(client, 1, revisionHistoryLimit=limit)
        await until_complete(client, 1)
        for image in ("two", "three"):
            await set_image(client, image)
            await until_complete(client, 1)

        async def is_cut() -> bool:
            assert set(await sizes(client)) == {"two", "three"} - ({"two"} if not limit else set())
            return True

        await eventually(is_cut, "the end of old sets")


async def test_annotations_go_to_the_set_without_a_rollout(client: Client) -> None:
    async with running(client, *BOTH), Kubelet(client):
        await make(client, 1)
        await until_complete(client, 1)
        body = {"metadata": {"annotations": {"note": "hello"}}}
        await client.resource(Deployment).patch("web", "default", body)

        async def is_copied() -> bool:
            return (await sets(client))["one"].metadata.annotations.get("note") == "hello"

        await eventually(is_copied, "the annotation")
        assert len(await sets(client)) == 1


async def test_foreign_conditions_stay(client: Client) -> None:
    async with running(client, *BOTH), Kubelet(client):
        await make(client, 1)
        await until_complete(client, 1)
        body = {"status": {"conditions": [{"type": "StatusUpdate", "status": "True"}]}}

        async def added() -> bool:
            found = await get(client)
            conditions = [{"type": "StatusUpdate", "status": "True"}]
            body["status"]["conditions"] = conditions + [
                {"type": c.type, "status": c.status, "reason": c.reason, "message": c.message}
                for c in found.status.conditions
            ]
            await client.resource(Deployment).patch("web", "default", body, subresource="status")
            return True

        await eventually(added, "the foreign condition")
        await patch(client, replicas=2)
        found = await until_complete(client, 2)
        assert "StatusUpdate" in {c.type for c in found.status.conditions}


@pytest.mark.conformance("Deployment should run the lifecycle of a Deployment")
async def test_the_life_of_a_deployment(client: Client) -> None:
    resource = client.resource(Deployment)
    flat = "static=true"
    start = (await resource.list(label_selector=flat)).resource_version

    async def see(type_: str, check: Callable[[Deployment], bool]) -> None:
        events = resource.watch("default", resource_version=start, label_selector=flat)
        async with asyncio.timeout(60), aclosing(events) as stream:
            async for event in stream:
                if (not type_ or event.type == type_) and check(event.object):
                    return
        raise AssertionError(f"the watch ended before {type_}")

    def is_complete(found: Deployment, replicas: int, image: str) -> bool:
        status = found.status
        counts = (status.readyReplicas, status.updatedReplicas, status.unavailableReplicas)
        spec = found.spec.template.spec
        return counts == (replicas, replicas, 0) and spec.containers[0].image == image

    async with running(client, *BOTH), Kubelet(client):
        wanted = build(2)
        wanted.metadata.labels = {"static": "true"}
        made = await resource.create(wanted)
        await see("ADDED", lambda found: found.metadata.name == "web")
        await see("", lambda found: found.status.readyReplicas == 2)
        body = {
            "metadata": {"labels": {"stage": "patched"}},
            "spec": {
                "replicas": 1,
                "template": {
                    "spec": {
                        "terminationGracePeriodSeconds": 2,
                        "containers": [{"name": "main", "image": "two"}],
                    }
                },
            },
        }
        patched = await resource.patch("web", "default", body, patch_type=PatchType.STRATEGIC)
        assert int(patched.metadata.resourceVersion) > int(made.metadata.resourceVersion)
        await see("MODIFIED", lambda found: found.metadata.labels["static"] == "true")
        await see("", lambda found: is_complete(found, 1, "two"))
        listed = await resource.list(label_selector=flat)
        assert [(d.metadata.name, d.metadata.namespace) for d in listed.items] == [
            ("web", "default")
        ]
        wanted.metadata.labels["stage"] = "updated"
        wanted.spec.template.spec.containers[0].image = "three"
        wanted.spec.replicas = 2
        await resource.update(wanted)
        await see("", lambda found: is_complete(found, 2, "three"))
        status = {"status": {"readyReplicas": 0, "availableReplicas": 0}}
        await resource.patch(
            "web", "default", status, subresource="status", patch_type=PatchType.STRATEGIC
        )
        await see(
            "MODIFIED",
            lambda found: (
                found.metadata.labels.get("stage") == "updated"
                and not found.status.readyReplicas
                and not found.status.availableReplicas
            ),
        )
        await until_complete(client, 2)
        await resource.delete_collection("default", label_selector=flat, grace_period=1)
        await see("DELETED", lambda found: found.metadata.name == "web")


async def test_recreate_does_not_wait_for_pods_that_ended(client: Client) -> None:
    async with running(client, *BOTH), Kubelet(client) as kubelet:
        await make(client, 1, strategy=DeploymentStrategy(type="Recreate"))
        await until_complete(client, 1)
        (first,) = await pods(client)
        await kubelet.finish(first, "Failed", 1)

        async def is_replaced() -> bool:
            return sorted(p.status.phase for p in await pods(client)) == ["Failed", "Running"]

        await eventually(is_replaced, "a successor beside the pod that failed")
        await set_image(client, "two")
        await until_complete(client, 1)
        left = {p.metadata.name for p in await pods(client)}
        assert first.metadata.name in left


async def test_numbering_a_rollout_is_no_change_of_what_is_wanted(client: Client) -> None:
    async with running(client, *BOTH), Kubelet(client):
        await make(client, 1)
        found = await until_complete(client, 1)
        assert found.metadata.generation == 1
        await set_image(client, "two")
        found = await until_complete(client, 1)
        assert found.metadata.generation == 2
        assert found.metadata.annotations[REVISION] == "2"


async def test_a_wish_to_go_back_is_carried_out(client: Client) -> None:
    """As `rollbackTo` of the API versions of old is kept: in an annotation."""
    async with running(client, *BOTH), Kubelet(client):
        await make(client, 1)
        await until_complete(client, 1)
        await set_image(client, "two")
        await until_complete(client, 1)
        body = {"metadata": {"annotations": {"deprecated.deployment.rollback.to": "0"}}}
        await client.resource(Deployment).patch("web", "default", body)

        async def is_back() -> bool:
            found = await get(client)
            assert "deprecated.deployment.rollback.to" not in found.metadata.annotations
            assert found.metadata.annotations[REVISION] == "3"
            return found.spec.template.spec.containers[0].image == "one"

        await eventually(is_back, "the first template")
        await until_complete(client, 1)

        async def is_told() -> bool:
            events = (await client.resource(Event).list("default")).items
            text = 'Rolled back deployment "web" to revision 1'
            return ("DeploymentRollback", text) in {(e.reason, e.message) for e in events}

        await eventually(is_told, "the event")


async def test_a_name_that_is_taken_is_a_collision(client: Client) -> None:
    async with running(client, *BOTH), Kubelet(client):
        await make(client, 1)
        await until_complete(client, 1)
        (rs,) = (await sets(client)).values()
        await client.resource(Deployment).delete("web", "default")
        meta = ObjectMeta(name=rs.metadata.name, namespace="default", labels={"app": "other"})
        await client.resource(ReplicaSet).delete(rs.metadata.name, "default")

        async def is_gone() -> bool:
            return not (await sets(client))

        await eventually(is_gone, "the end of the set")
        labels = {"app": "other"}
        spec = ReplicaSetSpec(replicas=0, selector=selector(labels), template=template(labels))
        await client.resource(ReplicaSet).create(ReplicaSet(metadata=meta, spec=spec))
        await make(client, 1)
        found = await until_complete(client, 1)
        assert found.status.collisionCount == 1


async def test_many_changes_in_a_row_end_with_the_last(client: Client) -> None:
    async with running(client, *BOTH), Kubelet(client):
        await make(client)
        for number in range(6):
            await set_image(client, f"v{number}")
            await asyncio.sleep(0.03)
        await until_complete(client)
        living = {image: size for image, size in (await sizes(client)).items() if size}
        assert living == {"v5": 3}


async def test_minimum_ready_seconds_slow_a_rollout_down(client: Client) -> None:
    async with running(client, *BOTH), Kubelet(client):
        await make(client, 2, minReadySeconds=1, strategy=rolling(1, 0))
        await until_complete(client, 2)
        started = asyncio.get_running_loop().time()
        await set_image(client, "two")
        await until_complete(client, 2)
        assert asyncio.get_running_loop().time() - started > 1.0
