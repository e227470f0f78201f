"""A runtime in memory: the twin of `CriRuntime` for tests, with the same behaviour.

Containers run until `finish` is called (or `stop_container` ends them). Failures can be ordered
with `fail_next`. `str(runtime)` is the whole state as text, for transcripts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

from navarch.node.cri import runtime_pb2 as pb
from navarch.node.cri.values import (
    CONTAINER_NAME,
    POD_UID,
    RESTART_COUNT,
    AttachStream,
    ContainerRecord,
    ContainerState,
    ContainerUsage,
    Credentials,
    ExecResult,
    ExecStream,
    ImageRecord,
    PodState,
    RuntimeFailure,
    RuntimeInfo,
    SandboxRecord,
    StreamRequest,
)

SIGTERM_EXIT = 143


@dataclass
class FakeRuntime:
    """See the module."""

    now: Callable[[], int] = lambda: 0
    """Nanoseconds since the epoch."""
    image_table: dict[str, ImageRecord] = field(default_factory=dict)
    registry: dict[str, ImageRecord] = field(default_factory=dict)
    """What can be pulled."""
    memory_in_use: int = 0
    """By each container that runs."""
    commands: dict[tuple[str, ...], ExecResult] = field(default_factory=dict)
    """What commands answer; others succeed silently."""

    def __post_init__(self) -> None:
        self._sandboxes: dict[str, SandboxRecord] = {}
        self._containers: dict[str, ContainerRecord] = {}
        self.configs: dict[str, pb.ContainerConfig] = {}
        self.sandbox_configs: dict[str, pb.PodSandboxConfig] = {}
        self.calls: list[str] = []
        self.known = RuntimeInfo("fake", "1")
        self._failures: dict[str, list[RuntimeFailure]] = {}
        self._count = 0
        self._listeners: list[asyncio.Queue[str]] = []
        self._step = 0

    def __str__(self) -> str:
        lines = []
        for sandbox in self._sandboxes.values():
            state = "ready" if sandbox.ready else "stopped"
            lines.append(f"sandbox {sandbox.namespace}/{sandbox.name}#{sandbox.attempt} {state}")
            lines += [
                f"  {each.name}#{each.attempt} {_described(each)}"
                for each in self._containers.values()
                if each.sandbox_id == sandbox.id
            ]
        return "\n".join(lines)

    # What tests do

    def fail_next(self, call: str, message: str, code: str = "UNKNOWN") -> None:
        """The next call of this method fails."""
        self._failures.setdefault(call, []).append(RuntimeFailure(message, code=code))

    def finish(self, container_id: str, exit_code: int = 0, reason: str = "") -> None:
        """The container's first process ends."""
        record = self._containers[container_id]
        self._containers[container_id] = replace(
            record,
            state=ContainerState.EXITED,
            exit_code=exit_code,
            reason=reason or ("Completed" if exit_code == 0 else "Error"),
            finished_at=self._moment(),
        )
        self._tell(container_id)

    def end_sandbox(self, sandbox_id: str) -> None:
        """The pause process ends."""
        self._sandboxes[sandbox_id] = replace(self._sandboxes[sandbox_id], ready=False, ips=())
        self._tell(sandbox_id)

    def container(self, name: str) -> ContainerRecord:
        """The newest container of that name."""
        return [each for each in self._containers.values() if each.name == name][-1]

    # Runtime

    async def info(self) -> RuntimeInfo:
        self._called("info")
        return self.known

    async def pods(self, uid: str = "") -> list[PodState]:
        self._called("pods")
        uids = {each.uid: None for each in self._sandboxes.values()}
        uids |= {each.labels[POD_UID]: None for each in self._containers.values()}
        return [self._pod(each) for each in uids if uid in ("", each)]

    async def run_sandbox(self, config: pb.PodSandboxConfig, handler: str) -> str:
        self._called("run_sandbox")
        await asyncio.sleep(0)
        meta = config.metadata
        if handler:
            raise RuntimeFailure(f'no runtime for "{handler}" is configured')
        sandbox_id = self._new_id("s")
        self.sandbox_configs[sandbox_id] = config
        on_node = config.linux.security_context.namespace_options.network == pb.NODE
        self._sandboxes[sandbox_id] = SandboxRecord(
            id=sandbox_id,
            name=meta.name,
            namespace=meta.namespace,
            uid=meta.uid,
            attempt=meta.attempt,
            ready=True,
            created_at=self._moment(),
            ips=() if on_node else (f"10.1.0.{self._count}",),
            annotations=dict(config.annotations),
        )
        return sandbox_id

    async def stop_sandbox(self, sandbox_id: str) -> None:
        self._called("stop_sandbox")
        for record in list(self._containers.values()):
            if record.sandbox_id == sandbox_id and record.running:
                self.finish(record.id, 137)
        if sandbox_id in self._sandboxes and self._sandboxes[sandbox_id].ready:
            self.end_sandbox(sandbox_id)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        self._called("remove_sandbox")
        await self.stop_sandbox(sandbox_id)
        for record in list(self._containers.values()):
            if record.sandbox_id == sandbox_id:
                del self._containers[record.id]
        self._sandboxes.pop(sandbox_id, None)

    async def create_container(
        self, sandbox_id: str, config: pb.ContainerConfig, sandbox: pb.PodSandboxConfig
    ) -> str:
        self._called("create_container")
        if sandbox_id not in self._sandboxes:
            raise RuntimeFailure(f"sandbox {sandbox_id} not found", code="NOT_FOUND")
        container_id = self._new_id("c")
        self.configs[container_id] = config
        self._containers[container_id] = ContainerRecord(
            id=container_id,
            name=config.labels[CONTAINER_NAME],
            attempt=int(config.annotations.get(RESTART_COUNT, config.metadata.attempt)),
            sandbox_id=sandbox_id,
            state=ContainerState.CREATED,
            created_at=self._moment(),
            image=config.image.user_specified_image or config.image.image,
            image_ref=config.image.image,
            log_path=f"{sandbox.log_directory}/{config.log_path}",
            labels=dict(config.labels),
            annotations=dict(config.annotations),
        )
        return container_id

    async def start_container(self, container_id: str) -> None:
        self._called("start_container")
        record = self._record(container_id)
        if record.state is not ContainerState.CREATED:
            raise RuntimeFailure(f"container {container_id} is not in created state")
        self._containers[container_id] = replace(
            record, state=ContainerState.RUNNING, started_at=self._moment()
        )

    async def stop_container(self, container_id: str, timeout: float, stop_signal: int = 0) -> None:
        self._called("stop_container")
        record = self._containers.get(container_id)
        if record is not None and record.running:
            self.finish(container_id, 128 + stop_signal if stop_signal else SIGTERM_EXIT)

    async def remove_container(self, container_id: str) -> None:
        self._called("remove_container")
        self._containers.pop(container_id, None)

    async def update_resources(
        self, container_id: str, resources: pb.LinuxContainerResources
    ) -> None:
        self._called("update_resources")
        self._record(container_id)
        self.configs[container_id].linux.resources.CopyFrom(resources)

    async def update_sandbox(
        self,
        sandbox_id: str,
        resources: pb.LinuxContainerResources,
        overhead: pb.LinuxContainerResources,
    ) -> None:
        self._called("update_sandbox")
        linux = self.sandbox_configs[sandbox_id].linux
        linux.resources.CopyFrom(resources)
        linux.overhead.CopyFrom(overhead)

    async def reopen_log(self, container_id: str) -> None:
        self._called("reopen_log")
        if not self._record(container_id).running:
            raise RuntimeFailure(f"container {container_id} is not running")

    async def checkpoint(self, container_id: str, location: str, timeout: int) -> None:
        self._called("checkpoint")
        self._record(container_id)

    async def exec_sync(
        self, container_id: str, command: Sequence[str], timeout: float
    ) -> ExecResult:
        self._called("exec_sync")
        if not self._record(container_id).running:
            raise RuntimeFailure(f"container {container_id} is not running")
        return self.commands.get(tuple(command), ExecResult(0))

    async def stream_url(self, request: StreamRequest) -> str:
        self._called("stream_url")
        if isinstance(request, ExecStream | AttachStream):
            self._record(request.container_id)
        return f"http://127.0.0.1:1/{type(request).__name__}"

    async def usage(self) -> list[ContainerUsage]:
        self._called("usage")
        return [
            ContainerUsage(
                each.id,
                each.name,
                each.labels[POD_UID],
                memory_usage=self.memory_in_use,
            )
            for each in self._containers.values()
            if each.running
        ]

    async def events(self) -> AsyncIterator[str]:
        queue: asyncio.Queue[str] = asyncio.Queue()
        self._listeners.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.remove(queue)

    # Images

    async def image(self, reference: str) -> ImageRecord | None:
        self._called("image")
        return self.image_table.get(reference)

    async def images(self) -> list[ImageRecord]:
        self._called("images")
        return list(self.image_table.values())

    async def pull(self, reference: str, credentials: Credentials | None) -> str:
        self._called("pull")
        record = self.registry.get(reference)
        if record is None:
            raise RuntimeFailure(f"{reference}: not found", code="NOT_FOUND")
        self.image_table[reference] = record
        return record.id

    async def remove_image(self, reference: str) -> None:
        self._called("remove_image")
        self.image_table.pop(reference, None)

    async def image_filesystem(self) -> tuple[str, int]:
        self._called("image_filesystem")
        return "/fake", sum(image.size for image in self.image_table.values())

    # Inside

    def _called(self, name: str) -> None:
        self.calls.append(name)
        failures = self._failures.get(name)
        if failures:
            raise failures.pop(0)

    def _moment(self) -> int:
        """The time, and never the same twice: the order of making is the order of creation."""
        self._step += 1
        return self.now() + self._step

    def _new_id(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def _record(self, container_id: str) -> ContainerRecord:
        record = self._containers.get(container_id)
        if record is None:
            raise RuntimeFailure(f"container {container_id} not found", code="NOT_FOUND")
        return record

    def _pod(self, uid: str) -> PodState:
        sandboxes = [each for each in self._sandboxes.values() if each.uid == uid]
        containers = [each for each in self._containers.values() if each.labels[POD_UID] == uid]
        name, namespace = ("", "")
        if sandboxes:
            name, namespace = sandboxes[-1].name, sandboxes[-1].namespace
        return PodState(uid, name, namespace, tuple(sandboxes[::-1]), tuple(containers[::-1]))

    def _tell(self, container_id: str) -> None:
        for listener in self._listeners:
            listener.put_nowait(container_id)


def _described(record: ContainerRecord) -> str:
    if record.exited:
        return f"exited {record.exit_code}"
    return record.state.name.lower()
