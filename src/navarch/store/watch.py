"""Watches: every change after a revision, in order, none lost and none twice.

A watch is in one of two states. *Behind*: it reads the history from where it stands; nothing is
queued for it and a consumer may take its time. *Live*: it has seen everything there is, and each
commit puts its events into the watch's own bounded queue. The step from behind to live happens
without giving control to anybody else, so no commit can fall between the two.

A live watcher that does not read its queue is ended when the queue is full: writers never wait for
it, and the memory that it can pin is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Protocol

from navarch.store.contract import Event, StoreClosed, StoreError, WatchTooSlow

QUEUE_EVENTS = 16_384
QUEUE_BYTES = 64 * 1024 * 1024
"""What one live watch may leave unread: both bounds apply."""


class History(Protocol):
    """What a watch that is behind needs of the store."""

    @property
    def current_revision(self) -> int: ...

    async def history(self, after: int, prefix: str) -> tuple[Sequence[Event], int]:
        """Some of the events above a revision whose key has the prefix, and the revision up to
        which they are all. At the time of return, not before, that revision may be the current
        one. Raises `Compacted`."""
        ...


class Subscription:
    """The queue of one watch."""

    __slots__ = ("_bytes", "_waiter", "after", "error", "events", "prefix")

    def __init__(self, prefix: str, after: int) -> None:
        self.prefix = prefix
        self.after = after
        """Revision up to which the consumer has everything, or asked for nothing."""
        self.events: list[Event] = []
        self.error: StoreError | None = None
        self._bytes = 0
        self._waiter: asyncio.Future[None] | None = None

    def offer(self, event: Event) -> bool:
        """Queue an event. False when the watch is ended because its queue is full."""
        if event.revision <= self.after:
            return True
        self._bytes += len(event.current.value) if event.current is not None else 0
        if len(self.events) >= QUEUE_EVENTS or self._bytes > QUEUE_BYTES:
            self.end(WatchTooSlow(f"too many unread events after revision {self.after}"))
            return False
        self.events.append(event)
        self._wake()
        return True

    def end(self, error: StoreError) -> None:
        self.error = error
        self.events = []
        self._wake()

    async def take(self) -> list[Event]:
        """All queued events, at least one."""
        while not self.events:
            if self.error is not None:
                raise self.error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        events, self.events = self.events, []
        self._bytes = 0
        self.after = events[-1].revision
        return events

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class WatchHub:
    """All live watches, found by the prefixes of a key."""

    def __init__(self) -> None:
        self._by_prefix: dict[int, dict[str, dict[Subscription, None]]] = {}
        """Length of the prefix, the prefix, its subscriptions: a key is looked up once for each
        length in use, however many watches there are."""
        self.watchers = 0
        self.slow_ended = 0

    def add(self, subscription: Subscription) -> None:
        prefix = subscription.prefix
        self._by_prefix.setdefault(len(prefix), {}).setdefault(prefix, {})[subscription] = None
        self.watchers += 1

    def remove(self, subscription: Subscription) -> None:
        prefix = subscription.prefix
        group = self._by_prefix.get(len(prefix), {}).get(prefix, {})
        if subscription not in group:
            return
        del group[subscription]
        self.watchers -= 1
        if not group:
            del self._by_prefix[len(prefix)][prefix]
            if not self._by_prefix[len(prefix)]:
                del self._by_prefix[len(prefix)]

    def publish(self, events: Iterable[Event]) -> None:
        """Put the events of a commit into the queues of the watches that they concern."""
        ended: dict[Subscription, None] = {}
        for event in events:
            key = event.key
            for length, groups in self._by_prefix.items():
                for subscription in groups.get(key[:length], ()):
                    if subscription.error is not None or not subscription.offer(event):
                        ended[subscription] = None
        for subscription in ended:
            self.slow_ended += isinstance(subscription.error, WatchTooSlow)
            self.remove(subscription)

    def end_all(self, error: Callable[[], StoreError]) -> None:
        for groups in list(self._by_prefix.values()):
            for group in list(groups.values()):
                for subscription in list(group):
                    subscription.end(error())
                    self.remove(subscription)


class Watch(AsyncIterator[Sequence[Event]]):
    """The consumer's side of a watch: batches of events. One consumer at a time.

    The hub knows only the subscription, so a consumer that drops the watch without closing it does
    not leave a queue behind that fills for nobody."""

    def __init__(self, hub: WatchHub, history: History, prefix: str, after: int) -> None:
        self._hub = hub
        self._history = history
        self._subscription = Subscription(prefix, after)
        self._live = False
        self._go_live_if_current()

    async def __anext__(self) -> Sequence[Event]:
        while not self._live and self._subscription.error is None:
            subscription = self._subscription
            events, until = await self._history.history(subscription.after, subscription.prefix)
            subscription.after = until
            self._go_live_if_current()
            if events:
                return events
        return await self._subscription.take()

    def _go_live_if_current(self) -> None:
        if self._subscription.after >= self._history.current_revision:
            self._hub.add(self._subscription)
            self._live = True

    async def aclose(self) -> None:
        self._subscription.end(StoreClosed("the watch is closed"))
        self._hub.remove(self._subscription)

    def __del__(self) -> None:
        # The garbage collector may run in any thread, so this only marks the subscription as
        # ended; the hub drops it at the next event.
        self._subscription.end(StoreClosed("the watch is closed"))
