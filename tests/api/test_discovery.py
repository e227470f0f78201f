"""What clients find out about the server before they ask for anything."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.api.conftest import Api
from tests.api.extension_server import AGGREGATED
from tests.api.test_custom_resources import DEFINITIONS, define, definition

Object = dict[str, Any]

EXPECTED = [
    ("", "v1", "pods"),
    ("", "v1", "namespaces"),
    ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "v1", "apiservices"),
    ("apps", "v1", "deployments"),
    ("authentication.k8s.io", "v1", "tokenreviews"),
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews"),
    ("autoscaling", "v1", "horizontalpodautoscalers"),
    ("autoscaling", "v2", "horizontalpodautoscalers"),
    ("batch", "v1", "jobs"),
    ("certificates.k8s.io", "v1", "certificatesigningrequests"),
    ("coordination.k8s.io", "v1", "leases"),
    ("discovery.k8s.io", "v1", "endpointslices"),
    ("events.k8s.io", "v1", "events"),
    ("networking.k8s.io", "v1", "ingresses"),
    ("node.k8s.io", "v1", "runtimeclasses"),
    ("policy", "v1", "poddisruptionbudgets"),
    ("scheduling.k8s.io", "v1", "priorityclasses"),
    ("storage.k8s.io", "v1", "csinodes"),
]


async def aggregated(api: Api, form: str = "v2") -> set[tuple[str, str, str]]:
    """Everything in the aggregated documents."""
    found = set()
    for path in ("/api", "/apis"):
        answer = await api.get(path, headers={"Accept": AGGREGATED.format(form)})
        assert answer.headers["Content-Type"] == AGGREGATED.format(form)
        document = answer.ok()
        assert document["apiVersion"] == f"apidiscovery.k8s.io/{form}"
        for group in document["items"]:
            name = group["metadata"].get("name", "")
            for version in group["versions"]:
                assert version["freshness"] == "Current"
                for resource in version["resources"]:
                    found.add((name, version["version"], resource["resource"]))
    return found


@pytest.mark.conformance(
    "AggregatedDiscovery should support aggregated discovery interface",
    "AggregatedDiscovery should support raw aggregated discovery endpoint Accept headers",
)
@pytest.mark.parametrize("form", ["v2", "v2beta1"])
async def test_everything_at_once(api: Api, form: str) -> None:
    found = await aggregated(api, form)
    assert set(EXPECTED) <= found


@pytest.mark.conformance(
    "AggregatedDiscovery should support aggregated discovery interface for CRDs",
    "AggregatedDiscovery should support raw aggregated discovery request for CRDs",
)
async def test_custom_resources_at_once(api: Api) -> None:
    before = (await api.get("/apis", headers={"Accept": AGGREGATED.format("v2")})).headers["ETag"]
    await define(api)
    assert ("ex.io", "v1", "foos") in await aggregated(api)
    headers = {"Accept": AGGREGATED.format("v2"), "If-None-Match": before}
    again = await api.get("/apis", headers=headers)
    assert again.status == 200
    headers["If-None-Match"] = again.headers["ETag"]
    assert (await api.get("/apis", headers=headers)).status == 304
    (await api.delete(f"{DEFINITIONS}/{definition()['metadata']['name']}")).ok()
    async with asyncio.timeout(60):
        while ("ex.io", "v1", "foos") in await aggregated(api):  # noqa: ASYNC110 - only a document
            await asyncio.sleep(0.02)


@pytest.mark.conformance(
    "Discovery should validate PreferredVersion for each APIGroup",
    "Discovery should locate the groupVersion and a resource within each APIGroup",
)
async def test_group_by_group(api: Api) -> None:
    groups = (await api.get("/apis")).ok()["groups"]
    assert {name for name, _, _ in EXPECTED if name} <= {each["name"] for each in groups}
    for group in groups:
        single = (await api.get(f"/apis/{group['name']}/")).ok()
        assert single["kind"] == "APIGroup"
        assert {key: single[key] for key in group} == group
        assert group["preferredVersion"] == group["versions"][0]
        for version in group["versions"]:
            assert version["groupVersion"] == f"{group['name']}/{version['version']}"
            resources = (await api.get(f"/apis/{version['groupVersion']}")).ok()
            assert resources["kind"] == "APIResourceList"
            assert resources["groupVersion"] == version["groupVersion"]
            assert resources["resources"]
