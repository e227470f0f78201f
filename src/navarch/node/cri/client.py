"""The CRI v1 client: `Runtime` and `Images` over gRPC to a unix socket.

This is the only module of the node agent that speaks gRPC. The container states that matter for a
pod take two list calls and one status call per container that may still change: the status of an
exited container never changes again and is kept by id.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from . import containerd_pb2 as containerd
from . import runtime_pb2 as pb
from .values import (
    CONTAINER_NAME,
    POD_NAME,
    POD_NAMESPACE,
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
    LinuxUser,
    PodState,
    RuntimeFailure,
    RuntimeInfo,
    SandboxRecord,
    StreamRequest,
)

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

_RUNTIME = "/runtime.v1.RuntimeService/"
_IMAGES = "/runtime.v1.ImageService/"
_TASKS = "/containerd.services.tasks.v1.Tasks/"
_CRI_NAMESPACE = (("containerd-namespace", "k8s.io"),)
_SUBSCRIBE = "/containerd.services.events.v1.Events/Subscribe"
_OPTIONS = [
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.default_authority", "localhost"),
    ("grpc.enable_http_proxy", 0),
    # A runtime that was restarted is back in a second; the default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]


class CriRuntime:
    """A CRI endpoint, such as containerd's socket. Use as an async context manager."""

    def __init__(
        self, address: str, *, timeout: float = 120.0, pull_timeout: float = 3600.0
    ) -> None:
        target = address if "://" in address or address.startswith("unix:") else f"unix:{address}"
        self._target = target.replace("unix:///", "unix:/")
        self._timeout = timeout
        self._pull_timeout = pull_timeout
        self._ended: dict[str, ContainerRecord] = {}
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Any] = {}

    async def __aenter__(self) -> CriRuntime:
        self._channel = grpc.aio.insecure_channel(self._target, options=_OPTIONS)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._channel is not None:
            await self._channel.close()

    # Sandboxes and containers

    async def info(self) -> RuntimeInfo:
        version, status = await asyncio.gather(
            self._call(_RUNTIME + "Version", pb.VersionRequest(), pb.VersionResponse),
            self._call(_RUNTIME + "Status", pb.StatusRequest(), pb.StatusResponse),
        )
        conditions = {each.type: each for each in status.status.conditions}
        runtime, network = conditions.get("RuntimeReady"), conditions.get("NetworkReady")
        return RuntimeInfo(
            name=version.runtime_name,
            version=version.runtime_version,
            ready=runtime is None or runtime.status,
            network_ready=network is None or network.status,
            message=_condition_text(runtime),
            network_message=_condition_text(network),
            handlers=tuple(handler.name for handler in status.runtime_handlers) or ("",),
        )

    async def pods(self, uid: str = "") -> list[PodState]:
        selector = {POD_UID: uid} if uid else {}
        sandboxes, containers = await asyncio.gather(
            self._call(
                _RUNTIME + "ListPodSandbox",
                pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(label_selector=selector)),
                pb.ListPodSandboxResponse,
            ),
            self._call(
                _RUNTIME + "ListContainers",
                pb.ListContainersRequest(filter=pb.ContainerFilter(label_selector=selector)),
                pb.ListContainersResponse,
            ),
        )
        # Sandboxes without the label are somebody else's (made with crictl, for example).
        owned = [item for item in sandboxes.items if item.labels.get(POD_UID)]
        records = await asyncio.gather(*(self._sandbox(item) for item in owned))
        statuses = await asyncio.gather(
            *(self._container(item) for item in containers.containers if item.labels.get(POD_UID))
        )
        if not uid:
            present = {item.id for item in containers.containers}
            self._ended = {key: value for key, value in self._ended.items() if key in present}
        return _group(
            [each for each in records if each is not None],
            [each for each in statuses if each is not None],
        )

    async def run_sandbox(self, config: pb.PodSandboxConfig, handler: str) -> str:
        request = pb.RunPodSandboxRequest(config=config, runtime_handler=handler)
        response = await self._call(
            _RUNTIME + "RunPodSandbox", request, pb.RunPodSandboxResponse, timeout=240.0
        )
        return response.pod_sandbox_id

    async def stop_sandbox(self, sandbox_id: str) -> None:
        request = pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self._end(_RUNTIME + "StopPodSandbox", request, pb.StopPodSandboxResponse)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        request = pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self._end(_RUNTIME + "RemovePodSandbox", request, pb.RemovePodSandboxResponse)

    async def create_container(
        self, sandbox_id: str, config: pb.ContainerConfig, sandbox: pb.PodSandboxConfig
    ) -> str:
        request = pb.CreateContainerRequest(
            pod_sandbox_id=sandbox_id, config=config, sandbox_config=sandbox
        )
        response = await self._call(
            _RUNTIME + "CreateContainer", request, pb.CreateContainerResponse
        )
        return response.container_id

    async def start_container(self, container_id: str) -> None:
        request = pb.StartContainerRequest(container_id=container_id)
        await self._call(_RUNTIME + "StartContainer", request, pb.StartContainerResponse)

    async def stop_container(self, container_id: str, timeout: float, stop_signal: int = 0) -> None:
        if stop_signal and timeout > 0:
            await self._signal_and_wait(container_id, timeout, stop_signal)
            timeout = 0  # it is over, or has had its time
        request = pb.StopContainerRequest(container_id=container_id, timeout=max(0, round(timeout)))
        await self._end(
            _RUNTIME + "StopContainer",
            request,
            pb.StopContainerResponse,
            timeout=timeout + self._timeout,
        )

    async def _signal_and_wait(self, container_id: str, timeout: float, number: int) -> None:
        """A stop signal of the pod's choice, which CRI takes only in runtimes newer than most."""
        kill = containerd.KillRequest(container_id=container_id, signal=number)
        try:
            await self._call(_TASKS + "Kill", kill, Empty, metadata=_CRI_NAMESPACE)
        except RuntimeFailure as failure:
            if failure.code not in ("NOT_FOUND", "FAILED_PRECONDITION"):
                raise
            return
        deadline = asyncio.get_running_loop().time() + timeout
        delay = 0.01
        while not await self._is_over(container_id):
            remaining = deadline - asyncio.get_running_loop().time()
            if remaining <= 0:
                return
            await asyncio.sleep(min(delay, remaining))
            delay = min(delay * 2, 0.5)

    async def remove_container(self, container_id: str) -> None:
        request = pb.RemoveContainerRequest(container_id=container_id)
        method = _RUNTIME + "RemoveContainer"
        try:
            await self._end(method, request, pb.RemoveContainerResponse)
        except RuntimeFailure as failure:
            if failure.code != "FAILED_PRECONDITION":
                raise
            await self._clear_task(container_id)
            await self._end(method, request, pb.RemoveContainerResponse)
        self._ended.pop(container_id, None)

    async def _clear_task(self, container_id: str) -> None:
        """Ends a task that containerd has but its CRI part has lost.

        A start whose caller was killed is rolled back with the caller's cancelled context, which
        may leave a task behind; the container then counts as exited and can never be removed.
        """
        kill = containerd.KillRequest(container_id=container_id, signal=9, all=True)
        delete = containerd.DeleteTaskRequest(container_id=container_id)
        for method, request in (("Kill", kill), ("Delete", delete)):
            delay = 0.01
            while True:
                try:
                    await self._call(_TASKS + method, request, Empty, metadata=_CRI_NAMESPACE)
                except RuntimeFailure as failure:
                    if failure.code == "FAILED_PRECONDITION" and delay < 1.0:
                        await asyncio.sleep(delay)  # it is still on its way out
                        delay *= 2
                        continue
                    if failure.code not in ("NOT_FOUND", "FAILED_PRECONDITION"):
                        raise
                break

    async def update_resources(
        self, container_id: str, resources: pb.LinuxContainerResources
    ) -> None:
        request = pb.UpdateContainerResourcesRequest(container_id=container_id, linux=resources)
        await self._call(
            _RUNTIME + "UpdateContainerResources", request, pb.UpdateContainerResourcesResponse
        )

    async def reopen_log(self, container_id: str) -> None:
        request = pb.ReopenContainerLogRequest(container_id=container_id)
        await self._call(_RUNTIME + "ReopenContainerLog", request, pb.ReopenContainerLogResponse)

    async def exec_sync(
        self, container_id: str, command: Sequence[str], timeout: float
    ) -> ExecResult:
        # The interface knows whole seconds; a probe's timeout is never below one.
        request = pb.ExecSyncRequest(
            container_id=container_id, cmd=command, timeout=max(0, round(timeout))
        )
        deadline = timeout + 5.0 if timeout > 0 else None
        response = await self._call(
            _RUNTIME + "ExecSync", request, pb.ExecSyncResponse, timeout=deadline
        )
        return ExecResult(response.exit_code, response.stdout, response.stderr)

    async def stream_url(self, request: StreamRequest) -> str:
        if isinstance(request, ExecStream):
            exec_request = pb.ExecRequest(
                container_id=request.container_id,
                cmd=request.command,
                tty=request.tty,
                stdin=request.stdin,
                stdout=request.stdout,
                stderr=request.stderr,
            )
            return (await self._call(_RUNTIME + "Exec", exec_request, pb.ExecResponse)).url
        if isinstance(request, AttachStream):
            attach_request = pb.AttachRequest(
                container_id=request.container_id,
                tty=request.tty,
                stdin=request.stdin,
                stdout=request.stdout,
                stderr=request.stderr,
            )
            return (await self._call(_RUNTIME + "Attach", attach_request, pb.AttachResponse)).url
        forward = pb.PortForwardRequest(pod_sandbox_id=request.sandbox_id, port=request.ports)
        return (await self._call(_RUNTIME + "PortForward", forward, pb.PortForwardResponse)).url

    async def usage(self) -> list[ContainerUsage]:
        response = await self._call(
            _RUNTIME + "ListContainerStats",
            pb.ListContainerStatsRequest(),
            pb.ListContainerStatsResponse,
        )
        return [_usage(each) for each in response.stats if each.attributes.labels.get(POD_UID)]

    async def events(self) -> AsyncIterator[str]:
        """containerd's own event stream where there is one, CRI's (optional) stream elsewhere."""
        try:
            async for container_id in self._containerd_events():
                yield container_id
        except RuntimeFailure as failure:
            if failure.code != "UNIMPLEMENTED":
                raise
        stream = self._stream(
            _RUNTIME + "GetContainerEvents", pb.GetEventsRequest(), pb.ContainerEventResponse
        )
        async for event in stream:
            if event.container_event_type == pb.CONTAINER_STOPPED_EVENT:
                yield event.container_id

    async def _containerd_events(self) -> AsyncIterator[str]:
        request = containerd.SubscribeRequest(filters=['topic=="/tasks/exit"'])
        pending: set[asyncio.Task[str]] = set()
        ready: asyncio.Queue[str] = asyncio.Queue()

        async def receive() -> None:
            stream = self._stream(_SUBSCRIBE, request, containerd.Envelope, _CRI_NAMESPACE)
            async for envelope in stream:
                event = containerd.TaskEvent.FromString(envelope.event.value)
                if event.id not in ("", event.container_id):
                    continue  # a process that was run in a container beside its first one
                task = asyncio.create_task(self._settled(event.container_id), name="cri-settled")
                pending.add(task)
                task.add_done_callback(pending.discard)
                task.add_done_callback(lambda done: _hand_over(done, ready))

        receiver = asyncio.create_task(receive(), name="cri-events")
        try:
            while True:
                getter = asyncio.ensure_future(ready.get())
                done, _ = await asyncio.wait(
                    {getter, receiver}, return_when=asyncio.FIRST_COMPLETED
                )
                if getter in done:
                    yield getter.result()
                    continue
                getter.cancel()
                receiver.result()
                return
        finally:
            for task in (receiver, *pending):
                task.cancel()

    async def _settled(self, container_id: str) -> str:
        """Waits until CRI shows the end that containerd's event has told of.

        Both learn of an exit from the same event; CRI then deletes the task, which takes some tens
        of milliseconds, before it says so.
        """
        delay = 0.004
        while delay < 3.0:
            if await self._is_over(container_id):
                break
            await asyncio.sleep(delay)
            delay *= 1.5
        return container_id

    async def _is_over(self, container_id: str) -> bool:
        try:
            response = await self._call(
                _RUNTIME + "ContainerStatus",
                pb.ContainerStatusRequest(container_id=container_id),
                pb.ContainerStatusResponse,
            )
            return response.status.state != pb.CONTAINER_RUNNING
        except RuntimeFailure:
            pass
        try:
            sandbox = await self._call(
                _RUNTIME + "PodSandboxStatus",
                pb.PodSandboxStatusRequest(pod_sandbox_id=container_id),
                pb.PodSandboxStatusResponse,
            )
            return sandbox.status.state == pb.SANDBOX_NOTREADY
        except RuntimeFailure:
            return True

    # Images

    async def image(self, reference: str) -> ImageRecord | None:
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=reference))
        response = await self._call(_IMAGES + "ImageStatus", request, pb.ImageStatusResponse)
        return _image(response.image) if response.image.id else None

    async def images(self) -> list[ImageRecord]:
        response = await self._call(
            _IMAGES + "ListImages", pb.ListImagesRequest(), pb.ListImagesResponse
        )
        return [_image(each) for each in response.images]

    async def pull(self, reference: str, credentials: Credentials | None) -> str:
        request = pb.PullImageRequest(image=pb.ImageSpec(image=reference))
        if credentials is not None:
            request.auth.CopyFrom(
                pb.AuthConfig(
                    username=credentials.username,
                    password=credentials.password,
                    auth=credentials.auth,
                    server_address=credentials.server,
                    identity_token=credentials.identity_token,
                    registry_token=credentials.registry_token,
                )
            )
        response = await self._call(
            _IMAGES + "PullImage", request, pb.PullImageResponse, timeout=self._pull_timeout
        )
        return response.image_ref

    async def remove_image(self, reference: str) -> None:
        request = pb.RemoveImageRequest(image=pb.ImageSpec(image=reference))
        await self._end(_IMAGES + "RemoveImage", request, pb.RemoveImageResponse)

    async def image_filesystem(self) -> tuple[str, int]:
        response = await self._call(
            _IMAGES + "ImageFsInfo", pb.ImageFsInfoRequest(), pb.ImageFsInfoResponse
        )
        for each in response.image_filesystems:
            return each.fs_id.mountpoint, each.used_bytes.value
        return "", 0

    # Calls

    async def _call(
        self,
        method: str,
        request: Message,
        response: type[M],
        *,
        timeout: float | None = 0.0,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> M:
        call = self._methods.get(method)
        if call is None:
            assert self._channel is not None, "the runtime client is not open"
            call = self._methods[method] = self._channel.unary_unary(
                method,
                request_serializer=_serialize,
                response_deserializer=response.FromString,
            )
        try:
            limit = self._timeout if timeout == 0.0 else timeout
            result: M = await call(request, timeout=limit, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error
        return result

    async def _end(
        self, method: str, request: Message, response: type[M], *, timeout: float = 0.0
    ) -> None:
        """A call whose purpose is fulfilled when its object does not exist."""
        try:
            await self._call(method, request, response, timeout=timeout)
        except RuntimeFailure as failure:
            if not failure.is_not_found:
                raise

    async def _stream(
        self,
        method: str,
        request: Message,
        response: type[M],
        metadata: Sequence[tuple[str, str]] = (),
    ) -> AsyncIterator[M]:
        assert self._channel is not None, "the runtime client is not open"
        call = self._channel.unary_stream(
            method, request_serializer=_serialize, response_deserializer=response.FromString
        )
        try:
            async for message in call(request, metadata=tuple(metadata)):
                yield message
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from error

    async def _sandbox(self, item: pb.PodSandbox) -> SandboxRecord | None:
        ready = item.state == pb.SANDBOX_READY
        ips: tuple[str, ...] = ()
        if ready:
            try:
                response = await self._call(
                    _RUNTIME + "PodSandboxStatus",
                    pb.PodSandboxStatusRequest(pod_sandbox_id=item.id),
                    pb.PodSandboxStatusResponse,
                )
            except RuntimeFailure as failure:
                if failure.is_not_found:
                    return None
                raise
            network = response.status.network
            ready = response.status.state == pb.SANDBOX_READY
            if network.ip:
                ips = (network.ip, *(each.ip for each in network.additional_ips))
        return SandboxRecord(
            id=item.id,
            name=item.metadata.name,
            namespace=item.metadata.namespace,
            uid=item.metadata.uid,
            attempt=item.metadata.attempt,
            ready=ready,
            created_at=item.created_at,
            ips=ips,
            annotations=dict(item.annotations),
        )

    async def _container(self, item: pb.Container) -> ContainerRecord | None:
        known = self._ended.get(item.id)
        if known is not None:
            return known
        try:
            response = await self._call(
                _RUNTIME + "ContainerStatus",
                pb.ContainerStatusRequest(container_id=item.id),
                pb.ContainerStatusResponse,
            )
        except RuntimeFailure as failure:
            if failure.is_not_found:
                return None
            raise
        record = _container(response.status, item.pod_sandbox_id)
        if record.state is ContainerState.EXITED:
            self._ended[record.id] = record
        return record


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _hand_over(task: asyncio.Task[str], ready: asyncio.Queue[str]) -> None:
    if not task.cancelled():
        ready.put_nowait(task.result())


def _failure(error: grpc.aio.AioRpcError) -> RuntimeFailure:
    code = error.code().name
    message = error.details() or code
    # containerd reports a missing object in a few calls with a plain "unknown" code.
    if code == "UNKNOWN" and message.endswith(": not found"):
        code = "NOT_FOUND"
    name = code.title().replace("_", "")
    return RuntimeFailure(f"rpc error: code = {name} desc = {message}", code=code, details=message)


def _condition_text(condition: pb.RuntimeCondition | None) -> str:
    if condition is None or condition.status:
        return ""
    return f"{condition.reason}: {condition.message}" if condition.reason else condition.message


def _container(status: pb.ContainerStatus, sandbox_id: str) -> ContainerRecord:
    user = None
    if status.user.HasField("linux"):
        linux = status.user.linux
        user = LinuxUser(linux.uid, linux.gid, tuple(linux.supplemental_groups))
    restarts = status.annotations.get(RESTART_COUNT, "")
    return ContainerRecord(
        id=status.id,
        name=status.labels.get(CONTAINER_NAME) or status.metadata.name,
        attempt=int(restarts) if restarts.isdigit() else status.metadata.attempt,
        sandbox_id=sandbox_id,
        state=ContainerState(status.state),
        created_at=status.created_at,
        started_at=status.started_at,
        finished_at=status.finished_at,
        exit_code=status.exit_code,
        reason=status.reason,
        message=status.message,
        image=status.image.image,
        image_ref=status.image_ref,
        log_path=status.log_path,
        user=user,
        labels=dict(status.labels),
        annotations=dict(status.annotations),
    )


def _group(
    sandboxes: Sequence[SandboxRecord], containers: Sequence[ContainerRecord]
) -> list[PodState]:
    by_uid: dict[str, tuple[list[SandboxRecord], list[ContainerRecord]]] = {}
    for sandbox in sandboxes:
        by_uid.setdefault(sandbox.uid, ([], []))[0].append(sandbox)
    for container in containers:
        by_uid.setdefault(container.labels[POD_UID], ([], []))[1].append(container)
    result = []
    for uid, (own_sandboxes, own_containers) in by_uid.items():
        own_sandboxes.sort(key=lambda each: (each.created_at, each.attempt), reverse=True)
        own_containers.sort(key=lambda each: (each.created_at, each.attempt), reverse=True)
        if own_sandboxes:
            name, namespace = own_sandboxes[0].name, own_sandboxes[0].namespace
        else:
            labels = own_containers[0].labels
            name, namespace = labels.get(POD_NAME, ""), labels.get(POD_NAMESPACE, "")
        result.append(PodState(uid, name, namespace, tuple(own_sandboxes), tuple(own_containers)))
    return result


def _image(image: pb.Image) -> ImageRecord:
    return ImageRecord(
        id=image.id,
        tags=tuple(image.repo_tags),
        digests=tuple(image.repo_digests),
        size=image.size,
        uid=image.uid.value if image.HasField("uid") else None,
        username=image.username,
        pinned=image.pinned,
    )


def _usage(stats: pb.ContainerStats) -> ContainerUsage:
    labels = stats.attributes.labels
    return ContainerUsage(
        id=stats.attributes.id,
        name=labels.get(CONTAINER_NAME, ""),
        pod_uid=labels[POD_UID],
        pod_name=labels.get(POD_NAME, ""),
        pod_namespace=labels.get(POD_NAMESPACE, ""),
        timestamp=stats.cpu.timestamp or stats.memory.timestamp,
        cpu_nanoseconds=stats.cpu.usage_core_nano_seconds.value,
        memory_working_set=stats.memory.working_set_bytes.value,
        memory_usage=stats.memory.usage_bytes.value,
        memory_rss=stats.memory.rss_bytes.value,
        filesystem_bytes=stats.writable_layer.used_bytes.value,
        filesystem_inodes=stats.writable_layer.inodes_used.value,
    )
