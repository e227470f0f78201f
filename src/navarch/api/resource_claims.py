"""How pods and their claims for devices belong together.

A pod names its claims in `spec.resourceClaims`: a claim that exists, or a template from which one
is made for this pod alone; how that is called is found in the pod's status. The scheduler allocates
devices for a claim and reserves it for the pod, and the node hands them to containers; all of them
ask here.
Source: KEP-4381; upstream's `dynamic-resource-allocation/resourceclaim`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from navarch.api import node_selection
from navarch.api.types.core_v1 import Pod, PodResourceClaim, Taint, Toleration
from navarch.api.types.meta_v1 import ObjectMeta, OwnerReference
from navarch.api.types.resource_v1 import (
    AllocatedDeviceStatus,
    DeviceRequestAllocationResult,
    DeviceTaint,
    DeviceToleration,
    ResourceClaim,
    ResourceClaimConsumerReference,
)

FINALIZER = "resource.kubernetes.io/delete-protection"
POD_CLAIM = "resource.kubernetes.io/pod-claim-name"
"""The annotation of a claim made from a template: which of its pod's claims it is."""
EXTENDED_CLAIM = "resource.kubernetes.io/extended-resource-claim"
"""The annotation of a claim made for the extended resources that a pod's containers ask for."""
CLASS_RESOURCE = "deviceclass.resource.kubernetes.io/"
"""The prefix of the extended resource that every device class stands for."""
MAX_RESERVED = 256
MAX_RESULTS = 32

DeviceId = tuple[str, str, str]
"""Driver, pool and name of a device: unique in a cluster."""


class ClaimProblem(Exception):
    """A pod's claim cannot be used as things are; the text says why."""


class SelectorProblem(ValueError):
    """A selector of devices cannot be used, or fails for a device; the text is upstream's."""


class NotCreatedYet(ClaimProblem):
    """The claim is to be made from its template."""


def claim_name(pod: Pod, claim: PodResourceClaim) -> str | None:
    """The name of one of a pod's claims; None if it has been decided that none is needed. Raises
    ClaimProblem."""
    if claim.resourceClaimName is not None:
        return claim.resourceClaimName
    where = f'pod "{pod.metadata.namespace}/{pod.metadata.name}"'
    if claim.resourceClaimTemplateName is None:
        problem = "none of the supported fields are set"
        raise ClaimProblem(f'{where}, spec.resourceClaim "{claim.name}": {problem}')
    for status in pod.status.resourceClaimStatuses:
        if status.name == claim.name:
            return status.resourceClaimName
    raise NotCreatedYet(f"{where}: ResourceClaim not created yet")


def known_claim_names(pod: Pod) -> Iterator[str]:
    """The names of all claims of a pod that have one, those for extended resources included."""
    for claim in pod.spec.resourceClaims:
        try:
            name = claim_name(pod, claim)
        except ClaimProblem:
            continue
        if name is not None:
            yield name
    extended = pod.status.extendedResourceClaimStatus
    if extended is not None:
        yield extended.resourceClaimName


def is_generated(claim: PodResourceClaim) -> bool:
    """Whether it belongs to the pod, so that another's of the same name must not be used."""
    return claim.resourceClaimName is None


def owning_pod(claim: ResourceClaim) -> OwnerReference | None:
    for owner in claim.metadata.ownerReferences:
        if owner.controller and owner.apiVersion == "v1" and owner.kind == "Pod":
            return owner
    return None


def check_owner(pod: Pod, claim: ResourceClaim) -> None:
    """Raises ClaimProblem unless the claim was made for the pod."""
    owner = owning_pod(claim)
    if owner is None or owner.uid != pod.metadata.uid:
        meta = claim.metadata
        raise ClaimProblem(
            f"ResourceClaim {meta.namespace}/{meta.name} was not created for Pod "
            f"{pod.metadata.namespace}/{pod.metadata.name} (Pod is not owner)"
        )


def reservation(meta: ObjectMeta) -> ResourceClaimConsumerReference:
    """A pod as a claim's consumer."""
    return ResourceClaimConsumerReference(resource="pods", name=meta.name, uid=meta.uid)


def is_reserved_for(claim: ResourceClaim, uid: str) -> bool:
    return any(each.uid == uid for each in claim.status.reservedFor)


def results(claim: ResourceClaim) -> Sequence[DeviceRequestAllocationResult]:
    """The devices that a claim has."""
    allocation = claim.status.allocation
    return allocation.devices.results if allocation is not None else ()


def device_id(result: DeviceRequestAllocationResult | AllocatedDeviceStatus) -> DeviceId:
    return result.driver, result.pool, result.device


def tolerates(tolerations: Sequence[DeviceToleration], taint: DeviceTaint) -> bool:
    """Whether one of the tolerations matches the taint of a device: as with those of nodes."""
    return any(_matches(each, taint) for each in tolerations)


def _matches(toleration: DeviceToleration, taint: DeviceTaint) -> bool:
    return node_selection.tolerates(
        Toleration(
            key=toleration.key,
            operator=toleration.operator,
            value=toleration.value,
            effect=toleration.effect,
        ),
        Taint(key=taint.key, value=taint.value, effect=taint.effect),
    )


def qualified(name: str, driver: str) -> tuple[str, str]:
    """Domain and identifier of an attribute or a capacity; a name without one is the driver's."""
    domain, slash, identifier = name.partition("/")
    return (domain, identifier) if slash else (driver, name)


def class_resources(resource_names: Mapping[str, str], resource: str) -> str | None:
    """The device class that stands behind an extended resource: by the name that classes give to
    themselves (`resource_names`, by resource), or by the one that every class has."""
    if resource.startswith(CLASS_RESOURCE):
        return resource.removeprefix(CLASS_RESOURCE)
    return resource_names.get(resource)
