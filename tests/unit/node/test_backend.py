"""What the kubelet's server gets to know of pods and containers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.node.builders import make_pod
from tests.unit.node.fakes import Stage, stage

from navarch.api.errors import ApiError
from navarch.node.backend import NodeBackend
from navarch.node.cri.values import ExecResult
from navarch.node.server.backend import Streams

STREAMS = Streams(stdin=False, stdout=True, stderr=True, tty=False)


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Stage]:
    async with stage(tmp_path) as result:
        yield result


@pytest.fixture
def backend(node: Stage, tmp_path: Path) -> NodeBackend:
    return NodeBackend(node.agent, node.runtime, tmp_path, node.clock)


async def test_logs(node: Stage, backend: NodeBackend) -> None:
    await node.create(make_pod())
    directory = node.options.pod_logs_directory / "default_web_u-1"
    path = backend.log_file("default", "web", "main", previous=False)
    assert path == directory / "main/0.log"
    assert backend.is_running("default", "web", "main")
    with pytest.raises(ApiError) as caught:
        backend.log_file("default", "web", "main", previous=True)
    assert (caught.value.status, caught.value.message) == (
        400, 'previous terminated container "main" in pod "web" not found',
    )  # fmt: skip
    node.runtime.finish("c2", 1)
    await node.rest()
    assert backend.log_file("default", "web", "main", previous=True) == directory / "main/0.log"
    assert backend.log_file("default", "web", "main", previous=False) == directory / "main/1.log"
    node.runtime.finish(node.runtime.container("main").id, 1)
    await node.rest()
    # While it waits to be started again, the last instance is both.
    assert backend.log_file("default", "web", "main", previous=True) == directory / "main/1.log"
    assert backend.log_file("default", "web", "main", previous=False) == directory / "main/1.log"
    assert not backend.is_running("default", "web", "main")


async def test_what_cannot_be_answered(node: Stage, backend: NodeBackend) -> None:
    await node.create(make_pod({"name": "main", "image": "web:2"}))
    with pytest.raises(ApiError, match='pod "none" does not exist'):
        backend.log_file("default", "none", "main", previous=False)
    with pytest.raises(ApiError, match='container "x" not found in pod "web"'):
        backend.log_file("default", "web", "x", previous=False)
    with pytest.raises(ApiError) as caught:
        backend.log_file("default", "web", "main", previous=False)
    assert (caught.value.status, caught.value.message) == (
        400, 'container "main" in pod "web" is waiting to start: image can\'t be pulled',
    )  # fmt: skip
    with pytest.raises(ApiError, match='container not found \\("main"\\)'):
        await backend.exec_url("default", "web", "main", ["sh"], STREAMS)


async def test_streams_and_commands(node: Stage, backend: NodeBackend) -> None:
    await node.create(make_pod())
    assert "ExecStream" in await backend.exec_url("default", "web", "main", ["sh"], STREAMS)
    assert "AttachStream" in await backend.attach_url("default", "web", "main", STREAMS)
    assert "PortForwardStream" in await backend.port_forward_url("default", "web", [80])
    node.runtime.commands[("id",)] = ExecResult(3, b"out", b"err")
    assert await backend.run("default", "web", "main", ["id"]) == (3, b"outerr")
    assert [pod.status.phase for pod in backend.pods()] == ["Running"]
