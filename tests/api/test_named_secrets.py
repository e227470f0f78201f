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
from navarch.api.objects import Object, to_object
from navarch.api.types.core_v1 import Secret, Service
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.apiserver.server import Server
from navarch.client.clock import RealClock
from navarch.client.informer import InformerFactory
from navarch.cluster.gateway_addon import gateway_objects
from navarch.cluster.ingress_addon import ingress_objects
from navarch.network.gateway import MANAGER
from navarch.network.gateway.listeners import GatewayState, ListenerState
from navarch.network.gateway.objects import Gateway, GatewaySpec, Listener
from navarch.network.gateway.publish import service_of
from navarch.network.nginx.publish import Place, slices_of
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


SERVICES = "/api/v1/namespaces/infra/services"
SLICES = "/apis/discovery.k8s.io/v1/namespaces/infra/endpointslices"


async def written(api: Api, collection: str, value: Object, verb: str = "PATCH") -> int:
    """The status when the gateway applies an object, or deletes it."""
    path = f"{collection}/{value['metadata']['name']}"
    if verb == "DELETE":
        return (await api.request(verb, path, user=GATEWAY_USER)).status
    path += "?fieldManager=navarch-gateway&force=true"
    kind = "application/apply-patch+yaml"
    return (await api.request(verb, path, value, content_type=kind, user=GATEWAY_USER)).status


async def test_only_what_gateways_need_is_written(ready: Api) -> None:
    """As the controller makes them; and neither others' Services and slices, nor slices that would
    lead another Service's clients away, nor Services with addresses of somebody else."""
    meta = ObjectMeta(name="gw", namespace="infra", uid="u1")
    state = GatewayState(Gateway(metadata=meta, spec=GatewaySpec(gatewayClassName="navarch")))
    state.listeners = [ListenerState(Listener(name="http", port=80, protocol="HTTP"))]
    made = service_of(state)
    assert made is not None
    service = to_object(made) | {"apiVersion": "v1", "kind": "Service"}
    shop = {
        **{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "shop"}},
        "spec": {"ports": [{"port": 80}], "selector": {"app": "shop"}},
    }
    (await ready.post(SERVICES, shop, **ROOT)).ok()

    def slice_of(of: str, name: str = "", manager: str = MANAGER) -> Object:
        place = Place("n1", ("10.0.0.1",))
        (found,) = slices_of(Service(metadata=ObjectMeta(name=of, uid="u2")), place, {}, manager)
        value = to_object(found) | {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice"}
        value["metadata"]["name"] = name or value["metadata"]["name"]
        return value

    async def refuses_others() -> bool:
        """New policies are in force after a moment."""
        return await written(ready, SERVICES, shop | {"metadata": {"name": "other"}}) == 403

    await eventually(refuses_others, "the policies are in force")
    assert await written(ready, SERVICES, service) == 201
    assert await written(ready, SLICES, slice_of("gw-navarch")) == 201
    assert await written(ready, SLICES, slice_of("gw-navarch")) == 200
    with_address = {**service, "spec": service["spec"] | {"externalIPs": ["10.9.9.9"]}}
    with_pods = {**service, "spec": service["spec"] | {"selector": {"app": "shop"}}}
    inward = {**service, "spec": {"ports": [{"port": 53}]}}
    unmarked = {**service, "metadata": {"name": "another"}}
    for value in (with_address, with_pods, inward, unmarked, shop):
        assert await written(ready, SERVICES, value) == 403, value
    taken_over = {**service, "metadata": service["metadata"] | {"name": "shop"}}
    assert await written(ready, SERVICES, taken_over) == 403
    for each in (
        slice_of("shop"),
        slice_of("shop", "gw-navarch-ipv4-n1"),
        slice_of("gw-navarch", "gw-navarch-x"),
        slice_of("gw-navarch", "gw-navarch-ipv4-n2", manager="endpointslice-controller.k8s.io"),
    ):
        assert await written(ready, SLICES, each) == 403, each
    theirs = slice_of("gw-navarch", "of-another", manager="endpointslice-controller.k8s.io")
    (await ready.post(SLICES, theirs, **ROOT)).ok()
    assert await written(ready, SLICES, theirs, "DELETE") == 403
    assert await written(ready, SERVICES, shop, "DELETE") == 403
    # What a user puts in does not keep the gateway from its work, or its work from ending.
    added = {"spec": {"externalIPs": ["10.9.9.9"]}}
    path = f"{SERVICES}/gw-navarch"
    (await ready.request("PATCH", path, added, content_type=MERGE, **ROOT)).ok()
    service["metadata"]["labels"]["more"] = "true"
    assert await written(ready, SERVICES, service) == 200
    assert await written(ready, SLICES, slice_of("gw-navarch"), "DELETE") == 200
    assert await written(ready, SERVICES, service, "DELETE") == 200
