"""Changes of files, and whoever waits for them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from navarch.node.inotify import Mask, Watcher


async def test_changes_are_told_and_silence_as_well(tmp_path: Path) -> None:
    with Watcher() as watcher:
        watch = watcher.add(str(tmp_path), Mask.CREATE)
        assert await watcher.wait(0.01) == []
        (tmp_path / "new").touch()
        (change,) = await watcher.wait(60)
        assert (change.watch, change.name) == (watch, "new")


async def test_who_is_told_to_end_ends_though_a_change_comes_in_the_same_moment() -> None:
    with Watcher() as watcher:

        async def follow() -> None:
            while True:
                await watcher.wait(60)

        for turns in range(4):
            task = asyncio.create_task(follow())
            await asyncio.sleep(0.01)
            watcher._changed.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=5)
            assert done, f"{turns} turns after the change"
