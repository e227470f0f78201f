"""What the scheduler writes into the status of pods."""

from __future__ import annotations

from navarch.api.objects import Object
from navarch.api.types.core_v1 import Pod, PodCondition
from navarch.client import Client, PatchType


def not_scheduled(pod: Pod, reason: str, message: str, now: str) -> PodCondition | None:
    """The condition of a pod without a node; None if it has it already."""
    old = next((c for c in pod.status.conditions if c.type == "PodScheduled"), None)
    is_same = old is not None and old.status == "False"
    generation = pod.metadata.generation
    wanted = (reason, message, generation)
    if old and is_same and (old.reason, old.message, old.observedGeneration) == wanted:
        return None
    return PodCondition(
        type="PodScheduled",
        status="False",
        reason=reason,
        message=message,
        observedGeneration=generation,
        lastTransitionTime=old.lastTransitionTime if old and is_same else now,
    )


async def patch_status(client: Client, pod: Pod, status: Object) -> None:
    """Write into the status of this very pod, not of another of the same name."""
    meta = pod.metadata
    await client.resource(Pod).patch(
        meta.name,
        meta.namespace,
        {"metadata": {"uid": meta.uid}, "status": status},
        subresource="status",
        patch_type=PatchType.STRATEGIC,
    )
