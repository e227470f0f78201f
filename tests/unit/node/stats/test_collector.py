"""When the agent looks at what pods use, and what it tells when it cannot."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from navarch.client.clock import FakeClock
from navarch.node.cri.values import RuntimeFailure
from navarch.node.settings import NodeOptions
from navarch.node.stats.collector import Sources, StatsCollector


class Runtime:
    """Nothing runs; it can be away."""

    def __init__(self, images: Path) -> None:
        self.images, self.looks, self.is_away = images, 0, False

    async def usage(self) -> list[object]:
        self.looks += 1
        if self.is_away:
            raise RuntimeFailure("the runtime is away")
        return []

    async def image_filesystem(self) -> tuple[str, int]:
        return str(self.images), 4711


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(tmp_path)


@pytest.fixture
def collector(runtime: Runtime, tmp_path: Path) -> StatsCollector:
    options = NodeOptions(node_name="n1", kubeconfig=tmp_path / "c", root_directory=tmp_path)
    cgroups = SimpleNamespace(
        mount=tmp_path, root="", path=lambda: "/", class_path=lambda name: f"/{name}"
    )
    sources = SimpleNamespace(
        options=options,
        workers=list,
        runtime=runtime,
        images=runtime,
        places=SimpleNamespace(cgroups=cgroups),
        clock=FakeClock(),
    )
    return StatsCollector(cast(Sources, sources))


async def test_disks_are_measured_once_in_a_while(
    collector: StatsCollector, runtime: Runtime
) -> None:
    clock = cast(Any, collector)._sources.clock
    for _ in range(3):
        await collector.kubelet_metrics()
    assert runtime.looks == 1
    await clock.advance(61)
    await collector.kubelet_metrics()
    assert runtime.looks == 2


async def test_a_runtime_that_is_away_silences_nobody(
    collector: StatsCollector, runtime: Runtime
) -> None:
    runtime.is_away = True
    assert b'kubelet_node_name{node="n1"} 1' in await collector.kubelet_metrics()
    assert (await collector._stored()).images_used == 0
    runtime.is_away = False
    assert (await collector._stored()).images_used == 4711
    runtime.is_away = True
    await cast(Any, collector)._sources.clock.advance(61)
    assert (await collector._stored()).images_used == 4711
