"""What Ingress and Gateway API have in common: an nginx of this node serves a translation of what
is in the API, this node is among the endpoints of the Services that lead to it, and one of all
nodes' controllers, by election, writes the statuses.

Everything is translated anew after any change, and the data plane finds out what is different. So
there is no state that could go wrong, and a change is served after a twentieth of a second. Only
endpoints, which change most often and decide nothing but themselves, are looked at alone. Secrets
are followed one by one, as they are named: a controller neither holds nor sees any other.

nginx outlives a controller that is killed; a controller that is stopped takes it along.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from navarch.api.errors import ApiError
from navarch.api.objects import Object, to_object
from navarch.api.types.core_v1 import Node, Service
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.client import Client
from navarch.client.clock import RealClock, timeout
from navarch.client.config import ClientConfig
from navarch.client.controller import ControllerContext
from navarch.client.informer import Informer, InformerFactory
from navarch.client.leader import LeaderElector, LeadershipLost
from navarch.client.resource import PatchType, ResourceClient
from navarch.network.nginx import shared_directory
from navarch.network.nginx.backends import Around, Services, endpoints_of, services_of
from navarch.network.nginx.model import DataPlane
from navarch.network.nginx.process import Nginx, NginxError
from navarch.network.nginx.publish import MANAGED_BY, Place, changes, live
from navarch.network.nginx.render import Settings
from navarch.network.nginx.secrets import Secrets

log = logging.getLogger("navarch.network.nginx")

GATHER_SECONDS = 0.05
RETRY_SECONDS = 2.0
START_SECONDS = 5.0
STOP_SECONDS = 2.0
ROTATION_SECONDS = 30.0
REPLACED = "NAVARCH_REPLACED"
"""In the environment when the process ends only to be started anew."""

Write = Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """`addresses` to listen on; `state_directory` keeps what was served last, `shared_directory`
    is where nginx's workers read and write, so it must be reachable for their user."""

    kubeconfig: str
    addresses: tuple[str, ...]
    state_directory: str
    shared_directory: str = ""
    node_name: str = ""
    health_port: int = 10254
    workers: int = 2
    cluster_dns: tuple[str, ...] = ()
    access_log: str = ""


class Translated(Protocol):
    @property
    def plane(self) -> DataPlane: ...


T = TypeVar("T", bound=Translated)


class Written(Protocol):
    """An object, by what its user wrote into it: all but the status."""

    @property
    def metadata(self) -> ObjectMeta: ...


def is_same(one: Written, other: Written) -> bool:
    """Whether nothing that its user wrote is different."""
    old, new = one.metadata, other.metadata
    return (old.uid, old.generation, old.deletionTimestamp, old.labels, old.annotations) == (
        new.uid,
        new.generation,
        new.deletionTimestamp,
        new.labels,
        new.annotations,
    )


class Serving(ABC, Generic[T]):
    """`run` serves until it is cancelled; `retract` takes back what others see of it."""

    name = ""
    manager = ""
    """Whose EndpointSlices ours are."""
    lease, lease_namespace = "", "kube-system"

    translation: T

    def __init__(self, context: ControllerContext, nginx: Nginx, place: Place) -> None:
        self.context = context
        self.clock = context.clock
        self.nginx = nginx
        self.place = place
        informers = context.informers
        self.services = informers.informer(Service)
        self.slices = informers.informer(EndpointSlice)
        self.slices.add_index("service", services_of)
        self._nodes = informers.informer(Node)
        self.addresses: dict[str, tuple[str, ...]] = {}
        """What names of ExternalName Services resolve to."""
        self._secrets = Secrets(informers, context.clock, self.wake)
        self._elector = LeaderElector(
            context.client, self.lease, place.node, namespace=self.lease_namespace
        )
        self._led = False
        """Also after the end of leadership that was not lost: the last to lead takes back."""
        self.serves: bool | None = None
        """Whether nginx does; before the first attempt nobody knows."""
        self.problem = ""
        """Why it does not serve the translation."""
        self._around = Around(self._known_services(), self._secrets.get)
        self._changed, self._due, self._moved = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._stale = True
        """Something but endpoints has changed."""
        for informer in (self.services, self.slices):
            informer.add_handler(self._wake_for, self._wake_for, self._wake_for)
        self._nodes.add_handler(self.note, self.note, self.note)

    def follow(self, *informers: Informer[Any]) -> None:
        """What is translated."""
        for informer in informers:
            informer.add_handler(self.wake, self._wake_if_other, self.wake)

    @property
    def leads(self) -> bool:
        """Whether this node's controller is the one that speaks for all."""
        return self._elector.is_leader

    # -- what is different ---------------------------------------------------------------------

    @abstractmethod
    def translate(self, services: Services, secret: Any) -> tuple[Around, T]:
        """The data plane, and what it depends on."""

    async def lacks(self, around: Around, translation: T) -> bool:
        """Whether something was missing that is known now: then it is translated again."""
        return False

    def tell(self) -> None:
        """Say what came of the translation; `problem` is why this node does not serve it."""

    @abstractmethod
    def publishes(self, service: Service) -> bool:
        """Whether a Service is one of those that lead to nginx."""

    @abstractmethod
    def own_slices(self) -> Iterable[EndpointSlice]:
        """This node's endpoints of these Services."""

    @abstractmethod
    def writes(self) -> Iterable[Write]:
        """What the API says else than it should: statuses first of all. Asked of who leads."""

    def farewell(self) -> Iterable[Write]:
        """Written by the last of all nodes."""
        return ()

    def besides(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Tasks that run as long as nginx serves, by their names."""
        return {}

    # -- serving -------------------------------------------------------------------------------

    async def run(self) -> None:
        informers = self.context.informers
        await informers.start()
        await informers.wait_synced()
        async with asyncio.TaskGroup() as group:
            group.create_task(informers.join(), name=f"{self.name} informers")
            group.create_task(self._publish(), name=f"{self.name} endpoints")
            # Also where nginx does not start: then this is what the statuses have to say.
            group.create_task(self._lead(), name=f"{self.name} status")
            await self._start()
            tasks = {
                "nginx": self.nginx.run(lambda problem: self._tell(problem, serves=not problem)),
                "changes": self._follow(),
                "log": self._rotate(),
            }
            for name, each in {**tasks, **self.besides()}.items():
                group.create_task(each, name=f"{self.name} {name}")

    async def _start(self) -> None:
        """A node goes on without nginx; and a port that something else holds may become free."""
        while True:
            self.translation = await self._translated()
            try:
                await self.nginx.start(self.translation.plane)
            except (NginxError, OSError) as error:
                log.error("nginx does not start, trying again: %s", error)
                self._tell(str(error), serves=False)
                await self.nginx.stop()
                await self.clock.sleep(START_SECONDS)
                continue
            self._tell("", serves=True)
            log.info("%s: nginx serves", self.name)
            return

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            await self.clock.sleep(GATHER_SECONDS)
            self._changed.clear()
            stale, self._stale = self._stale, False
            try:
                if stale:
                    await self._apply()
                else:
                    endpoints = endpoints_of(self._known_services(), self._around.targets)
                    await self.nginx.apply_endpoints(endpoints)
            except NginxError as error:
                log.error("what was served before is served on: %s", error)
                self._tell(str(error), serves=bool(self.serves))
                await self.clock.sleep(RETRY_SECONDS)
                self.wake()

    async def _apply(self) -> None:
        self.translation = await self._translated()
        broken = await self.nginx.apply(self.translation.plane)
        self._tell("", serves=True)
        for each in broken:
            log.warning("a path of %s is no pattern: %s", each.get("labels"), each["problem"])

    async def _translated(self) -> T:
        """The translation, with all Secrets that it wants at hand."""
        while True:
            around, translation = self.translate(self._known_services(), self._secrets.get)
            self._around = around
            lacks = await self.lacks(around, translation)
            if not await self._secrets.follow(around.secrets_wanted) and not lacks:
                return translation

    def _known_services(self) -> Services:
        return Services(
            self.services.cache.get,
            lambda key: self.slices.cache.by_index("service", key),
            self.addresses,
        )

    def _tell(self, problem: str, *, serves: bool) -> None:
        self.serves, self.problem = serves, problem
        self.tell()
        self.note()

    async def _rotate(self) -> None:
        while True:
            await self.clock.sleep(ROTATION_SECONDS)
            self.nginx.rotate_log()

    # -- what others see of it -----------------------------------------------------------------

    async def _publish(self) -> None:
        while True:
            await self._gathered(self._moved)
            if self.serves is not None and not await self._all(self._publishing()):
                await self.clock.sleep(RETRY_SECONDS)
                self._moved.set()

    def _publishing(self) -> Iterable[Write]:
        resource = self.context.client.resource(EndpointSlice)
        found = changes(
            self._published(),
            self.own_slices() if self.serves else (),
            self.place.node,
            live(self._nodes.cache.list()),
            leads=self.leads,
        )
        for each in found.applied:
            value = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"}
            yield self.applying(resource, to_object(each) | value)
        for each in found.deleted:
            meta = each.metadata
            yield partial(resource.delete, meta.name, meta.namespace, uid=meta.uid)

    def _published(self) -> list[EndpointSlice]:
        """The slices of all nodes."""
        return [
            each
            for each in self.slices.cache.list()
            if each.metadata.labels.get(MANAGED_BY) == self.manager
        ]

    def applying(self, resource: ResourceClient[Any], value: Object) -> Write:
        return partial(
            resource.patch,
            value["metadata"]["name"],
            value["metadata"]["namespace"],
            value,
            patch_type=PatchType.APPLY,
            field_manager=f"navarch-{self.name}",
            force=True,
        )

    async def _lead(self) -> None:
        """Write whenever this controller leads."""
        while True:
            try:
                with contextlib.suppress(LeadershipLost):
                    await self._elector.run(self._write)
            finally:
                # The work has ended; what this node says of itself needs no lease.
                self.context.client.fence = None
            self._led = False

    async def _write(self) -> None:
        self._led = True
        if self.serves is not None:
            self.tell()
        self.note()
        while True:
            await self._gathered(self._due)
            if self.serves is not None and not await self._all(self.writes()):
                await self.clock.sleep(RETRY_SECONDS)
                self._due.set()

    async def _all(self, writes: Iterable[Write]) -> bool:
        """Do all of them; what is newer than we knew comes again with the next event."""
        good = True
        for write in [*writes]:
            try:
                await write()
            except LeadershipLost:
                good = False
            except ApiError as error:
                if not (error.is_conflict or error.is_not_found):
                    log.warning("%s", error)
                    good = False
        return good

    async def retract(self) -> None:
        """This node serves no more: its endpoints go, and if it was the last, what it told."""
        self.serves = False
        with contextlib.suppress(ApiError, OSError, TimeoutError):
            async with timeout(self.clock, STOP_SECONDS):
                nodes = {one.nodeName for each in self._published() for one in each.endpoints}
                await self._all(self._publishing())
                if self._led and nodes <= {self.place.node}:
                    await self._all(self.farewell())

    # -- waking --------------------------------------------------------------------------------

    async def _gathered(self, event: asyncio.Event) -> None:
        await event.wait()
        await self.clock.sleep(GATHER_SECONDS)
        event.clear()

    def note(self, *_: object) -> None:
        """Something that we say may be different."""
        self._due.set()
        self._moved.set()

    def wake(self, *_: object) -> None:
        self._stale = True
        self._changed.set()

    def _wake_if_other(self, old: Written, new: Written) -> None:
        """A status, most often our own, is no reason to translate anew."""
        if is_same(old, new):
            self.note()
        else:
            self.wake()

    def _wake_for(self, *objects: Service | EndpointSlice) -> None:
        """Only what is referred to is a reason to look again, or what leads to nginx."""
        for each in objects:
            if isinstance(each, EndpointSlice):
                ours, keys = each.metadata.labels.get(MANAGED_BY) == self.manager, services_of(each)
            else:
                ours = self.publishes(each)
                keys = [f"{each.metadata.namespace}/{each.metadata.name}"]
            if ours:
                self.note()
            if not self._around.services_wanted.isdisjoint(keys):
                self._stale = self._stale or isinstance(each, Service)
                self._changed.set()


def settings(options: ServingOptions, name: str) -> Settings:
    directory = Path(options.state_directory)
    return Settings(
        directory=directory,
        shared=Path(options.shared_directory or shared_directory(directory)),
        addresses=options.addresses,
        health_port=options.health_port,
        workers=options.workers,
        resolvers=options.cluster_dns,
        access_log=options.access_log or str(directory / f"{name}-access.log"),
    )


Make = Callable[[ControllerContext, Nginx, Place], Serving[Any]]


async def serve(options: ServingOptions, name: str, make: Make) -> None:
    """A component's life."""
    clock = RealClock()
    node = options.node_name or socket.gethostname()
    nginx = Nginx(settings(options, name), clock)
    async with Client(ClientConfig.from_kubeconfig(options.kubeconfig)) as client:
        context = ControllerContext(client, InformerFactory(client), clock, node)
        serving = make(context, nginx, Place(node, options.addresses))
        try:
            await serving.run()
        finally:
            if REPLACED in os.environ:
                await nginx.leave()
            else:
                await serving.retract()
                await nginx.stop()
            await context.close()
