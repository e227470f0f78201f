"""Pods get the claims that their templates ask for, and give back what they do not need."""

from __future__ import annotations

from prometheus_client import REGISTRY

from navarch.api.errors import ApiError
from navarch.api.resource_claims import FINALIZER, POD_CLAIM, reservation
from navarch.api.types.core_v1 import Event, Pod, PodResourceClaim
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.resource_v1 import (
    AllocationResult,
    DeviceAllocationResult,
    DeviceClaim,
    DeviceRequest,
    DeviceRequestAllocationResult,
    ExactDeviceRequest,
    ResourceClaim,
    ResourceClaimSpec,
    ResourceClaimTemplate,
    ResourceClaimTemplateSpec,
)
from navarch.client import Client

from .conftest import Kubelet, eventually, make_namespace, pod, running

SPEC = ResourceClaimSpec(
    devices=DeviceClaim(
        requests=[DeviceRequest(name="r", exactly=ExactDeviceRequest(deviceClassName="gpu"))]
    )
)
ALLOCATION = AllocationResult(
    devices=DeviceAllocationResult(
        results=[
            DeviceRequestAllocationResult(
                request="r", driver="gpu.example.com", pool="n1", device="gpu-0"
            )
        ]
    )
)
CONTROLLERS = ("resourceclaim-controller", "serviceaccount")


def user(name: str, *, template: str | None = None, claim: str | None = None) -> Pod:
    made = pod(name)
    made.metadata.namespace = "ns"
    made.spec.resourceClaims = [
        PodResourceClaim(name="gpu", resourceClaimTemplateName=template, resourceClaimName=claim)
    ]
    return made


def a_template() -> ResourceClaimTemplate:
    inner = ResourceClaimTemplateSpec(
        metadata=ObjectMeta(labels={"a": "b"}, annotations={"c": "d"}), spec=SPEC
    )
    return ResourceClaimTemplate(metadata=ObjectMeta(name="t", namespace="ns"), spec=inner)


async def allocate(client: Client, claim: ResourceClaim, *pods: Pod) -> ResourceClaim:
    """What the scheduler does."""
    claims = client.resource(ResourceClaim)
    claim.metadata.finalizers.append(FINALIZER)
    claim = await claims.update(claim)
    claim.status.allocation = ALLOCATION
    claim.status.reservedFor = [reservation(each.metadata) for each in pods]
    return await claims.update_status(claim)


def figure(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"resourceclaim_controller_{name}", labels) or 0.0


async def test_claim_from_a_template(client: Client) -> None:
    pods, claims = client.resource(Pod), client.resource(ResourceClaim)
    counted = {"status": "success", "admin_access": "false"}
    before = figure("creates_total", **counted)
    async with running(client, *CONTROLLERS):
        await make_namespace(client, "ns")
        made = await pods.create(user("web", template="t"))

        async def event() -> Event | None:
            found = (await client.resource(Event).list("ns")).items
            wanted = "FailedResourceClaimCreation"
            return next((each for each in found if each.reason == wanted), None)

        told = await eventually(event, "the event")
        assert told.message == (
            'PodResourceClaim gpu: resource claim template "t": '
            'resourceclaimtemplate.resource.k8s.io "t" not found'
        )
        await client.resource(ResourceClaimTemplate).create(a_template())

        async def name() -> str | None:
            status = (await pods.get("web", "ns")).status.resourceClaimStatuses[0]
            assert status.name == "gpu"
            return status.resourceClaimName

        claim = await claims.get(await eventually(name, "the claim's name") or "", "ns")
        assert claim.metadata.name.startswith("web-gpu-")
        assert claim.metadata.labels == {"a": "b"}
        assert claim.metadata.annotations == {"c": "d", POD_CLAIM: "gpu"}
        (owner,) = claim.metadata.ownerReferences
        assert (owner.kind, owner.uid, owner.controller) == ("Pod", made.metadata.uid, True)
        assert owner.blockOwnerDeletion is None
        assert claim.spec.devices.requests[0].name == "r"

        assert figure("creates_total", **counted) == before + 1
        await allocate(client, claim, made)
        kind = {"admin_access": "false", "source": "resource_claim_template"}

        async def is_counted() -> bool:
            return figure("resource_claims", allocated="true", **kind) == 1

        await eventually(is_counted, "the figure")
        await Kubelet(client).finish(made)

        async def is_gone() -> bool:
            try:
                await claims.get(claim.metadata.name, "ns")
            except ApiError as error:
                return error.is_not_found
            return False

        await eventually(is_gone, "the end of the claim")
        assert len((await claims.list("ns")).items) == 0


async def test_shared_claim_is_given_back_by_the_last_pod(client: Client) -> None:
    pods, claims = client.resource(Pod), client.resource(ResourceClaim)
    async with running(client, *CONTROLLERS):
        await make_namespace(client, "ns")
        meta = ObjectMeta(name="shared", namespace="ns")
        claim = await claims.create(ResourceClaim(metadata=meta, spec=SPEC))
        one = await pods.create(user("one", claim="shared"))
        two = await pods.create(user("two", claim="shared"))
        await allocate(client, claim, one)

        async def consumers() -> set[str]:
            return {each.name for each in (await claims.get("shared", "ns")).status.reservedFor}

        async def has_both() -> bool:
            return await consumers() == {"one", "two"}

        # A pod that has a node without the scheduler's doing is given its reservation.
        await eventually(has_both, "the reservation of the second")
        await pods.delete("one", "ns", grace_period=0)

        async def has_one() -> bool:
            return await consumers() == {"two"}

        await eventually(has_one, "the end of the first's reservation")
        assert (await claims.get("shared", "ns")).status.allocation is not None
        await Kubelet(client).finish(two)

        async def is_free() -> bool:
            now = await claims.get("shared", "ns")
            return now.status.allocation is None and not now.metadata.finalizers

        await eventually(is_free, "deallocation")


async def test_deleted_claim_waits_for_its_pod(client: Client) -> None:
    pods, claims = client.resource(Pod), client.resource(ResourceClaim)
    async with running(client, *CONTROLLERS):
        await make_namespace(client, "ns")
        meta = ObjectMeta(name="mine", namespace="ns")
        claim = await claims.create(ResourceClaim(metadata=meta, spec=SPEC))
        one = await pods.create(user("one", claim="mine"))
        await allocate(client, claim, one)
        await claims.delete("mine", "ns")
        assert (await claims.get("mine", "ns")).metadata.deletionTimestamp
        await pods.delete("one", "ns", grace_period=0)

        async def is_gone() -> bool:
            return not (await claims.list("ns")).items

        await eventually(is_gone, "the end of the claim")
