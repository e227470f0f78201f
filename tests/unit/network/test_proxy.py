"""The service proxy's decisions, as text: which endpoints, which rules, which commands."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import pytest

from navarch.api.types.core_v1 import (
    ClientIPConfig,
    LoadBalancerIngress,
    LoadBalancerStatus,
    Service,
    ServicePort,
    ServiceSpec,
    ServiceStatus,
    SessionAffinityConfig,
)
from navarch.api.types.discovery_v1 import (
    Endpoint,
    EndpointConditions,
    EndpointHints,
    EndpointPort,
    EndpointSlice,
    ForZone,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.clock import FakeClock
from navarch.network.proxy.kernel import Flow, MemoryKernel, NftError
from navarch.network.proxy.model import Place, ServiceHealth, endpoints_of, ports_of, select
from navarch.network.proxy.proxier import Proxier
from navarch.network.proxy.rules import Network

NETWORK = Network(("192.168.49.2",), ("10.96.0.0/16",), ("10.244.0.0/16",))
HERE, THERE = "n1", "n2"


def service(name: str = "web", protocol: str = "TCP", **spec: object) -> Service:
    status = ServiceStatus()
    balancer = spec.pop("balancer", None)
    if balancer is not None:
        ingress = [LoadBalancerIngress(ip=str(balancer))]
        status = ServiceStatus(loadBalancer=LoadBalancerStatus(ingress=ingress))
    fields: dict[str, object] = {
        "clusterIP": "10.96.0.20",
        "clusterIPs": ["10.96.0.20"],
        "ports": [ServicePort(name="http", port=80, protocol=protocol)],
        **spec,
    }
    return Service(
        metadata=ObjectMeta(name=name, namespace="shop"),
        spec=ServiceSpec(**fields),  # type: ignore[arg-type]
        status=status,
    )


def endpoint(address: str, node: str = HERE, state: str = "ready", zone: str = "") -> Endpoint:
    return Endpoint(
        addresses=[address],
        nodeName=node,
        conditions=EndpointConditions(
            ready=state == "ready",
            serving=state in ("ready", "leaving"),
            terminating=state in ("leaving", "gone"),
        ),
        hints=EndpointHints(forZones=[ForZone(name=zone)]) if zone else None,
    )


def slice_of(*endpoints: Endpoint, name: str = "web", protocol: str = "TCP") -> EndpointSlice:
    return EndpointSlice(
        metadata=ObjectMeta(
            name=f"{name}-x", namespace="shop", labels={"kubernetes.io/service-name": name}
        ),
        addressType="IPv4",
        ports=[EndpointPort(name="http", port=8080, protocol=protocol)],
        endpoints=list(endpoints),
    )


@pytest.mark.parametrize(
    ("endpoints", "cluster", "local"),
    [
        pytest.param(
            [endpoint("10.244.0.1"), endpoint("10.244.1.1", THERE)],
            ["10.244.0.1", "10.244.1.1"],
            ["10.244.0.1"],
            id="ready ones",
        ),
        pytest.param(
            [endpoint("10.244.0.1", state="unready"), endpoint("10.244.1.1", THERE)],
            ["10.244.1.1"],
            [],
            id="unready ones are left out",
        ),
        pytest.param(
            [endpoint("10.244.0.1", state="leaving"), endpoint("10.244.1.1", THERE)],
            ["10.244.1.1"],
            ["10.244.0.1"],
            id="terminating ones only where nothing else is",
        ),
        pytest.param(
            [endpoint("10.244.0.1", state="leaving"), endpoint("10.244.0.2", state="gone")],
            ["10.244.0.1"],
            ["10.244.0.1"],
            id="terminating ones have to serve",
        ),
        pytest.param(
            [endpoint("10.244.0.1", zone="b"), endpoint("10.244.1.1", THERE, zone="a")],
            ["10.244.1.1"],
            ["10.244.0.1"],
            id="hints for our zone",
        ),
        pytest.param(
            [endpoint("10.244.0.1", zone="b"), endpoint("10.244.1.1", THERE, zone="c")],
            ["10.244.0.1", "10.244.1.1"],
            ["10.244.0.1"],
            id="hints that leave us out are ignored",
        ),
    ],
)
def test_selection(endpoints: list[Endpoint], cluster: list[str], local: list[str]) -> None:
    ports = endpoints_of([slice_of(*endpoints)], "ip")
    (found,) = ports.values()
    backends = select(found, Place(HERE, "a"))
    assert [e.address for e in backends.cluster] == cluster
    assert [e.address for e in backends.local] == local


@pytest.mark.parametrize(
    "unproxied",
    [
        service(clusterIP="None", clusterIPs=["None"]),
        service(type="ExternalName", externalName="x.y", clusterIP="", clusterIPs=[]),
        service(clusterIP="fd00::1", clusterIPs=["fd00::1"]),
    ],
)
def test_services_that_are_not_proxied(unproxied: Service) -> None:
    assert ports_of(unproxied, "ip") == []


class Notebook(MemoryKernel):
    """A kernel that writes down what it is told; the next transactions fail where `failures`."""

    def __init__(self) -> None:
        super().__init__()
        self.transactions: list[Sequence[str]] = []
        self.failures = 0

    async def apply(self, commands: Sequence[str]) -> None:
        if self.failures:
            self.failures -= 1
            raise NftError("no")
        await super().apply(commands)
        self.transactions.append(commands)

    def last(self, count: int = 1) -> list[str]:
        """The last transactions, without the hashes in names."""
        text = "\n".join(line for said in self.transactions[-count:] for line in said)
        text = re.sub(r"-[A-Z2-7]{8}-", "-X-", text)
        return text.replace(" ip kube-proxy", "").splitlines()


@pytest.fixture
def kernel() -> Notebook:
    return Notebook()


@pytest.fixture
def proxier(kernel: Notebook) -> Proxier:
    return Proxier("ip", NETWORK, Place(HERE), kernel, FakeClock())


@pytest.mark.parametrize(("node", "may_be_itself"), [(HERE, True), ("", True), ("else", False)])
async def test_a_pod_that_is_its_own_endpoint(
    proxier: Proxier, kernel: Notebook, node: str, may_be_itself: bool
) -> None:
    """Its packets come back with another sender; so may they of one whose node nobody told."""
    proxier.put_service(service("web"))
    proxier.put_slice(slice_of(endpoint("10.244.0.1", node)))
    await proxier.sync()
    assert any("10.244.0.1 . 10.244.0.1" in line for line in kernel.last()) == may_be_itself


async def test_a_changed_service_touches_only_its_own_elements(
    proxier: Proxier, kernel: Notebook
) -> None:
    for number in range(3):
        address = f"10.96.0.{number + 1}"
        proxier.put_service(service(f"s{number}", clusterIP=address, clusterIPs=[address]))
    await proxier.sync()
    assert len(kernel.last(2)) > 50
    proxier.put_slice(slice_of(endpoint("10.244.0.1"), name="s1"))
    await proxier.sync()
    assert kernel.last() == [
        "add chain service-X-shop/s1/tcp/http",
        "flush chain service-X-shop/s1/tcp/http",
        "add rule service-X-shop/s1/tcp/http meta l4proto tcp dnat to 10.244.0.1:8080",
        "delete element no-endpoint-services { 10.96.0.2 . tcp . 80 }",
        "add element hairpin-connections { 10.244.0.1 . 10.244.0.1 . tcp . 8080 }",
        "add element service-ips { 10.96.0.2 . tcp . 80 : goto service-X-shop/s1/tcp/http }",
    ]
    proxier.remove_service(service("s1"))
    await proxier.sync()
    assert kernel.last() == [
        "delete element cluster-ips { 10.96.0.2 }",
        "delete element hairpin-connections { 10.244.0.1 . 10.244.0.1 . tcp . 8080 }",
        "delete element service-ips { 10.96.0.2 . tcp . 80 }",
        "flush chain service-X-shop/s1/tcp/http",
    ]
    count = len(kernel.transactions)
    proxier.put_service(service("s2", clusterIP="10.96.0.3", clusterIPs=["10.96.0.3"]))
    await proxier.sync()
    assert len(kernel.transactions) == count, "an update that changes nothing reaches nft"


async def test_local_policies(proxier: Proxier, kernel: Notebook) -> None:
    proxier.put_service(
        service(
            type="LoadBalancer",
            externalTrafficPolicy="Local",
            balancer="192.0.2.9",
            loadBalancerSourceRanges=["198.51.100.0/24"],
            healthCheckNodePort=30999,
            ports=[ServicePort(name="http", port=80, protocol="TCP", nodePort=30080)],
        )
    )
    proxier.put_slice(slice_of(endpoint("10.244.1.1", THERE)))
    await proxier.sync()
    text = kernel.last()
    external = "goto external-X-shop/web/tcp/http"
    assert f"add element service-nodeports {{ tcp . 30080 : {external} }}" in text
    assert "add element no-endpoint-nodeports { tcp . 30080 : drop }" in text
    assert "add element no-endpoint-services { 192.0.2.9 . tcp . 80 : drop }" in text
    firewall = "add rule firewall-X-shop/web/tcp/http "
    rules = [line.removeprefix(firewall) for line in text if line.startswith(firewall)]
    assert rules == ["ip saddr 198.51.100.0/24 return", "drop"]
    assert proxier.health_states()[("shop", "web")] == ServiceHealth("shop", "web", 30999, 0)
    proxier.put_slice(slice_of(endpoint("10.244.1.1", THERE), endpoint("10.244.0.1")))
    await proxier.sync()
    assert "delete element no-endpoint-nodeports { tcp . 30080 }" in kernel.last()
    rule = "add rule external-X-shop/web/tcp/http goto local-X-shop/web/tcp/http"
    assert rule in kernel.last()
    assert proxier.health_states()[("shop", "web")].local_endpoints == 1


async def test_affinity_keeps_a_client_with_its_endpoint(
    proxier: Proxier, kernel: Notebook
) -> None:
    config = SessionAffinityConfig(clientIP=ClientIPConfig(timeoutSeconds=60))
    proxier.put_service(service(sessionAffinity="ClientIP", sessionAffinityConfig=config))
    proxier.put_slice(slice_of(endpoint("10.244.0.1"), endpoint("10.244.0.2")))
    await proxier.sync()
    text = "\n".join(kernel.last())
    assert text.count("flags dynamic,timeout ; timeout 60s") == 2
    assert "numgen random mod 2 vmap" in text
    proxier.put_service(service())
    await proxier.sync()
    assert sum(line.startswith("delete set") for line in kernel.last()) == 2


async def test_after_a_refusal_all_is_laid_again(proxier: Proxier, kernel: Notebook) -> None:
    proxier.put_service(service())
    await proxier.sync()
    kernel.failures = 1
    proxier.put_slice(slice_of(endpoint("10.244.0.1")))
    with pytest.raises(NftError):
        await proxier.sync()
    kernel.transactions.clear()
    await proxier.sync()
    assert any("add chain nat-prerouting" in line for line in kernel.last(3))
    assert any("service-ips { 10.96.0.20" in line for line in kernel.last(3))


async def test_udp_flows_of_gone_endpoints_are_forgotten(
    proxier: Proxier, kernel: Notebook
) -> None:
    proxier.put_service(service(protocol="UDP"))
    proxier.put_slice(slice_of(endpoint("10.244.0.2"), protocol="UDP"))
    kept = [
        Flow("10.96.0.20", 80, "10.244.0.2", 8080),
        Flow("10.96.0.99", 80, "10.244.0.1", 8080),
    ]
    kernel.flows = [Flow("10.96.0.20", 80, "10.244.0.1", 8080), *kept]
    await proxier.sync()
    assert kernel.flows == kept


def claims(kernel: Notebook, map_: str, key: str) -> str:
    """What the table has for a key, without the hash."""
    held = kernel.tables.tables[("ip", "kube-proxy")].elements[map_].get(key, "")
    return re.sub(r"-[A-Z2-7]{8}-", "-X-", held)


async def test_who_was_first_has_an_address_that_two_claim(
    proxier: Proxier, kernel: Notebook
) -> None:
    at, node_port = "192.0.2.1 . tcp . 80", "tcp . 30080"
    ports = [ServicePort(name="http", port=80, protocol="TCP", nodePort=30080)]

    def claim(name: str, number: int, created: str) -> Service:
        address = f"10.96.1.{number}"
        made = service(name, type="NodePort", ports=ports, clusterIP=address,
                       clusterIPs=[address], externalIPs=["192.0.2.1"])  # fmt: skip
        made.metadata.creationTimestamp = created
        return made

    young = claim("a", 1, "2026-01-02T00:00:00Z")
    old = claim("z", 2, "2026-01-01T00:00:00Z")
    for made in (young, old):
        proxier.put_service(made)
    proxier.put_slice(slice_of(endpoint("10.244.0.1"), name="a"))
    await proxier.sync()
    # It has no endpoints, and still nobody else gets what is sent to it.
    assert claims(kernel, "service-ips", at) == ""
    assert claims(kernel, "no-endpoint-services", at) == "goto reject-chain"
    assert claims(kernel, "service-nodeports", node_port) == ""
    proxier.remove_service(old)
    await proxier.sync()
    assert claims(kernel, "service-ips", at) == "goto external-X-shop/a/tcp/http"
    assert claims(kernel, "service-nodeports", node_port) == "goto external-X-shop/a/tcp/http"
    assert claims(kernel, "no-endpoint-services", at) == ""


async def test_nobody_takes_a_cluster_ip_by_an_external_one(
    proxier: Proxier, kernel: Notebook
) -> None:
    thief = service("a", clusterIP="10.96.1.1", clusterIPs=["10.96.1.1"],
                    externalIPs=["10.96.0.20"])  # fmt: skip
    thief.metadata.creationTimestamp = "2025-01-01T00:00:00Z"
    owner = service("z")
    owner.metadata.creationTimestamp = "2026-01-01T00:00:00Z"
    for made in (thief, owner):
        proxier.put_service(made)
        proxier.put_slice(slice_of(endpoint("10.244.0.1"), name=made.metadata.name))
    await proxier.sync()
    assert (
        claims(kernel, "service-ips", "10.96.0.20 . tcp . 80") == "goto service-X-shop/z/tcp/http"
    )


@pytest.mark.parametrize(
    ("spec", "family", "external", "ranges"),
    [
        pytest.param({"externalIPs": ["192.000.002.001"]}, "ip", ("192.0.2.1",), (), id="zeros"),
        pytest.param({"externalIPs": ["fd00:0::1"]}, "ip6", ("fd00::1",), (), id="long form"),
        pytest.param({"externalIPs": ["fd00::1"]}, "ip", (), (), id="the other family"),
        pytest.param(
            {"loadBalancerSourceRanges": [" 10.1.2.3/8 ", "fd00::/8"]},
            "ip",
            (),
            ("10.0.0.0/8",),
            id="ranges with spaces and host bits",
        ),
        pytest.param(
            {"loadBalancerSourceRanges": ["10.0.0.0/8", "0.0.0.0/0"]}, "ip", (), (), id="everybody"
        ),
        pytest.param(
            {"loadBalancerSourceRanges": ["10.0.0.0/8", "::/0"]},
            "ip",
            (),
            ("10.0.0.0/8",),
            id="everybody of the other family",
        ),
    ],
)
def test_addresses_are_read_as_the_kernel_writes_them(
    spec: dict[str, Any], family: str, external: tuple[str, ...], ranges: tuple[str, ...]
) -> None:
    addresses: dict[str, Any] = {
        "clusterIPs": ["10.96.0.20", "fd96::20"],
        "clusterIP": "10.96.0.20",
    }
    (port,) = ports_of(service(type="LoadBalancer", **{**addresses, **spec}), family)
    assert (port.external_ips, port.source_ranges) == (external, ranges)
    assert port.cluster_ip == ("10.96.0.20" if family == "ip" else "fd96::20")


@pytest.mark.parametrize(
    ("ingress", "vips"),
    [
        (LoadBalancerIngress(ip="192.0.2.1"), ("192.0.2.1",)),
        (LoadBalancerIngress(ip="192.0.2.1", ipMode="VIP"), ("192.0.2.1",)),
        (LoadBalancerIngress(ip="192.0.2.1", ipMode="Proxy"), ()),
        (LoadBalancerIngress(hostname="balancer.example"), ()),
    ],
)
def test_only_balancers_that_leave_the_address_are_served(
    ingress: LoadBalancerIngress, vips: tuple[str, ...]
) -> None:
    made = service(type="LoadBalancer", balancer="192.0.2.9")
    made.status.loadBalancer.ingress = [ingress]
    (port,) = ports_of(made, "ip")
    assert port.load_balancer_ips == vips


@pytest.mark.parametrize(
    ("where", "rules"),
    [
        pytest.param(
            ("primary",),
            ["ip daddr @nodeport-ips ip daddr != 127.0.0.0/8"],
            id="the node's own address",
        ),
        pytest.param(
            ("0.0.0.0/0", "::/0"), ["fib daddr type local ip daddr != 127.0.0.0/8"], id="all"
        ),
        pytest.param(
            ("10.0.0.0/8", "fd00::/8", "192.168.0.0/16"),
            [
                "ip daddr 10.0.0.0/8 fib daddr type local ip daddr != 127.0.0.0/8",
                "ip daddr 192.168.0.0/16 fib daddr type local ip daddr != 127.0.0.0/8",
            ],
            id="ranges",
        ),
        pytest.param(("fd00::/8",), [], id="only of the other family"),
    ],
)
async def test_where_node_ports_answer(where: tuple[str, ...], rules: list[str]) -> None:
    network = dataclasses.replace(NETWORK, node_port_addresses=where)
    kernel = Notebook()
    await Proxier("ip", network, Place(HERE), kernel, FakeClock()).sync()
    table = kernel.tables.tables[("ip", "kube-proxy")]
    ending = " meta l4proto . th dport vmap @service-nodeports"
    found = [rule for rule in table.chains["services"] if rule.endswith(ending)]
    assert found == [rule + ending for rule in rules]
    assert ("nodeport-ips" in table.sets) == ("primary" in where)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({}, "ip daddr @cluster-ips ip saddr != 10.244.0.0/16 mark set mark or 0x4000"),
        (
            {"pod_cidrs": ("10.244.0.0/16", "10.245.0.0/16", "fd44::/64")},
            "ip daddr @cluster-ips ip saddr != 10.244.0.0/16 ip saddr != 10.245.0.0/16 "
            "mark set mark or 0x4000",
        ),
        ({"masquerade_all": True}, "ip daddr @cluster-ips mark set mark or 0x4000"),
        ({"pod_cidrs": ()}, None),
    ],
)
async def test_who_is_masqueraded_on_the_way_to_a_cluster_ip(
    change: dict[str, Any], rule: str | None
) -> None:
    kernel = Notebook()
    network = dataclasses.replace(NETWORK, **change)
    await Proxier("ip", network, Place(HERE), kernel, FakeClock()).sync()
    rules = kernel.tables.tables[("ip", "kube-proxy")].chains["services"]
    found = [" ".join(r.split()) for r in rules if "@cluster-ips" in r]
    assert found == ([rule] if rule else [])


@pytest.mark.parametrize(("refuses", "verdict"), [(False, "drop"), (True, "goto reject-chain")])
async def test_what_happens_at_an_address_that_no_service_has(refuses: bool, verdict: str) -> None:
    kernel = Notebook()
    network = dataclasses.replace(NETWORK, refuses_unassigned=refuses)
    await Proxier("ip", network, Place(HERE), kernel, FakeClock()).sync()
    rules = kernel.tables.tables[("ip", "kube-proxy")].chains["cluster-ips-check"]
    assert rules == [
        "ip daddr @cluster-ips goto reject-chain",
        *(f"ip daddr {cidr} {verdict}" for cidr in network.service_cidrs),
    ]


@pytest.mark.parametrize(
    ("network", "families"),
    [
        (NETWORK, ("ip",)),
        (Network(("fd01::2",), ("fd96::/64",), ()), ("ip6",)),
        (Network(("192.168.49.2",), ("10.96.0.0/16", "fd96::/64"), ()), ("ip", "ip6")),
    ],
)
def test_a_table_for_each_family_that_there_is(network: Network, families: tuple[str]) -> None:
    assert network.families == families


async def test_a_service_of_two_families_is_in_both_tables(kernel: Notebook) -> None:
    network = Network(("192.168.49.2", "fd01::2"), ("10.96.0.0/16", "fd96::/64"), ())
    made = service(clusterIPs=["10.96.0.20", "fd96::20"])
    four, six = slice_of(endpoint("10.244.0.1")), slice_of(endpoint("fd44::1"))
    six.addressType, six.metadata.name = "IPv6", "web-y"
    for family in network.families:
        proxier = Proxier(family, network, Place(HERE), kernel, FakeClock())
        proxier.put_service(made)
        proxier.put_slice(four)
        proxier.put_slice(six)
        await proxier.sync()
    rules = {
        family: [r for name, rs in kernel.tables.tables[(family, "kube-proxy")].chains.items()
                 for r in rs if name.startswith("service-") and "/" in name]
        for family in network.families
    }  # fmt: skip
    assert rules == {
        "ip": ["meta l4proto tcp dnat to 10.244.0.1:8080"],
        "ip6": ["meta l4proto tcp dnat to [fd44::1]:8080"],
    }


@pytest.mark.parametrize(
    ("flow", "is_kept"),
    [
        (Flow("10.96.0.20", 80, "10.244.0.2", 8080), True),
        (Flow("10.96.0.20", 80, "10.244.0.3", 8080), True),
        (Flow("10.96.0.20", 80, "10.244.0.1", 8080), False),
        (Flow("10.96.0.20", 80, "10.244.0.2", 8081), False),
        (Flow("10.96.0.20", 80, "10.96.0.20", 80), False),
        (Flow("192.0.2.1", 80, "10.244.0.1", 8080), False),
        (Flow("192.0.2.9", 80, "10.244.0.1", 8080), False),
        (Flow("192.0.2.77", 30080, "10.244.0.1", 8080), False),
        (Flow("192.0.2.77", 30081, "10.244.0.1", 8080), True),
        (Flow("10.96.0.99", 80, "10.244.0.1", 8080), True),
    ],
)
async def test_which_flows_are_forgotten(
    proxier: Proxier, kernel: Notebook, flow: Flow, is_kept: bool
) -> None:
    ports = [ServicePort(name="http", port=80, protocol="UDP", nodePort=30080)]
    proxier.put_service(
        service(type="LoadBalancer", ports=ports, externalIPs=["192.0.2.1"], balancer="192.0.2.9")
    )
    leaving = endpoint("10.244.0.3", state="leaving")
    proxier.put_slice(slice_of(endpoint("10.244.0.2"), leaving, protocol="UDP"))
    kernel.flows = [flow]
    await proxier.sync()
    assert kernel.flows == ([flow] if is_kept else [])


async def test_without_a_serving_endpoint_no_flow_is_forgotten(
    proxier: Proxier, kernel: Notebook
) -> None:
    proxier.put_service(service(protocol="UDP"))
    proxier.put_slice(slice_of(endpoint("10.244.0.2", state="gone"), protocol="UDP"))
    kernel.flows = [Flow("10.96.0.20", 80, "10.244.0.1", 8080)]
    await proxier.sync()
    assert len(kernel.flows) == 1
