"""What the agent sets up for itself."""

from __future__ import annotations

import asyncio
import threading

from navarch.node.main import THREADS, use_threads


async def test_many_calls_may_block_at_once() -> None:
    use_threads()
    everybody = threading.Barrier(THREADS)
    calls = (asyncio.to_thread(everybody.wait, 10) for _ in range(THREADS))
    assert len(set(await asyncio.gather(*calls))) == THREADS
