"""The scheduler at work: what informers tell goes into the cluster and the queue; pods come out of
the queue, get a node, and are bound to it.

Choosing a node takes a fraction of a millisecond and happens one pod at a time. The pod counts on
its node from that moment (it is assumed), so the next choice knows of it, while the API server is
told in the background, for many pods at once. If it refuses, the pod is taken off again and tried
anew after a delay.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from navarch.api.errors import ApiError
from navarch.api.objects import Object, to_object
from navarch.api.resource_claims import ClaimProblem
from navarch.api.times import format_time
from navarch.api.types.core_v1 import Binding, Node, ObjectReference, Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.resource_v1 import ResourceClaim
from navarch.client import Client, ControllerContext, EventRecorder, Informer, object_key
from navarch.scheduler.changes import Action, Change, Subject
from navarch.scheduler.cluster import Cluster
from navarch.scheduler.cycle import Choice, Diagnosis, Failure, attempt
from navarch.scheduler.dra.binding import ClaimBinder
from navarch.scheduler.extended import ClusterChanged, make_room, schedule_with
from navarch.scheduler.extenders import EXTENDER, Extender, ExtenderFailed
from navarch.scheduler.framework import Cycle, Plugin, PluginFailed, Profile
from navarch.scheduler.lookups import InformerObjects
from navarch.scheduler.metrics import ERROR, SCHEDULED, UNSCHEDULABLE, Figures, Stopwatch
from navarch.scheduler.pod_status import not_scheduled, patch_status
from navarch.scheduler.podinfo import DEFAULT_SCHEDULER, PodInfo
from navarch.scheduler.preempting import Evictor
from navarch.scheduler.profiles import default_profile
from navarch.scheduler.queue import INITIAL_BACKOFF, MAX_BACKOFF, Hint, Place, SchedulingQueue
from navarch.scheduler.volumes import VolumeBinder, VolumesFailed

log = logging.getLogger(__name__)

BINDINGS_AT_ONCE = 64
BINDINGS_WAITING = 2000
"""Further pods are not tried while so many wait to be bound, so that choices stay fresh."""
NOTE_LIMIT = 1024
UNFINISHED = "status.phase!=Succeeded,status.phase!=Failed"


@dataclass(frozen=True, slots=True)
class Settings:
    """What one scheduler is responsible for, and how."""

    profiles: tuple[Profile, ...] = field(default_factory=lambda: (default_profile(),))
    """Pods whose `spec.schedulerName` names none of them are left to others."""
    initial_backoff: float = INITIAL_BACKOFF
    max_backoff: float = MAX_BACKOFF
    extenders: tuple[Extender, ...] = ()


class Began(NamedTuple):
    """An attempt that is under way."""

    at: float
    attempts: int
    """How many there were, this one included."""
    first: float
    """When the first of them began."""


class Scheduler:
    """Make it before the informers start; `run` works until cancelled."""

    def __init__(
        self,
        context: ControllerContext,
        settings: Settings | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.context = context
        self.client: Client = context.client
        self.settings = settings = settings or Settings()
        self.profiles = {profile.name: profile for profile in settings.profiles}
        self.cluster = Cluster()
        self.objects = InformerObjects(context.informers)
        self.objects.devices.now = context.clock.now
        hints = {
            _key(profile, plugin.name): Hint(plugin.interests, plugin.helped_by)
            for profile in settings.profiles
            for plugin in profile.plugins
        }
        if settings.extenders:
            # They say nothing of what would help: it may be anything.
            anything = frozenset((subject, action) for subject in Subject for action in Action)
            hints |= {_key(p, EXTENDER): Hint(anything, lambda *_: True) for p in settings.profiles}
        self.queue = SchedulingQueue(
            context.clock,
            hints,
            initial_backoff=settings.initial_backoff,
            max_backoff=settings.max_backoff,
            held_by=self._held_by,
        )
        self._holding = {
            profile.name: [p for p in profile.plugins if _may_hold_back(p)]
            for profile in settings.profiles
        }
        self._hinted = hints.keys()
        self._rng = rng or random.Random()
        self._pods = self.client.resource(Pod)
        self._assumed: dict[str, PodInfo] = {}
        self._preparing: set[str] = set()
        """Those of them whose volumes are not ready yet."""
        self._evictor = Evictor(context, self._cancel)
        for subject, informer in (
            (Subject.CLAIM, self.objects.claims),
            (Subject.VOLUME, self.objects.volumes),
            (Subject.STORAGE_CLASS, self.objects.classes),
            (Subject.CSI_NODE, self.objects.csi_nodes),
            (Subject.CSI_DRIVER, self.objects.csi_drivers),
            (Subject.CAPACITY, self.objects.storage_capacities),
            (Subject.ATTACHMENT, self.objects.volume_attachments),
            (Subject.RESOURCE_CLAIM, self.objects.resource_claims),
            (Subject.RESOURCE_SLICE, self.objects.resource_slices),
            (Subject.DEVICE_CLASS, self.objects.device_classes),
        ):
            self._tell_queue(informer, subject)
        self.volumes = VolumeBinder(self.client, self.objects)
        self.claims = ClaimBinder(context, self.objects)
        self.figures = Figures(self.queue, self.cluster, lambda: len(self._assumed))
        self._began: dict[str, Began] = {}
        """The attempts that are under way, by the pods' uids."""
        self._slots = asyncio.Semaphore(BINDINGS_AT_ONCE)
        self._waiting = asyncio.Semaphore(BINDINGS_WAITING)
        informers = context.informers
        self.pod_informer = informers.informer(Pod, field_selector=UNFINISHED)
        self.pod_informer.add_handler(self._pod_added, self._pod_updated, self._pod_deleted)
        self.node_informer = informers.informer(Node)
        self.node_informer.add_handler(self._node_added, self._node_updated, self._node_deleted)

    def _tell_queue(self, informer: Informer[Any], subject: Subject) -> None:
        """Changes that matter to nothing but pods that wait."""
        changed = self.queue.changed
        informer.add_handler(
            lambda new: changed(Change(subject, Action.ADD, None, new)),
            lambda old, new: changed(Change(subject, Action.UPDATE, old, new)),
            lambda old: changed(Change(subject, Action.DELETE, old)),
        )

    async def run(self) -> None:
        """Schedule until cancelled. Ends with an exception when an informer fails."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.context.informers.join(), name="scheduler informers")
            await self.context.informers.wait_synced()
            group.create_task(self.queue.run(), name="scheduler queue")
            while True:
                info = await self.queue.pop()
                await self._waiting.acquire()
                await self._try(info, group)
                # Let answers and events in between two pods.
                await asyncio.sleep(0)

    async def _try(self, info: PodInfo, group: asyncio.TaskGroup) -> None:
        """One attempt; whatever has to be told to the API server is left to a task."""
        if info.deleting:
            self._event(info, "Warning", f"skip schedule deleting pod: {info.key}")
            self.queue.done(info.uid)
            self._waiting.release()
            return
        profile = self._profile(info)
        watch = Stopwatch(self.context.clock, self.figures, profile)
        self._began[info.uid] = Began(watch.began, *self.queue.history(info.uid))
        try:
            result = await self._search(info, profile, watch)
            if self.queue.place_of(info.uid) is not Place.IN_FLIGHT:
                self._waiting.release()
                self._began.pop(info.uid, None)
                return  # deleted, or given a node by somebody else meanwhile
            self.figures.algorithm_seconds.observe(watch.total())
        except (PluginFailed, ExtenderFailed) as error:
            self._nominate(info, "")
            failure = Failure(str(error), nominated="")
            group.create_task(self._fail(info, failure, "SchedulerError"))
            return
        except Exception as error:
            # One pod that cannot be handled must not keep all others waiting.
            log.exception("%s: scheduling failed", info.key)
            failure = Failure(str(error), nominated="")
            self._nominate(info, "")
            group.create_task(self._fail(info, failure, "SchedulerError"))
            return
        if isinstance(result, Failure):
            self._nominate(info, result.nominated)
            group.create_task(self._fail(info, result, "Unschedulable"))
            return
        self._assumed[info.uid] = info
        self.cluster.set_pod(info, result.node)
        if self.cluster.nominations.node_of(info.uid) == result.node:
            self.cluster.nominations.remove(info.uid)
        else:
            self._nominate(info, "")
        if result.volumes is not None:
            self.volumes.assume(result.volumes, result.node)
        if result.claims is not None:
            self.claims.assume(result.claims)
        if result.volumes is None and result.claims is None:
            work = self._bind(info, result.node)
        else:
            work = self._prepare(info, result)
        group.create_task(work, name=f"bind {info.key}")

    async def _search(self, info: PodInfo, profile: Profile, watch: Stopwatch) -> Choice | Failure:
        """The choice of a node. While extenders are asked or pods are looked for that could make
        room, the cluster goes on."""
        extenders = self.settings.extenders
        while True:
            cycle = Cycle(info, self.cluster, self.objects, self._rng, self.cluster.alive)
            if not extenders:
                found = attempt(cycle, profile, watch.mark)
                if not isinstance(found, Diagnosis):
                    return found
                return await make_room((), cycle, profile, found, watch.mark)
            try:
                return await schedule_with(extenders, cycle, profile, watch.mark)
            except ClusterChanged:
                continue

    async def _prepare(self, info: PodInfo, choice: Choice) -> None:
        """Volumes and devices may take minutes: meanwhile the pod holds up no other."""
        node, volumes, claims = choice
        self.queue.decided(info.uid)
        self._waiting.release()

        def current() -> Node | None:
            slot = self.cluster.slots.get(node)
            return self.cluster.nodes[slot] if slot is not None else None

        def is_wanted() -> bool:
            return info.uid in self._assumed

        problem, plugin = "", "VolumeBinding"
        written: list[ResourceClaim] = []
        self._preparing.add(info.uid)
        try:
            await self._expect(info, node)
            if volumes is not None:
                await self.volumes.bind(info, volumes, current, is_wanted)
            if claims is not None:
                plugin = "DynamicResources"
                written = await self.claims.bind(info, claims, node, is_wanted)
        except (ApiError, VolumesFailed, ClaimProblem) as error:
            problem = f'running PreBind plugin "{plugin}": {error}'
        finally:
            self._preparing.discard(info.uid)
        await self._waiting.acquire()
        if not problem:

            async def undo() -> None:
                if claims is not None:
                    await self.claims.unreserve(info, claims, written)

            await self._bind(info, node, undo)
            return
        if volumes is not None:
            self.volumes.forget(volumes)
        if claims is not None:
            self.claims.forget(claims)
        self._forget(info)
        await self._fail(info, Failure(problem, nominated=""), "SchedulerError")

    async def _expect(self, info: PodInfo, node: str) -> None:
        """Say where the pod will be once its volumes and devices are there (KEP-5278): who scales
        clusters then does not take the node for unused, and a scheduler that is started meanwhile
        stays with the choice. Nothing depends on it."""
        if info.pod.status.nominatedNodeName == node:
            return
        try:
            async with self._slots:
                await patch_status(self.client, info.pod, {"nominatedNodeName": node})
        except ApiError as error:
            log.info("%s: nomination not written: %s", info.key, error)

    async def _bind(
        self, info: PodInfo, node: str, undo: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """`undo` takes back what was prepared, before anybody can try the pod again."""
        binding = Binding(
            metadata=ObjectMeta(name=info.name, namespace=info.namespace, uid=info.uid),
            target=ObjectReference(kind="Node", name=node),
        )
        try:
            async with self._slots:
                if not await self._bound_by_extender(info, node):
                    await self._pods.post_subresource(info.name, info.namespace, "binding", binding)
        except (ApiError, ExtenderFailed) as error:
            is_usual = isinstance(error, ApiError) and (error.is_conflict or error.is_not_found)
            log.log(
                logging.INFO if is_usual else logging.WARNING,
                "%s: not bound to %s: %s",
                info.key,
                node,
                error,
            )
            if undo is not None:
                await undo()
            self._forget(info)
            await self._fail_bound(info, error)
        else:
            self._scheduled(info)
            self.queue.done(info.uid)
            text = f"Successfully assigned {info.key} to {node}"
            self._recorder(info).event(info.pod, "Normal", "Scheduled", text)
            self._waiting.release()

    async def _bound_by_extender(self, info: PodInfo, node: str) -> bool:
        """Raises ExtenderFailed."""
        for extender in self.settings.extenders:
            if not extender.config.bindVerb or not extender.is_interested(info):
                continue
            try:
                await extender.bind(info, node)
            except ExtenderFailed as error:
                if not extender.is_ignorable:
                    raise
                log.info("extender %s is passed over: %s", extender.name, error)
            else:
                return True
        return False

    async def _fail_bound(self, info: PodInfo, error: ApiError | ExtenderFailed) -> None:
        is_extender = isinstance(error, ExtenderFailed)
        failure = Failure(str(error) if is_extender else f"binding rejected: {error}", nominated="")
        await self._fail(info, failure, "SchedulerError")

    def _forget(self, info: PodInfo) -> None:
        """Take an assumed pod off its node again, unless an informer has seen it there."""
        if self._assumed.pop(info.uid, None) is None:
            return
        self.cluster.remove_pod(info.uid)
        self.queue.changed(Change(Subject.ASSIGNED_POD, Action.DELETE, info))

    def _scheduled(self, info: PodInfo) -> None:
        """Counts a pod that is bound."""
        now = self.context.clock.monotonic()
        if (began := self._began.pop(info.uid, None)) is not None:
            self.figures.attempted(SCHEDULED, self._profile(info).name, now - began.at)
            self.figures.scheduled(began.attempts, now - began.first)

    async def _fail(self, info: PodInfo, failure: Failure, reason: str) -> None:
        """Tell why the pod has no node, and put it back."""
        if (began := self._began.pop(info.uid, None)) is not None:
            result = UNSCHEDULABLE if reason == "Unschedulable" else ERROR
            seconds = self.context.clock.monotonic() - began.at
            self.figures.attempted(result, self._profile(info).name, seconds)
        if failure.victims:
            self.figures.victims.observe(len(failure.victims))
        try:
            current = self.pod_informer.cache.get(info.key)
            if current is None or current.metadata.uid != info.uid or current.spec.nodeName:
                self.queue.remove(info.uid)
                self._nominate(info, "")
                return
            if not failure.victims:
                self.queue.put_back(info.uid, self._rejecting(info, failure))
            self._event(info, "Warning", failure.message)
            await self._write(current, failure, reason)
            if failure.release is not None:
                await self._release(info, failure.release)
            if failure.victims:
                await self._make_room(info, failure)
        finally:
            self._waiting.release()

    async def _release(self, info: PodInfo, claim: ResourceClaim) -> None:
        """A claim that has changed meanwhile is looked at anew, and so it is after other errors."""
        try:
            await self.claims.release(claim)
        except ApiError as error:
            if not (error.is_not_found or error.is_conflict):
                log.warning("%s: %s not given back: %s", info.key, object_key(claim), error)
            self.queue.retry(info.uid)

    def _event(self, info: PodInfo, kind: str, message: str) -> None:
        if len(message) > NOTE_LIMIT:
            message = message[: NOTE_LIMIT - 4] + " ..."
        self._recorder(info).event(info.pod, kind, "FailedScheduling", message)

    async def _write(self, pod: Pod, failure: Failure, reason: str) -> None:
        """Publish why the pod has no node, and which it waits for if that is decided."""
        now = format_time(self.context.clock.now())
        status: Object = {}
        if (condition := not_scheduled(pod, reason, failure.message, now)) is not None:
            status["conditions"] = [to_object(condition)]
        # Of a binding that failed, the cache may not know yet what the pod was told to expect.
        is_told = pod.status.nominatedNodeName if reason == "Unschedulable" else None
        if failure.nominated is not None and failure.nominated != is_told:
            status["nominatedNodeName"] = failure.nominated or None
        if not status:
            return
        try:
            async with self._slots:
                await patch_status(self.client, pod, status)
        except ApiError as error:
            if not (error.is_not_found or error.is_conflict):
                log.warning("%s: status not written: %s", pod.metadata.name, error)

    def _nominate(self, info: PodInfo, node: str | None) -> None:
        """What was decided of the node that the pod waits for holds at once. Room that is not
        kept for it any more may be of use to others."""
        nominations = self.cluster.nominations
        before = nominations.node_of(info.uid)
        if node is None or node == before:
            return
        nominations.set(info, node)
        if before:
            self.queue.changed(Change(Subject.ASSIGNED_POD, Action.DELETE, info))

    async def _make_room(self, info: PodInfo, failure: Failure) -> None:
        """Make the victims leave. The pod is tried again when something helps, and that is noted
        from before they were asked; if they could not be asked, after a delay."""
        node = failure.nominated or ""
        pushed_aside = self.cluster.nominations.behind(info, node)
        for each in pushed_aside:
            self.cluster.nominations.remove(each.uid)
            self.queue.retry(each.uid)
        await self._evictor.clear(pushed_aside)
        is_done = await self._evictor.evict(failure.victims, info, node)
        self.queue.put_back(info.uid, self._rejecting(info, failure) if is_done else ())

    def _cancel(self, info: PodInfo) -> bool:
        """Take a node away from a pod that waits for its volumes there."""
        if info.uid not in self._preparing:
            return False
        self._forget(info)
        self.volumes.news.tell(info.uid)
        self.claims.news.tell(info.uid)
        return True

    def _is_ours(self, pod: Pod) -> bool:
        return (pod.spec.schedulerName or DEFAULT_SCHEDULER) in self.profiles

    def _profile(self, info: PodInfo) -> Profile:
        return self.profiles[info.pod.spec.schedulerName or DEFAULT_SCHEDULER]

    def _held_by(self, info: PodInfo) -> str:
        profile = self._profile(info)
        holding = self._holding[profile.name]
        held = (_key(profile, p.name) for p in holding if p.holds_back(info, self.objects))
        return next(held, "")

    def _recorder(self, info: PodInfo) -> EventRecorder:
        return self.context.recorder(info.pod.spec.schedulerName or DEFAULT_SCHEDULER)

    def _rejecting(self, info: PodInfo, failure: Failure) -> list[str]:
        """Who rejected the pod, as the queue knows them."""
        keys = (_key(self._profile(info), name) for name in failure.plugins)
        return [key for key in keys if key in self._hinted]

    def _pod_added(self, pod: Pod) -> None:
        info = PodInfo(pod)
        if pod.spec.nodeName:
            self._assigned(info)
        elif self._is_ours(pod):
            self.cluster.nominations.set(info, pod.status.nominatedNodeName)
            self.queue.add(info)

    def _pod_updated(self, old: Pod, new: Pod) -> None:
        info = PodInfo(new)
        if not new.spec.nodeName:
            if self._is_ours(new) and new.metadata.uid not in self._assumed:
                before = PodInfo(old)
                self.cluster.nominations.update(before, info)
                self.queue.update(before, info)
        elif not old.spec.nodeName:
            self._assigned(info)
        else:
            self.cluster.set_pod(info, new.spec.nodeName)
            change = Change(Subject.ASSIGNED_POD, Action.UPDATE, PodInfo(old), info)
            self.queue.changed(change)

    def _pod_deleted(self, pod: Pod) -> None:
        info = PodInfo(pod)
        uid = pod.metadata.uid
        self._assumed.pop(uid, None)
        self.volumes.news.tell(uid)
        self.claims.news.tell(uid)
        self.queue.remove(uid)
        self._nominate(info, "")
        if uid in self.cluster.pods:
            self.cluster.remove_pod(uid)
            self.queue.changed(Change(Subject.ASSIGNED_POD, Action.DELETE, info))

    def _assigned(self, info: PodInfo) -> None:
        """A pod has got its node, from us or from somebody else."""
        self._assumed.pop(info.uid, None)
        self.cluster.nominations.remove(info.uid)
        self.queue.remove(info.uid)
        self.cluster.set_pod(info, info.node)
        self.queue.changed(Change(Subject.ASSIGNED_POD, Action.ADD, None, info))

    def _node_added(self, node: Node) -> None:
        self.cluster.set_node(node)
        self.queue.changed(Change(Subject.NODE, Action.ADD, None, node))

    def _node_updated(self, old: Node, new: Node) -> None:
        if _node_facts(old) == _node_facts(new):
            return
        self.cluster.set_node(new)
        self.queue.changed(Change(Subject.NODE, Action.UPDATE, old, new))

    def _node_deleted(self, node: Node) -> None:
        self.cluster.remove_node(node.metadata.name)
        self.queue.changed(Change(Subject.NODE, Action.DELETE, node))


def _may_hold_back(plugin: Plugin) -> bool:
    return type(plugin).holds_back is not Plugin.holds_back


def _key(profile: Profile, plugin: str) -> str:
    """A plugin as the queue knows it: what helps depends on the arguments it has in a profile."""
    return f"{plugin} of {profile.name}"


def _node_facts(node: Node) -> object:
    """What of a node matters here; heartbeats change nothing of it."""
    return (
        node.metadata.labels,
        node.spec.taints,
        node.spec.unschedulable,
        node.status.allocatable,
        node.status.images,
        node.status.declaredFeatures,
    )
