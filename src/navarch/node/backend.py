"""What the kubelet's HTTP server asks the node agent (`server.backend.ServerBackend`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from navarch.api.errors import ApiError, bad_request
from navarch.api.times import format_time
from navarch.api.types.core_v1 import Container, ContainerStatus, Pod, PodSpec
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.clock import Clock

from .agent import NodeAgent
from .cri.runtime import Runtime
from .cri.values import AttachStream, ContainerRecord, ExecStream, PortForwardStream, RuntimeFailure
from .podspec import find_container
from .server.backend import Streams
from .worker import PodWorker

RUN_TIMEOUT = 3600.0


class NodeBackend:
    """Look-ups in the agent's workers, and the runtime's streaming URLs."""

    def __init__(self, agent: NodeAgent, runtime: Runtime, root: Path, clock: Clock) -> None:
        self._agent, self._runtime = agent, runtime
        self._root, self._clock = root, clock

    def pods(self) -> Sequence[Pod]:
        """The pods of this node, with the status the agent wrote last."""
        return [each.shown_pod for each in self._agent.workers()]

    async def running_pods(self) -> Sequence[Pod]:
        """The pods of the runtime, with as much of a Pod as it knows."""
        try:
            states = await self._runtime.pods()
        except RuntimeFailure as failure:
            raise ApiError(500, "InternalError", failure.message) from failure
        return [
            Pod(
                metadata=ObjectMeta(name=each.name, namespace=each.namespace, uid=each.uid),
                spec=PodSpec(
                    containers=[
                        Container(name=record.name, image=record.image)
                        for record in each.containers
                        if record.running
                    ]
                ),
            )
            for each in states
            if each.sandbox is not None and each.sandbox.ready
        ]

    def uid(self, namespace: str, pod: str) -> str:
        return self._worker(namespace, pod).pod.metadata.uid

    def log_file(self, namespace: str, pod: str, container: str, *, previous: bool) -> Path:
        worker = self._worker(namespace, pod, f'pod "{pod}" does not exist')
        latest = self._latest(worker, container)
        if not previous:
            if latest is not None:
                return Path(latest.log_path)
            raise bad_request(self._waits(worker, container))
        if latest is not None and not latest.running and self._is_waiting(worker, container):
            # It waits to be started again: the instance people call the previous one is the last.
            return Path(latest.log_path)
        before = worker.state.previous().get(container)
        if before is None:
            raise bad_request(
                f'previous terminated container "{container}" in pod "{pod}" not found'
            )
        return Path(before.log_path)

    def is_running(self, namespace: str, pod: str, container: str) -> bool:
        worker = self._agent.find(namespace, pod)
        if worker is None:
            return False
        record = worker.state.latest().get(container)
        return record is not None and record.running

    async def exec_url(
        self, namespace: str, pod: str, container: str, command: Sequence[str], streams: Streams
    ) -> str:
        record = self._running(namespace, pod, container)
        return await self._url(
            ExecStream(
                record.id, command, streams.tty, streams.stdin, streams.stdout, streams.stderr
            )
        )

    async def attach_url(self, namespace: str, pod: str, container: str, streams: Streams) -> str:
        record = self._running(namespace, pod, container)
        spec = find_container(self._worker(namespace, pod).pod, container)
        tty = spec is not None and spec.container.tty
        return await self._url(
            AttachStream(record.id, tty, streams.stdin, streams.stdout, streams.stderr and not tty)
        )

    async def port_forward_url(self, namespace: str, pod: str, ports: Sequence[int] = ()) -> str:
        sandbox = self._worker(namespace, pod).state.sandbox
        if sandbox is None or not sandbox.ready:
            raise ApiError(500, "InternalError", f'sandbox of pod "{pod}" is not running')
        return await self._url(PortForwardStream(sandbox.id, tuple(ports)))

    async def run(
        self, namespace: str, pod: str, container: str, command: Sequence[str]
    ) -> tuple[int, bytes]:
        record = self._running(namespace, pod, container)
        try:
            result = await self._runtime.exec_sync(record.id, command, RUN_TIMEOUT)
        except RuntimeFailure as failure:
            raise ApiError(500, "InternalError", failure.message) from failure
        return result.exit_code, result.stdout + result.stderr

    async def checkpoint(self, namespace: str, pod: str, container: str, *, timeout: int) -> str:
        worker = self._worker(namespace, pod)
        if find_container(worker.pod, container) is None:
            raise ApiError(404, "NotFound", f"container {container} does not exist")
        record = worker.state.latest().get(container)
        what = f"checkpointing of {namespace}/{pod}/{container} failed"
        if record is None or not record.running:
            raise ApiError(500, "InternalError", f"{what} (container {container} not found)")
        directory = self._root / "checkpoints"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        moment = format_time(self._clock.now()).replace("Z", "+00:00")
        file = directory / f"checkpoint-{pod}_{namespace}-{container}-{moment}.tar"
        try:
            await self._runtime.checkpoint(record.id, str(file), timeout)
        except RuntimeFailure as failure:
            raise ApiError(500, "InternalError", f"{what} ({failure.message})") from failure
        return str(file)

    async def _url(self, request: ExecStream | AttachStream | PortForwardStream) -> str:
        try:
            return await self._runtime.stream_url(request)
        except RuntimeFailure as failure:
            raise ApiError(500, "InternalError", failure.message) from failure

    def _worker(self, namespace: str, pod: str, absent: str = "pod does not exist") -> PodWorker:
        worker = self._agent.find(namespace, pod)
        if worker is None:
            raise ApiError(404, "NotFound", absent)
        return worker

    def _latest(self, worker: PodWorker, container: str) -> ContainerRecord | None:
        name = worker.pod.metadata.name
        if find_container(worker.pod, container) is None:
            raise ApiError(404, "NotFound", f'container "{container}" not found in pod "{name}"')
        return worker.state.latest().get(container)

    def _running(self, namespace: str, pod: str, container: str) -> ContainerRecord:
        worker = self._worker(namespace, pod)
        if find_container(worker.pod, container) is None:
            raise ApiError(404, "NotFound", f'container "{container}" is not valid for pod "{pod}"')
        record = worker.state.latest().get(container)
        if record is None or not record.running:
            raise ApiError(500, "InternalError", f'container not found ("{container}")')
        return record

    def _waits(self, worker: PodWorker, container: str) -> str:
        name = worker.pod.metadata.name
        for status in _statuses(worker):
            if status.name == container and status.state.waiting is not None:
                reason = status.state.waiting.reason
                text = {
                    "ErrImagePull": "image can't be pulled",
                    "ImagePullBackOff": "trying and failing to pull image",
                }.get(reason, reason)
                return f'container "{container}" in pod "{name}" is waiting to start: {text}'
        return f'container "{container}" in pod "{name}" is not available'

    def _is_waiting(self, worker: PodWorker, container: str) -> bool:
        return any(
            status.name == container and status.state.waiting is not None
            for status in _statuses(worker)
        )


def _statuses(worker: PodWorker) -> list[ContainerStatus]:
    status = worker.shown_pod.status
    return [
        *status.initContainerStatuses,
        *status.containerStatuses,
        *status.ephemeralContainerStatuses,
    ]
