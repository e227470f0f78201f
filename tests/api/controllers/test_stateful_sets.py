"""StatefulSets: order, identity, claims, revisions; the test plays the kubelet."""

from __future__ import annotations

from typing import Any

import pytest

from navarch.api.errors import ApiError
from navarch.api.types.apps_v1 import ControllerRevision, StatefulSet, StatefulSetSpec
from navarch.api.types.core_v1 import (
    Event,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    Pod,
    VolumeResourceRequirements,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import Client, Object, PatchType

from .conftest import Kubelet, add_node, eventually, running, selector, template

LABELS = {"app": "ss"}
CLAIM = PersistentVolumeClaim(
    metadata=ObjectMeta(name="data"),
    spec=PersistentVolumeClaimSpec(
        accessModes=["ReadWriteOnce"],
        resources=VolumeResourceRequirements(requests={"storage": "1Gi"}),
    ),
)


def covers(what: str) -> pytest.MarkDecorator:
    start = "StatefulSet Basic StatefulSet functionality [StatefulSetBasic]"
    return pytest.mark.conformance(f"{start} {what}")


async def make(client: Client, replicas: int = 3, **spec: Any) -> StatefulSet:
    await add_node(client)
    pods = template(LABELS)
    pods.spec.nodeName = "n1"
    made = StatefulSetSpec(
        replicas=replicas, selector=selector(LABELS), template=pods, serviceName="svc", **spec
    )
    metadata = ObjectMeta(name="ss", namespace="default", labels=LABELS)
    return await client.resource(StatefulSet).create(StatefulSet(metadata=metadata, spec=made))


async def change(client: Client, **spec: Any) -> StatefulSet:
    resource = client.resource(StatefulSet)
    return await resource.patch("ss", "default", {"spec": spec}, patch_type=PatchType.STRATEGIC)


async def set_image(client: Client, image: str) -> None:
    patch = {"spec": {"containers": [{"name": "main", "image": image}]}}
    await change(client, template=patch)


async def pods(client: Client) -> dict[str, Pod]:
    found = (await client.resource(Pod).list("default")).items
    return {pod.metadata.name: pod for pod in found if not pod.metadata.deletionTimestamp}


async def images(client: Client) -> list[str]:
    return [pod.spec.containers[0].image for _, pod in sorted((await pods(client)).items())]


async def until_ready(client: Client, replicas: int, **fields: Any) -> StatefulSet:
    async def is_told() -> StatefulSet:
        found = await client.resource(StatefulSet).get("ss", "default")
        status = found.status
        assert status.observedGeneration == found.metadata.generation
        assert status.readyReplicas == status.replicas == replicas
        assert {name: getattr(status, name) for name in fields} == fields
        assert len(await pods(client)) == replicas
        return found

    return await eventually(is_told, f"{replicas} ready pods {fields}")


def watched(kubelet: Kubelet) -> list[str]:
    """What happens to pods, in order, from now on."""
    seen: list[str] = []
    kubelet.informer.add_handler(
        lambda pod: seen.append(f"+{pod.metadata.name}"),
        None,
        lambda pod: seen.append(f"-{pod.metadata.name}"),
    )
    return seen


@covers(
    "Scaling should happen in predictable order and halt if any stateful pod is unhealthy [Slow]"
)
async def test_pods_come_and_go_in_order(client: Client) -> None:
    async with running(client, "statefulset"), Kubelet(client, manual=True) as kubelet:
        seen = watched(kubelet)
        await make(client)
        for number in range(3):
            name = f"ss-{number}"

            async def is_last(name: str = name) -> Pod:
                present = await pods(client)
                assert sorted(present)[-1:] == [name]
                return present[name]

            await kubelet.start(await eventually(is_last, name), ready=False)
            await kubelet.start((await pods(client))[name])
        await until_ready(client, 3)
        assert seen == ["+ss-0", "+ss-1", "+ss-2"]
        for pod in (await pods(client)).values():
            await kubelet.start(pod, ready=False)

        async def is_noticed() -> bool:
            status = (await client.resource(StatefulSet).get("ss", "default")).status
            return status.readyReplicas == 0

        await eventually(is_noticed, "the unready pods")
        scaled = await change(client, replicas=0)
        witness = scaled.metadata.generation

        async def is_observed() -> bool:
            status = (await client.resource(StatefulSet).get("ss", "default")).status
            return status.observedGeneration == witness

        await eventually(is_observed, "the scale")
        assert seen == ["+ss-0", "+ss-1", "+ss-2"]
        for pod in (await pods(client)).values():
            try:
                await kubelet.start(pod)
            except ApiError as error:
                assert error.is_conflict, "it may be going already"

        async def are_gone() -> bool:
            return not await pods(client) and len(seen) == 6

        await eventually(are_gone, "the end of the pods")
        assert seen[3:] == ["-ss-2", "-ss-1", "-ss-0"]


@covers("Burst scaling should run to completion even with unhealthy pods [Slow]")
async def test_a_parallel_set_does_not_wait(client: Client) -> None:
    async with running(client, "statefulset"), Kubelet(client, manual=True) as kubelet:
        await make(client, podManagementPolicy="Parallel")

        async def are_three() -> dict[str, Pod]:
            present = await pods(client)
            assert sorted(present) == ["ss-0", "ss-1", "ss-2"]
            return present

        for pod in (await eventually(are_three, "the pods")).values():
            await kubelet.start(pod, ready=False)
        await change(client, replicas=0)

        async def are_gone() -> bool:
            return not await pods(client)

        await eventually(are_gone, "the end of the pods")


async def test_identity_and_claims_outlive_pods(client: Client) -> None:
    async with running(client, "statefulset"), Kubelet(client):
        await make(client, 2, volumeClaimTemplates=[CLAIM])
        await until_ready(client, 2)
        pod = (await pods(client))["ss-1"]
        assert pod.metadata.labels["statefulset.kubernetes.io/pod-name"] == "ss-1"
        assert pod.metadata.labels["apps.kubernetes.io/pod-index"] == "1"
        assert (pod.spec.hostname, pod.spec.subdomain) == ("ss-1", "svc")
        claims = {v.name: v.persistentVolumeClaim for v in pod.spec.volumes}
        assert claims["data"] is not None
        assert claims["data"].claimName == "data-ss-1"
        await client.resource(Pod).delete("ss-1", "default")

        async def is_new() -> bool:
            return (await pods(client))["ss-1"].metadata.uid != pod.metadata.uid

        await eventually(is_new, "the successor")
        await change(client, replicas=1)
        await until_ready(client, 1)
        resource = client.resource(PersistentVolumeClaim)
        found = (await resource.list("default")).items
        assert sorted(claim.metadata.name for claim in found) == ["data-ss-0", "data-ss-1"]
        policy = {"whenDeleted": "Delete", "whenScaled": "Retain"}
        await change(client, persistentVolumeClaimRetentionPolicy=policy)

        async def is_owned() -> bool:
            kept = (await resource.get("data-ss-0", "default")).metadata.ownerReferences
            return [reference.kind for reference in kept] == ["StatefulSet"]

        await eventually(is_owned, "the owner of the claim")


async def test_what_is_told_of_pods_and_claims(client: Client) -> None:
    async with running(client, "statefulset"), Kubelet(client):
        await make(client, 1, volumeClaimTemplates=[CLAIM])
        await until_ready(client, 1)
        await change(client, replicas=0)
        await until_ready(client, 0)
        told = {
            ("SuccessfulCreate", "Create Claim data-ss-0 Pod ss-0 in StatefulSet ss success"),
            ("SuccessfulCreate", "Create Pod ss-0 in StatefulSet ss successful"),
            ("SuccessfulDelete", "Delete Pod ss-0 in StatefulSet ss successful"),
        }

        async def are_told() -> bool:
            events = (await client.resource(Event).list("default")).items
            found = {(e.reason, e.message) for e in events if e.involvedObject.name == "ss"}
            assert found == told
            return True

        await eventually(are_told, "the events")


async def test_a_pod_waits_for_the_end_of_a_claim_that_is_being_deleted(client: Client) -> None:
    old = PersistentVolumeClaim(
        metadata=ObjectMeta(name="data-ss-0", namespace="default", finalizers=["a.example/b"]),
        spec=CLAIM.spec,
    )
    claims = client.resource(PersistentVolumeClaim)
    await claims.create(old)
    await claims.delete("data-ss-0", "default")
    async with running(client, "statefulset"), Kubelet(client):
        await make(client, 1, volumeClaimTemplates=[CLAIM])

        async def is_told() -> bool:
            events = (await client.resource(Event).list("default")).items
            text = "Create Pod ss-0 in StatefulSet ss failed error: pvc data-ss-0 is being deleted"
            return ("FailedCreate", text) in {(e.reason, e.message) for e in events}

        await eventually(is_told, "the event")
        assert not await pods(client)
        await claims.patch("data-ss-0", "default", {"metadata": {"finalizers": None}})
        await until_ready(client, 1)


async def test_claims_of_pods_that_are_scaled_away_belong_to_them(client: Client) -> None:
    policy = {"whenDeleted": "Retain", "whenScaled": "Delete"}
    claims = client.resource(PersistentVolumeClaim)
    async with running(client, "statefulset"), Kubelet(client):
        await make(client, 2, volumeClaimTemplates=[CLAIM])
        await until_ready(client, 2)
        await change(client, persistentVolumeClaimRetentionPolicy=policy)
        uid = (await pods(client))["ss-1"].metadata.uid
        await change(client, replicas=1)
        await until_ready(client, 1)
        owners = (await claims.get("data-ss-1", "default")).metadata.ownerReferences
        assert [(each.kind, each.name, each.uid) for each in owners] == [("Pod", "ss-1", uid)]
        assert not (await claims.get("data-ss-0", "default")).metadata.ownerReferences
        # Its successor waits until the collector has taken the claim away.
        generation = (await change(client, replicas=2)).metadata.generation

        async def has_looked() -> bool:
            found = await client.resource(StatefulSet).get("ss", "default")
            return found.status.observedGeneration == generation

        await eventually(has_looked, "a status of the new generation")
        assert sorted(await pods(client)) == ["ss-0"]
        await claims.delete("data-ss-1", "default")
        await until_ready(client, 2)
        assert not (await claims.get("data-ss-1", "default")).metadata.ownerReferences


async def test_what_may_change(client: Client) -> None:
    await make(client, 0, volumeClaimTemplates=[CLAIM])
    with pytest.raises(ApiError) as caught:
        await change(client, serviceName="other")
    assert caught.value.status == 422
    assert caught.value.message.endswith(
        "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', "
        "'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', "
        "'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
    )
    # Each pod gets a host name of its own: what the template says of it does not matter.
    await change(client, template={"spec": {"hostname": "not a name", "subdomain": "nor this"}})


async def test_pods_are_not_next_before_the_one_before_has_been_ready_for_a_while(
    client: Client,
) -> None:
    async with running(client, "statefulset"), Kubelet(client) as kubelet:
        seen = watched(kubelet)
        await make(client, 2, minReadySeconds=2)

        async def is_young() -> bool:
            status = (await client.resource(StatefulSet).get("ss", "default")).status
            return (status.readyReplicas, status.availableReplicas) == (1, 0)

        await eventually(is_young, "a ready pod that is too young")
        assert seen == ["+ss-0"]
        await until_ready(client, 2, availableReplicas=2)


async def test_revisions_nobody_has_are_cut_to_the_limit(client: Client) -> None:
    async with running(client, "statefulset"), Kubelet(client):
        await make(client, 1, revisionHistoryLimit=1)
        await until_ready(client, 1)
        for image in ("two", "three", "four"):
            await set_image(client, image)

            async def is_everywhere(image: str = image) -> bool:
                return await images(client) == [image]

            await eventually(is_everywhere, image)
            await until_ready(client, 1, updatedReplicas=1, currentReplicas=1)

        async def are_cut() -> bool:
            found = (await client.resource(ControllerRevision).list("default")).items
            assert sorted(each.revision for each in found) == [3, 4]
            assert all("controller.kubernetes.io/hash" in each.metadata.labels for each in found)
            return True

        await eventually(are_cut, "the two that stay")


@covers("should perform rolling updates and roll backs of template modifications")
async def test_updates_go_from_the_top_one_by_one(client: Client) -> None:
    async with running(client, "statefulset"), Kubelet(client) as kubelet:
        await make(client)
        first = (await until_ready(client, 3)).status.currentRevision
        seen = watched(kubelet)
        seen.clear()
        await set_image(client, "better")
        updated = await until_ready(client, 3, updatedReplicas=3, currentReplicas=3)
        assert updated.status.currentRevision == updated.status.updateRevision != first
        assert seen == ["-ss-2", "+ss-2", "-ss-1", "+ss-1", "-ss-0", "+ss-0"]
        assert await images(client) == ["better"] * 3
        await set_image(client, "good")
        back = await until_ready(client, 3, updatedReplicas=3, currentReplicas=3)
        assert back.status.currentRevision == first
        assert await images(client) == ["good"] * 3


@covers("should perform canary updates and phased rolling updates of template modifications")
async def test_a_partition_keeps_the_lower_ones(client: Client) -> None:
    async with running(client, "statefulset"), Kubelet(client):
        strategy: Object = {"type": "RollingUpdate", "rollingUpdate": {"partition": 3}}
        await make(client)
        await until_ready(client, 3)
        await change(client, updateStrategy=strategy)
        await set_image(client, "better")
        waiting = await until_ready(client, 3, updatedReplicas=0)
        assert waiting.status.updateRevision != waiting.status.currentRevision
        assert await images(client) == ["good"] * 3
        strategy["rollingUpdate"] = {"partition": 2}
        await change(client, updateStrategy=strategy)
        await until_ready(client, 3, updatedReplicas=1, currentReplicas=2)
        assert await images(client) == ["good", "good", "better"]
        for name in ("ss-0", "ss-2"):
            uid = (await pods(client))[name].metadata.uid
            await client.resource(Pod).delete(name, "default")

            async def is_new(name: str = name, uid: str = uid) -> bool:
                return (await pods(client))[name].metadata.uid != uid

            await eventually(is_new, "the successor")
        await until_ready(client, 3, updatedReplicas=1)
        assert await images(client) == ["good", "good", "better"]
        strategy["rollingUpdate"] = {"partition": 0}
        await change(client, updateStrategy=strategy)
        done = await until_ready(client, 3, updatedReplicas=3)
        assert done.status.currentRevision == done.status.updateRevision


@covers("Should recreate evicted statefulset")
async def test_failed_pods_are_replaced(client: Client) -> None:
    async with running(client, "statefulset"), Kubelet(client) as kubelet:
        await make(client, 1)
        await until_ready(client, 1)
        pod = (await pods(client))["ss-0"]
        await kubelet.finish(pod, "Failed", 1)

        async def is_new() -> bool:
            return (await pods(client))["ss-0"].metadata.uid != pod.metadata.uid

        await eventually(is_new, "the successor")
        await until_ready(client, 1)


@covers("should have a working scale subresource")
@covers("should validate Statefulset Status endpoints")
@covers("should list, patch and delete a collection of StatefulSets")
async def test_the_api_of_stateful_sets(client: Client) -> None:
    async with running(client, "statefulset"), Kubelet(client):
        await make(client, 1)
        await until_ready(client, 1)
        resource = client.resource(StatefulSet)
        scales = client.dynamic("apps", "v1", "statefulsets")
        body = {"spec": {"replicas": 2}}
        scale = await scales.patch("ss", "default", body, subresource="scale")
        assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", 2)
        await until_ready(client, 2)
        condition = {"type": "StatusUpdate", "status": "True", "reason": "E2E"}
        status = {"status": {"conditions": [condition]}}

        async def is_written() -> bool:
            patched = await resource.patch("ss", "default", status, subresource="status")
            return [c.type for c in patched.status.conditions] == ["StatusUpdate"]

        await eventually(is_written, "the condition")
        await change(client, replicas=1)
        found = await until_ready(client, 1)
        assert [c.type for c in found.status.conditions] == ["StatusUpdate"]
        listed = await resource.list(label_selector="app=ss")
        assert [item.metadata.name for item in listed.items] == ["ss"]
        await resource.delete_collection("default", label_selector="app=ss")
        with pytest.raises(ApiError) as caught:
            await resource.get("ss", "default")
        assert caught.value.is_not_found
