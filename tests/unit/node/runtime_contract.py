"""What every `Runtime` does: the tests that the twin in memory and the real one share."""

from __future__ import annotations

import asyncio

import pytest

from navarch.node.cri import runtime_pb2 as pb
from navarch.node.cri.runtime import Runtime
from navarch.node.cri.values import (
    CONTAINER_NAME,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    RESTART_COUNT,
    ContainerState,
    ExecStream,
    PodState,
    RuntimeFailure,
)

IDENTITY = {POD_NAME: "contract", POD_NAMESPACE: "default", POD_UID: "uid-contract"}


class RuntimeContract:
    """Inherit and give the fixtures `runtime` and `log_directory`."""

    image = "busybox:1.36"
    cgroup_parent = ""

    def sandbox_config(self, log_directory: str) -> pb.PodSandboxConfig:
        return pb.PodSandboxConfig(
            metadata=pb.PodSandboxMetadata(
                name="contract", uid="uid-contract", namespace="default"
            ),
            hostname="contract",
            log_directory=log_directory,
            labels=IDENTITY,
            linux=pb.LinuxPodSandboxConfig(cgroup_parent=self.cgroup_parent),
        )

    async def make_container(
        self, runtime: Runtime, log_directory: str, attempt: int = 0
    ) -> tuple[str, str]:
        sandbox = self.sandbox_config(log_directory)
        state = await self.state(runtime)
        sandbox_id = state.sandbox.id if state.sandbox else await runtime.run_sandbox(sandbox, "")
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="main", attempt=attempt),
            image=pb.ImageSpec(image=self.image),
            command=["sleep", "1000"],
            labels={**IDENTITY, CONTAINER_NAME: "main"},
            annotations={RESTART_COUNT: str(attempt)},
            log_path=f"main-{attempt}.log",
            linux=pb.LinuxContainerConfig(resources=pb.LinuxContainerResources(oom_score_adj=1000)),
        )
        return sandbox_id, await runtime.create_container(sandbox_id, config, sandbox)

    async def state(self, runtime: Runtime) -> PodState:
        states = await runtime.pods("uid-contract")
        return states[0] if states else PodState("uid-contract")

    async def test_a_container_s_life(self, runtime: Runtime, log_directory: str) -> None:
        sandbox_id, container_id = await self.make_container(runtime, log_directory)
        created = (await self.state(runtime)).containers[0]
        assert (created.id, created.state) == (container_id, ContainerState.CREATED)
        await runtime.start_container(container_id)
        state = await self.state(runtime)
        assert state.containers[0].running and state.containers[0].started_at > 0
        assert state.sandbox is not None and state.sandbox.ready and state.sandbox.ips
        assert (state.name, state.namespace) == ("contract", "default")
        events = runtime.events()
        heard = asyncio.ensure_future(anext(events))
        async with asyncio.timeout(60):
            while not heard.done():  # nobody tells from when on the runtime tells of ends
                _, other_id = await self.make_container(runtime, log_directory, attempt=1)
                await runtime.start_container(other_id)
                await runtime.stop_container(other_id, 0)
                await asyncio.wait({heard}, timeout=1)
                await runtime.remove_container(other_id)
            assert heard.result() == other_id
            await runtime.stop_container(container_id, 0)
            assert await anext(events) == container_id
        ended = (await self.state(runtime)).containers[0]
        assert ended.state is ContainerState.EXITED and ended.exit_code != 0
        assert ended.finished_at >= ended.started_at
        await runtime.remove_container(container_id)
        assert not (await self.state(runtime)).containers
        await runtime.stop_sandbox(sandbox_id)
        stopped = (await self.state(runtime)).sandbox
        assert stopped is not None and not stopped.ready
        await runtime.remove_sandbox(sandbox_id)
        assert (await self.state(runtime)).sandbox is None

    async def test_what_is_gone_may_be_ended_again(
        self, runtime: Runtime, log_directory: str
    ) -> None:
        await runtime.stop_container("missing", 0)
        await runtime.remove_container("missing")
        await runtime.stop_sandbox("missing")
        await runtime.remove_sandbox("missing")

    async def test_what_is_gone_cannot_be_used(self, runtime: Runtime, log_directory: str) -> None:
        with pytest.raises(RuntimeFailure) as caught:
            await runtime.start_container("missing")
        assert caught.value.is_not_found
        with pytest.raises(RuntimeFailure):
            await runtime.exec_sync("missing", ["true"], 1)

    async def test_newest_comes_first(self, runtime: Runtime, log_directory: str) -> None:
        _, first = await self.make_container(runtime, log_directory)
        await runtime.start_container(first)
        await runtime.stop_container(first, 0)
        _, second = await self.make_container(runtime, log_directory, attempt=1)
        state = await self.state(runtime)
        assert [each.attempt for each in state.containers] == [1, 0]
        assert state.latest()["main"].id == second
        assert state.previous()["main"].id == first
        assert state.sandbox is not None
        await runtime.remove_sandbox(state.sandbox.id)
        assert not (await self.state(runtime)).containers

    async def test_commands(self, runtime: Runtime, log_directory: str) -> None:
        _, container_id = await self.make_container(runtime, log_directory)
        with pytest.raises(RuntimeFailure):
            await runtime.exec_sync(container_id, ["true"], 2)
        await runtime.start_container(container_id)
        assert (await runtime.exec_sync(container_id, ["true"], 60)).exit_code == 0
        url = await runtime.stream_url(ExecStream(container_id, ["sh"]))
        assert url.startswith("http://")
        assert container_id in [each.id for each in await runtime.usage()]
