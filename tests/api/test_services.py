"""Addresses and node ports of Services, and the server's own Service."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from tests.api.conftest import Api, running_server

from navarch.apiserver.options import ServerOptions

Object = dict[str, Any]
PATH = "/api/v1/namespaces/default/services"
ADDRESSES = "/apis/networking.k8s.io/v1/ipaddresses"


def service(name: str, **spec: Any) -> Object:
    ports = [{"port": 80}]
    return {"metadata": {"name": name}, "spec": {"ports": ports, "selector": {"a": "b"}, **spec}}


async def addresses(api: Api) -> set[str]:
    return {each["metadata"]["name"] for each in (await api.get(ADDRESSES)).ok()["items"]}


async def test_an_address_lives_as_long_as_its_service(api: Api) -> None:
    made = (await api.post(PATH, service("a"))).ok(201)["spec"]
    assert made["clusterIPs"] == [made["clusterIP"]]
    assert made["clusterIP"].startswith("10.96.")
    assert made["clusterIP"] in await addresses(api)
    taken = await api.post(PATH, service("b", clusterIP=made["clusterIP"]))
    assert taken.status == 422
    assert "already allocated" in taken.json["message"]
    async with api.watch(ADDRESSES + "?watch=1&resourceVersion=0") as events:
        await api.delete(f"{PATH}/a")
        async with asyncio.timeout(60):
            async for event in events:
                if event["type"] == "DELETED":
                    assert event["object"]["metadata"]["name"] == made["clusterIP"]
                    break
    (await api.post(PATH, service("b", clusterIP=made["clusterIP"]))).ok(201)


async def test_refused_services_keep_nothing(api: Api) -> None:
    before = await addresses(api)
    refused = await api.post(PATH, service("a", type="NodePort", ports=[{"port": 0}]))
    assert refused.status == 422
    (await api.post(PATH + "?dryRun=All", service("b"))).ok(201)
    assert (await api.post(PATH, service("c", clusterIP="192.168.1.1"))).status == 422
    assert await addresses(api) == before


async def test_node_ports(api: Api) -> None:
    ports = [
        {"name": "a", "port": 53, "protocol": "TCP"},
        {"name": "b", "port": 53, "protocol": "UDP"},
        {"name": "c", "port": 80, "nodePort": 30080},
    ]
    made = (await api.post(PATH, service("a", type="NodePort", ports=ports))).ok(201)
    numbers = [each["nodePort"] for each in made["spec"]["ports"]]
    assert numbers[0] == numbers[1] != numbers[2] == 30080
    again = service("b", type="NodePort", ports=[{"port": 80, "nodePort": 30080}])
    taken = await api.post(PATH, again)
    cause = taken.json["details"]["causes"][0]
    assert (taken.status, cause["field"]) == (422, "spec.ports[0].nodePort")
    plain = (await api.patch(f"{PATH}/a", {"spec": {"type": "ClusterIP"}})).ok()
    assert not any("nodePort" in each for each in plain["spec"]["ports"])
    (await api.post(PATH, again)).ok(201)


async def test_changes_of_type(api: Api) -> None:
    made = (await api.post(PATH, service("a"))).ok(201)
    external = {"spec": {"type": "ExternalName", "externalName": "ex.io"}}
    changed = (await api.patch(f"{PATH}/a", external)).ok()
    assert "clusterIP" not in changed["spec"]
    assert made["spec"]["clusterIP"] not in await addresses(api)
    back = (
        await api.patch(f"{PATH}/a", {"spec": {"type": "ClusterIP", "externalName": None}})
    ).ok()
    assert back["spec"]["clusterIP"] in await addresses(api)


@pytest.mark.conformance(
    "API Server should provide secure master service",
    "Services should find a service from listing all namespaces",
)
async def test_the_servers_own_service(api: Api) -> None:
    own = (await api.get(f"{PATH}/kubernetes")).ok()
    (port,) = own["spec"]["ports"]
    assert (port["name"], port["port"]) == ("https", 443)
    everywhere = (await api.get("/api/v1/services")).ok()["items"]
    assert own["metadata"] in [each["metadata"] for each in everywhere]
    assert own["spec"]["clusterIP"] == "10.96.0.1"
    assert own["spec"]["ports"][0]["targetPort"] == api.server.port
    ranges = (await api.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes")).ok()
    assert ranges["spec"]["cidrs"] == ["10.96.0.0/16"]
    assert ranges["status"]["conditions"][0]["type"] == "Ready"


@pytest.mark.conformance(
    "API Server should have Endpoints and EndpointSlices pointing to API Server"
)
async def test_the_servers_own_endpoints() -> None:
    options = ServerOptions(port=0, advertise_address="192.0.2.7")
    async with running_server(options=options) as server, aiohttp.ClientSession() as session:
        api = Api(server, session)
        subsets = (await api.get("/api/v1/namespaces/default/endpoints/kubernetes")).ok()["subsets"]
        port = {"name": "https", "port": server.port, "protocol": "TCP"}
        assert subsets == [{"addresses": [{"ip": "192.0.2.7"}], "ports": [port]}]
        path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
        (own,) = (await api.get(path)).ok()["items"]
        assert own["metadata"]["labels"]["kubernetes.io/service-name"] == "kubernetes"
        assert [each["addresses"] for each in own["endpoints"]] == [["192.0.2.7"]]
        assert own["ports"] == [port]


DUAL = ServerOptions(port=0, service_cidr="10.96.0.0/16,fd00:96::/112")


async def test_two_families() -> None:
    async with running_server(options=DUAL) as server, aiohttp.ClientSession() as session:
        api = Api(server, session)
        own = (await api.get(f"{PATH}/kubernetes")).ok()["spec"]
        assert (own["ipFamilyPolicy"], own["clusterIPs"]) == ("SingleStack", ["10.96.0.1"])
        ranges = (await api.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes")).ok()
        assert ranges["spec"]["cidrs"] == ["10.96.0.0/16", "fd00:96::/112"]
        made = (await api.post(PATH, service("a", ipFamilyPolicy="PreferDualStack"))).ok(201)
        four, six = made["spec"]["clusterIPs"]
        assert four.startswith("10.96.") and six.startswith("fd00:96::")
        assert made["spec"]["ipFamilies"] == ["IPv4", "IPv6"]
        assert {four, six} <= await addresses(api)
        records = (await api.get(f"{ADDRESSES}/{six}")).ok()
        labels = {"ip-family": "IPv6", "managed-by": "ipallocator.k8s.io"}
        prefixed = {f"ipaddress.kubernetes.io/{key}": value for key, value in labels.items()}
        assert records["metadata"]["labels"] == prefixed
        single = {"spec": {"ipFamilyPolicy": "SingleStack"}}
        less = (await api.patch(f"{PATH}/a", single)).ok()["spec"]
        assert less["clusterIPs"] == [four]
        assert six not in await addresses(api)
        more = {"spec": {"ipFamilyPolicy": "RequireDualStack", "clusterIPs": [four, six]}}
        assert (await api.patch(f"{PATH}/a", more)).ok()["spec"]["clusterIPs"] == [four, six]
        gone = await api.patch(f"{PATH}/a", {"spec": {"clusterIPs": [four]}})
        assert gone.status == 422
        assert "must be 'SingleStack' to release the secondary cluster IP" in gone.json["message"]
        other = await api.patch(f"{PATH}/a", {"spec": {"clusterIPs": [four, "fd00:96::77"]}})
        assert "may not change once set" in other.json["message"]


async def test_an_address_is_free_when_the_deletion_is_answered(api: Api) -> None:
    ports = [{"port": 80, "nodePort": 30080}]
    chosen = service("a", type="NodePort", ports=ports, clusterIP="10.96.7.7")
    endpoints = {"metadata": {"name": "a"}, "subsets": [{"addresses": [{"ip": "10.0.0.1"}]}]}
    for _ in range(3):
        (await api.post(PATH, chosen)).ok(201)
        (await api.post("/api/v1/namespaces/default/endpoints", endpoints)).ok(201)
        (await api.delete(f"{PATH}/a")).ok()


async def test_an_external_name_takes_nothing(api: Api) -> None:
    ports = [{"port": 80, "nodePort": 30090}]
    spec = {"type": "ExternalName", "externalName": "a.example.com", "ports": ports}
    made = (await api.post(PATH, service("a", **spec, internalTrafficPolicy="Local"))).ok(201)
    assert "internalTrafficPolicy" not in made["spec"]
    (await api.post(PATH, service("b", type="NodePort", ports=ports))).ok(201)
    taken = await api.patch(f"{PATH}/a", {"spec": {"type": "NodePort", "externalName": None}})
    assert "provided port is already allocated" in taken.json["message"]


async def test_health_check_ports(api: Api) -> None:
    local = {"type": "LoadBalancer", "externalTrafficPolicy": "Local"}
    made = (await api.post(PATH, service("a", **local))).ok(201)["spec"]
    port = made["healthCheckNodePort"]
    taken = await api.post(PATH, service("b", **local, healthCheckNodePort=port))
    assert taken.status == 500
    assert f"failed to allocate requested HealthCheck NodePort {port}" in taken.json["message"]
    changed = await api.patch(f"{PATH}/a", {"spec": {"healthCheckNodePort": 31999}})
    assert "spec.healthCheckNodePort: Forbidden: field is immutable" in changed.json["message"]
    plain = {"spec": {"externalTrafficPolicy": "Cluster"}}
    assert "healthCheckNodePort" not in (await api.patch(f"{PATH}/a", plain)).ok()["spec"]
    (await api.post(PATH, service("b", **local, healthCheckNodePort=port))).ok(201)


async def test_metrics(api: Api) -> None:
    (await api.post(PATH, service("a", type="NodePort"))).ok(201)
    chosen = service("b", clusterIP="10.96.0.9")
    (await api.post(PATH + "?dryRun=All", chosen)).ok(201)
    (await api.post(PATH, chosen)).ok(201)
    assert (await api.post(PATH, service("c", clusterIP="10.96.0.9"))).status == 422
    lines = (await api.get("/metrics")).body.decode().splitlines()
    cidr = 'cidr="10.96.0.0/16"'
    for line in (
        f"clusterip_allocator_allocated_ips{{{cidr}}} 3",
        f"clusterip_allocator_available_ips{{{cidr}}} {2**16 - 2 - 3}",
        f'clusterip_allocator_allocation_total{{{cidr},scope="static"}} 2',
        f'clusterip_allocator_allocation_total{{{cidr},scope="dynamic"}} 1',
        f'clusterip_allocator_allocation_errors_total{{{cidr},scope="static"}} 1',
        "nodeport_allocator_allocated_ports 1",
        'nodeport_allocator_allocation_total{scope="dynamic"} 1',
    ):
        assert f"kube_apiserver_{line}" in lines
