"""Who may be claimed, and how adoption and release are written."""

from __future__ import annotations

from typing import Any, cast

import pytest

from navarch.api.errors import ApiError, not_found
from navarch.api.objects import copy_object
from navarch.api.types.apps_v1 import ReplicaSet
from navarch.api.types.core_v1 import Pod
from navarch.api.types.meta_v1 import ObjectMeta, OwnerReference
from navarch.client.owners import (
    Claimant,
    claim,
    controller_of,
    is_controlled_by,
    owner_reference,
    plan_claims,
)
from navarch.client.resource import PatchType, ResourceClient

OWNER = ReplicaSet(metadata=ObjectMeta(name="rs", namespace="ns", uid="owner"))
LEAVING = "2026-01-01T00:00:00Z"


def pod(name: str, owner_uid: str = "", *, app: str = "web", **meta: Any) -> Pod:
    references = [OwnerReference(kind="Node", name="plain owner", uid="not a controller")]
    if owner_uid:
        references.append(OwnerReference(uid=owner_uid, controller=True))
    return Pod(
        metadata=ObjectMeta(
            **{"name": name, "namespace": "ns", "uid": f"uid-{name}", **meta},
            labels={"app": app},
            ownerReferences=references,
        )
    )


def matches(obj: Pod) -> bool:
    return obj.metadata.labels.get("app") == "web"


@pytest.mark.parametrize(
    ("obj", "owner_leaves", "expected"),
    [
        pytest.param(pod("p", "owner"), False, "owned", id="ours and selected"),
        pytest.param(pod("p", "owner"), True, "owned", id="ours, needs no action"),
        pytest.param(pod("p", "owner", app="x"), False, "release", id="ours, not selected"),
        pytest.param(pod("p", "owner", app="x"), True, "", id="no release while leaving"),
        pytest.param(pod("p", "other"), False, "", id="another's"),
        pytest.param(pod("p"), False, "adopt", id="orphan"),
        pytest.param(pod("p"), True, "", id="no adoption while leaving"),
        pytest.param(pod("p", app="x"), False, "", id="orphan not selected"),
        pytest.param(pod("p", deletionTimestamp=LEAVING), False, "", id="leaving orphan"),
        pytest.param(pod("p", namespace="other"), False, "", id="other namespace"),
    ],
)
def test_plan(obj: Pod, owner_leaves: bool, expected: str) -> None:
    owner = copy_object(OWNER)
    owner.metadata.deletionTimestamp = LEAVING if owner_leaves else None
    plan = plan_claims(owner, [obj], matches)
    found = {"owned": plan.owned, "adopt": plan.adopt, "release": plan.release}
    assert found == {name: [obj] if name == expected else [] for name in found}


def test_references() -> None:
    reference = owner_reference(OWNER)
    assert (reference.apiVersion, reference.kind, reference.uid) == (
        "apps/v1",
        "ReplicaSet",
        "owner",
    )
    assert reference.controller
    assert reference.blockOwnerDeletion
    assert not owner_reference(OWNER, controller=False).controller
    dependent = pod("p", "owner")
    assert controller_of(dependent) == dependent.metadata.ownerReferences[1]
    assert is_controlled_by(dependent, OWNER)
    assert controller_of(pod("orphan")) is None


class Patches:
    """Records patches; refuses those of named objects."""

    def __init__(self, **refusals: ApiError) -> None:
        self.refusals = refusals
        self.sent: dict[str, Any] = {}

    async def patch(self, name: str, namespace: str, body: Any, *, patch_type: PatchType) -> Pod:
        assert patch_type is PatchType.STRATEGIC
        self.sent[name] = body["metadata"]
        if name in self.refusals:
            raise self.refusals[name]
        return pod(name, "owner")


async def run_claim(patches: Patches, pods: list[Pod], fresh: ReplicaSet = OWNER) -> list[str]:
    async def confirm() -> ReplicaSet:
        return fresh

    claimant = Claimant(OWNER, matches, confirm, finalizers=("track",))
    resource = cast("ResourceClient[Pod]", patches)
    return [obj.metadata.name for obj in await claim(resource, claimant, pods)]


async def test_claim_adopts_and_releases_guarded_by_uid() -> None:
    patches = Patches()
    pods = [pod("mine", "owner"), pod("orphan"), pod("stray", "owner", app="x")]
    assert await run_claim(patches, pods) == ["mine", "orphan"]
    assert patches.sent["orphan"]["uid"] == "uid-orphan"
    assert patches.sent["orphan"]["ownerReferences"][0]["controller"] is True
    assert patches.sent["orphan"]["finalizers"] == ["track"]
    assert patches.sent["stray"] == {
        "uid": "uid-stray",
        "ownerReferences": [{"$patch": "delete", "uid": "owner"}],
        "$deleteFromPrimitiveList/finalizers": ["track"],
    }


async def test_objects_that_vanished_are_passed_over() -> None:
    anew = ApiError(422, "Invalid", "uid")
    patches = Patches(orphan=not_found("pods", "", "orphan"), stray=anew)
    pods = [pod("orphan"), pod("stray", "owner", app="x"), pod("mine", "owner")]
    assert await run_claim(patches, pods) == ["mine"]


async def test_other_failures_raise_after_everything_was_tried() -> None:
    patches = Patches(first=ApiError(500, "InternalError", "down"))
    with pytest.raises(ApiError, match="down"):
        await run_claim(patches, [pod("first"), pod("second")])
    assert [*patches.sent] == ["first", "second"]


@pytest.mark.parametrize("fault", [{"uid": "made anew"}, {"deletionTimestamp": LEAVING}])
async def test_an_owner_that_is_gone_adopts_nothing_but_still_releases(fault: Any) -> None:
    patches = Patches()
    fresh = copy_object(OWNER)
    fresh.metadata = ObjectMeta(**{"name": "rs", "uid": "owner", **fault})
    with pytest.raises(ApiError) as caught:
        await run_claim(patches, [pod("orphan"), pod("stray", "owner", app="x")], fresh)
    assert caught.value.is_conflict
    assert [*patches.sent] == ["stray"]
