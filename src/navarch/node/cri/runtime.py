"""The narrow interfaces between the node agent and whatever runs its containers.

Two implementations pass the same contract tests: `client.CriRuntime` (any CRI v1 endpoint) and the
tests' `FakeRuntime` (in memory). Every method raises `RuntimeFailure` and nothing else for a
failure of the runtime; removing or stopping what is gone already is no failure.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from . import runtime_pb2 as pb
from .values import (
    ContainerUsage,
    Credentials,
    ExecResult,
    ImageRecord,
    PodState,
    RuntimeInfo,
    StreamRequest,
)


class Runtime(Protocol):
    """Sandboxes and containers."""

    known: RuntimeInfo
    """What `info` has said last; it does so at least as often as the node's status is computed."""

    async def info(self) -> RuntimeInfo: ...

    async def pods(self, uid: str = "") -> list[PodState]:
        """Every pod the runtime holds anything of, or just the one with this uid."""
        ...

    async def run_sandbox(self, config: pb.PodSandboxConfig, handler: str) -> str: ...

    async def stop_sandbox(self, sandbox_id: str) -> None:
        """Stops the sandbox with all containers in it at once and takes down its network."""
        ...

    async def remove_sandbox(self, sandbox_id: str) -> None: ...

    async def create_container(
        self, sandbox_id: str, config: pb.ContainerConfig, sandbox: pb.PodSandboxConfig
    ) -> str: ...

    async def start_container(self, container_id: str) -> None: ...

    async def stop_container(self, container_id: str, timeout: float, stop_signal: int = 0) -> None:
        """Stop signal (by default the image's), then SIGKILL after `timeout` seconds; returns when
        the container is over."""
        ...

    async def remove_container(self, container_id: str) -> None: ...

    async def update_resources(
        self, container_id: str, resources: pb.LinuxContainerResources
    ) -> None: ...

    async def update_sandbox(
        self,
        sandbox_id: str,
        resources: pb.LinuxContainerResources,
        overhead: pb.LinuxContainerResources,
    ) -> None:
        """The pod is about to have another size; a failure means that the runtime is against it.
        Most runtimes do not care."""
        ...

    async def reopen_log(self, container_id: str) -> None: ...

    async def checkpoint(self, container_id: str, location: str, timeout: int) -> None:
        """Saves a running container's state to a file; most runtimes cannot (`UNIMPLEMENTED`)."""
        ...

    async def exec_sync(
        self, container_id: str, command: Sequence[str], timeout: float
    ) -> ExecResult:
        """Runs a command to its end; a timeout is a `RuntimeFailure` with `is_timeout`."""
        ...

    async def stream_url(self, request: StreamRequest) -> str:
        """Where the runtime's streaming server (SPDY/3.1) waits for this one exec or attach."""
        ...

    async def usage(self) -> list[ContainerUsage]: ...

    def events(self) -> AsyncIterator[str]:
        """Ids of containers and sandboxes that have just come to their end.

        The state is already visible through `pods` when the id is yielded. The stream may break
        off (the agent opens it again) and promises nothing about what happened meanwhile.
        """
        ...


class Images(Protocol):
    """The runtime's images."""

    async def image(self, reference: str) -> ImageRecord | None: ...

    async def images(self) -> list[ImageRecord]: ...

    async def pull(self, reference: str, credentials: Credentials | None) -> str: ...

    async def remove_image(self, reference: str) -> None: ...

    async def image_filesystem(self) -> tuple[str, int]:
        """Mount point of the image store, and the bytes it uses."""
        ...
