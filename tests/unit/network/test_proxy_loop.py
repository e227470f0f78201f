"""The proxy's loop in virtual time, its health and its settings."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp.test_utils import make_mocked_request
from prometheus_client import REGISTRY
from tests.unit.network.test_proxy import (
    HERE,
    NETWORK,
    THERE,
    Notebook,
    endpoint,
    service,
    slice_of,
)

from navarch.api.times import format_time
from navarch.api.types.core_v1 import Node, NodeSpec, ServicePort, Taint
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.clock import FakeClock
from navarch.network.proxy import proxier as module
from navarch.network.proxy.health import TO_BE_DELETED, ProxyHealth
from navarch.network.proxy.main import ProxyOptions
from navarch.network.proxy.model import Place
from navarch.network.proxy.proxier import STALE_SECONDS, TRIGGER_ANNOTATION, Proxier
from navarch.network.proxy.settings import Conntrack, sysctls


class Loop:
    """A proxy whose loop runs over a kernel that writes down what it is told."""

    def __init__(self) -> None:
        self.kernel = Notebook()
        self.clock = FakeClock()
        self.proxier = Proxier("ip", NETWORK, Place(HERE), self.kernel, self.clock)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.proxier.run())
        try:
            await self.clock.advance(1)
            self.kernel.transactions.clear()
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @property
    def is_laid_anew(self) -> bool:
        said = [line for commands in self.kernel.transactions for line in commands]
        return any("add chain ip kube-proxy nat-prerouting" in line for line in said)


@pytest.fixture
def loop() -> Loop:
    return Loop()


async def test_a_burst_is_a_few_transactions(loop: Loop) -> None:
    async with loop.running():
        for number in range(50):
            address = f"10.96.1.{number}"
            loop.proxier.put_service(service(f"s{number}", clusterIP=address, clusterIPs=[address]))
        await loop.clock.advance(1)
        assert len(loop.kernel.transactions) == 1


async def test_a_change_during_a_run_is_not_lost(loop: Loop) -> None:
    async with loop.running():
        loop.proxier.put_service(service())
        await loop.clock.advance(0.01)
        loop.proxier.put_slice(slice_of(endpoint("10.244.0.1")))
        await loop.clock.advance(1)
        assert "service-ips" in loop.kernel.last()[-1]


async def test_refused_rules_are_tried_again_ever_more_slowly(loop: Loop) -> None:
    async with loop.running():
        loop.proxier.put_service(service())
        loop.kernel.failures = 4
        await loop.clock.advance(6.9)
        assert loop.kernel.failures == 1
        await loop.clock.advance(0.2)
        assert loop.kernel.failures == 0
        await loop.clock.advance(8.5)
        assert loop.is_laid_anew
        assert loop.proxier.is_healthy


async def test_a_refusal_that_lasts_is_told_and_ends_in_a_table_made_new(loop: Loop) -> None:
    async with loop.running():
        loop.kernel.failures = 7
        loop.proxier.put_service(service())
        await loop.clock.advance(STALE_SECONDS - 5)
        assert loop.proxier.is_healthy
        await loop.clock.advance(6)
        assert not loop.proxier.is_healthy
        await loop.clock.advance(60)
        assert loop.proxier.is_healthy
        assert any("delete table ip kube-proxy" in said for said in loop.kernel.transactions)


async def test_strangers_are_answered_soon_and_not_for_ever(loop: Loop) -> None:
    loop.proxier.put_service(service())
    async with loop.running():
        await loop.clock.advance(5)
        loop.proxier.distrust()
        await loop.clock.advance(0.3)
        assert loop.is_laid_anew
        loop.kernel.transactions.clear()
        for _ in range(10):
            loop.proxier.distrust()
            await loop.clock.advance(0.05)
        assert not loop.is_laid_anew, "a stranger who does not stop keeps the proxy busy"
        await loop.clock.advance(1)
        assert loop.is_laid_anew


async def test_all_is_laid_again_each_hour(loop: Loop) -> None:
    async with loop.running():
        await loop.clock.advance(3500)
        assert not loop.is_laid_anew
        await loop.clock.advance(200)
        assert loop.is_laid_anew


async def test_chains_are_deleted_a_second_after_they_are_emptied(loop: Loop) -> None:
    loop.proxier.put_service(service())
    loop.proxier.put_slice(slice_of(endpoint("10.244.0.1")))
    async with loop.running():
        loop.proxier.remove_service(service())
        await loop.clock.advance(0.5)
        assert "flush chain service-X-shop/web/tcp/http" in loop.kernel.last()
        # Other changes do not put it off.
        for number in range(4):
            address = f"10.96.1.{number}"
            loop.proxier.put_service(service(f"s{number}", clusterIP=address, clusterIPs=[address]))
            await loop.clock.advance(0.4)
        said = loop.kernel.last(len(loop.kernel.transactions))
        assert said.count("delete chain service-X-shop/web/tcp/http") == 1


async def test_a_chain_that_is_wanted_again_stays(loop: Loop) -> None:
    loop.proxier.put_service(service())
    loop.proxier.put_slice(slice_of(endpoint("10.244.0.1")))
    async with loop.running():
        loop.proxier.remove_service(service())
        await loop.clock.advance(0.5)
        loop.proxier.put_service(service())
        await loop.clock.advance(5)
        said = loop.kernel.last(len(loop.kernel.transactions))
        assert not any(line.startswith("delete chain") for line in said)


async def test_ranges_of_services_follow_the_api(loop: Loop) -> None:
    async with loop.running():
        loop.proxier.set_service_cidrs(["10.96.0.0/16", "10.120.0.0/24", "fd96::/64"])
        await loop.clock.advance(1)
        said = [line for line in loop.kernel.last() if line.endswith(" drop")]
        assert [line.split()[-2] for line in said] == ["10.96.0.0/16", "10.120.0.0/24"]
        loop.kernel.transactions.clear()
        loop.proxier.set_service_cidrs(["10.96.0.0/16", "10.120.0.0/24"])
        await loop.clock.advance(1)
        assert not loop.kernel.transactions


async def test_one_who_was_first_is_never_replaced_while_rules_are_laid_again(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claim(name: str, address: str, created: str) -> None:
        made = service(name, clusterIP=address, clusterIPs=[address], externalIPs=["192.0.2.1"])
        made.metadata.creationTimestamp = created
        loop.proxier.put_service(made)

    monkeypatch.setattr(module, "SERVICES_AT_ONCE", 1)
    for _ in range(2):
        claim("a", "10.96.1.1", "2026-01-02T00:00:00Z")
        claim("z", "10.96.1.2", "2026-01-01T00:00:00Z")
        loop.proxier.put_slice(slice_of(endpoint("10.244.0.1"), name="a"))
        loop.proxier.put_slice(slice_of(endpoint("10.244.0.2"), name="z"))
        loop.kernel.transactions.clear()
        await loop.proxier.sync()
        said = loop.kernel.last(len(loop.kernel.transactions))
        assert not any("192.0.2.1 . tcp . 80 : goto external-X-shop/a" in line for line in said)
        loop.proxier = Proxier("ip", NETWORK, Place(HERE), loop.kernel, loop.clock)


def figure(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"kubeproxy_{name}", {"ip_family": "IPv4", **labels}) or 0.0


async def test_how_long_changes_take_is_counted_from_their_beginning(loop: Loop) -> None:
    async with loop.running():
        before = figure("network_programming_duration_seconds_count")
        seconds = figure("network_programming_duration_seconds_sum")
        for number, began in enumerate((-5, 0)):
            slice_ = slice_of(endpoint("10.244.0.1"), name=f"s{number}")
            at = loop.clock.now().timestamp() + began
            moment = type(loop.clock.now()).fromtimestamp(at, loop.clock.now().tzinfo)
            slice_.metadata.annotations[TRIGGER_ANNOTATION] = format_time(moment)
            loop.proxier.put_slice(slice_)
        loop.kernel.failures = 0
        await loop.clock.advance(1)
        # One began before the proxy did: it says nothing about it.
        assert figure("network_programming_duration_seconds_count") == before + 1
        assert figure("network_programming_duration_seconds_sum") - seconds < 1


async def test_pods_of_other_nodes_are_strangers_to_a_local_policy(loop: Loop) -> None:
    """Sent on to a third node, their own node would not know the answer."""
    ports = [ServicePort(name="http", port=80, protocol="TCP", nodePort=30080)]
    loop.proxier.put_service(service(type="NodePort", ports=ports, externalTrafficPolicy="Local"))
    loop.proxier.put_slice(slice_of(endpoint("10.244.0.1"), endpoint("10.244.1.1", THERE)))

    async def pods() -> list[str]:
        await loop.proxier.sync()
        chains = loop.kernel.tables.tables[("ip", "kube-proxy")].chains
        (chain,) = (rules for name, rules in chains.items() if name.startswith("external-"))
        return [rule.split()[2] for rule in chain if rule.startswith("ip saddr")]

    assert await pods() == ["10.244.0.0/16"], "nobody has told where this node's pods are"
    loop.proxier.set_local_pods(["10.244.0.0/24", "fd44::/80"])
    assert await pods() == ["10.244.0.0/24"]
    transactions = len(loop.kernel.transactions)
    loop.proxier.set_local_pods(["10.244.0.0/24", "fd44::/80"])
    assert await pods() == ["10.244.0.0/24"] and len(loop.kernel.transactions) == transactions


async def test_local_policies_without_local_endpoints_are_counted(loop: Loop) -> None:
    def count(policy: str) -> float:
        return figure("sync_proxy_rules_no_local_endpoints_total", traffic_policy=policy)

    ports = [ServicePort(name="http", port=80, protocol="TCP", nodePort=30080)]
    local = {"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}
    loop.proxier.put_service(service(type="NodePort", ports=ports, **local))
    loop.proxier.put_slice(slice_of(endpoint("10.244.1.1", THERE)))
    await loop.proxier.sync()
    assert (count("internal"), count("external")) == (1, 1)
    loop.proxier.put_slice(slice_of(endpoint("10.244.0.1")))
    await loop.proxier.sync()
    assert (count("internal"), count("external")) == (0, 0)


@pytest.mark.parametrize(
    ("node", "path", "status"),
    [
        pytest.param(Node(), "/healthz", 200, id="fine"),
        pytest.param(None, "/healthz", 503, id="no such node"),
        pytest.param(None, "/livez", 200, id="a restart would not bring the node back"),
        pytest.param(
            Node(metadata=ObjectMeta(deletionTimestamp="2026-01-01T00:00:00Z")),
            "/healthz",
            503,
            id="a node being deleted",
        ),
        pytest.param(
            Node(spec=NodeSpec(taints=[Taint(key=TO_BE_DELETED, effect="NoSchedule")])),
            "/healthz",
            503,
            id="a node that the autoscaler takes away",
        ),
        pytest.param(Node(), "/other", 404, id="no such path"),
    ],
)
async def test_health(loop: Loop, node: Node | None, path: str, status: int) -> None:
    await loop.proxier.sync()
    health = ProxyHealth([loop.proxier], loop.clock, {})
    health.node = node
    assert health.health(make_mocked_request("GET", path)).status == status


async def test_health_says_what_upstream_says(loop: Loop) -> None:
    await loop.proxier.sync()
    health = ProxyHealth([loop.proxier], loop.clock, {})
    health.node = Node()
    await loop.clock.advance(10)
    answer = health.health(make_mocked_request("GET", "/healthz"))
    assert isinstance(answer.body, bytes)
    assert json.loads(answer.body) == {
        "lastUpdated": "2026-01-01T00:00:10Z",
        "currentTime": "2026-01-01T00:00:10Z",
        "nodeEligible": True,
        "healthy": True,
        "status": {"IPv4": {"lastUpdated": "2026-01-01T00:00:00Z", "healthy": True}},
    }
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("cores", "conntrack", "entries"),
    [
        (2, Conntrack(), 131072),
        (8, Conntrack(), 262144),
        (64, Conntrack(), 1048576),
        (8, Conntrack(max_per_core=0), None),
        (1, Conntrack(max_per_core=1000, min=0), 1000),
    ],
)
def test_how_many_connections_are_tracked(
    cores: int, conntrack: Conntrack, entries: int | None
) -> None:
    settings = sysctls(conntrack, ("ip",), cores)
    assert settings.get("net/netfilter/nf_conntrack_max") == entries
    assert settings["net/netfilter/nf_conntrack_tcp_timeout_close_wait"] == 3600
    assert "net/netfilter/nf_conntrack_udp_timeout" not in settings
    assert "net/ipv6/conf/all/forwarding" not in settings


def test_settings_that_there_are_not_are_refused() -> None:
    with pytest.raises(ValueError, match="max_per_cpu"):
        ProxyOptions("conf", HERE, (), conntrack={"max_per_cpu": 1})
    options = ProxyOptions("conf", HERE, (), conntrack={"udp_timeout": 10})
    assert options.configuration()["linux"]["conntrack"]["udpTimeout"] == "10s"
