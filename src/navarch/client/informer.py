"""Informers: a local copy of a resource that follows the server, and calls handlers at each change.

An informer lists (page by page, all pages of one snapshot), then watches from the list's
resourceVersion. A watch that ends or breaks is resumed from the last version seen, so no event is
lost or repeated. Only when the server no longer has that history (410) does it list again, and then
tells handlers the difference to what they know: objects that vanished meanwhile are deleted with
their last known state, and one that was deleted and made anew under its name is a deletion and an
addition. Failures are retried with growing, jittered delays.

Handlers are plain functions, called in the order of the events, and must not block: they put keys
into work queues.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import msgspec

from navarch.api.errors import ApiError
from navarch.api.objects import Object
from navarch.client import metrics
from navarch.client.cache import Cache
from navarch.client.client import Client
from navarch.client.clock import Clock
from navarch.client.following import decoder_of
from navarch.client.objects import (
    AnyObject,
    KubernetesObject,
    PartialObject,
    WatchEvent,
    drop_managed_fields,
    identify,
    object_key,
)
from navarch.client.ratelimit import Backoff
from navarch.client.resource import ResourceClient, ResourcePath

T = TypeVar("T")
S = TypeVar("S", bound=KubernetesObject)

log = logging.getLogger(__name__)

PAGE_SIZE = 1000
AT_ONCE = 100
"""So many objects of a page are taken in before others get a turn: heartbeats must not wait until
the last of a hundred thousand pods is known, page after page."""
WATCH_SECONDS = 300
"""A watch asks to be ended after 1 to 2 times this long, so that watches spread over servers and
rotated credentials are taken up."""
STEADY_SECONDS = 10.0
"""A watch that lived this long, or told anything, was a success and ends a series of failures."""
_RESUMABLE = (0, 429, 503)
"""Answers that say nothing against the version we hold (0: no answer); after any other a watch
starts over with a list."""


RETRY_LIMIT_SECONDS = 2.0
"""The longest wait before a list is tried again, jitter apart. Upstream waits up to 30 s to spare a
server with thousands of clients; here a server that was away should find its components back at
work within seconds."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Which objects of a resource an informer follows."""

    namespace: str = ""
    label_selector: str = ""
    field_selector: str = ""


@dataclass(frozen=True, slots=True)
class Handler(Generic[T]):
    on_add: Callable[[T], object] | None = None
    on_update: Callable[[T, T], object] | None = None
    on_delete: Callable[[T], object] | None = None


class Informer(Generic[T]):
    """Get one from an `InformerFactory`, which also runs it."""

    def __init__(
        self,
        resource: ResourceClient[T],
        scope: Scope = Scope(),
        *,
        transform: Callable[[T], T] = drop_managed_fields,
        page_size: int = PAGE_SIZE,
        rng: random.Random | None = None,
    ) -> None:
        self.resource = resource
        self.scope = scope
        self.cache: Cache[T] = Cache()
        self.resource_version = ""
        """The last version seen; empty when a list is due."""
        self._transform = transform
        self._decoder = decoder_of(resource.codec, transform)
        self._page_size = page_size
        self._clock: Clock = resource.client.clock
        self._rng = rng or random.Random()
        self._backoff = Backoff(0.1, RETRY_LIMIT_SECONDS, rng=self._rng)
        self._handlers: list[Handler[T]] = []
        self._synced = asyncio.Event()

    def __str__(self) -> str:
        parts = (self.scope.namespace, self.scope.label_selector, self.scope.field_selector)
        return "/".join([str(self.resource.path), *filter(None, parts)])

    @property
    def synced(self) -> bool:
        """Whether the cache holds a complete state and handlers have been told of it."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        await self._synced.wait()

    def add_index(self, name: str, function: Callable[[T], Iterable[str]]) -> None:
        """Let `cache.by_index(name, value)` find objects by what `function` says of them."""
        self.cache.add_index(name, function)

    def add_handler(
        self,
        on_add: Callable[[T], object] | None = None,
        on_update: Callable[[T, T], object] | None = None,
        on_delete: Callable[[T], object] | None = None,
    ) -> None:
        """Call these from now on; `on_add` at once for every object already known."""
        self._handlers.append(Handler(on_add, on_update, on_delete))
        if on_add is not None:
            for obj in self.cache.list():
                self._call(on_add, obj)

    async def run(self) -> None:
        """Follow the server until cancelled."""
        self._decoder.join()
        try:
            await self._follow()
        finally:
            self._decoder.leave()

    async def _follow(self) -> None:
        while True:
            try:
                if not self.resource_version:
                    await self._relist()
                await self._watch()
            except ApiError as error:
                if error.status not in _RESUMABLE:
                    self.resource_version = ""
                delay = self._backoff.next()
                level = logging.INFO if error.is_gone or not error.status else logging.WARNING
                log.log(level, "informer %s: %s; again in %.1f s", self, error, delay)
                await self._clock.sleep(delay)
            except msgspec.MsgspecError:
                # Not to be skipped (the cache would lack an object without anybody knowing), and
                # not to be fatal to the other informers.
                self.resource_version = ""
                delay = self._backoff.next()
                log.exception("informer %s: an answer cannot be read", self)
                await self._clock.sleep(delay)

    async def read(self) -> None:
        """Take in the present state once, without following it. Raises ApiError."""
        await self._relist()

    async def _relist(self) -> None:
        metrics.informer_relists.labels(str(self.resource.path)).inc()
        scope = self.scope
        seen: set[str] = set()
        limit, token = self._page_size, ""
        while True:
            try:
                page = await self.resource.list(
                    scope.namespace,
                    label_selector=scope.label_selector,
                    field_selector=scope.field_selector,
                    limit=limit,
                    continue_=token,
                )
            except ApiError as error:
                if not (error.is_gone and token):
                    raise
                # The snapshot expired between two pages: once more, in one piece.
                seen.clear()
                limit, token = 0, ""
                continue
            for number, obj in enumerate(page.items, 1):
                seen.add(self._apply(self._transform(obj)))
                if not number % AT_ONCE:
                    await asyncio.sleep(0)
            token = page.continue_
            if not token:
                break
        for key in self.cache.keys() - seen:
            self._remove(key, cast("T", self.cache.get(key)))
        self.resource_version = page.resource_version
        self._count()
        self._synced.set()

    async def _watch(self) -> None:
        started = self._clock.monotonic()
        told = False
        events = self.resource.watch(
            self.scope.namespace,
            resource_version=self.resource_version,
            label_selector=self.scope.label_selector,
            field_selector=self.scope.field_selector,
            allow_bookmarks=True,
            timeout_seconds=int(WATCH_SECONDS * (1.0 + self._rng.random())),
            decode=self._decoder.decode,
        )
        try:
            async with aclosing(events) as stream:
                async for event in stream:
                    told = True
                    self._handle(event)
        finally:
            self._count()
            if told or self._clock.monotonic() - started >= STEADY_SECONDS:
                self._backoff.reset()
        if not told and self._clock.monotonic() - started < 1.0:
            # A server that ends each watch at once must not be asked in a tight loop.
            await self._clock.sleep(self._backoff.next())

    def _handle(self, event: WatchEvent[T]) -> None:
        match event.type:
            case "ADDED" | "MODIFIED":
                self._apply(event.object)
            case "DELETED":
                self._remove(object_key(cast("AnyObject", event.object)), event.object)
            case "BOOKMARK":
                pass
            case unknown:
                raise ApiError(500, "InternalError", f"a watch event of type {unknown!r}")
        self.resource_version = identify(cast("AnyObject", event.object)).resource_version

    def _apply(self, obj: T) -> str:
        """Take in a new or changed object; its key."""
        key = object_key(cast("AnyObject", obj))
        old = self.cache.get(key)
        if old is None:
            self.cache.put(key, obj)
            self._notify_add(obj)
            return key
        was, now = identify(cast("AnyObject", old)), identify(cast("AnyObject", obj))
        if was.uid != now.uid:
            self._remove(key, old)
            self.cache.put(key, obj)
            self._notify_add(obj)
        elif was.resource_version != now.resource_version:
            self.cache.put(key, obj)
            for handler in self._handlers:
                if handler.on_update is not None:
                    self._call(handler.on_update, old, obj)
        return key

    def _remove(self, key: str, last: T) -> None:
        if self.cache.get(key) is None:
            return
        self.cache.remove(key)
        for handler in self._handlers:
            if handler.on_delete is not None:
                self._call(handler.on_delete, last)

    def _notify_add(self, obj: T) -> None:
        for handler in self._handlers:
            if handler.on_add is not None:
                self._call(handler.on_add, obj)

    def _call(self, function: Callable[..., object], *arguments: T) -> None:
        try:
            function(*arguments)
        except Exception:
            # One handler's bug must not blind everybody who shares this informer; it is logged
            # with its trace and counted.
            metrics.informer_handler_failures.labels(str(self.resource.path)).inc()
            log.exception("informer %s: a handler failed", self)

    def _count(self) -> None:
        metrics.informer_objects.labels(str(self.resource.path)).set(len(self.cache))


class InformerFactory:
    """Shares informers: one per resource, scope and transform. It owns their tasks; `join` tells
    of one that failed, `stop` (or leaving `async with`) ends them."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._informers: dict[object, Informer[Any]] = {}
        self._tasks: dict[Informer[Any], asyncio.Task[None]] = {}
        self._ended = asyncio.Event()
        self._failure: BaseException | None = None

    async def __aenter__(self) -> InformerFactory:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    def informer(
        self,
        kind: type[S],
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
        transform: Callable[[S], S] = drop_managed_fields,
    ) -> Informer[S]:
        """The informer of a built-in kind, as Structs. Give each distinct `transform` as one
        function, not as a fresh lambda, or nothing is shared."""
        scope = Scope(namespace, label_selector, field_selector)
        return self._shared(self.client.resource(kind), scope, transform)

    def dynamic(
        self, group: str, version: str, plural: str, namespaced: bool = True, scope: Scope = Scope()
    ) -> Informer[Object]:
        """The informer of any resource, as dicts."""
        resource = self.client.dynamic(group, version, plural, namespaced)
        return self._shared(resource, scope, drop_managed_fields)

    def metadata(
        self, group: str, version: str, plural: str, namespaced: bool = True, scope: Scope = Scope()
    ) -> Informer[PartialObject]:
        """The informer of any resource, holding nothing but metadata."""
        resource = self.client.metadata(group, version, plural, namespaced)
        return self._shared(resource, scope, drop_managed_fields)

    def of(self, resource: ResourceClient[T], transform: Callable[[T], T]) -> Informer[T]:
        """The informer of a resource whose objects come in a form of the caller's own."""
        return self._shared(resource, Scope(), transform)

    def existing(self, path: ResourcePath) -> Informer[Any] | None:
        """One that follows all objects of a resource already, in whatever form."""
        for informer in self._informers.values():
            if informer.resource.path == path and informer.scope == Scope():
                return informer
        return None

    def runs(self, informer: Informer[Any]) -> bool:
        """Whether the informer is followed: started, and not stopped since."""
        return informer in self._tasks

    async def start(self) -> None:
        """Start every informer that does not run yet; may be called again after adding some."""
        for informer in self._informers.values():
            if informer not in self._tasks:
                task = asyncio.create_task(informer.run(), name=f"informer {informer}")
                task.add_done_callback(self._task_ended)
                self._tasks[informer] = task

    async def read(self) -> dict[ResourcePath, ApiError]:
        """Take in the present state of everything once, without following it: for those who only
        look. Tells what could not be read, and why."""
        informers = [*self._informers.values()]
        results = await asyncio.gather(*(each.read() for each in informers), return_exceptions=True)
        failed: dict[ResourcePath, ApiError] = {}
        for informer, result in zip(informers, results, strict=True):
            if isinstance(result, ApiError):
                failed[informer.resource.path] = result
            elif result is not None:
                raise result
        return failed

    @property
    def synced(self) -> bool:
        """Whether every started informer holds a complete state."""
        return all(informer.synced for informer in self._tasks)

    async def wait_synced(self) -> None:
        """Wait until every started informer holds a complete state. Raises what one of them
        failed with."""
        for informer in [*self._tasks]:
            await self._unless_failed(informer.wait_synced())

    async def join(self) -> None:
        """Wait until the factory is stopped; raises when an informer fails. Whoever depends on
        informers awaits this in its own task group, so that a fault here is seen there."""
        await self._ended.wait()
        if self._failure is not None:
            raise RuntimeError("an informer failed") from self._failure

    async def stop_informer(self, informer: Informer[Any]) -> None:
        """End one informer and forget it (its resource is gone)."""
        for key in [key for key, value in self._informers.items() if value is informer]:
            del self._informers[key]
        task = self._tasks.pop(informer, None)
        if task is not None:
            await _cancel([task])

    async def stop(self) -> None:
        tasks = [*self._tasks.values()]
        self._tasks.clear()
        self._informers.clear()
        await _cancel(tasks)
        self._ended.set()

    def _shared(
        self, resource: ResourceClient[T], scope: Scope, transform: Callable[[T], T]
    ) -> Informer[T]:
        key = (resource.path, resource.codec.item_type, scope, transform)
        informer = self._informers.get(key)
        if informer is None:
            informer = Informer(resource, scope, transform=transform)
            self._informers[key] = informer
        return informer

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        self._failure = task.exception() or RuntimeError(f"{task.get_name()} ended")
        log.critical("%s failed", task.get_name(), exc_info=self._failure)
        self._ended.set()

    async def _unless_failed(self, awaitable: Awaitable[None]) -> None:
        wanted = asyncio.ensure_future(awaitable)
        ended = asyncio.create_task(self._ended.wait(), name="informers ended")
        try:
            await asyncio.wait((wanted, ended), return_when=asyncio.FIRST_COMPLETED)
            if not wanted.done():
                await self.join()
        finally:
            await _cancel([wanted, ended])


async def _cancel(tasks: Iterable[asyncio.Future[Any]]) -> None:
    tasks = [*tasks]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
