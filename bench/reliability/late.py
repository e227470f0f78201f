"""A component whose watches lag, repeat themselves and mix up the order of things:
`python -m bench.reliability.late SEED CONFIG.json`. Otherwise it is that of a cluster.

Each kind of object lags by itself, so that what was written first may be heard of last. Of one
object events keep their order, which is what a watch promises; between objects it is drawn. Events
come twice, and connections break.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from itertools import chain
from typing import Any

import aiohttp

import navarch.client.resource
from navarch.client.objects import WatchEvent, object_key
from navarch.client.watch import LineSplitter
from navarch.cluster import daemon

LAGS, LONGEST_LAG = 0.3, 1.0
REPEATS = 0.2
BREAKS = 0.02

Event = WatchEvent[Any]


def mixed(events: list[Event], chance: random.Random) -> Iterator[Event]:
    """Events between two bookmarks in another order, some of them twice. The newest stays the
    last: it is where the watch would be taken up again."""
    by_object: dict[str, list[Event]] = {}
    for event in events:
        by_object.setdefault(object_key(event.object), []).append(event)
    newest = by_object.pop(object_key(events[-1].object), []) if events else []
    others = list(by_object.values())
    chance.shuffle(others)
    for event in chain(*others, newest):
        yield event
        if chance.random() < REPEATS:
            yield event


def disturbed(chance: random.Random) -> Any:
    async def read_watch(
        chunks: AsyncIterator[bytes], decode: Callable[[bytes], Event]
    ) -> AsyncGenerator[Event, None]:
        splitter = LineSplitter()
        async for chunk in chunks:
            if chance.random() < LAGS:
                await asyncio.sleep(chance.uniform(0.0, LONGEST_LAG))
            waiting: list[Event] = []
            for event in map(decode, splitter.feed(chunk)):
                if event.type != "BOOKMARK":
                    waiting.append(event)
                    continue
                for each in mixed(waiting, chance):
                    yield each
                waiting = []
                yield event
            for each in mixed(waiting, chance):
                yield each
            if chance.random() < BREAKS:
                raise aiohttp.ClientPayloadError("the bench breaks the connection")

    return read_watch


if __name__ == "__main__":
    vars(navarch.client.resource)["read_watch"] = disturbed(random.Random(int(sys.argv[1])))
    sys.exit(daemon.main(sys.argv[2:]))
