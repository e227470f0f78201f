"""Between the choice of a node and the binding of the pod: what is assumed, awaited, given up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object, from_object
from navarch.api.types.core_v1 import ObjectReference, PersistentVolume, PersistentVolumeClaim
from navarch.client import FakeClock
from navarch.scheduler.assumed import Assumed
from navarch.scheduler.framework import BIND_SECONDS, VolumePlan
from navarch.scheduler.volumes import VolumeBinder, VolumesFailed

from .conftest import node, pod
from .test_scheduler import FakeInformer
from .test_volume_plugins import SELECTED, claim, volume

POD = pod("p")
NODE = node("a")


@dataclass
class World:
    """An API server that stores patches, and informers that show them when told to."""

    claims: FakeInformer = field(default_factory=FakeInformer)
    volumes: FakeInformer = field(default_factory=FakeInformer)
    patches: list[Any] = field(default_factory=list)
    clock: FakeClock = field(default_factory=FakeClock)
    error: ApiError | None = None
    version: int = 100

    def __post_init__(self) -> None:
        self.objects = SimpleNamespace(
            claims=self.claims,
            volumes=self.volumes,
            assumed_claims=Assumed(cast("Any", self.claims)),
            assumed_volumes=Assumed(cast("Any", self.volumes)),
        )
        client = SimpleNamespace(clock=self.clock, resource=self._resource)
        self.binder = VolumeBinder(cast("Any", client), cast("Any", self.objects))
        self.claim = self.add(claim("c"))
        self.volume = self.add(volume("v", on="a"))
        self.is_wanted = True

    def _resource(self, kind: Any) -> Any:
        async def patch(name: str, namespace: str, body: Any) -> Any:
            if self.error is not None:
                raise self.error
            self.patches.append(body)
            informer = self.claims if kind is PersistentVolumeClaim else self.volumes
            found = copy_object(informer.cache.get(f"{namespace}/{name}".lstrip("/")))
            self.version += 1
            found.metadata.resourceVersion = str(self.version)
            found.metadata.annotations.update(body["metadata"].get("annotations", {}))
            if "spec" in body:
                found.spec.claimRef = from_object(ObjectReference, body["spec"]["claimRef"])
            return found

        return SimpleNamespace(patch=patch)

    def add(self, obj: Any) -> Any:
        """Something is new or has changed."""
        self.version += 1
        obj = copy_object(obj)
        obj.metadata.resourceVersion = str(self.version)
        obj.metadata.uid = obj.metadata.name
        meta = obj.metadata
        if isinstance(obj, PersistentVolume):
            self.volumes.set(meta.name, obj)
        else:
            self.claims.set(f"default/{meta.name}", obj)
        return obj

    def begin(self, plan: VolumePlan) -> asyncio.Task[None]:
        self.binder.assume(plan, "a")
        work = self.binder.bind(POD, plan, lambda: NODE, lambda: self.is_wanted)
        return asyncio.create_task(work)

    def delete_pod(self) -> None:
        self.is_wanted = False
        self.binder.news.tell(POD.uid)

    def reserved(self) -> PersistentVolume:
        found = copy_object(self.volume)
        ref = {"namespace": "default", "name": "c", "uid": "c"}
        found.spec.claimRef = from_object(ObjectReference, ref)
        return cast("PersistentVolume", self.add(found))

    def complete(self, **annotations: str) -> None:
        found = copy_object(self.claim)
        done = {"pv.kubernetes.io/bind-completed": "yes", SELECTED: "a"}
        found.metadata.annotations = {**done, **annotations}
        found.spec.volumeName = "v"
        self.add(found)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_volume_is_taken_at_once_and_the_pod_waits_for_its_claim() -> None:
    world = World()
    plan = VolumePlan(bindings=((world.claim, world.volume),))
    work = world.begin(plan)
    taken = world.objects.assumed_volumes.get("v")
    assert taken.spec.claimRef.uid == "c"
    assert taken.metadata.annotations == {"pv.kubernetes.io/bound-by-controller": "yes"}
    assert world.volume.spec.claimRef is None
    await settle()
    (written,) = world.patches
    assert written["metadata"]["resourceVersion"] == world.volume.metadata.resourceVersion
    assert written["spec"]["claimRef"]["uid"] == "c"
    world.reserved()
    await settle()
    assert not work.done()
    world.complete()
    await work


async def test_a_node_is_told_and_the_pod_waits_for_the_volume() -> None:
    world = World()
    work = world.begin(VolumePlan(provisions=(world.claim,)))
    assert world.objects.assumed_claims.get("default/c").metadata.annotations == {SELECTED: "a"}
    await settle()
    assert world.patches[0]["metadata"]["annotations"] == {SELECTED: "a"}
    assert not work.done()
    world.complete()
    await work


async def test_what_is_not_written_is_given_back() -> None:
    world = World()
    world.error = ApiError(409, "Conflict", "somebody else was faster")
    plan = VolumePlan(bindings=((world.claim, world.volume),))
    with pytest.raises(ApiError):
        await world.begin(plan)
    world.binder.forget(plan)
    assert world.objects.assumed_volumes.get("v").spec.claimRef is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda world: world.complete(**{SELECTED: "b"}),
            'provisioning failed for PVC "c"',
            id="another node",
        ),
        pytest.param(
            lambda world: world.claims.remove("default/c"),
            'persistentvolumeclaim "c" not found',
            id="claim gone",
        ),
        pytest.param(
            lambda world: (world.add(volume("v", on="b")), world.complete()),
            'pv "v" node affinity doesn\'t match node "a"',
            id="made elsewhere",
        ),
        pytest.param(
            lambda world: world.delete_pod(),
            "the pod or the node does not exist any more",
            id="pod gone",
        ),
    ],
)
async def test_what_ends_the_wait(change: Any, message: str) -> None:
    world = World()
    work = world.begin(VolumePlan(provisions=(world.claim,)))
    await settle()
    change(world)
    with pytest.raises(VolumesFailed, match="binding volumes: "):
        await work
    assert message in str(work.exception())


async def test_a_reservation_that_is_taken_back_ends_the_wait() -> None:
    world = World()
    work = world.begin(VolumePlan(bindings=((world.claim, world.volume),)))
    await settle()
    world.reserved()
    world.add(world.volume)
    world.complete()
    with pytest.raises(VolumesFailed, match="ClaimRef got reset"):
        await work


async def test_the_wait_has_an_end() -> None:
    world = World()
    work = world.begin(VolumePlan(provisions=(world.claim,)))
    await settle()
    await world.clock.advance(BIND_SECONDS + 1)
    with pytest.raises(VolumesFailed, match="deadline"):
        await work
