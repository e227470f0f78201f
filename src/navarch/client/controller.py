"""The one shape of all controllers.

A controller watches informers, turns events into keys, and reconciles one key at a time per key,
several keys at once. `reconcile` gets a key and never an event: it reads the caches, decides, and
writes. What it raises is logged and counted, and the key comes back after a growing delay.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar, cast

from navarch.api.errors import ApiError
from navarch.client import metrics
from navarch.client.batches import together
from navarch.client.client import Client
from navarch.client.clock import Clock, RealClock, end_if_told
from navarch.client.events import EventRecorder
from navarch.client.informer import Informer, InformerFactory
from navarch.client.objects import AnyObject, object_key
from navarch.client.queue import BASE_DELAY, MAX_DELAY, QueueShutDown, WorkQueue

T = TypeVar("T")

Keys = str | Iterable[str] | None
"""What a `key_of` function may answer: one key, several, or none."""


@dataclass(frozen=True, slots=True)
class ControllerContext:
    """What controllers of one process share."""

    client: Client
    informers: InformerFactory
    clock: Clock = field(default_factory=RealClock)
    host: str = ""
    _recorders: dict[str, EventRecorder] = field(default_factory=dict, repr=False)

    def recorder(self, component: str) -> EventRecorder:
        """The event recorder of a component, made at first use."""
        recorder = self._recorders.get(component)
        if recorder is None:
            recorder = EventRecorder(self.client, component, self.host)
            self._recorders[component] = recorder
        return recorder

    async def close(self) -> None:
        """Write out the events that wait and stop the informers."""
        try:
            await together(*(recorder.close() for recorder in self._recorders.values()))
        finally:
            await self.informers.stop()


class Controller(ABC):
    """Subclasses set `name` and perhaps `workers`, call `self.watch(...)` in their `__init__`, and
    implement `reconcile`."""

    name: ClassVar[str] = ""
    workers: ClassVar[int] = 5
    shortest_delay: ClassVar[float] = BASE_DELAY
    """After a failure, in seconds; it doubles with each."""
    longest_delay: ClassVar[float] = MAX_DELAY

    def __init__(self, context: ControllerContext) -> None:
        self.context = context
        self.client = context.client
        self.clock = context.clock
        self.queue = WorkQueue(
            self.name,
            clock=context.clock,
            base_delay=self.shortest_delay,
            max_delay=self.longest_delay,
        )
        self.log = logging.getLogger(f"navarch.{self.name}")
        self._informers: list[Informer[Any]] = []

    def watch(self, informer: Informer[T], key_of: Callable[[T], Keys] | None = None) -> None:
        """Queue the keys of every object that is added, changed or deleted: by default its own,
        else what `key_of` makes of it. At a change both the old and the new state are asked, so
        that an object that moves from one owner to another wakes both."""
        keys = key_of or _own_key

        def enqueue(obj: T) -> None:
            self.enqueue(keys(obj))

        def enqueue_both(old: T, new: T) -> None:
            self.enqueue(keys(old))
            self.enqueue(keys(new))

        self.depends_on(informer)
        informer.add_handler(enqueue, enqueue_both, enqueue)

    def depends_on(self, informer: Informer[Any]) -> None:
        """Begin work only when this informer is synced. `watch` implies it."""
        if informer not in self._informers:
            self._informers.append(informer)

    def enqueue(self, keys: Keys) -> None:
        """Queue one key, several or none."""
        if keys is None:
            return
        for key in (keys,) if isinstance(keys, str) else keys:
            self.queue.add(key)

    @abstractmethod
    async def reconcile(self, key: str) -> None:
        """Bring the world closer to what the object with this key wants. Idempotent, and safe to
        be killed between any two lines. To come back later: `self.queue.add_after(key, s)`."""

    async def run(self) -> None:
        """Work until cancelled. Ends with an exception when an informer fails."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.context.informers.join(), name=f"{self.name} informers")
                for informer in self._informers:
                    await informer.wait_synced()
                for number in range(self.workers):
                    group.create_task(self._work(), name=f"{self.name} worker {number}")
        finally:
            self.queue.shut_down()

    async def _work(self) -> None:
        while True:
            try:
                key = await self.queue.get()
            except QueueShutDown:
                return
            try:
                await self._reconcile_guarded(key)
            finally:
                self.queue.done(key)
            end_if_told()

    async def _reconcile_guarded(self, key: str) -> None:
        try:
            await self.reconcile(key)
        except ApiError as error:
            # A lost race is ordinary: the informer is about to show what we lost against.
            level = logging.DEBUG if error.is_conflict else logging.WARNING
            self.log.log(level, "%s: %s (attempt %d)", key, error, self.queue.retries(key) + 1)
            self._retry(key, error.reason or str(error.status))
        except Exception as error:
            self.log.exception("%s: reconcile failed", key)
            self._retry(key, type(error).__name__)
        else:
            self.queue.forget(key)

    def _retry(self, key: str, reason: str) -> None:
        metrics.reconcile_failures.labels(self.name, reason).inc()
        self.queue.add_rate_limited(key)


def _own_key(obj: object) -> str:
    return object_key(cast("AnyObject", obj))
