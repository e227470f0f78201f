"""The sockets where device plug-ins register and monitoring agents ask who has which devices.

`<root>/device-plugins/kubelet.sock` is where every stock device plug-in calls; it watches that
socket, and registers again when it is made anew, which is how plug-ins come back after a restart of
the agent. `<root>/pod-resources/kubelet.sock` answers exporters of device metrics.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from navarch.api.types.core_v1 import Container, Pod
from navarch.api.validation.resources import is_extended

from ..cri.values import RuntimeFailure
from ..dra.manager import DraManager
from ..figures import device_registrations
from ..plugins import PluginRefused
from ..podspec import is_sidecar
from . import deviceplugin_pb2 as pb
from . import podresources_pb2 as resources
from .manager import DeviceManager, Plugin

log = logging.getLogger(__name__)

VERSIONS = ("v1beta1",)
SOCKET = "kubelet.sock"


class DeviceServer:
    """Registration of device plug-ins, by their own call or by the plug-in directory."""

    def __init__(
        self,
        manager: DeviceManager,
        claims: DraManager | None,
        pods: Callable[[], Iterable[Pod]],
        pod_resources: Path,
    ) -> None:
        self._manager, self._claims, self._pods = manager, claims, pods
        self._pod_resources = pod_resources
        self._followers: dict[str, tuple[Plugin, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Serves until cancelled."""
        servers = []
        try:
            for directory, handler in (
                (self._manager.directory, self._registration()),
                (self._pod_resources, self._lister()),
            ):
                server = await _serve(directory, handler)
                if server is not None:
                    servers.append(server)
            await asyncio.Event().wait()
        finally:
            tasks = [task for _, task in self._followers.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for server in servers:
                await server.stop(None)

    # Registration

    def _registration(self) -> grpc.GenericRpcHandler:
        methods = {"Register": _unary(self._register, pb.RegisterRequest)}
        return grpc.method_handlers_generic_handler("v1beta1.Registration", methods)

    async def _register(
        self, request: pb.RegisterRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.Empty:
        name = request.resource_name
        device_registrations.labels(name).inc()
        try:
            self.validate(name, request.endpoint, (request.version,))
            await self.register(name, request.endpoint, (request.version,))
        except PluginRefused as refused:
            log.warning("device plug-in of %s: %s", name, refused)
            await context.abort(grpc.StatusCode.UNKNOWN, str(refused))
        return pb.Empty()

    def validate(self, name: str, endpoint: str, versions: Sequence[str]) -> None:
        if not set(versions) & set(VERSIONS):
            raise PluginRefused(
                f'requested API version "{",".join(versions)}" is not supported by kubelet. '
                f'Supported version is ["{VERSIONS[0]}"]'
            )
        if not is_extended(name):
            raise PluginRefused(f'the ResourceName "{name}" is invalid')

    async def register(self, name: str, endpoint: str, versions: Sequence[str]) -> None:
        """Connects to the plug-in; one that calls by itself names its socket without a path."""
        socket = self._manager.directory / endpoint
        try:
            plugin = await self._manager.connect(name, socket)
        except RuntimeFailure as failure:
            raise PluginRefused(
                f"failed to get device plugin options: {failure.message}"
            ) from failure
        before = self._followers.pop(name, None)
        if before is not None:
            before[1].cancel()
        task = asyncio.get_running_loop().create_task(
            self._manager.follow(name, plugin), name=f"devices {name}"
        )
        self._followers[name] = plugin, task
        task.add_done_callback(lambda done: self._followed(name, done))
        log.info("device plug-in of %s at %s", name, socket)

    async def deregister(self, name: str, endpoint: str) -> None:
        known = self._followers.get(name)
        if known is not None:
            known[1].cancel()

    def _followed(self, name: str, task: asyncio.Task[None]) -> None:
        known = self._followers.get(name)
        if known is not None and known[1] is task:
            del self._followers[name]
        if not task.cancelled() and task.exception() is not None:
            log.error("devices of %s", name, exc_info=task.exception())

    # Who has what

    def _lister(self) -> grpc.GenericRpcHandler:
        methods = {
            "List": _unary(self._list, resources.ListPodResourcesRequest),
            "Get": _unary(self._get, resources.GetPodResourcesRequest),
            "GetAllocatableResources": _unary(
                self._allocatable, resources.AllocatableResourcesRequest
            ),
        }
        return grpc.method_handlers_generic_handler("v1.PodResourcesLister", methods)

    async def _list(self, request: Any, context: Any) -> resources.ListPodResourcesResponse:
        found = [self._resources_of(pod) for pod in self._pods()]
        return resources.ListPodResourcesResponse(pod_resources=found)

    async def _get(
        self, request: resources.GetPodResourcesRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> resources.GetPodResourcesResponse:
        for pod in self._pods():
            meta = pod.metadata
            if (meta.name, meta.namespace) == (request.pod_name, request.pod_namespace):
                return resources.GetPodResourcesResponse(pod_resources=self._resources_of(pod))
        text = f"pod {request.pod_name} in namespace {request.pod_namespace} not found"
        await context.abort(grpc.StatusCode.UNKNOWN, text)
        raise AssertionError("aborted")

    async def _allocatable(
        self, request: Any, context: Any
    ) -> resources.AllocatableResourcesResponse:
        return resources.AllocatableResourcesResponse(
            devices=[
                _entry(name, device.id, device.nodes)
                for name, devices in self._manager.healthy_devices().items()
                for device in devices
            ]
        )

    def _resources_of(self, pod: Pod) -> resources.PodResources:
        sidecars = [each for each in pod.spec.initContainers if is_sidecar(each)]
        return resources.PodResources(
            name=pod.metadata.name,
            namespace=pod.metadata.namespace,
            containers=[
                resources.ContainerResources(
                    name=container.name,
                    devices=[
                        _entry(name, device, nodes)
                        for name, devices in self._manager.devices_of(
                            pod.metadata.uid, container.name
                        ).items()
                        for device, nodes in devices.items()
                    ],
                    dynamic_resources=self._claimed(pod, container),
                )
                for container in (*sidecars, *pod.spec.containers)
            ],
        )

    def _claimed(self, pod: Pod, container: Container) -> list[resources.DynamicResource]:
        found: dict[str, resources.DynamicResource] = {}
        devices = self._claims.devices_of(pod, container) if self._claims is not None else ()
        for claim, driver, device in devices:
            entry = found.setdefault(
                claim.key,
                resources.DynamicResource(claim_name=claim.name, claim_namespace=claim.namespace),
            )
            entry.claim_resources.add(
                cdi_devices=[resources.CDIDevice(name=each) for each in device.cdi],
                driver_name=driver,
                pool_name=device.pool,
                device_name=device.name,
                share_id=device.share,
            )
        return [*found.values()]


def _entry(resource: str, device: str, nodes: Iterable[int]) -> resources.ContainerDevices:
    topology = resources.TopologyInfo(nodes=[resources.NUMANode(ID=each) for each in nodes])
    return resources.ContainerDevices(
        resource_name=resource, device_ids=[device], topology=topology if topology.nodes else None
    )


def _unary(method: Any, request: Any) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        method,
        request_deserializer=request.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )


def _clear(directory: Path) -> None:
    """Removes the sockets of the time before: plug-ins take that for the sign to register anew."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o750)
    for path in directory.iterdir():
        if path.is_socket() and not path.is_symlink():
            path.unlink(missing_ok=True)


async def _serve(directory: Path, handler: grpc.GenericRpcHandler) -> grpc.aio.Server | None:
    """Listens on the directory's socket."""
    await asyncio.to_thread(_clear, directory)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    try:
        server.add_insecure_port(f"unix:{directory / SOCKET}")
        await server.start()
    except RuntimeError as error:
        # A path longer than a socket's may be, for example: the node does without plug-ins.
        log.error("no device plug-ins: %s: %s", directory / SOCKET, error)
        return None
    return server
