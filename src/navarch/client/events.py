"""Recording events: what happened to an object, for people to read.

Writing an event must never hold up or fail the work it tells of, so `event` only puts it into a
bounded queue. Repetitions become one Event with a count; many different messages for one reason
become one "(combined from similar events)"; an object about which a component cannot stop talking
is rationed to 25 events and one more every five minutes (limits of upstream's event correlator).
What does not fit, or cannot be written in the end, is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

import msgspec

from navarch.api.errors import ApiError
from navarch.api.times import format_time
from navarch.api.types.core_v1 import Event, EventSource, ObjectReference
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client import metrics
from navarch.client.client import Client
from navarch.client.clock import Clock, timeout
from navarch.client.leader import LeadershipLost
from navarch.client.objects import AnyObject, identify
from navarch.client.ratelimit import Backoff, TokenBucket

log = logging.getLogger(__name__)

QUEUE_LIMIT = 10_000
AT_ONCE = 8
BUSY = 24
BUSY_SECONDS = 0.02
"""With so many other requests under way events give way: they are written one by one, and no more
than 50 a second, which is what upstream's clients allow themselves at any time."""
MAX_TRIES = 12
MESSAGE_LIMIT = 4096
AGGREGATE_AFTER = 10
AGGREGATE_SECONDS = 600.0
SPAM_BURST = 25.0
SPAM_RATE = 1.0 / 300.0
MEMORY = 4096
"""How many objects, reasons and messages are remembered for counting and rationing."""
CLOSE_SECONDS = 2.0

V = TypeVar("V")


class _Recent(Generic[V]):
    """A mapping that forgets what was not used for longest."""

    def __init__(self, make: Callable[[], V], limit: int = MEMORY) -> None:
        self._make = make
        self._limit = limit
        self._entries: OrderedDict[Hashable, V] = OrderedDict()

    def use(self, key: Hashable) -> V:
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        if len(self._entries) >= self._limit:
            self._entries.popitem(last=False)
        value = self._entries[key] = self._make()
        return value


@dataclass(slots=True)
class _Similar:
    """Events of one reason: which messages came, and when the last did."""

    messages: dict[str, None]
    last: float


@dataclass(slots=True)
class _Counted:
    """The Event on the server that repetitions are counted in."""

    name: str = ""
    first: str = ""
    count: int = 0


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something happened, as a component told it."""

    about: ObjectReference
    type: str
    reason: str
    message: str
    at: datetime
    monotonic: float
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Write:
    """An Event to create, or to patch with its new count, last time and message."""

    event: Event
    is_new: bool


class Correlator:
    """Decides what to write for an occurrence. Synchronous; it is told the time."""

    def __init__(self, component: str, host: str) -> None:
        self._source = EventSource(component=component, host=host)
        self._stamp = 0
        self._similar: _Recent[_Similar] = _Recent(lambda: _Similar({}, float("-inf")))
        self._counted: _Recent[_Counted] = _Recent(_Counted)
        self._buckets: _Recent[TokenBucket] = _Recent(lambda: TokenBucket(SPAM_RATE, SPAM_BURST))

    def correlate(self, occurrence: Occurrence) -> Write | None:
        """What to write, None for nothing (the object's ration is used up)."""
        about = occurrence.about
        who = (about.kind, about.namespace, about.name, about.uid, about.apiVersion)
        same_reason = (*who, occurrence.type, occurrence.reason)
        identity: Hashable = (*same_reason, about.fieldPath, occurrence.message)
        message = occurrence.message
        similar = self._similar.use(same_reason)
        if occurrence.monotonic - similar.last > AGGREGATE_SECONDS:
            similar.messages.clear()
        similar.last = occurrence.monotonic
        similar.messages[message] = None
        if len(similar.messages) >= AGGREGATE_AFTER:
            similar.messages.pop(next(iter(similar.messages)))
            identity = same_reason
            message = f"(combined from similar events): {message}"
        counted = self._counted.use(identity)
        if not counted.count:
            counted.name = f"{about.name}.{self._unique_stamp(occurrence.at):x}"
            counted.first = format_time(occurrence.at)
        counted.count += 1  # also what is not written has happened
        if not self._buckets.use((*who, occurrence.type)).take(occurrence.monotonic):
            return None
        return Write(self._event(occurrence, message, counted), counted.count == 1)

    def _unique_stamp(self, at: datetime) -> int:
        """Nanoseconds as upstream puts them into names, and never the same twice."""
        self._stamp = max(int(at.timestamp() * 1e6) * 1000, self._stamp + 1)
        return self._stamp

    def _event(self, occurrence: Occurrence, message: str, counted: _Counted) -> Event:
        about = occurrence.about
        return Event(
            metadata=ObjectMeta(
                name=counted.name,
                namespace=about.namespace or "default",
                annotations=dict(occurrence.annotations),
            ),
            involvedObject=about,
            reason=occurrence.reason,
            message=message,
            source=self._source,
            firstTimestamp=counted.first,
            lastTimestamp=format_time(occurrence.at),
            count=counted.count,
            type=occurrence.type,
            reportingComponent=self._source.component,
            reportingInstance=self._source.host,
        )


class EventRecorder:
    """`event` may be called from anywhere in the event loop; a task that lives while there is
    something to write does the rest. `close` waits a little for it."""

    def __init__(self, client: Client, component: str, host: str = "") -> None:
        self._client = client
        self._resource = client.resource(Event)
        self._clock: Clock = client.clock
        self._component = component
        self._correlator = Correlator(component, host)
        self._waiting: deque[Occurrence] = deque()
        self._task: asyncio.Task[None] | None = None

    def event(
        self,
        obj: AnyObject | ObjectReference,
        type: str,
        reason: str,
        message: str,
        field_path: str = "",
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        """Record that something happened to `obj` (a Struct, a dict or a reference). `type` is
        Normal or Warning, `reason` a short CamelCase word; `field_path` names a part of the object
        (`spec.containers{web}`); `annotations` are the Event's own."""
        if len(self._waiting) >= QUEUE_LIMIT:
            self._drop("queue full")
            return
        about = reference_to(obj, field_path)
        now, monotonic = self._clock.now(), self._clock.monotonic()
        self._waiting.append(
            Occurrence(
                about, type, reason, message[:MESSAGE_LIMIT], now, monotonic, annotations or {}
            )
        )
        if self._task is None or self._task.done():
            name = f"events of {self._component}"
            self._task = asyncio.get_running_loop().create_task(self._drain(), name=name)

    async def flush(self) -> None:
        """Wait until everything recorded so far is written or dropped."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def close(self) -> None:
        if self._task is None:
            return
        try:
            async with timeout(self._clock, CLOSE_SECONDS):
                await self.flush()
        except TimeoutError:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._drop("closed", len(self._waiting))
            self._waiting.clear()

    def _drop(self, reason: str, count: int = 1) -> None:
        metrics.events_dropped.labels(self._component, reason).inc(count)

    async def _drain(self) -> None:
        while self._waiting:
            batch: dict[str, Write] = {}
            is_busy = self._client.under_way >= BUSY
            if is_busy:
                await self._clock.sleep(BUSY_SECONDS)
            at_once = 1 if is_busy else AT_ONCE
            while self._waiting and len(batch) < at_once:
                write = self._correlator.correlate(self._waiting.popleft())
                if write is None:
                    self._drop("rationed")
                else:
                    # A later count replaces an earlier one of the same Event.
                    name = write.event.metadata.name
                    is_new = write.is_new or (name in batch and batch[name].is_new)
                    batch[name] = Write(write.event, is_new)
            async with asyncio.TaskGroup() as group:
                for name, write in batch.items():
                    group.create_task(self._write(write), name=f"event {name}")

    async def _write(self, write: Write) -> None:
        backoff: Backoff | None = None
        for _ in range(MAX_TRIES):
            try:
                await self._write_once(write)
                return
            except ApiError as error:
                if error.status not in (0, 429) and error.status < 500:
                    # Refused, for example because the namespace is being deleted.
                    log.debug("event %s: %s", write.event.metadata.name, error)
                    self._drop(error.reason or str(error.status))
                    return
                backoff = backoff or Backoff(0.5, 10.0, rng=random.Random())
                await self._clock.sleep(backoff.next())
            except LeadershipLost:
                self._drop("no longer leading")
                return
        self._drop("no answer")

    async def _write_once(self, write: Write) -> None:
        event = write.event
        if not write.is_new:
            body: dict[str, Any] = {
                "count": event.count,
                "lastTimestamp": event.lastTimestamp,
                "message": event.message,
            }
            try:
                await self._resource.patch(event.metadata.name, event.metadata.namespace, body)
                return
            except ApiError as error:
                if not error.is_not_found:
                    raise
        await self._resource.create(event)


def reference_to(obj: AnyObject | ObjectReference, field_path: str = "") -> ObjectReference:
    """A reference to an object, for events."""
    if isinstance(obj, ObjectReference):
        return msgspec.structs.replace(obj, fieldPath=field_path) if field_path else obj
    identity = identify(obj)
    is_plain = isinstance(obj, dict)
    return ObjectReference(
        kind=obj["kind"] if is_plain else obj.kind,  # type: ignore[index,union-attr]
        namespace=identity.namespace,
        name=identity.name,
        uid=identity.uid,
        apiVersion=obj["apiVersion"] if is_plain else obj.apiVersion,  # type: ignore[index,union-attr]
        resourceVersion=identity.resource_version,
        fieldPath=field_path,
    )
