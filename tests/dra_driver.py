"""A DRA driver as vendors write them: it registers with the kubelet, publishes its devices,
prepares those of claims and describes them to the runtime by CDI files."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import grpc
from tests.csi_driver import Registrar, Server, unary

from navarch.api.objects import from_object
from navarch.api.types.resource_v1 import ResourceClaim, ResourceSlice
from navarch.client import Client
from navarch.node import pluginregistration_pb2 as registration
from navarch.node.dra import dra_pb2 as pb
from navarch.node.dra import drahealth_pb2 as health_pb

SERVICE = "k8s.io.kubelet.pkg.apis.dra."
DRIVER = "gpu.example.com"


@dataclass
class DraDriver:
    """Runs in the test's process, talks through sockets only. Its devices are variables."""

    client: Client
    directory: Path
    cdi: Path
    node: str
    version: str = "v1"
    fails: str = ""
    """What preparing fails with, if anything."""
    calls: list[tuple[str, list[str]]] = field(default_factory=list)
    """Methods and the names of the claims they were called for."""
    health: dict[str, str] = field(default_factory=dict)
    edits: dict[str, Any] = field(default_factory=dict)
    """Further edits of every device."""
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        methods = {
            "NodePrepareResources": unary(self._prepare, pb.NodePrepareResourcesRequest),
            "NodeUnprepareResources": unary(self._unprepare, pb.NodeUnprepareResourcesRequest),
        }
        watch = grpc.unary_stream_rpc_method_handler(
            self._watch,
            request_deserializer=health_pb.NodeWatchResourcesRequest.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        services: dict[str, dict[str, Any]] = {f"{SERVICE}{self.version}.DRAPlugin": methods}
        if self.health:
            services["v1alpha1.DRAResourceHealth"] = {"NodeWatchResources": watch}
        self._server = Server(self.directory / "dra.sock", services)

    async def __aenter__(self) -> Self:
        await self._server.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._server.stop()

    def registrar(self, plugins_registry: Path) -> Registrar:
        info = registration.PluginInfo(
            type="DRAPlugin",
            name=DRIVER,
            endpoint=str(self._server.path),
            supported_versions=[f"{self.version}.DRAPlugin"],
        )
        return Registrar(plugins_registry / f"{DRIVER}-reg.sock", info)

    async def publish(self, *devices: str) -> None:
        pool = {"name": self.node, "generation": 1, "resourceSliceCount": 1}
        spec = {
            "driver": DRIVER,
            "nodeName": self.node,
            "pool": pool,
            "devices": [{"name": name} for name in devices],
        }
        made = from_object(ResourceSlice, {"metadata": {"name": "gpus"}, "spec": spec})
        await self.client.resource(ResourceSlice).create(made)

    async def tell(self, **devices: str) -> None:
        self.health |= devices
        async with self._changed:
            self._changed.notify_all()

    async def _prepare(
        self, request: pb.NodePrepareResourcesRequest, context: Any
    ) -> pb.NodePrepareResourcesResponse:
        self.calls.append(("prepare", [each.name for each in request.claims]))
        answer = pb.NodePrepareResourcesResponse()
        for each in request.claims:
            if self.fails:
                answer.claims[each.uid].error = self.fails
                continue
            claims = self.client.resource(ResourceClaim)
            claim = await claims.get(each.name, each.namespace)
            assert claim.metadata.uid == each.uid and claim.status.allocation is not None
            for result in claim.status.allocation.devices.results:
                name = f"{DRIVER}/gpu={each.uid}-{result.device}"
                answer.claims[each.uid].devices.add(
                    request_names=[result.request.partition("/")[0]],
                    pool_name=result.pool,
                    device_name=result.device,
                    cdi_device_ids=[name],
                )
            self._describe(claim)
        return answer

    def _describe(self, claim: ResourceClaim) -> None:
        assert claim.status.allocation is not None
        uid = claim.metadata.uid
        devices = []
        for result in claim.status.allocation.devices.results:
            variable = f"GPU_{result.request.upper()}={result.device}"
            edits = {"env": [variable], **self.edits}
            devices.append({"name": f"{uid}-{result.device}", "containerEdits": edits})
        spec = {"cdiVersion": "0.5.0", "kind": f"{DRIVER}/gpu", "devices": devices}
        self.cdi.mkdir(parents=True, exist_ok=True)
        (self.cdi / f"{uid}.json").write_text(json.dumps(spec))

    async def _unprepare(
        self, request: pb.NodeUnprepareResourcesRequest, context: Any
    ) -> pb.NodeUnprepareResourcesResponse:
        self.calls.append(("unprepare", [each.name for each in request.claims]))
        answer = pb.NodeUnprepareResourcesResponse()
        for each in request.claims:
            (self.cdi / f"{each.uid}.json").unlink(missing_ok=True)
            answer.claims[each.uid].SetInParent()
        return answer

    async def _watch(
        self, request: Any, context: Any
    ) -> AsyncIterator[health_pb.NodeWatchResourcesResponse]:
        while True:
            answer = health_pb.NodeWatchResourcesResponse()
            for name, state in self.health.items():
                answer.devices.add(
                    device=health_pb.DeviceIdentifier(pool_name=self.node, device_name=name),
                    health=health_pb.HealthStatus.Value(state),
                    message="" if state == "HEALTHY" else "overheated",
                    health_check_timeout_seconds=60,
                )
            yield answer
            async with self._changed:
                await self._changed.wait()
