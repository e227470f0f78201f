"""An agent that dies at a chosen moment: what goes through its `Doom` is never heard of again.

A moment is before, during or after a call that leaves the agent. As after `kill -9`, a call that
has been made takes effect (or is cancelled by its callee), but nobody learns how it ended.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any


class Doom:
    """`dies` is asked at each step: its number, the call's name, and `before`, `during` or `after`.

    Whoever uses it looks at `is_dead`, calls `bury` and then cancels the agent's task.
    """

    def __init__(self, dies: Callable[[int, str, str], bool], during: float = 0.002) -> None:
        self._dies, self._during = dies, during
        self.steps = 0
        self.died_at = ""
        self.death = asyncio.Event()
        self._is_buried = False

    @property
    def is_dead(self) -> bool:
        return self.death.is_set()

    def bury(self) -> None:
        """From now on even the last words of what is cancelled come to nothing."""
        self._is_buried = True
        self.death.set()

    def through(self, part: Any) -> Any:
        """An object (or a coroutine function) whose calls are steps."""
        return self.call(part) if inspect.iscoroutinefunction(part) else _Through(part, self)

    def call(self, function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__

        async def call(*args: Any, **keywords: Any) -> Any:
            await self._step(name, "before")
            if not self.is_dead and self._dies(self.steps, name, "during"):
                task = asyncio.ensure_future(function(*args, **keywords))
                await asyncio.wait({task}, timeout=self._during)
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
                self._die(f"{name} during")
                try:
                    await self._end()
                finally:
                    task.cancel()
            result = await function(*args, **keywords)
            await self._step(name, "after")
            return result

        return call

    async def _step(self, name: str, when: str) -> None:
        if not self.is_dead:
            self.steps += 1
            if self._dies(self.steps, name, when):
                self._die(f"{name} {when}")
        if self.is_dead:
            await self._end()

    def _die(self, where: str) -> None:
        self.died_at = where
        self.death.set()

    async def _end(self) -> None:
        if not self._is_buried:
            await asyncio.Event().wait()
        raise asyncio.CancelledError


class _Through:
    def __init__(self, part: Any, doom: Doom) -> None:
        self._part, self._doom = part, doom

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._part, name)
        return self._doom.call(found) if inspect.iscoroutinefunction(found) else found
