"""containerd keeps the contract, and what only the real one shows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.cluster.node.conftest import remove_all_pods
from tests.cluster.node.environment import CGROUP_ROOT, RuntimeEnvironment, import_image
from tests.unit.node.runtime_contract import RuntimeContract

from navarch.node.cri.client import CriRuntime
from navarch.node.cri.values import RuntimeFailure
from navarch.node.images.oci import ImageConfig, ImageFile, build_image

pytestmark = pytest.mark.cluster


@pytest.fixture
async def runtime(runtime_environment: RuntimeEnvironment) -> AsyncIterator[CriRuntime]:
    async with CriRuntime(str(runtime_environment.socket)) as runtime:
        yield runtime
        await remove_all_pods(runtime)


class TestContainerd(RuntimeContract):
    cgroup_parent = f"{CGROUP_ROOT}/contract"

    @pytest.fixture
    def log_directory(self, tmp_path: Path) -> str:
        return str(tmp_path)


async def test_images_come_and_go(
    runtime: CriRuntime, runtime_environment: RuntimeEnvironment, tmp_path: Path
) -> None:
    archive = build_image(tmp_path / "a.tar", "example.test/a:1", ImageConfig(user="7"),
                          files={"x": ImageFile(b"x")})  # fmt: skip
    import_image(runtime_environment, archive)
    found = await runtime.image("example.test/a:1")
    assert found is not None and found.tags == ("example.test/a:1",) and found.uid == 7
    assert found.id in [each.id for each in await runtime.images()]
    await runtime.remove_image("example.test/a:1")
    assert await runtime.image("example.test/a:1") is None


async def test_a_socket_without_a_runtime() -> None:
    async with CriRuntime("/nowhere/containerd.sock", timeout=2) as runtime:
        with pytest.raises(RuntimeFailure) as caught:
            await runtime.info()
    assert caught.value.code == "UNAVAILABLE"
