"""Follows Ingresses and what they refer to, and has nginx serve them.

Everything is translated anew after any change, and the data plane finds out what is different. So
there is no state that could go wrong, and a change is served after a twentieth of a second. Only
endpoints, which change most often and decide nothing but themselves, are looked at alone. An
Ingress whose values are refused has a Warning event; one that is served for the first time, or
anew after a change, has upstream's Normal event `Sync`.

Secrets are followed one by one, as Ingresses name them: the controller neither holds nor sees any
other.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from navarch.api.types.core_v1 import Service
from navarch.api.types.discovery_v1 import EndpointSlice
from navarch.api.types.networking_v1 import Ingress, IngressClass
from navarch.client.controller import ControllerContext
from navarch.network.ingress.backends import (
    SERVICE_NAME,
    Reference,
    Services,
    endpoints_of,
)
from navarch.network.ingress.routes import Surroundings
from navarch.network.ingress.secrets import Secrets
from navarch.network.ingress.translate import (
    Ports,
    Problem,
    Translation,
    is_ours,
    translate,
)
from navarch.network.nginx.process import Nginx, NginxError

log = logging.getLogger("navarch.network.ingress")

COMPONENT = "nginx-ingress-controller"
GATHER_SECONDS = 0.05
RETRY_SECONDS = 2.0
START_SECONDS = 5.0
NAMES_SECONDS = 10.0
ROTATION_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Scope:
    """Which Ingresses are ours, and how they are served."""

    controller: str
    takes_classless: bool
    ports: Ports
    domain: str


class IngressController:
    """`run` serves until it is cancelled."""

    def __init__(self, context: ControllerContext, nginx: Nginx, scope: Scope) -> None:
        self._context = context
        self._clock = context.clock
        self._nginx = nginx
        self._scope = scope
        informers = context.informers
        self._ingresses = informers.informer(Ingress)
        self._classes = informers.informer(IngressClass)
        self._services = informers.informer(Service)
        self._slices = informers.informer(EndpointSlice)
        self._slices.add_index("service", _service_of)
        self._secrets = Secrets(informers, context.clock, self._wake)
        self._changed = asyncio.Event()
        self._stale = False
        """Something but endpoints has changed."""
        self._references: dict[str, Reference] = {}
        self._wanted_services: set[str] = set()
        self._addresses: dict[str, tuple[str, ...]] = {}
        self._told: dict[str, set[str]] = {}
        """By uid of an Ingress: the events it has, and the generation they are about."""
        for informer in (self._ingresses, self._classes):
            informer.add_handler(self._wake, self._wake, self._wake)
        self._services.add_handler(self._wake_for, self._wake_for, self._wake_for)
        self._slices.add_handler(self._move, self._move, self._move)

    @property
    def ours(self) -> list[Ingress]:
        """The Ingresses that are served here."""
        classes = self._classes.cache.list()
        return [
            each
            for each in self._ingresses.cache.list()
            if is_ours(each, classes, self._scope.controller, self._scope.takes_classless)
        ]

    async def run(self, beside: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """`beside` runs as long as nginx serves."""
        await self._context.informers.start()
        await self._context.informers.wait_synced()
        await self._start()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._context.informers.join(), name="ingress informers")
            group.create_task(self._nginx.run(), name="nginx")
            group.create_task(self._follow(), name="ingress changes")
            group.create_task(self._resolve(), name="ingress external names")
            group.create_task(self._rotate(), name="ingress log")
            group.create_task(beside(), name="ingress status")

    async def _start(self) -> None:
        """A node goes on without nginx, and a port that something else holds may become free."""
        while True:
            translation = await self._translated()
            try:
                await self._nginx.start(translation.plane)
            except (NginxError, OSError) as error:
                log.error("nginx does not start, trying again: %s", error)
                self._warn_all(str(error))
                await self._nginx.stop()
                await self._clock.sleep(START_SECONDS)
                continue
            self._tell(translation)
            log.info("serving %d ingresses", len(self.ours))
            return

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            await self._clock.sleep(GATHER_SECONDS)
            self._changed.clear()
            stale, self._stale = self._stale, False
            try:
                if stale:
                    await self._apply()
                else:
                    endpoints = endpoints_of(self._known_services(), self._references)
                    await self._nginx.apply_endpoints(endpoints)
            except NginxError as error:
                log.error("what was served before is served on: %s", error)
                self._warn_all(str(error))
                await self._clock.sleep(RETRY_SECONDS)
                self._wake()

    async def _apply(self) -> None:
        translation = await self._translated()
        broken = await self._nginx.apply(translation.plane)
        self._tell(translation)
        for each in broken:
            log.warning("a path of %s is no pattern: %s", each.get("labels"), each["problem"])

    async def _translated(self) -> Translation:
        """The translation, with all Secrets that it wants at hand."""
        while True:
            around = Surroundings(self._known_services(), self._secrets.get)
            translation = translate(self.ours, around, self._scope.ports)
            self._wanted_services, self._references = around.services_wanted, around.targets
            unknown = translation.names - self._addresses.keys()
            for name in unknown:
                self._addresses[name] = await self._look_up(name)
            if not await self._secrets.follow(translation.secrets) and not unknown:
                return translation

    def _known_services(self) -> Services:
        return Services(
            self._services.cache.get,
            lambda key: self._slices.cache.by_index("service", key),
            self._addresses,
        )

    # -- names of ExternalName Services -------------------------------------------------------

    async def _resolve(self) -> None:
        """Ask for the names again and again: nobody tells when an address changes."""
        while True:
            await self._clock.sleep(NAMES_SECONDS)
            for name in [*self._addresses]:
                addresses = await self._look_up(name)
                if addresses and addresses != self._addresses.get(name):
                    self._addresses[name] = addresses
                    self._changed.set()

    async def _look_up(self, name: str) -> tuple[str, ...]:
        """Names of the cluster are known here; others are asked of the node's resolver."""
        suffix = f".svc.{self._scope.domain}"
        if name.endswith(suffix):
            labels = name.removesuffix(suffix).split(".")
            service = self._services.cache.get("/".join(reversed(labels)))
            virtual = service.spec.clusterIP if service else ""
            return (virtual,) if virtual not in ("", "None") else ()
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except OSError as error:
            log.warning("%s: %s", name, error)
            return ()
        return tuple(sorted({str(each[4][0]) for each in found}))

    # -- what users are told ------------------------------------------------------------------

    def _tell(self, translation: Translation) -> None:
        recorder = self._context.recorder(COMPONENT)
        ours = self.ours
        problems: dict[str, list[Problem]] = {}
        for problem in translation.problems:
            problems.setdefault(problem.ingress.metadata.uid, []).append(problem)
        for ingress in ours:
            metadata = ingress.metadata
            told = self._told.setdefault(metadata.uid, set())
            mark = f"generation {metadata.generation} {sorted(metadata.annotations.items())}"
            if mark not in told:
                told.clear()
                told.add(mark)
                recorder.event(ingress, "Normal", "Sync", "Scheduled for sync")
            current = problems.get(metadata.uid, ())
            for problem in current:
                if problem.message not in told:
                    recorder.event(ingress, "Warning", problem.reason, problem.message)
            told &= {mark}
            told |= {problem.message for problem in current}
        for uid in self._told.keys() - {each.metadata.uid for each in ours}:
            del self._told[uid]

    def _warn_all(self, message: str) -> None:
        recorder = self._context.recorder(COMPONENT)
        for ingress in self.ours:
            told = self._told.setdefault(ingress.metadata.uid, set())
            if message not in told:
                told.add(message)
                recorder.event(ingress, "Warning", "RELOAD", f"Error reloading NGINX: {message}")

    async def _rotate(self) -> None:
        while True:
            await self._clock.sleep(ROTATION_SECONDS)
            self._nginx.rotate_log()

    def _wake(self, *_: object) -> None:
        self._stale = True
        self._changed.set()

    def _wake_for(self, *services: Service) -> None:
        """Only what some Ingress refers to is a reason to look again."""
        keys = {f"{each.metadata.namespace}/{each.metadata.name}" for each in services}
        if not keys.isdisjoint(self._wanted_services):
            self._wake()

    def _move(self, *slices: EndpointSlice) -> None:
        if any(not self._wanted_services.isdisjoint(_service_of(each)) for each in slices):
            self._changed.set()


def _service_of(slice_: EndpointSlice) -> list[str]:
    name = slice_.metadata.labels.get(SERVICE_NAME, "")
    return [f"{slice_.metadata.namespace}/{name}"] if name else []
