"""Grows the file systems of persistent volumes, and tells the claim how far that is.

A resizer in the cluster makes the volume itself larger and then asks the node, by the claim's
`status.allocatedResourceStatuses`, to do its part: `NodeResizePending`. The node answers
`NodeResizeInProgress`, and either the claim's new capacity or why it cannot be:
`NodeResizeInfeasible` hands the matter back to the resizer, which then tries whatever smaller size
the user asks for. Resizers from before KEP-1790 say nothing there; the volume's size alone counts.
Source: upstream's `pkg/volume/util/operationexecutor/node_expander.go`; KEP-1790, KEP-284.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from navarch.api.objects import Object
from navarch.api.persistent_volumes import ZERO
from navarch.api.quantity import Quantity, parse_quantity
from navarch.api.times import format_time
from navarch.api.types.core_v1 import PersistentVolumeClaim

from .plugin import (
    ExpansionProblem,
    PreparedVolume,
    VolumeHost,
    VolumePlugin,
    VolumeProblem,
    VolumeSpec,
)

log = logging.getLogger(__name__)

PENDING, IN_PROGRESS = "NodeResizePending", "NodeResizeInProgress"
INFEASIBLE, ERROR = "NodeResizeInfeasible", "NodeResizeError"
CONDITIONS = ("FileSystemResizePending", "Resizing", "ControllerResizeError", ERROR)
"""Those of a claim that tell of growing."""
NOT_REQUIRED = "volume.kubernetes.io/node-expansion-not-required"


@dataclass(frozen=True, slots=True)
class Growth:
    """What the node has to do for a volume."""

    size: str
    is_tracked: bool = False
    """Whether the claim's status tells of each step."""
    is_counted: bool = False
    """The claim has the new capacity already: another node has grown what all of them mount."""


def plan_growth(spec: VolumeSpec, known: Quantity) -> Growth | None:
    """What is to be done for a volume that was of the size `known` on this node. Pure."""
    assert spec.persistent is not None and spec.claim is not None
    size = spec.persistent.spec.capacity.get("storage", "")
    if not size or parse_quantity(size) <= known:
        return None
    claim, status = spec.claim, spec.claim.status
    step = status.allocatedResourceStatuses.get("storage", "")
    allocated = status.allocatedResources.get("storage", "")
    has = _quantity(status.capacity.get("storage", ""))
    if not step and not allocated:
        return Growth(size, is_counted=has >= parse_quantity(size))
    size = allocated or size
    if not step and has >= parse_quantity(size):
        is_shared = "ReadWriteMany" in claim.spec.accessModes
        wanted = is_shared and NOT_REQUIRED not in claim.metadata.annotations
        return Growth(size, is_tracked=True, is_counted=True) if wanted else None
    return Growth(size, is_tracked=True) if step in (PENDING, IN_PROGRESS) else None


def grown(claim: PersistentVolumeClaim, size: str) -> Object:
    """The change of a claim's status when all is done."""
    over = [each.type for each in claim.status.conditions if each.type in CONDITIONS]
    return {
        "capacity": {"storage": size},
        "conditions": [{"type": each, "$patch": "delete"} for each in over],
        "allocatedResourceStatuses": {"storage": None},
    }


def failed(claim: PersistentVolumeClaim, why: str, now: str, *, is_infeasible: bool) -> Object:
    """The change of a claim's status when its file system could not be grown."""
    change: Object = {}
    if is_infeasible:
        change["allocatedResourceStatuses"] = {"storage": INFEASIBLE}
    if not any(each.type == ERROR and each.status == "True" for each in claim.status.conditions):
        condition = {"type": ERROR, "status": "True", "lastTransitionTime": now,
                     "message": f"failed to expand pvc with {why}"}  # fmt: skip
        change["conditions"] = [condition]
    return change


@dataclass
class _Volume:
    """What this agent remembers of a volume that is mounted on the node."""

    size: Quantity
    has_failed: bool = False
    is_in_use: bool = False
    """The driver grows it only while nobody uses it."""


@dataclass
class Expansion:
    """The growth of all volumes of a node."""

    host: VolumeHost
    _volumes: dict[str, _Volume] = field(default_factory=dict)

    def forget(self, name: str) -> None:
        """The volume is no longer mounted here."""
        self._volumes.pop(name, None)

    async def expand(
        self, spec: VolumeSpec, plugin: VolumePlugin, prepared: PreparedVolume
    ) -> None:
        """Grows what has become too small. Raises ExpansionProblem."""
        if spec.persistent is None or spec.claim is None or not plugin.may_expand:
            return
        has = _quantity(spec.claim.status.capacity.get("storage", ""))
        volume = self._volumes.setdefault(spec.name, _Volume(has))
        growth = plan_growth(spec, volume.size)
        if growth is None or volume.is_in_use or not has:
            return
        if spec.read_only:
            text = (f'MountVolume.NodeExpandVolume failed for volume "{spec.name}" requested '
                    "read-only file system")  # fmt: skip
            self.host.events.pod(spec.pod, "Warning", "VolumeResizeFailed", text)
            volume.size = parse_quantity(growth.size)
            return
        claim = spec.claim
        step = claim.status.allocatedResourceStatuses.get("storage")
        if growth.is_tracked and not growth.is_counted and step != IN_PROGRESS:
            change: Object = {"allocatedResourceStatuses": {"storage": IN_PROGRESS}}
            claim = await self.host.objects.change_claim(claim, change)
        try:
            await plugin.expand(spec, prepared, growth.size)
        except (VolumeProblem, OSError) as error:
            problem = ExpansionProblem(str(error))
            if isinstance(error, ExpansionProblem):
                problem = error
            if await self._has_failed(claim, growth, volume, problem):
                raise problem from (None if problem is error else error)
            return
        text = (f'MountVolume.NodeExpandVolume succeeded for volume "{spec.name}" '
                f"{self.host.node_name}")  # fmt: skip
        self.host.events.pod(spec.pod, "Normal", "FileSystemResizeSuccessful", text)
        if not growth.is_counted:
            await self.host.objects.change_claim(claim, grown(claim, growth.size))
        volume.size, volume.has_failed = parse_quantity(growth.size), False

    async def _has_failed(
        self,
        claim: PersistentVolumeClaim,
        growth: Growth,
        volume: _Volume,
        problem: ExpansionProblem,
    ) -> bool:
        """Tells the claim; whether anybody else has to know, and to try again."""
        if problem.is_unsupported and (growth.is_counted or not growth.is_tracked):
            volume.size = parse_quantity(growth.size)
            return False
        if growth.is_tracked and problem.is_final:
            # Somebody who has changed the wish meanwhile is not waiting for this size any longer.
            wish = _quantity(claim.spec.resources.requests.get("storage", ""))
            given_up = volume.has_failed and wish != parse_quantity(growth.size)
            volume.has_failed = True
            change = failed(
                claim, str(problem), format_time(self.host.clock.now()),
                is_infeasible=problem.is_infeasible or given_up,
            )  # fmt: skip
            if change:
                await self.host.objects.change_claim(claim, change, checked=False)
        if problem.is_in_use:
            log.warning("a volume is not grown while it is in use: %s", problem)
            volume.is_in_use = True
        return not problem.is_in_use


def _quantity(text: str) -> Quantity:
    return parse_quantity(text) if text else ZERO
