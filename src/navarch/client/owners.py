"""Owner references: who controls an object, and who may take it over.

At most one owner of an object is its controller. A controller takes over (adopts) orphans that its
selector matches and lets go (releases) what it controls but no longer selects; it never touches
what another one controls, and takes no action once it is being deleted itself. The decision is
pure (`plan_claims`), `claim` carries it out with patches guarded by uid, so that neither an
adoption nor a release can hit an object that was made anew under the same name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from navarch.api.errors import ApiError
from navarch.api.types.meta_v1 import OwnerReference
from navarch.client.objects import KubernetesObject
from navarch.client.resource import PatchType, ResourceClient

S = TypeVar("S", bound=KubernetesObject)


def owner_reference(owner: KubernetesObject, controller: bool = True) -> OwnerReference:
    """The reference to put into a dependent's metadata. A controller also blocks its own
    foreground deletion until the dependent is gone."""
    return OwnerReference(
        apiVersion=owner.apiVersion,
        kind=owner.kind,
        name=owner.metadata.name,
        uid=owner.metadata.uid,
        controller=True if controller else None,
        blockOwnerDeletion=True if controller else None,
    )


def controller_of(obj: KubernetesObject) -> OwnerReference | None:
    """The reference to the one owner that controls the object."""
    for reference in obj.metadata.ownerReferences:
        if reference.controller:
            return reference
    return None


def is_controlled_by(obj: KubernetesObject, owner: KubernetesObject) -> bool:
    reference = controller_of(obj)
    return reference is not None and reference.uid == owner.metadata.uid


@dataclass(slots=True)
class ClaimPlan(Generic[S]):
    """What to do about the objects a controller might own."""

    owned: list[S] = field(default_factory=list)
    adopt: list[S] = field(default_factory=list)
    release: list[S] = field(default_factory=list)


def plan_claims(
    owner: KubernetesObject, objects: Iterable[S], matches: Callable[[S], bool]
) -> ClaimPlan[S]:
    """Sort objects into those owned already, those to adopt and those to release; the rest is
    none of the owner's business."""
    plan: ClaimPlan[S] = ClaimPlan()
    owner_is_leaving = bool(owner.metadata.deletionTimestamp)
    for obj in objects:
        reference = controller_of(obj)
        if reference is not None:
            if reference.uid != owner.metadata.uid:
                continue
            if matches(obj):
                plan.owned.append(obj)
            elif not owner_is_leaving:
                plan.release.append(obj)
        elif (
            not owner_is_leaving
            and not obj.metadata.deletionTimestamp
            and owner.metadata.namespace in ("", obj.metadata.namespace)
            and matches(obj)
        ):
            plan.adopt.append(obj)
    return plan


def adoption_patch(owner: KubernetesObject, uid: str, finalizers: Iterable[str] = ()) -> Any:
    """A strategic merge patch that makes `owner` the controller of the object with that uid."""
    metadata: dict[str, Any] = {
        "uid": uid,
        "ownerReferences": [
            {
                "apiVersion": owner.apiVersion,
                "kind": owner.kind,
                "name": owner.metadata.name,
                "uid": owner.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
    if added := [*finalizers]:
        metadata["finalizers"] = added
    return {"metadata": metadata}


def release_patch(owner: KubernetesObject, uid: str, finalizers: Iterable[str] = ()) -> Any:
    """A strategic merge patch that takes `owner` (and finalizers of its) off the object."""
    metadata: dict[str, Any] = {
        "uid": uid,
        "ownerReferences": [{"$patch": "delete", "uid": owner.metadata.uid}],
    }
    if removed := [*finalizers]:
        metadata["$deleteFromPrimitiveList/finalizers"] = removed
    return {"metadata": metadata}


@dataclass(frozen=True, slots=True)
class Claimant(Generic[S]):
    """A controller's object on its way to claim dependents.

    `confirm` is asked once before the first adoption and fetches the owner from the server, not
    from a cache: an owner that was deleted meanwhile must not adopt. `finalizers` are added on
    adoption and removed on release (Jobs track their pods by one)."""

    owner: KubernetesObject
    matches: Callable[[S], bool]
    confirm: Callable[[], Awaitable[KubernetesObject]]
    finalizers: tuple[str, ...] = ()


async def claim(
    resource: ResourceClient[S], claimant: Claimant[S], objects: Iterable[S]
) -> list[S]:
    """Adopt and release as planned; the objects that are now owned, adopted ones as the server
    answered. Objects that vanished meanwhile are passed over; other failures raise, after
    everything was tried."""
    owner = claimant.owner
    plan = plan_claims(owner, objects, claimant.matches)
    owned = plan.owned
    failure: ApiError | None = None
    if plan.adopt:
        fresh = await claimant.confirm()
        if fresh.metadata.uid != owner.metadata.uid or fresh.metadata.deletionTimestamp:
            name = owner.metadata.name
            failure = ApiError(409, "Conflict", f"{owner.kind} {name} was deleted or made anew")
            plan.adopt.clear()
    for obj in plan.adopt:
        body = adoption_patch(owner, obj.metadata.uid, claimant.finalizers)
        try:
            owned.append(await _patch(resource, obj, body))
        except ApiError as error:
            failure = _unless_vanished(error, failure)
    for obj in plan.release:
        body = release_patch(owner, obj.metadata.uid, claimant.finalizers)
        try:
            await _patch(resource, obj, body)
        except ApiError as error:
            failure = _unless_vanished(error, failure)
    if failure is not None:
        raise failure
    return owned


async def _patch(resource: ResourceClient[S], obj: S, body: Any) -> S:
    meta = obj.metadata
    return await resource.patch(meta.name, meta.namespace, body, patch_type=PatchType.STRATEGIC)


def _unless_vanished(error: ApiError, failure: ApiError | None) -> ApiError | None:
    # 422: the uid in the patch does not fit, the object was made anew.
    return failure if error.is_not_found or error.status == 422 else failure or error
