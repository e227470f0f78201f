"""Services whose endpoints cannot be written."""

from __future__ import annotations

from pathlib import Path

from tests.api.conftest import secured_server

from navarch.api.types.core_v1 import (
    Event,
    ResourceQuota,
    ResourceQuotaSpec,
    Service,
    ServicePort,
    ServiceSpec,
)
from navarch.api.types.meta_v1 import ObjectMeta

from .conftest import client_as, eventually, make_namespace, running

SPACE = "full"
CONTROLLERS = ("endpoints", "endpointslice", "serviceaccount", "resourcequota")


async def test_it_is_told_when_endpoints_are_refused(tmp_path: Path) -> None:
    async with (
        secured_server(tmp_path) as server,
        client_as(server, "root", "system:masters") as client,
        running(client, *CONTROLLERS),
    ):
        await make_namespace(client, SPACE)
        meta = ObjectMeta(name="none", namespace=SPACE)
        hard = {"count/endpoints": "0", "count/endpointslices.discovery.k8s.io": "0"}
        quotas = client.resource(ResourceQuota)
        await quotas.create(ResourceQuota(metadata=meta, spec=ResourceQuotaSpec(hard=hard)))

        async def is_counted() -> bool:
            return (await quotas.get("none", SPACE)).status.hard == hard

        await eventually(is_counted, "the quota")
        spec = ServiceSpec(selector={"app": "web"}, ports=[ServicePort(port=80)])
        meta = ObjectMeta(name="web", namespace=SPACE)
        await client.resource(Service).create(Service(metadata=meta, spec=spec))

        async def is_told() -> bool:
            events = (await client.resource(Event).list(SPACE)).items
            told = {each.reason: each.message for each in events}
            beginning = "Failed to create endpoint for service full/web: "
            assert told["FailedToCreateEndpoint"].startswith(beginning)
            assert "exceeded quota: none" in told["FailedToUpdateEndpointSlices"]
            return True

        await eventually(is_told, "the events")
