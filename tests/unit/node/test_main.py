"""What the agent sets up for itself."""

from __future__ import annotations

import asyncio
import threading

from navarch.node.main import THREADS, use_threads


async def test_calls_that_hang_leave_threads_for_others() -> None:
    use_threads()
    hanging = threading.Event()
    calls = [asyncio.ensure_future(asyncio.to_thread(hanging.wait, 20)) for _ in range(THREADS - 1)]
    async with asyncio.timeout(10):
        assert await asyncio.to_thread(threading.active_count) >= THREADS
    hanging.set()
    await asyncio.gather(*calls)
