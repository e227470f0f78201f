"""What has to be done about a pod's claims for devices once its node is chosen."""

from __future__ import annotations

from dataclasses import dataclass

from navarch.api.types.core_v1 import ContainerExtendedResourceRequest
from navarch.api.types.resource_v1 import AllocationResult, ResourceClaim


@dataclass(frozen=True, slots=True)
class PlannedClaim:
    """A claim as it was decided upon. Without a uid it has to be made."""

    claim: ResourceClaim
    allocation: AllocationResult | None = None
    """What it gets; None if it has its devices already and is only reserved."""


@dataclass(frozen=True, slots=True)
class ClaimPlan:
    """All of a pod's claims."""

    claims: tuple[PlannedClaim, ...]
    mappings: tuple[ContainerExtendedResourceRequest, ...]
    """Which requests of the claim for extended resources are for which container."""
    seconds: float
    """How long to wait for devices that have to be prepared for their node."""
