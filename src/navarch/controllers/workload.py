"""What the controllers of Deployments, ReplicaSets, StatefulSets, DaemonSets and Jobs share.

Each owns dependents: it finds them by an index on who controls them, adopts orphans that its
selector matches, releases what no longer does, makes and deletes pods in batches, and does nothing
while the caches lag behind what it wrote. Events about dependents wake their owner; the more there
are, the longer their events are gathered before the next pass.

Source: upstream's `pkg/controller/controller_{utils,ref_manager}.go`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, ClassVar, Generic, TypeVar, cast

import msgspec

from navarch.api.errors import ApiError
from navarch.api.selectors import LabelSelector, label_selector_from_object
from navarch.api.types.core_v1 import Pod
from navarch.client import (
    Claimant,
    Controller,
    ControllerContext,
    Informer,
    KubernetesObject,
    ResourceClient,
    Writes,
    claim,
    controller_of,
    object_key,
    slow_start,
    together,
)
from navarch.controllers.pods import (
    PACE_SECONDS,
    PodControl,
    gathering_seconds,
    is_namespace_terminating,
    is_ready,
    seconds_until_available,
)

W = TypeVar("W", bound=KubernetesObject)
S = TypeVar("S", bound=KubernetesObject)

BY_CONTROLLER = "controller"


def index_by_controller(informer: Informer[Any]) -> None:
    """Let `dependents` find what an object controls, and what nobody does."""
    informer.add_index(BY_CONTROLLER, _controller_or_namespace)


def _controller_or_namespace(obj: KubernetesObject) -> list[str]:
    reference = controller_of(obj)
    return [reference.uid if reference is not None else f"/{obj.metadata.namespace}"]


def controlled(informer: Informer[S], uid: str) -> list[S]:
    """What the object with that uid controls."""
    return informer.cache.by_index(BY_CONTROLLER, uid)


class WorkloadController(Controller, Generic[W]):
    """Subclasses set `kind`, and call `follow` for what their objects own; `finalizers` are put on
    what is adopted and taken off what is released."""

    kind: ClassVar[type[Any]]
    pace: ClassVar[float] = PACE_SECONDS
    finalizers: ClassVar[tuple[str, ...]] = ()

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.resource = cast("ResourceClient[W]", self.client.resource(self.kind))
        self.owners = cast("Informer[W]", context.informers.informer(self.kind))
        self.pods = context.informers.informer(Pod)
        index_by_controller(self.pods)
        self.depends_on(self.pods)
        self.recorder = context.recorder(f"{self.name}-controller")
        self.control = PodControl(self.client, self.recorder)
        self.writes = Writes(self.clock)
        self._sizes: dict[str, int] = {}
        self.watch(self.owners)
        self.owners.add_handler(on_delete=lambda owner: self._forget(object_key(owner)))

    def _forget(self, key: str) -> None:
        self.writes.forget(key)
        self._sizes.pop(key, None)

    @staticmethod
    def selector(owner: Any) -> LabelSelector:
        return label_selector_from_object(owner.spec.selector)

    def follow(self, informer: Informer[Any]) -> None:
        """Wake the owner of each dependent that comes, changes or goes, and for an orphan whoever
        could adopt it."""
        index_by_controller(informer)
        self.depends_on(informer)
        informer.add_handler(self._came, self._changed, self._gone)

    def owner_key(self, obj: KubernetesObject) -> str | None:
        """The key of the object, one that is known and of our kind, that controls this one."""
        reference = controller_of(obj)
        if reference is None or reference.kind != self.kind.__name__:
            return None
        key = f"{obj.metadata.namespace}/{reference.name}"
        owner = self.owners.cache.get(key)
        return key if owner is not None and owner.metadata.uid == reference.uid else None

    def _came(self, obj: KubernetesObject) -> None:
        self._wake(obj, may_adopt=not obj.metadata.deletionTimestamp)

    def _gone(self, obj: KubernetesObject) -> None:
        self._wake(obj, may_adopt=False)

    def _changed(self, old: KubernetesObject, new: KubernetesObject) -> None:
        is_moved = controller_of(old) != controller_of(new)
        if is_moved:
            self._wake(old, may_adopt=False)
        is_other = is_moved or old.metadata.labels != new.metadata.labels
        self._wake(new, may_adopt=is_other and not new.metadata.deletionTimestamp)

    def _wake(self, obj: KubernetesObject, may_adopt: bool) -> None:
        if controller_of(obj) is None:
            if may_adopt:
                self.enqueue(self._adopters(obj))
            return
        key = self.owner_key(obj)
        if key is not None:
            self.enqueue_paced(key)

    def set_size(self, key: str, size: int) -> None:
        """How much there is for a pass to look at, which sets its pace."""
        self._sizes[key] = size

    def enqueue_paced(self, key: str) -> None:
        """Queue the key, at once if it waits for writes of its own to be shown."""
        is_awaited = self.writes.are_pending(key)
        pause = 0.0 if is_awaited else gathering_seconds(self._sizes.get(key, 0), self.pace)
        self.queue.add_after(key, pause)

    def _adopters(self, orphan: KubernetesObject) -> list[str]:
        meta = orphan.metadata
        return [
            object_key(owner)
            for owner in self.owners.cache.list(meta.namespace)
            if meta.labels
            and not (selector := self.selector(owner)).empty
            and selector.matches(meta.labels)
        ]

    def is_behind(self, key: str) -> bool:
        """Whether the caches do not show yet what was written for this object; it comes back when
        they do."""
        return self.writes.hold_back(key, self.queue)

    def dependents(self, informer: Informer[S], owner: W) -> list[S]:
        """What the object controls and what it might adopt."""
        orphans = informer.cache.by_index(BY_CONTROLLER, f"/{owner.metadata.namespace}")
        return [*controlled(informer, owner.metadata.uid), *orphans]

    async def claim(
        self,
        owner: W,
        informer: Informer[S],
        candidates: Iterable[S],
        is_member: Callable[[S], bool],
    ) -> list[S]:
        """Adopt and release; what is owned then. Before an adoption the server is asked whether
        the owner is still there."""
        meta = owner.metadata

        async def confirm() -> KubernetesObject:
            return await self.resource.get(meta.name, meta.namespace)

        claimant: Claimant[S] = Claimant(owner, is_member, confirm, self.finalizers)
        return await claim(informer.resource, claimant, candidates)

    async def create_pods(
        self, owner: W, count: int, build: Callable[[int], Pod]
    ) -> ApiError | None:
        """Make that many pods, in batches that double; the first failure. That the namespace is
        going away is none."""
        key = object_key(owner)

        async def create(index: int) -> None:
            try:
                created = await self.control.create(build(index), owner)
            except ApiError as error:
                if not is_namespace_terminating(error):
                    raise
            else:
                self.writes.wrote(key, self.pods, created)

        _, failure = await slow_start(count, create)
        return failure

    async def delete_pods(self, owner: W, pods: Sequence[Pod]) -> ApiError | None:
        """Delete the pods; the first failure, of which it is none that one was gone."""
        key = object_key(owner)

        async def delete(pod: Pod) -> ApiError | None:
            try:
                await self.control.delete(pod, owner)
            except ApiError as error:
                return None if error.is_not_found else error
            self.writes.deleted(key, self.pods, pod)
            return None

        results = await together(*(delete(pod) for pod in pods))
        return next((error for error in results if error is not None), None)

    async def put_status(self, owner: W, status: Any) -> None:
        """Write the status if it is another."""
        if status != cast("Any", owner).status:
            await self.write_status(msgspec.structs.replace(cast("Any", owner), status=status))

    async def write_status(self, wanted: W) -> W:
        written = await self.resource.update_status(wanted)
        self.writes.wrote(object_key(wanted), self.owners, written)
        return written

    def await_availability(self, owner: W, pods: Iterable[Pod], now: datetime) -> None:
        """Come back when the next of the pods that are ready has been so for long enough."""
        least = cast("Any", owner).spec.minReadySeconds
        if least <= 0:
            return
        ready = (seconds_until_available(pod, least, now) for pod in pods if is_ready(pod))
        # None: ready, but nobody knows since when.
        waits = [least if wait is None else wait for wait in ready if wait != 0.0]
        if waits:
            self.queue.add_after(object_key(owner), min(waits))
