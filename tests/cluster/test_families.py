"""Clusters of two families of addresses, and of IPv6 alone: everything that a pod can be reached
by, or can reach, in each of the families. Two nodes, and a pod of each kind on either.

The tests are shared by both clusters, and each makes what it needs.
"""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping

import pytest
from tests.cluster.machine import a_cluster
from tests.cluster.service_ground import (
    HOST_HTTP,
    SPACE,
    Ground,
    Object,
    Question,
    Stage,
    is_error,
    member,
    netloc,
    playing,
    soon,
)
from tests.cluster.three_nodes import marks

from navarch.api.errors import ApiError

pytestmark = marks

NAME, LAST = "kin", "kin-m02"
HOST_PORT = 54324
NOBODY = "error: NXDOMAIN"
PODS = ("net-0", "net-1")
ANY = frozenset(PODS)
ASKERS = ("net-0", "net-1", "host-0")
BOTH = [{"name": each.lower(), "port": 80, "protocol": each} for each in ("TCP", "UDP")]


class Family(Stage):
    """A cluster with addresses of these families, the first one the more important."""

    versions: tuple[int, ...] = ()
    every: Mapping[str, list[str]] = {}
    """Pods' addresses, by name."""

    def fill(self) -> None:
        profile = self.machine.profile(self.profile)
        self.versions = tuple(4 if family == "ipv4" else 6 for family in profile.families)
        probe = {"tcpSocket": {"port": 80}, "periodSeconds": 1, "failureThreshold": 60}
        ports = [{"containerPort": 80, "hostPort": HOST_PORT}]
        cast = [
            member("net-0", NAME, [("http", 80, ""), ("udp", 80, "")], labels={"app": "net"},
                   container={"startupProbe": probe}, hostname="zero", subdomain="headless"),
            member("net-1", LAST, [("http", 80, ""), ("udp", 80, "")], container={"ports": ports},
                   labels={"app": "net", "place": "last"}),
            member("host-0", NAME, [("http", HOST_HTTP, "")], hostNetwork=True,
                   dnsPolicy="ClusterFirstWithHostNet"),
        ]  # fmt: skip
        self.bring(cast)
        self.every = {
            pod["metadata"]["name"]: [each["ip"] for each in pod["status"]["podIPs"]]
            for pod in self.machine.get("pods", "-n", SPACE)["items"]
        }

    def of(self, name: str, version: int) -> str:
        """A pod's address."""
        return self.every[name][self.versions.index(version)]

    def node_address(self, node: str, version: int) -> str:
        found = self.machine.profile(self.profile).node_addresses(node)
        return found[self.versions.index(version)]


@pytest.fixture(scope="module", params=["dual", "ipv6"])
def family(request: pytest.FixtureRequest) -> Iterator[Family]:
    with a_cluster(NAME, "--nodes", "2", "--ip-family", request.param) as machine:
        found = Family(machine, NAME)
        found.fill()
        yield found


@pytest.fixture
async def ground(family: Family) -> AsyncIterator[Ground]:
    async with playing(family) as found:
        yield found


def version_of(address: str) -> int:
    return ipaddress.ip_address(address).version


def from_the_host(address: str, port: int) -> str:
    """Who answers this machine itself, or why nobody."""
    try:
        with urllib.request.urlopen(f"http://{netloc(address, port)}/hostname", timeout=3) as said:
            return str(said.read().decode())
    except OSError as error:
        return f"error: {error}"


def test_nodes_and_pods_have_an_address_of_each_family(family: Family) -> None:
    versions = [*family.versions]
    for node in family.machine.get("nodes")["items"]:
        given = [each for each in node["status"]["addresses"] if each["type"] == "InternalIP"]
        assert [version_of(each["address"]) for each in given] == versions
        assert [4 if "." in each else 6 for each in node["spec"]["podCIDRs"]] == versions
    for pod in family.machine.get("pods", "-n", SPACE)["items"]:
        status = pod["status"]
        assert [version_of(each["ip"]) for each in status["podIPs"]] == versions
        assert [version_of(each["ip"]) for each in status["hostIPs"]] == versions
        assert (status["podIP"], status["hostIP"]) == (
            status["podIPs"][0]["ip"],
            status["hostIPs"][0]["ip"],
        )


async def test_pods_and_nodes_reach_each_other(ground: Ground, family: Family) -> None:
    """Across nodes, over both protocols, each under its own address; also a pod's host port at its
    node. Nobody answers for addresses that are nobody's."""
    wanted: dict[Question, object] = {}
    for version in family.versions:
        for name in PODS:
            wanted[ground.url(family.of(name, version))] = name
            wanted["udp", family.of(name, version), 80] = name
        wanted[ground.url(family.of("host-0", version), HOST_HTTP)] = "host-0"
        wanted[ground.url(family.node_address(LAST, version), HOST_PORT)] = "net-1"
    await ground.expect(ASKERS, wanted)
    for version in family.versions:
        seen = ("http", f"http://{netloc(family.of('net-1', version), 80)}/client")
        await ground.expect(["net-0"], {seen: family.of("net-0", version)})
        profile = family.machine.profile(NAME)
        cidr = profile.service_cidrs[family.versions.index(version)]
        nobody = str(ipaddress.ip_network(cidr)[0x7777])
        await ground.expect(ASKERS, {ground.url(nobody): lambda said: "refused" in said})
        assert from_the_host(family.node_address(LAST, version), HOST_PORT) == "net-1"


def policies(versions: tuple[int, ...]) -> dict[str, tuple[Object, tuple[int, ...]]]:
    """Services' specs, and the families of their addresses, by name."""
    names = {4: "IPv4", 6: "IPv6"}
    found: dict[str, tuple[Object, tuple[int, ...]]] = {
        "default": ({}, versions[:1]),
        "prefer": ({"ipFamilyPolicy": "PreferDualStack"}, versions),
    }
    if len(versions) == 2:
        turned = [names[version] for version in reversed(versions)]
        found |= {
            "second": ({"ipFamilies": turned[:1]}, versions[1:]),
            "require": ({"ipFamilyPolicy": "RequireDualStack"}, versions),
            "turned": (
                {"ipFamilyPolicy": "PreferDualStack", "ipFamilies": turned},
                tuple(reversed(versions)),
            ),
        }
    return found


async def test_services_of_each_policy(ground: Ground, family: Family) -> None:
    """By cluster address, node port and balancer's address, from pods, a node and this machine,
    which finds the balancer's address by ARP and NDP; and by name."""
    zone = f"{SPACE}.svc.cluster.local."
    every: dict[Question, object] = {}
    outside: list[tuple[str, int]] = []
    for name, (spec, versions) in policies(family.versions).items():
        made = await ground.service(name, *BOTH, type="LoadBalancer", **spec)
        addresses = made["spec"]["clusterIPs"]
        assert tuple(map(version_of, addresses)) == versions, name
        balanced: list[str] = []

        async def has_addresses(name: str = name, found: list[str] = balanced) -> bool:
            status = (await ground.services.get(name, SPACE))["status"]["loadBalancer"]
            found[:] = [each["ip"] for each in status.get("ingress") or ()]
            return bool(found)

        await soon(has_addresses, lambda name=name: f"an address for {name}")  # type: ignore[misc]
        assert sorted(map(version_of, balanced)) == sorted(versions)
        (port,) = {
            each["nodePort"] for each in made["spec"]["ports"] if each["name"] == "tcp"
        }  # fmt: skip
        for kind, version in (("A", 4), ("AAAA", 6)):
            own = [each for each in addresses if version_of(each) == version]
            every["dns", f"{name}.{zone}", kind, "udp"] = own
            every["dns", name, kind, "tcp"] = own
            for address in own:
                every["dns", address, "PTR", "udp"] = [f"{name}.{zone}"]
                every[ground.url(address)] = ANY
                every["udp", address, 80] = ANY
            for node in family.nodes if own else ():
                every[ground.url(family.node_address(node, version), port)] = ANY
                outside.append((family.node_address(node, version), port))
        outside += [(each, 80) for each in balanced + addresses]
        every |= {ground.url(each): ANY for each in balanced}
    await ground.expect(ASKERS, every)
    for address, port in outside:
        assert from_the_host(address, port) in ANY, (address, port)
    if len(family.versions) == 1:
        with pytest.raises(Exception, match="dual-stack") as refused:
            await ground.service("require", ipFamilyPolicy="RequireDualStack")
        assert getattr(refused.value, "status", 0) == 422


def routes(family: Family) -> str:
    """The host's, by this cluster's bridge."""
    bridge = family.machine.profile(NAME).bridge
    every = [["ip", f"-{version}", "route", "show", "dev", bridge] for version in (4, 6)]
    done = [subprocess.run(each, capture_output=True, text=True, check=True) for each in every]
    return "".join(each.stdout for each in done)


MORE = {4: "10.197.77.0/24", 6: "fd4e:6176:77::/112"}


async def test_further_ranges_of_services(ground: Ground, family: Family) -> None:
    """A ServiceCIDR is at work as soon as it is there, and the host has a way to it. It goes while
    nobody is there to see it; the test at the end looks for what is left."""
    if len(family.versions) == 1:
        pytest.skip("the other cluster shows it for both families, and it takes its time")
    cidrs = ground.client.dynamic("networking.k8s.io", "v1", "servicecidrs", namespaced=False)
    wanted = [MORE[each] for each in family.versions]
    made = {"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR"}
    await cidrs.create({**made, "metadata": {"name": "more"}, "spec": {"cidrs": wanted}})
    addresses = [str(ipaddress.ip_network(each)[0x42]) for each in wanted]
    await refused_until(ground, "more", addresses)
    answers: dict[Question, object] = {ground.url(each): ANY for each in addresses}
    nobody = [str(ipaddress.ip_network(each)[0x43]) for each in wanted]
    answers |= {ground.url(each): lambda said: "refused" in said for each in nobody}
    await ground.expect(ASKERS, answers)

    async def is_led() -> bool:
        return all(each in routes(family) for each in wanted)

    await soon(is_led, lambda: routes(family))
    assert {from_the_host(each, 80) for each in addresses} <= ANY
    await ground.services.delete("more", SPACE)
    await cidrs.delete("more", "")
    family.machine.kill(NAME, ["controllers"])


async def refused_until(ground: Ground, name: str, addresses: list[str]) -> None:
    """Make a Service with these addresses, which are no Service's until their range is ready."""

    async def is_made() -> bool:
        try:
            await ground.service(
                name, ipFamilyPolicy="PreferDualStack", clusterIPs=addresses,
                clusterIP=addresses[0],
            )  # fmt: skip
        except ApiError as error:
            assert error.status == 422, error
            return False
        return True

    await soon(is_made, lambda: f"the ranges of {addresses} are not ready")


async def test_names_of_a_headless_service(ground: Ground, family: Family) -> None:
    """Both families of both pods, each name backwards too; and what the C library makes of it."""
    await ground.service("headless", clusterIP="None", ipFamilyPolicy="PreferDualStack")
    zone = f"headless.{SPACE}.svc.cluster.local."
    wanted: dict[Question, object] = {("dns", f"missing.{zone}", "AAAA", "udp"): NOBODY}
    for version in (4, 6):
        kind = "A" if version == 4 else "AAAA"
        is_there = version in family.versions
        own = sorted(family.of(name, version) for name in PODS) if is_there else []
        wanted["dns", zone, kind, "udp"] = wanted["dns", "headless", kind, "tcp"] = own
        if is_there:
            zero = family.of("net-0", version)
            wanted["dns", f"zero.{zone}", kind, "udp"] = [zero]
            wanted["dns", zero, "PTR", "udp"] = [f"zero.{zone}"]
            wanted["addresses", "zero.headless", version] = [zero]
    await ground.expect(ASKERS, wanted)
    await ground.expect(
        PODS, {("api", "kubernetes.default"): lambda said: said.startswith("v1.36.")}
    )
    (text,) = await ground.ask("net-0", ("file", "/etc/resolv.conf"))
    servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver")]
    assert [*map(version_of, servers)] == [*family.versions]


async def test_network_policies(ground: Ground, family: Family) -> None:
    """Who may come by selector, and where to by address block, in every family alike."""
    rules = ground.client.dynamic("networking.k8s.io", "v1", "networkpolicies")
    hosts = [("knock", family.of("host-0", version), HOST_HTTP) for version in family.versions]
    pods = {
        name: [("knock", family.of(name, version), 80) for version in family.versions]
        for name in PODS
    }
    reached: dict[Question, object] = dict.fromkeys(pods["net-1"], "open")
    cut: dict[Question, object] = dict.fromkeys(pods["net-1"], is_error)

    async def put(name: str, **spec: object) -> None:
        metadata = {"name": name, "namespace": SPACE}
        await rules.create(
            {
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "metadata": metadata,
                "spec": spec,
            }
        )

    try:
        chosen = {"matchLabels": {"app": "net"}}
        last = {"matchLabels": {"place": "last"}}
        await put("closed", podSelector=last, policyTypes=["Ingress"])
        await ground.expect(["host-0", "net-0"], cut)
        await put("guests", podSelector=last, ingress=[{"from": [{"podSelector": chosen}]}])
        await ground.expect(["net-0"], reached)
        await ground.expect(["host-0"], cut)
        await rules.delete("closed", SPACE)
        await rules.delete("guests", SPACE)
        await ground.expect(["host-0"], reached)
        whole = {4: "0.0.0.0/0", 6: "::/0"}
        blocks = [
            {
                "ipBlock": {
                    "cidr": whole[version],
                    "except": [f"{family.of('net-1', version)}/{32 if version == 4 else 128}"],
                }
            }
            for version in family.versions
        ]
        await put("out", podSelector=chosen, policyTypes=["Egress"], egress=[{"to": blocks}])
        await ground.expect(["net-0"], cut)
        await ground.expect(["net-1"], dict.fromkeys([*pods["net-0"], *hosts], "open"))
    finally:
        for each in (await rules.list(SPACE)).items:
            await rules.delete(each["metadata"]["name"], SPACE)


def test_the_kubelet_is_reached(family: Family) -> None:
    """Whatever kubectl does by way of the API server and a node."""
    kubectl = family.machine.kubectl
    for name in PODS:
        assert kubectl("exec", "-n", SPACE, name, "--", "hostname").strip() in (name, "zero")
        kubectl("logs", "-n", SPACE, name)
        path = f"/api/v1/namespaces/{SPACE}/pods/{name}:80/proxy/hostname"
        assert kubectl("get", "--raw", path) == name
    for node in family.nodes:
        assert kubectl("get", "--raw", f"/api/v1/nodes/{node}/proxy/healthz") == "ok"


def test_ports_are_forwarded(family: Family) -> None:
    words = ["kubectl", "port-forward", "-n", SPACE, "net-1", ":80", "--address", "127.0.0.1"]
    environment = family.machine.environment()
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as forward:
        try:
            assert forward.stdout is not None
            said = re.search(r"127\.0\.0\.1:(\d+) ->", forward.stdout.readline())
            assert said is not None
            assert from_the_host("127.0.0.1", int(said[1])) == "net-1"
        finally:
            forward.kill()


async def test_no_way_leads_to_a_range_that_is_gone(ground: Ground, family: Family) -> None:
    """Upstream's controller takes ten seconds until it believes that nobody uses the range."""

    async def is_forgotten() -> bool:
        return not any(each in routes(family) for each in MORE.values())

    await soon(is_forgotten, lambda: routes(family))
    listed = await ground.client.request("GET", "/apis/networking.k8s.io/v1/servicecidrs")
    assert [each["metadata"]["name"] for each in json.loads(listed)["items"]] == ["kubernetes"]
