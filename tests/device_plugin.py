"""A device plug-in as vendors write them: it registers with the kubelet over gRPC, tells of its
devices and hands them out. Its devices are character devices that every machine has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from navarch.node.devices import deviceplugin_pb2 as pb

RESOURCE = "vendor.example/gadget"


def _method(function: Any, request: Any, *, streams: bool = False) -> Any:
    make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
    return make(
        function,
        request_deserializer=request.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )


@dataclass
class DevicePlugin:
    """Runs in the test's process, talks through sockets only."""

    directory: Path
    resource: str = RESOURCE
    health: dict[str, str] = field(default_factory=lambda: {"a": "Healthy", "b": "Healthy"})
    prefers: list[str] = field(default_factory=list)
    pre_start: bool = False
    fails: str = ""
    """What Allocate fails with, if anything."""
    calls: list[tuple[str, list[str]]] = field(default_factory=list)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    _server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        methods = {
            "GetDevicePluginOptions": _method(self._options, pb.Empty),
            "ListAndWatch": _method(self._list, pb.Empty, streams=True),
            "Allocate": _method(self._allocate, pb.AllocateRequest),
            "GetPreferredAllocation": _method(self._prefer, pb.PreferredAllocationRequest),
            "PreStartContainer": _method(self._before_start, pb.PreStartContainerRequest),
        }
        self._server = grpc.aio.server()
        handler = grpc.method_handlers_generic_handler("v1beta1.DevicePlugin", methods)
        self._server.add_generic_rpc_handlers((handler,))
        self._server.add_insecure_port(f"unix:{self.directory / 'gadget.sock'}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def register(self, version: str = "v1beta1", resource: str = "") -> None:
        """Raises grpc.aio.AioRpcError."""
        request = pb.RegisterRequest(
            version=version, endpoint="gadget.sock", resource_name=resource or self.resource
        )
        socket = f"unix:{self.directory / 'kubelet.sock'}"
        async with grpc.aio.insecure_channel(socket) as channel:
            call = channel.unary_unary(
                "/v1beta1.Registration/Register",
                request_serializer=pb.RegisterRequest.SerializeToString,
                response_deserializer=pb.Empty.FromString,
            )
            await call(request, wait_for_ready=True, timeout=60)

    async def change(self, **health: str) -> None:
        self.health.update(health)
        async with self._changed:
            self._changed.notify_all()

    async def _options(self, request: Any, context: Any) -> pb.DevicePluginOptions:
        return pb.DevicePluginOptions(
            pre_start_required=self.pre_start,
            get_preferred_allocation_available=bool(self.prefers),
        )

    async def _list(self, request: Any, context: Any) -> AsyncIterator[pb.ListAndWatchResponse]:
        while True:
            devices = [pb.Device(ID=name, health=each) for name, each in self.health.items()]
            for device in devices:
                device.topology.nodes.add(ID=0)
            yield pb.ListAndWatchResponse(devices=devices)
            async with self._changed:
                await self._changed.wait()

    async def _allocate(self, request: pb.AllocateRequest, context: Any) -> pb.AllocateResponse:
        ids = list(request.container_requests[0].devices_ids)
        self.calls.append(("Allocate", ids))
        if self.fails:
            await context.abort(grpc.StatusCode.INTERNAL, self.fails)
        answer = pb.ContainerAllocateResponse(
            envs={"GADGETS": ",".join(ids)}, annotations={"vendor.example/gadgets": "yes"}
        )
        answer.mounts.add(container_path="/gadget", host_path=str(self.directory), read_only=True)
        for each in ids:
            answer.devices.add(
                container_path=f"/dev/gadget-{each}", host_path="/dev/null", permissions="rw"
            )
        return pb.AllocateResponse(container_responses=[answer])

    async def _prefer(self, request: Any, context: Any) -> pb.PreferredAllocationResponse:
        answer = pb.ContainerPreferredAllocationResponse(deviceIDs=self.prefers)
        return pb.PreferredAllocationResponse(container_responses=[answer])

    async def _before_start(self, request: Any, context: Any) -> pb.PreStartContainerResponse:
        self.calls.append(("PreStartContainer", list(request.devices_ids)))
        return pb.PreStartContainerResponse()


@asynccontextmanager
async def device_plugin(directory: Path, **options: Any) -> AsyncIterator[DevicePlugin]:
    """A plug-in that serves and has not registered."""
    plugin = DevicePlugin(directory, **options)
    await plugin.start()
    try:
        yield plugin
    finally:
        await plugin.stop()
