"""Services, names and ports between real pods, on one node and on three: the rows of the official
suite's network part that are about packets. Pods on every node are asked what they get."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import aiohttp
import pytest
from tests.cluster.service_ground import (
    HOST_HTTP,
    HOST_PORT,
    LINK,
    NET,
    ONE_OF_NET,
    SPACE,
    TLS_LINK,
    Ground,
    Object,
    Question,
    Stage,
    is_error,
    member,
    playing,
    soon,
    stage,
)
from tests.cluster.three_nodes import marks, three_nodes

__all__ = ["stage", "three_nodes"]
pytestmark = marks

CHECKS = "Networking Granular Checks: Pods should function for "
LINUX = " [LinuxOnly]"
NODE = " [NodeConformance]"
ZONE = f"{SPACE}.svc.cluster.local"
HTTP = {"name": "http", "port": 80}


@pytest.fixture
async def ground(stage: Stage) -> AsyncIterator[Ground]:
    async with playing(stage) as found:
        yield found


@pytest.mark.conformance(
    *(f"{CHECKS}intra-pod communication: {way}{NODE}" for way in ("http", "udp")),
    *(f"{CHECKS}node-pod communication: {way}{LINUX}{NODE}" for way in ("http", "udp")),
)
async def test_pods_and_nodes_reach_pods(ground: Ground) -> None:
    pods = ground.stage.pods
    wanted: dict[Question, object] = {ground.url(pods[name]): name for name in NET}
    wanted |= {("udp", pods[name], 80): name for name in NET}
    wanted |= {ground.url(pods[name], HOST_HTTP): name for name in ground.stage.hosts}
    await ground.expect([*NET, *ground.stage.hosts], wanted)


@pytest.mark.conformance(
    "DNS should provide DNS for the cluster",
    "DNS should provide DNS for services",
    f"DNS should resolve DNS of partial qualified names for services{LINUX}",
    "DNS should provide /etc/hosts entries for the cluster",
    "DNS should provide DNS for pods for Hostname",
    "DNS should provide DNS for pods for Subdomain",
)
async def test_names_of_services_and_pods(ground: Ground) -> None:
    """Asked of the name server of every node, by datagrams and streams, and by the C library."""
    regular = (await ground.service("regular"))["spec"]["clusterIP"]
    await ground.service("headless", clusterIP="None")
    pods = ground.stage.pods
    addresses = sorted(pods[name] for name in NET)
    kubernetes = (await ground.services.get("kubernetes", "default"))["spec"]["clusterIP"]
    forms = ("", f".{SPACE}", f".{SPACE}.svc", f".{ZONE}.")
    names = {
        f"{service}{form}": found
        for form in forms
        for service, found in (("regular", [regular]), ("headless", addresses))
    }
    names |= {f"kubernetes.default{form}": [kubernetes] for form in ("", ".svc")}
    names["kubernetes.default.svc.cluster.local."] = [kubernetes]
    names["dns-querier-1.headless"] = names[f"dns-querier-1.headless.{ZONE}."] = [pods["net-0"]]
    wanted: dict[Question, object] = {("addresses", name): found for name, found in names.items()}
    targets = {f"{pods[name].replace('.', '-')}.headless.{ZONE}." for name in NET[1:]}
    targets.add(f"dns-querier-1.headless.{ZONE}.")
    for way in ("udp", "tcp"):
        wanted |= {("dns", name, "A", way): found for name, found in names.items()}
        for form in forms[1:]:
            wanted["dns", f"_http._tcp.regular{form}", "SRV", way] = partial(
                points, {f"regular.{ZONE}."}
            )
            wanted["dns", f"_http._tcp.headless{form}", "SRV", way] = partial(points, targets)
        wanted["dns", regular, "PTR", way] = [f"regular.{ZONE}."]
        wanted["dns", pods["net-0"], "PTR", way] = [f"dns-querier-1.headless.{ZONE}."]
        wanted["dns", f"regular.{ZONE}.", "AAAA", way] = []
        wanted["dns", f"missing.{ZONE}.", "A", way] = "error: NXDOMAIN"
    await ground.expect(NET, wanted)
    # A pod knows its own name, which no server does.
    await ground.expect(["net-0"], {("addresses", "dns-querier-1"): [pods["net-0"]]})
    unknown: Question = ("dns", f"dns-querier-1.{ZONE}.", "A", "udp")
    await ground.expect(NET, {unknown: "error: NXDOMAIN"})


def points(targets: set[str], answer: Any) -> bool:
    """Whether SRV records are of these hosts, at port 80."""
    parts = [record.split() for record in answer if not is_error(answer)]
    return {part[3] for part in parts} == targets and {part[2] for part in parts} == {"80"}


@pytest.mark.conformance("DNS should support configurable pod DNS nameservers")
async def test_a_pod_chooses_its_name_servers(ground: Ground) -> None:
    """`port-1` searches another namespace than its own."""
    server = ground.stage.machine.profile(ground.stage.profile).dns_address
    (text,) = await ground.ask("port-1", ("file", "/etc/resolv.conf"))
    assert {*text.splitlines()} == {
        f"nameserver {server}",
        "nameserver 192.0.2.53",
        "search default.svc.cluster.local resolv.conf.local",
        "options ndots:2",
    }
    kubernetes = (await ground.services.get("kubernetes", "default"))["spec"]["clusterIP"]
    wanted: dict[Question, object] = {("addresses", "kubernetes"): [kubernetes]}
    await ground.expect(["port-1"], wanted)


@pytest.mark.conformance("API Server should provide secure master service")
async def test_the_api_server_by_its_name(ground: Ground) -> None:
    """Its certificate bears the names by which pods know it."""
    names = ("kubernetes.default", "kubernetes.default.svc.cluster.local")
    wanted: dict[Question, object] = {
        ("api", name): lambda answer: answer.startswith("v1.36.") for name in names
    }
    await ground.expect(NET, wanted)


@pytest.mark.conformance("DNS should provide DNS for ExternalName services")
async def test_another_name_for_an_outer_host(ground: Ground) -> None:
    name = f"outer.{ZONE}."

    async def is_called(*found: str, kind: str = "CNAME") -> None:
        ways = ("udp", "tcp")
        await ground.expect(NET, {("dns", name, kind, way): [*found] for way in ways})

    await ground.service("outer", type="ExternalName", externalName="foo.example.com")
    await is_called("foo.example.com.")
    await ground.update("outer", lambda spec: spec.update(externalName="bar.example.com"))
    await is_called("bar.example.com.")
    changed = await ground.update("outer", to_type("ClusterIP"))
    await is_called(changed["spec"]["clusterIP"], kind="A")


def to_type(kind: str, **fields: Any) -> Any:
    """Changes a Service's type; what the new one does not know is left to the server to drop."""

    def change(spec: Object) -> None:
        if kind != "ExternalName":
            spec.pop("externalName", None)
        spec.update(type=kind, **fields)

    return change


@pytest.mark.conformance(
    *(
        f"Services should be able to change the type from {change}"
        for change in (
            "ExternalName to ClusterIP",
            "ExternalName to NodePort",
            "ClusterIP to ExternalName",
            "NodePort to ExternalName",
        )
    )
)
async def test_types_change(ground: Ground) -> None:
    for name, kind in (("to-cluster", "ClusterIP"), ("to-node", "NodePort")):
        await ground.service(name, type="ExternalName", externalName="example.com")
        changed = await ground.update(name, to_type(kind))
        assert "externalName" not in changed["spec"]
        hosts = [(changed["spec"]["clusterIP"], 80), (f"{name}.{SPACE}", 80)]
        if kind == "NodePort":
            hosts += ground.node_ports(changed)
        await ground.expect(NET, {ground.url(*host): ONE_OF_NET for host in hosts})
    target = changed["spec"]["clusterIP"]
    for name, kind in (("from-cluster", "ClusterIP"), ("from-node", "NodePort")):
        made = await ground.service(name, type=kind)
        old = [(made["spec"]["clusterIP"], 80)]
        if kind == "NodePort":
            old += ground.node_ports(made)
        await ground.expect(NET, {ground.url(*host): ONE_OF_NET for host in old})
        changed = await ground.update(name, to_type("ExternalName", externalName=f"to-node.{ZONE}"))
        gone = {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} & {*changed["spec"]}
        assert not gone
        assert not any("nodePort" in port for port in changed["spec"]["ports"])
        wanted: dict[Question, object] = {
            ("dns", f"{name}.{ZONE}.", "CNAME", "udp"): [f"to-node.{ZONE}."],
            ("addresses", f"{name}.{SPACE}.svc"): [target],
            ground.url(f"{name}.{SPACE}"): ONE_OF_NET,
        }
        wanted |= {ground.url(*host): is_error for host in old[1:]}
        await ground.expect(NET, wanted)


@pytest.mark.conformance("Services should be able to create a functioning NodePort service")
async def test_a_port_on_every_node(ground: Ground) -> None:
    """For pods, for nodes, and for the machine outside of them."""
    udp = {"name": "udp", "port": 80, "protocol": "UDP"}
    made = await ground.service("everywhere", HTTP, udp, type="NodePort")
    address = made["spec"]["clusterIP"]
    wanted: dict[Question, object] = {
        ground.url(*host): ONE_OF_NET for host in [(address, 80), *ground.node_ports(made)]
    }
    udp_port = made["spec"]["ports"][1]["nodePort"]
    wanted["udp", address, 80] = ONE_OF_NET
    wanted |= {("udp", node, udp_port): ONE_OF_NET for node in ground.stage.nodes.values()}
    await ground.expect([*NET, *ground.stage.hosts], wanted)
    await ground.expect(NET, {ground.url(f"everywhere.{SPACE}"): ONE_OF_NET})
    for address, port in ground.node_ports(made):
        async with ground.web.get(f"http://{address}:{port}/hostname") as response:
            assert await response.text() in ONE_OF_NET


AFFINITY = " session affinity work for "
SWITCH = "be able to switch session affinity for "


@pytest.mark.conformance(
    f"Services should have{AFFINITY}NodePort service{LINUX}",
    f"Services should have{AFFINITY}service with type clusterIP{LINUX}",
    f"Services should {SWITCH}NodePort service{LINUX}",
    f"Services should {SWITCH}service with type clusterIP{LINUX}",
)
async def test_clients_stay_with_their_endpoint(ground: Ground) -> None:
    """While it is wished: by the cluster's address, and by a port of each node."""
    made = await ground.service("sticky", type="NodePort", sessionAffinity="ClientIP")
    assert made["spec"]["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
    hosts = [(made["spec"]["clusterIP"], 80), *ground.node_ports(made)]

    async def endpoints(asker: str, host: tuple[str, int]) -> set[str]:
        first = await ground.ask(asker, ground.url(*host))
        return {*first, *await ground.ask(asker, *[ground.url(*host)] * 15)}

    async def all_are(sticky: bool) -> None:
        async def is_so(asker: str, host: tuple[str, int]) -> bool:
            found = await endpoints(asker, host)
            return found <= ONE_OF_NET and (len(found) == 1) == sticky

        what = "stays" if sticky else "changes"
        await asyncio.gather(
            *(
                soon(partial(is_so, asker, host), lambda: f"the endpoint {what}")
                for asker in NET
                for host in hosts
            )
        )

    await all_are(sticky=True)
    for affinity in ("None", "ClientIP", "None"):
        await ground.update("sticky", partial(set_affinity, affinity))
        await all_are(sticky=affinity == "ClientIP")


def set_affinity(affinity: str, spec: Object) -> None:
    spec["sessionAffinity"] = affinity
    if affinity == "None":
        spec.pop("sessionAffinityConfig", None)


@pytest.mark.conformance(
    "Services should serve a basic endpoint from pods",
    "Services should serve multiport endpoints from pods",
)
async def test_endpoints_come_and_go(ground: Ground) -> None:
    """Two Services of the same two pods: one of a number, one of two ports' names of which each pod
    has one."""
    ports = [{"name": f"p{n}", "port": 80 + n, "targetPort": f"door{n}"} for n in (1, 2)]
    basic = await ground.service("basic", selector={"app": "guest"})
    multiport = await ground.service("multiport", *ports, selector={"app": "guest"})
    pods = ground.client.dynamic("", "v1", "pods")
    doors = {"guest-1": ("p1", 8001, 81), "guest-2": ("p2", 8002, 82)}
    there: set[str] = set()

    async def is_served() -> None:
        async def known() -> bool:
            return await ground.endpoints("basic") == {(name, 80) for name in there} and (
                await ground.endpoints("multiport") == {(name, doors[name][1]) for name in there}
            )

        await soon(known, lambda: f"endpoints {there}")
        wanted: dict[Question, object] = {
            ground.url(basic["spec"]["clusterIP"]): frozenset(there) if there else is_error
        }
        for name, (_, _, port) in doors.items():
            url = ground.url(multiport["spec"]["clusterIP"], port)
            wanted[url] = name if name in there else is_error
        await ground.expect(NET, wanted)

    await is_served()
    nodes = [*ground.stage.nodes]
    for number, (name, (_, port, _)) in enumerate(doors.items(), 1):
        node = nodes[number % len(nodes)]
        named = {"ports": [{"name": f"door{number}", "containerPort": port}]}
        serves = [("http", 80, ""), ("http", port, "")]
        await pods.create(member(name, node, serves, labels={"app": "guest"}, container=named))
        there.add(name)
        await is_served()
    for name in doors:
        await pods.delete(name, SPACE, grace_period=0)
        there.remove(name)
        await is_served()


@pytest.mark.conformance("Services should serve endpoints on same port and different protocols")
async def test_one_port_of_two_protocols(ground: Ground) -> None:
    both = [{"name": each.lower(), "port": 80, "protocol": each} for each in ("TCP", "UDP")]
    address = (await ground.service("protocols", *both))["spec"]["clusterIP"]
    for ports in (both, both[:1], both[1:], both):
        await ground.update("protocols", lambda spec: spec.update(ports=ports))  # noqa: B023
        served = {port["protocol"] for port in ports}
        wanted: dict[Question, object] = {
            ground.url(address): ONE_OF_NET if "TCP" in served else is_error,
            ("udp", address, 80): ONE_OF_NET if "UDP" in served else is_error,
        }
        await ground.expect(NET, wanted)


@pytest.mark.conformance(
    *(
        f"EndpointSlice should support a Service with multiple {what} specified in multiple "
        "EndpointSlices"
        for what in ("ports", "endpoint IPs")
    )
)
async def test_slices_that_somebody_else_makes(ground: Ground) -> None:
    ports = [{"name": f"port{number}", "port": number} for number in (80, 81)]
    pods = ground.stage.pods
    for service, (first, second) in {
        "ports": ("net-1", "net-1"),
        "ips": ("net-1", "net-2"),
    }.items():
        made = await ground.service(f"custom-{service}", *ports, selector=None)
        for port, pod, target in (("port80", first, 80), ("port81", second, 160)):
            labels = {
                "kubernetes.io/service-name": f"custom-{service}",
                "endpointslice.kubernetes.io/managed-by": "somebody",
            }
            await ground.slices.create(
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {"generateName": "custom-", "namespace": SPACE, "labels": labels},
                    "addressType": "IPv4",
                    "endpoints": [{"addresses": [pods[pod]], "conditions": {"ready": True}}],
                    "ports": [{"name": port, "port": target, "protocol": "TCP"}],
                }
            )
        address = made["spec"]["clusterIP"]
        await ground.expect(NET, {ground.url(address): first, ground.url(address, 81): second})


@pytest.mark.conformance(
    "HostPort validates that there is no conflict between pods with same hostPort but different "
    f"hostIP and protocol{LINUX}"
)
async def test_a_number_of_host_ports_is_shared(ground: Ground) -> None:
    stage = ground.stage
    asker, address = stage.hosts[-1], [*stage.nodes.values()][-1]
    local: Question = ("http", f"http://127.0.0.1:{HOST_PORT}")
    shared: dict[Question, object] = {
        ground.url(address, HOST_PORT): "port-2",
        ("udp", address, HOST_PORT): "port-3",
    }
    await ground.expect([asker], {local: "port-1", (*local, address): "port-1", **shared})
    await ground.expect([*NET, *stage.hosts], shared)
    await ground.expect(NET, {local: is_error})


PROXY = "Proxy version v1 "


@pytest.mark.conformance(f"{PROXY}should proxy through a service and a pod")
async def test_requests_through_the_api_server(ground: Ground) -> None:
    ports = [
        {"name": "portname1", "port": 80, "targetPort": "dest1"},
        {"name": "portname2", "port": 81, "targetPort": 162},
        {"name": "tlsportname1", "port": 443, "targetPort": "tlsdest1"},
        {"name": "tlsportname2", "port": 444, "targetPort": 462},
    ]
    last = len(NET) - 1
    await ground.service("porter", *ports, selector={"number": str(last)})
    pod, root = NET[last], f"/api/v1/namespaces/{SPACE}"
    wanted = {
        "services/porter:portname1": "foo",
        "services/http:porter:portname1": "foo",
        "services/porter:portname2": "bar",
        "services/http:porter:portname2": "bar",
        "services/https:porter:tlsportname1": "tls baz",
        "services/https:porter:tlsportname2": "tls qux",
        f"pods/{pod}": LINK,
        f"pods/{pod}:1080": LINK,
        f"pods/http:{pod}:1080": LINK,
        f"pods/{pod}:160": "foo",
        f"pods/http:{pod}:160": "foo",
        f"pods/{pod}:162": "bar",
        f"pods/http:{pod}:162": "bar",
        f"pods/https:{pod}:443": TLS_LINK,
        f"pods/https:{pod}:460": "tls baz",
        f"pods/https:{pod}:462": "tls qux",
    }

    async def got(target: str) -> str:
        return (await ground.client.request("GET", f"{root}/{target}/proxy/")).decode()

    async def ready() -> bool:
        return ("net-2", 160) in await ground.endpoints("porter")

    await soon(ready, lambda: "endpoints")
    for _ in range(3):
        found = await asyncio.gather(*(got(target) for target in wanted))
        for (target, text), answer in zip(wanted.items(), found, strict=True):
            rewritten = text.replace('href="', f'href="{root}/{target}/proxy')
            assert answer == rewritten, target


@pytest.mark.conformance(
    *(
        f"{PROXY}A set of valid responses are returned for both pod and service {what}"
        for what in ("Proxy", "ProxyWithPath")
    )
)
async def test_methods_through_the_api_server(ground: Ground) -> None:
    await ground.service("methods", {"port": 80})

    async def ready() -> bool:
        return len(await ground.endpoints("methods")) == len(NET)

    await soon(ready, lambda: "endpoints")
    server = ground.client.config.server

    async def sent(method: str, path: str) -> tuple[int, aiohttp.ClientResponse, str]:
        url = f"{server}/api/v1/namespaces/{SPACE}/{path}"
        async with ground.web.request(method, url, allow_redirects=False, data=b"") as response:
            return response.status, response, await response.text()

    for target in (f"pods/{NET[-1]}", "services/methods"):
        for method in ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"):
            status, _, text = await sent(method, f"{target}/proxy/some/path/with/{method}")
            assert (status, f'"{method}"' in text) == (200, method != "HEAD")
            status, response, text = await sent(method, f"{target}/proxy?method={method}")
            if method in ("GET", "HEAD"):
                assert status == 301
                location = response.headers["Location"]
                assert location.endswith(f"/{target}/proxy/?method={method}"), location
            else:
                assert (status, f'"{method}"' in text) == (200, True)
