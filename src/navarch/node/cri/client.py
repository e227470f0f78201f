"""The CRI v1 client: `Runtime` and `Images` over gRPC to a unix socket.

Two list calls tell the state of everything a pod has, so only what is in another state than it was
last seen in needs a call of its own: a node full of idle pods is looked at in two calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence, Set
from typing import Any

from google.protobuf.empty_pb2 import Empty

from navarch.client.batches import together

from . import containerd_pb2 as containerd
from . import runtime_pb2 as pb
from .calls import Calls
from .ends import CONTAINERD_NAMESPACE, Ends
from .records import condition_text, container_record, group_by_pod, image_record, usage_record
from .values import (
    POD_UID,
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
    RuntimeHandler,
    RuntimeInfo,
    SandboxRecord,
    StreamRequest,
)

log = logging.getLogger(__name__)

_TASKS = "/containerd.services.tasks.v1.Tasks/"
_LASTING = (ContainerState.RUNNING, ContainerState.EXITED)
"""In these nothing about a container changes any more."""


class CriRuntime:
    """A CRI endpoint, such as containerd's socket. Use as an async context manager."""

    def __init__(self, address: str, *, timeout: float = 120.0) -> None:
        self.calls = Calls(address, timeout)
        self._ends = Ends(self.calls)
        self._timeout = timeout
        self._containers: dict[str, ContainerRecord] = {}
        self._sandboxes: dict[str, SandboxRecord] = {}
        """What is known, by id: for as long as its state lasts, it is as it was."""
        self.known = RuntimeInfo("", "")

    async def __aenter__(self) -> CriRuntime:
        self.calls.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.calls.close()

    # Sandboxes and containers

    async def info(self) -> RuntimeInfo:
        version, status = await together(
            self.calls.ask(pb.VersionRequest(), pb.VersionResponse),
            self.calls.ask(pb.StatusRequest(), pb.StatusResponse),
        )
        conditions = {each.type: each for each in status.status.conditions}
        runtime, network = conditions.get("RuntimeReady"), conditions.get("NetworkReady")
        self.known = RuntimeInfo(
            name=version.runtime_name,
            version=version.runtime_version,
            ready=runtime is None or runtime.status,
            network_ready=network is None or network.status,
            message=condition_text(runtime),
            network_message=condition_text(network),
            handlers=tuple(
                RuntimeHandler(
                    each.name,
                    each.features.recursive_read_only_mounts,
                    each.features.user_namespaces,
                )
                for each in status.runtime_handlers
            ),
            has_features=status.HasField("features"),
            supplemental_groups_policy=status.features.supplemental_groups_policy,
        )
        return self.known

    async def cgroup_driver(self) -> str:
        """`systemd` or `cgroupfs`; empty if the runtime is too old to say (containerd 1)."""
        request, response = pb.RuntimeConfigRequest(), pb.RuntimeConfigResponse
        try:
            found = await self.calls.ask(request, response)
        except RuntimeFailure as failure:
            if failure.code != "UNIMPLEMENTED":
                raise
            return ""
        is_systemd = found.linux.cgroup_driver == pb.SYSTEMD
        return "systemd" if found.HasField("linux") and is_systemd else "cgroupfs"

    async def pods(self, uid: str = "") -> list[PodState]:
        selector = {POD_UID: uid} if uid else {}
        sandboxes, containers = await together(
            self.calls.ask(
                pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(label_selector=selector)),
                pb.ListPodSandboxResponse,
            ),
            self.calls.ask(
                pb.ListContainersRequest(filter=pb.ContainerFilter(label_selector=selector)),
                pb.ListContainersResponse,
            ),
        )
        # Sandboxes without the label are somebody else's (made with crictl, for example).
        owned = [item for item in sandboxes.items if item.labels.get(POD_UID)]
        records = await together(*(self._sandbox(item) for item in owned))
        statuses = await together(
            *(self._container(item) for item in containers.containers if item.labels.get(POD_UID))
        )
        if not uid:
            _keep(self._containers, {item.id for item in containers.containers})
            _keep(self._sandboxes, {item.id for item in sandboxes.items})
        return group_by_pod(
            [each for each in records if each is not None],
            [each for each in statuses if each is not None],
        )

    async def run_sandbox(self, config: pb.PodSandboxConfig, handler: str) -> str:
        request = pb.RunPodSandboxRequest(config=config, runtime_handler=handler)
        response = await self.calls.ask(request, pb.RunPodSandboxResponse, timeout=240.0)
        return response.pod_sandbox_id

    async def stop_sandbox(self, sandbox_id: str) -> None:
        request = pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self.calls.end(request, pb.StopPodSandboxResponse)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        request = pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self.calls.end(request, pb.RemovePodSandboxResponse)

    async def create_container(
        self, sandbox_id: str, config: pb.ContainerConfig, sandbox: pb.PodSandboxConfig
    ) -> str:
        request = pb.CreateContainerRequest(
            pod_sandbox_id=sandbox_id, config=config, sandbox_config=sandbox
        )
        response = await self.calls.ask(request, pb.CreateContainerResponse)
        return response.container_id

    async def start_container(self, container_id: str) -> None:
        request = pb.StartContainerRequest(container_id=container_id)
        await self.calls.ask(request, pb.StartContainerResponse)

    async def stop_container(self, container_id: str, timeout: float, stop_signal: int = 0) -> None:
        if (
            stop_signal
            and timeout > 0
            and await self._signal_and_wait(container_id, timeout, stop_signal)
        ):
            timeout = 0  # it is over, or has had its time
        request = pb.StopContainerRequest(container_id=container_id, timeout=max(0, round(timeout)))
        await self.calls.end(request, pb.StopContainerResponse, timeout=timeout + self._timeout)

    async def _signal_and_wait(self, container_id: str, timeout: float, number: int) -> bool:
        """A stop signal of the pod's choice, which CRI takes only in runtimes newer than most.
        False if the runtime is not containerd."""
        kill = containerd.KillRequest(container_id=container_id, signal=number)
        try:
            await self.calls.call(_TASKS + "Kill", kill, Empty, metadata=CONTAINERD_NAMESPACE)
        except RuntimeFailure as failure:
            if failure.code not in ("NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"):
                raise
            return failure.code != "UNIMPLEMENTED"
        deadline = asyncio.get_running_loop().time() + timeout
        delay = 0.01
        while not await self._ends.is_over(container_id):
            remaining = deadline - asyncio.get_running_loop().time()
            if remaining <= 0:
                break
            await asyncio.sleep(min(delay, remaining))
            delay = min(delay * 2, 0.5)
        return True

    async def remove_container(self, container_id: str) -> None:
        request = pb.RemoveContainerRequest(container_id=container_id)
        try:
            await self.calls.end(request, pb.RemoveContainerResponse)
        except RuntimeFailure as failure:
            if failure.code != "FAILED_PRECONDITION":
                raise
            await self._clear_task(container_id)
            await self.calls.end(request, pb.RemoveContainerResponse)
        self._containers.pop(container_id, None)

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
                    await self.calls.call(
                        _TASKS + method, request, Empty, metadata=CONTAINERD_NAMESPACE
                    )
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
        await self.calls.ask(request, pb.UpdateContainerResourcesResponse)

    async def update_sandbox(
        self,
        sandbox_id: str,
        resources: pb.LinuxContainerResources,
        overhead: pb.LinuxContainerResources,
    ) -> None:
        request = pb.UpdatePodSandboxResourcesRequest(
            pod_sandbox_id=sandbox_id, resources=resources, overhead=overhead
        )
        try:
            await self.calls.ask(request, pb.UpdatePodSandboxResourcesResponse)
        except RuntimeFailure as failure:
            # containerd 2.2 says so with another code.
            if failure.code != "UNIMPLEMENTED" and "not implemented" not in failure.message:
                raise

    async def reopen_log(self, container_id: str) -> None:
        request = pb.ReopenContainerLogRequest(container_id=container_id)
        await self.calls.ask(request, pb.ReopenContainerLogResponse)

    async def checkpoint(self, container_id: str, location: str, timeout: int) -> None:
        request = pb.CheckpointContainerRequest(
            container_id=container_id, location=location, timeout=timeout
        )
        await self.calls.ask(
            request, pb.CheckpointContainerResponse, timeout=float(timeout) if timeout > 0 else 0.0
        )

    async def exec_sync(
        self, container_id: str, command: Sequence[str], timeout: float
    ) -> ExecResult:
        # The interface knows whole seconds; a probe's timeout is never below one.
        request = pb.ExecSyncRequest(
            container_id=container_id, cmd=command, timeout=max(0, round(timeout))
        )
        # The runtime ends what takes too long. That the runtime itself is stuck for a while says
        # nothing of the container: its probe has not failed because of that.
        deadline = timeout + self._timeout if timeout > 0 else None
        response = await self.calls.ask(request, pb.ExecSyncResponse, timeout=deadline)
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
            return (await self.calls.ask(exec_request, pb.ExecResponse)).url
        if isinstance(request, AttachStream):
            attach_request = pb.AttachRequest(
                container_id=request.container_id,
                tty=request.tty,
                stdin=request.stdin,
                stdout=request.stdout,
                stderr=request.stderr,
            )
            return (await self.calls.ask(attach_request, pb.AttachResponse)).url
        forward = pb.PortForwardRequest(pod_sandbox_id=request.sandbox_id, port=request.ports)
        return (await self.calls.ask(forward, pb.PortForwardResponse)).url

    async def usage(self) -> list[ContainerUsage]:
        response = await self.calls.ask(
            pb.ListContainerStatsRequest(), pb.ListContainerStatsResponse
        )
        return [
            usage_record(each) for each in response.stats if each.attributes.labels.get(POD_UID)
        ]

    def events(self) -> AsyncIterator[str]:
        return self._ends.events()

    # Images

    async def image(self, reference: str) -> ImageRecord | None:
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=reference))
        response = await self.calls.ask(request, pb.ImageStatusResponse)
        return image_record(response.image) if response.image.id else None

    async def images(self) -> list[ImageRecord]:
        response = await self.calls.ask(pb.ListImagesRequest(), pb.ListImagesResponse)
        return [image_record(each) for each in response.images]

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
        response = await self.calls.ask(request, pb.PullImageResponse, timeout=None)
        return response.image_ref

    async def remove_image(self, reference: str) -> None:
        request = pb.RemoveImageRequest(image=pb.ImageSpec(image=reference))
        await self.calls.end(request, pb.RemoveImageResponse)

    async def image_filesystem(self) -> tuple[str, int]:
        response = await self.calls.ask(pb.ImageFsInfoRequest(), pb.ImageFsInfoResponse)
        for each in response.image_filesystems:
            return each.fs_id.mountpoint, each.used_bytes.value
        return "", 0

    async def _sandbox(self, item: pb.PodSandbox) -> SandboxRecord | None:
        ready = item.state == pb.SANDBOX_READY
        known = self._sandboxes.get(item.id)
        if known is not None and known.ready == ready and (known.ips or not ready):
            return known
        ips: tuple[str, ...] = ()
        if ready:
            try:
                response = await self.calls.ask(
                    pb.PodSandboxStatusRequest(pod_sandbox_id=item.id), pb.PodSandboxStatusResponse
                )
            except RuntimeFailure as failure:
                if failure.is_not_found:
                    return None
                raise
            network = response.status.network
            ready = response.status.state == pb.SANDBOX_READY
            if network.ip:
                ips = (network.ip, *(each.ip for each in network.additional_ips))
        self._sandboxes[item.id] = record = SandboxRecord(
            id=item.id,
            name=item.metadata.name,
            namespace=item.metadata.namespace,
            uid=item.metadata.uid,
            attempt=item.metadata.attempt,
            ready=ready,
            created_at=item.created_at,
            ips=ips,
            annotations=dict(item.annotations),
            handler=item.runtime_handler,
        )
        return record

    async def _container(self, item: pb.Container) -> ContainerRecord | None:
        known = self._containers.get(item.id)
        if known is not None and known.state in _LASTING and known.state.value == item.state:
            return known
        try:
            response = await self.calls.ask(
                pb.ContainerStatusRequest(container_id=item.id), pb.ContainerStatusResponse
            )
        except RuntimeFailure as failure:
            if failure.is_not_found:
                return None
            raise
        record = container_record(response.status, item.pod_sandbox_id)
        self._containers[record.id] = record
        return record


def _keep(known: dict[str, Any], present: Set[str]) -> None:
    """Forgets what the runtime no longer has."""
    for each in known.keys() - present:
        del known[each]
