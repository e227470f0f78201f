"""Ingress and Gateway controllers read the Secrets that Ingresses and Gateways name; nobody's
credentials on a node read others."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.api.conftest import Api
from tests.api.controllers.conftest import client_as, eventually
from tests.unit.network.gateways import gateway, grant, listener

from navarch.api.errors import ApiError
from navarch.api.named_secrets import ANNOTATION_PREFIX, GATEWAY_USER, INGRESS_USER
from navarch.api.types.core_v1 import Secret
from navarch.apiserver.server import Server
from navarch.client.clock import RealClock
from navarch.client.informer import InformerFactory
from navarch.cluster.gateway_addon import gateway_objects
from navarch.cluster.ingress_addon import ingress_objects
from navarch.network.nginx.secrets import Secrets

pytestmark = pytest.mark.secured

ROOT: Any = {"user": "root", "groups": "system:masters"}
NODE = {"user": "system:node:n1", "groups": "system:nodes"}
PROXY = {"user": "system:kube-proxy"}
INGRESS, GATEWAY = {"user": INGRESS_USER}, {"user": GATEWAY_USER}
GATEWAY_API = "/apis/gateway.networking.k8s.io"
INGRESSES = "/apis/networking.k8s.io/v1/namespaces/infra/ingresses"
MERGE = "application/merge-patch+json"
NAMESPACES = ("infra", "web")


@pytest.fixture
async def ready(api: Api) -> Api:
    """Secrets `a`, `b`, `c` in two namespaces, and both addons' rights."""
    for name in NAMESPACES:
        (await api.post("/api/v1/namespaces", {"metadata": {"name": name}}, **ROOT)).ok()
        for secret in "abc":
            body = {"metadata": {"name": secret}, "stringData": {"k": "v"}}
            (await api.post(f"/api/v1/namespaces/{name}/secrets", body, **ROOT)).ok()
    for collection, value in (*ingress_objects(), *gateway_objects()):
        path = f"{collection}/{value['metadata']['name']}?fieldManager=test&force=true"

        async def applied(path: str = path, value: Any = value) -> bool:
            kind = "application/apply-patch+yaml"
            answer = await api.request("PATCH", path, value, content_type=kind, **ROOT)
            return answer.status < 300

        await eventually(applied, path)
    return api


async def readable(api: Api, who: dict[str, str]) -> list[str]:
    """What somebody can get and list by its name; what cannot be read cannot be watched either."""
    found = []
    assert (await api.get("/api/v1/secrets", **who)).status == 403
    for namespace in NAMESPACES:
        path = f"/api/v1/namespaces/{namespace}/secrets"
        assert (await api.get(path, **who)).status == 403
        for name in "abc":
            listed = f"{path}?fieldSelector=metadata.name={name}"
            if (await api.get(f"{path}/{name}", **who)).status == 200:
                assert (await api.get(listed, **who)).status == 200
                found.append(f"{namespace}/{name}")
                continue
            for each in (f"{path}/{name}", listed, f"{listed}&watch=1"):
                assert (await api.get(each, **who)).status == 403, each
    return found


def ingress(*tls: str, **annotations: str) -> dict[str, Any]:
    named = {
        f"{ANNOTATION_PREFIX}{key.replace('_', '-')}": text for key, text in annotations.items()
    }
    return {
        "metadata": {"name": "web", "annotations": named},
        "spec": {
            "defaultBackend": {"service": {"name": "x", "port": {"number": 80}}},
            "tls": [{"secretName": each} for each in tls],
        },
    }


async def test_of_ingresses(ready: Api) -> None:
    assert await readable(ready, INGRESS) == []
    made = ingress("a", auth_secret="infra/b", auth_tls_secret="web/c")
    (await ready.post(INGRESSES, made, **ROOT)).ok()
    assert await readable(ready, INGRESS) == ["infra/a", "infra/b"]
    for others in (GATEWAY, NODE, PROXY):
        assert await readable(ready, others) == []
    # A second one that names the same, and then only one that names another.
    second = ingress("a", proxy_ssl_secret="c") | {"metadata": {"name": "second"}}
    (await ready.post(INGRESSES, second, **ROOT)).ok()
    (await ready.request("DELETE", f"{INGRESSES}/second", **ROOT)).ok()
    assert await readable(ready, INGRESS) == ["infra/a", "infra/b"]
    (await ready.request("PUT", f"{INGRESSES}/web", ingress(proxy_ssl_secret="c"), **ROOT)).ok()
    assert await readable(ready, INGRESS) == ["infra/c"]
    (await ready.request("DELETE", f"{INGRESSES}/web", **ROOT)).ok()
    assert await readable(ready, INGRESS) == []


async def test_of_gateways(ready: Api) -> None:
    there = {"name": "a", "namespace": "web"}
    certificates = ["b", there, {"name": "c", "kind": "ConfigMap"}]
    made = gateway("gateway", listener("https", 443, protocol="HTTPS", certificates=certificates))
    (await ready.post(f"{GATEWAY_API}/v1/namespaces/infra/gateways", made, **ROOT)).ok()
    assert await readable(ready, GATEWAY) == ["infra/b"]
    assert await readable(ready, INGRESS) == await readable(ready, NODE) == []
    grants = f"{GATEWAY_API}/v1beta1/namespaces/web/referencegrants"
    for name, options in {
        "of-routes": {"kind": "HTTPRoute", "of": "infra", "to": "Secret"},
        "of-others": {"kind": "Gateway", "of": "app", "to": "Secret"},
        "to-others": {"kind": "Gateway", "of": "infra", "to": "Service"},
        "to-another": {"kind": "Gateway", "of": "infra", "to": "Secret", "to_name": "b"},
    }.items():
        (await ready.post(grants, grant(name, "web", **options), **ROOT)).ok()
    assert await readable(ready, GATEWAY) == ["infra/b"]
    right = grant("right", "web", kind="Gateway", of="infra", to="Secret")
    (await ready.post(grants, right, **ROOT)).ok()
    assert await readable(ready, GATEWAY) == ["infra/b", "web/a"]


async def test_who_follows_a_secret_sees_it_change(ready: Api, api_server: Server) -> None:
    (await ready.post(INGRESSES, ingress("a"), **ROOT)).ok()
    changed = asyncio.Event()
    async with client_as(api_server, INGRESS_USER) as client:
        informers = InformerFactory(client)
        secrets = Secrets(informers, RealClock(), lambda *_: changed.set())
        await secrets.follow({"infra/a"})
        assert secrets.get("infra/a") is not None
        changed.clear()
        path = "/api/v1/namespaces/infra/secrets/a"
        body = {"stringData": {"k": "new"}}
        (await ready.request("PATCH", path, body, content_type=MERGE, **ROOT)).ok()
        async with asyncio.timeout(20):
            await changed.wait()
        found = secrets.get("infra/a")
        assert found is not None and found.data["k"] != "dg=="
        with pytest.raises(ApiError) as refused:
            await client.resource(Secret).list("infra")
        assert refused.value.status == 403
        assert "only what Ingresses and Gateways name can be read" in refused.value.message
        await informers.stop()
