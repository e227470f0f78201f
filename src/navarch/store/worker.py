"""One thread that does blocking work for an event loop, in the order in which it is asked.

`asyncio.to_thread` would do it, too, but costs two futures and a lock for every call, which a
commit of 150 µs feels, and it starves beside a busy event loop. The loop lets go of the interpreter
lock each time it polls and takes it back within a microsecond; a thread that waits for the lock is
woken each time, comes too late each time, and because it was woken and did not time out, never gets
as far as demanding it. Measured, a commit then took a second. So when work has been under way for a
millisecond, the loop gives way for real, for a moment, now and again, until the work is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 0.001
"""How long the loop goes on before it gives way."""
PATIENCE_SECONDS_MOST = 0.004
"""The same after some times: then it is the disk that is slow."""
GIVE_WAY_SECONDS = 0.0003
"""For how long at most: the thread needs some 50 µs to wake up."""


class Worker:
    """The thread ends with `stop`, after all work that was asked for before."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._under_way = 0
        self._giving_way: asyncio.TimerHandle | None = None
        self._patience = PATIENCE_SECONDS
        self._progress = threading.Lock()
        """Released by the thread at the end of each piece of work."""
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Call the function in the thread. It is called even if the caller stops waiting."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> None:
            settle: Callable[[Any], None]
            result: Any
            try:
                result, settle = function(), future.set_result
            except BaseException as error:
                result, settle = error, future.set_exception
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._settle, future, settle, result)

        self._jobs.put(job)
        self._under_way += 1
        if self._giving_way is None:
            self._giving_way = loop.call_later(PATIENCE_SECONDS, self._give_way, loop)
        return future

    def stop(self) -> None:
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            del job  # and what it holds, while waiting for the next
            with contextlib.suppress(RuntimeError):  # nobody waits for progress
                self._progress.release()

    def _settle(
        self, future: asyncio.Future[Any], settle: Callable[[Any], None], result: Any
    ) -> None:
        self._under_way -= 1
        self._patience = PATIENCE_SECONDS
        if not self._under_way and self._giving_way is not None:
            self._giving_way.cancel()
            self._giving_way = None
        if not future.done():
            settle(result)

    def _give_way(self, loop: asyncio.AbstractEventLoop) -> None:
        self._progress.acquire(blocking=False)  # for progress from now on
        self._progress.acquire(timeout=GIVE_WAY_SECONDS)
        self._patience = min(2 * self._patience, PATIENCE_SECONDS_MOST)
        self._giving_way = loop.call_later(self._patience, self._give_way, loop)
