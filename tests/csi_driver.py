"""A CSI driver for tests: real gRPC over a unix socket, volumes that are directories (or files, for
block volumes) bind-mounted where the kubelet wants them. It records what it is asked, and can be
told to fail or to hang."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from navarch.node import pluginregistration_pb2 as registration
from navarch.node.volumes import csi_pb2 as csi

Capability = csi.NodeServiceCapability.RPC


def unary(
    method: Callable[[Any, grpc.aio.ServicerContext], Awaitable[Message]], request: Any
) -> Any:
    return grpc.unary_unary_rpc_method_handler(
        method,
        request_deserializer=request.FromString,
        response_serializer=lambda message: message.SerializeToString(),
    )


class Server:
    """A gRPC server on a unix socket, with the services given as tables of methods."""

    def __init__(self, path: Path, services: dict[str, dict[str, Any]]) -> None:
        self.path, self._services = path, services
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            self.path.unlink()
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(name, methods)
                for name, methods in self._services.items()
            ]
        )
        assert self._server.add_insecure_port(f"unix:{self.path}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None
        with suppress(FileNotFoundError):
            self.path.unlink()


@dataclass
class Registrar:
    """What node-driver-registrar is: tells the kubelet of a plug-in and remembers the answers."""

    path: Path
    info: registration.PluginInfo
    statuses: asyncio.Queue[registration.RegistrationStatus] = field(default_factory=asyncio.Queue)
    accepts_status: bool = True

    def __post_init__(self) -> None:
        methods = {
            "GetInfo": unary(self._info, registration.InfoRequest),
            "NotifyRegistrationStatus": unary(self._status, registration.RegistrationStatus),
        }
        self._server = Server(self.path, {"pluginregistration.Registration": methods})

    async def _info(self, request: Message, context: Any) -> registration.PluginInfo:
        return self.info

    async def _status(
        self, request: registration.RegistrationStatus, context: Any
    ) -> registration.RegistrationStatusResponse:
        self.statuses.put_nowait(request)
        if not self.accepts_status:
            await context.abort(grpc.StatusCode.INTERNAL, "not now")
        return registration.RegistrationStatusResponse()

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._server.stop()

    async def status(self) -> registration.RegistrationStatus:
        async with asyncio.timeout(60):
            return await self.statuses.get()


@dataclass
class Call:
    """One request the driver was asked."""

    method: str
    request: Any

    @property
    def fields(self) -> dict[str, Any]:
        return MessageToDict(self.request, preserving_proto_field_name=True)


class CsiDriver:
    """The driver: `name` at `<directory>/csi.sock`, data of volume X in `<directory>/data/X`."""

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        capabilities: Iterable[int] = (Capability.STAGE_UNSTAGE_VOLUME, Capability.EXPAND_VOLUME),
        topology: dict[str, str] | None = None,
        limit: int = 0,
        node_id: str = "id-of-node",
    ) -> None:
        self.name, self.directory = name, directory
        self.capabilities = set(capabilities)
        self.topology, self.limit, self.node_id = topology, limit, node_id
        self.calls: list[Call] = []
        self.failures: dict[str, list[tuple[grpc.StatusCode, str]]] = {}
        """Answers to give first, by method; each once."""
        self.hangs: dict[str, asyncio.Event] = {}
        """Methods that wait for an event before they do anything."""
        self._changed = asyncio.Event()
        self._loops: dict[str, str] = {}
        self.socket = directory / "csi.sock"
        self._server = Server(self.socket, {"csi.v1.Node": self._methods()})

    def _methods(self) -> dict[str, Any]:
        table: dict[str, tuple[Any, Any]] = {
            "NodeGetInfo": (csi.NodeGetInfoRequest, self._info),
            "NodeGetCapabilities": (csi.NodeGetCapabilitiesRequest, self._capabilities),
            "NodeStageVolume": (csi.NodeStageVolumeRequest, self._stage),
            "NodeUnstageVolume": (csi.NodeUnstageVolumeRequest, self._unstage),
            "NodePublishVolume": (csi.NodePublishVolumeRequest, self._publish),
            "NodeUnpublishVolume": (csi.NodeUnpublishVolumeRequest, self._unpublish),
            "NodeGetVolumeStats": (csi.NodeGetVolumeStatsRequest, self._stats),
            "NodeExpandVolume": (csi.NodeExpandVolumeRequest, self._expand),
        }
        return {
            name: unary(self._recorded(name, act), request)
            for name, (request, act) in table.items()
        }

    def _recorded(self, name: str, act: Callable[[Any], Message]) -> Any:
        async def method(request: Any, context: grpc.aio.ServicerContext) -> Message:
            self.calls.append(Call(name, request))
            self._changed.set()
            if name in self.hangs:
                await self.hangs[name].wait()
            if self.failures.get(name):
                code, text = self.failures[name].pop(0)
                await context.abort(code, text)
            return await asyncio.to_thread(act, request)

        return method

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._server.stop()

    def registrar(
        self, plugins_registry: Path, *, versions: tuple[str, ...] = ("1.0.0",)
    ) -> Registrar:
        info = registration.PluginInfo(
            type="CSIPlugin",
            name=self.name,
            endpoint=str(self.socket),
            supported_versions=versions,
        )
        return Registrar(plugins_registry / f"{self.name}-reg.sock", info)

    # What tests ask

    def of(self, method: str) -> list[Call]:
        return [call for call in self.calls if call.method == method]

    def volume_calls(self, volume_id: str) -> list[str]:
        """The methods that were called for a volume, in their order."""
        return [
            call.method.removeprefix("Node").removesuffix("Volume")
            for call in self.calls
            if getattr(call.request, "volume_id", None) == volume_id
        ]

    async def called(self, method: str, times: int = 1, seconds: float = 60.0) -> Call:
        """Waits until a method was called so often; the latest call."""
        async with asyncio.timeout(seconds):
            while len(self.of(method)) < times:
                self._changed.clear()
                await self._changed.wait()
        return self.of(method)[-1]

    def data(self, volume_id: str) -> Path:
        return self.directory / "data" / volume_id

    # The node service

    def _info(self, request: Message) -> Message:
        topology = None if self.topology is None else csi.Topology(segments=self.topology)
        return csi.NodeGetInfoResponse(
            node_id=self.node_id, max_volumes_per_node=self.limit, accessible_topology=topology
        )

    def _capabilities(self, request: Message) -> Message:
        return csi.NodeGetCapabilitiesResponse(
            capabilities=[
                csi.NodeServiceCapability(rpc=Capability(type=each))  # type: ignore[arg-type]
                for each in sorted(self.capabilities)
            ]
        )

    def _stage(self, request: csi.NodeStageVolumeRequest) -> Message:
        data, target = self.data(request.volume_id), Path(request.staging_target_path)
        if request.volume_capability.HasField("block"):
            data.parent.mkdir(parents=True, exist_ok=True)
            if not data.exists():
                data.write_bytes(b"\0" * (1 << 20))
        else:
            data.mkdir(parents=True, exist_ok=True)
            _bind(data, target)
        return csi.NodeStageVolumeResponse()

    def _unstage(self, request: csi.NodeUnstageVolumeRequest) -> Message:
        _unbind(Path(request.staging_target_path))
        return csi.NodeUnstageVolumeResponse()

    def _publish(self, request: csi.NodePublishVolumeRequest) -> Message:
        data, target = self.data(request.volume_id), Path(request.target_path)
        if request.volume_capability.HasField("block"):
            device = self.loop_device(data)
            target.touch()
            _bind(Path(device), target)
            return csi.NodePublishVolumeResponse()
        if not data.exists():
            data.mkdir(parents=True)
        (data / "context.json").write_text(json.dumps(dict(request.volume_context)))
        target.mkdir(exist_ok=True)
        _bind(Path(request.staging_target_path) if request.staging_target_path else data, target)
        if request.readonly:
            subprocess.run(["mount", "-o", "remount,bind,ro", str(target)], check=True)
        return csi.NodePublishVolumeResponse()

    def loop_device(self, data: Path) -> str:
        """What a block volume is shown as."""
        done = subprocess.run(
            ["losetup", "--find", "--show", str(data)], check=True, capture_output=True, text=True
        )
        self._loops[str(data)] = done.stdout.strip()
        return self._loops[str(data)]

    def _unpublish(self, request: csi.NodeUnpublishVolumeRequest) -> Message:
        target = Path(request.target_path)
        _unbind(target)
        loop = self._loops.pop(str(self.data(request.volume_id)), None)
        if loop is not None:
            subprocess.run(["losetup", "--detach", loop], check=True)
        if target.is_dir():
            target.rmdir()
        else:
            target.unlink(missing_ok=True)
        return csi.NodeUnpublishVolumeResponse()

    def _stats(self, request: csi.NodeGetVolumeStatsRequest) -> Message:
        unit = csi.VolumeUsage
        return csi.NodeGetVolumeStatsResponse(
            usage=[
                csi.VolumeUsage(available=700, total=1000, used=300, unit=unit.BYTES),
                csi.VolumeUsage(available=9, total=10, used=1, unit=unit.INODES),
            ]
        )

    def _expand(self, request: csi.NodeExpandVolumeRequest) -> Message:
        return csi.NodeExpandVolumeResponse(capacity_bytes=request.capacity_range.required_bytes)


def _is_mounted(path: Path) -> bool:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split(" ", 5)[4] == str(path) for line in lines)


def _bind(source: Path, target: Path) -> None:
    if not _is_mounted(target):
        subprocess.run(["mount", "--bind", str(source), str(target)], check=True)


def _unbind(target: Path) -> None:
    while _is_mounted(target):
        subprocess.run(["umount", str(target)], check=True)
