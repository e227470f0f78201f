"""Any Services, any slices, any changes of them: each packet ends where the decision table says,
and the table is always the one that a fresh proxy would make.

The model below is the table of the Service API's rules, written out per packet; it shares only the
types of the API with the proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.network.packets import Ending, Packet, Walk

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
    ForNode,
    ForZone,
)
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.clock import FakeClock
from navarch.network.nftables.memory import MemoryTable
from navarch.network.proxy import proxier
from navarch.network.proxy.kernel import MemoryKernel
from navarch.network.proxy.model import Place
from navarch.network.proxy.proxier import Proxier
from navarch.network.proxy.rules import Network

NODE, OTHER = "n1", "n2"
NAMES = ("a", "b", "c")
PORTS = (("TCP", 80), ("UDP", 80), ("SCTP", 81))
NODE_PORTS = (30000, 30001)


@dataclass(frozen=True)
class Plan:
    """The addresses of one family."""

    family: str
    node: str
    service_cidr: str
    pod_cidr: str
    cluster: str
    outside: str
    balancer: str
    client: str
    range_: str

    def pod(self, number: int) -> str:
        return f"{self.pod_cidr.partition('/')[0].removesuffix('0')}{number}"

    @property
    def network(self) -> Network:
        return Network((self.node,), (self.service_cidr,), (self.pod_cidr,))


PLANS = (
    Plan("ip", "192.168.49.2", "10.96.0.0/16", "10.244.0.0/16", "10.96.0.", "203.0.113.",
         "192.0.2.", "198.51.100.9", "198.51.100.0/24"),
    Plan("ip6", "fd01::2", "fd96::/64", "fd44::/64", "fd96::", "fdee::", "fdbb::",
         "fdcc::9", "fdcc::/16"),
)  # fmt: skip


def pod_address(plan: Plan, number: int) -> str:
    base = "10.244.0." if plan.family == "ip" else "fd44::"
    return f"{base}{number}"


def hints(zones: Sequence[str], nodes: Sequence[str] = ()) -> EndpointHints:
    return EndpointHints(
        forZones=[ForZone(name=zone) for zone in zones],
        forNodes=[ForNode(name=node) for node in nodes],
    )


# What is drawn.


def services(plan: Plan, names: Sequence[str] = NAMES) -> st.SearchStrategy[Service]:
    @st.composite
    def draw_service(draw: st.DrawFn) -> Service:
        name = draw(st.sampled_from(names))
        type_ = draw(st.sampled_from(("ClusterIP", "NodePort", "LoadBalancer", "headless")))
        cluster = f"{plan.cluster}{NAMES.index(name) + 1}"
        ports = draw(st.lists(st.sampled_from(PORTS), min_size=1, max_size=2, unique=True))
        node_ports = draw(st.permutations(NODE_PORTS))
        policy = st.sampled_from(("Cluster", "Local"))
        spec = ServiceSpec(
            type="ClusterIP" if type_ == "headless" else type_,
            clusterIP="None" if type_ == "headless" else cluster,
            clusterIPs=["None" if type_ == "headless" else cluster],
            ports=[
                ServicePort(
                    name=protocol.lower(),
                    port=port,
                    protocol=protocol,
                    nodePort=node_ports[at] if type_ in ("NodePort", "LoadBalancer") else 0,
                )
                for at, (protocol, port) in enumerate(ports)
            ],
            internalTrafficPolicy=draw(policy),
            externalTrafficPolicy=draw(policy),
            externalIPs=draw(
                st.lists(
                    st.sampled_from((f"{plan.outside}1", f"{plan.outside}2", f"{plan.cluster}9")),
                    max_size=2,
                    unique=True,
                )
            ),
        )
        if draw(st.booleans()):
            seconds = draw(st.sampled_from((60, 10800)))
            spec.sessionAffinity = "ClientIP"
            spec.sessionAffinityConfig = SessionAffinityConfig(
                clientIP=ClientIPConfig(timeoutSeconds=seconds)
            )
        status = ServiceStatus()
        if type_ == "LoadBalancer":
            zero = "0.0.0.0/0" if plan.family == "ip" else "::/0"
            ranges = st.sampled_from((plan.range_, f" {plan.node} "[:-1] + _host(plan), zero))
            spec.loadBalancerSourceRanges = draw(st.lists(ranges, max_size=2, unique=True))
            mode = draw(st.sampled_from((None, "VIP", "Proxy")))
            address = f"{plan.balancer}{draw(st.integers(1, 2))}"
            ingress = [LoadBalancerIngress(ip=address, ipMode=mode)]
            status = ServiceStatus(loadBalancer=LoadBalancerStatus(ingress=ingress))
        created = draw(st.sampled_from(("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")))
        return Service(
            metadata=ObjectMeta(name=name, namespace="shop", creationTimestamp=created),
            spec=spec,
            status=status,
        )

    return draw_service()


def _host(plan: Plan) -> str:
    return "/32 " if plan.family == "ip" else "/128 "


def slices(plan: Plan, names: Sequence[str] = NAMES) -> st.SearchStrategy[EndpointSlice]:
    zones = st.lists(st.sampled_from(("za", "zb")), min_size=1, max_size=1)
    nodes = st.lists(st.sampled_from((NODE, OTHER)), min_size=1, max_size=1)
    # Hints count only where every endpoint has some, which chance would hardly ever bring about.
    manners = (
        st.none(),
        st.builds(hints, zones),
        st.builds(hints, zones, nodes),
        st.one_of(st.none(), st.builds(hints, zones)),
        st.one_of(st.builds(hints, zones), st.builds(hints, zones, nodes)),
    )
    condition = st.sampled_from((None, True, False))
    conditions = st.one_of(
        st.just((None, None, None)),
        st.sampled_from(((True, True, False), (False, True, True), (False, False, True))),
        st.tuples(condition, condition, condition),
    )

    @st.composite
    def draw_slice(draw: st.DrawFn) -> EndpointSlice:
        name = draw(st.sampled_from(names))
        manner = draw(st.sampled_from(manners))
        endpoint = st.builds(
            lambda number, node, conditions, hint: Endpoint(
                addresses=[pod_address(plan, number)],
                nodeName=node,
                conditions=EndpointConditions(
                    ready=conditions[0], serving=conditions[1], terminating=conditions[2]
                ),
                hints=hint,
            ),
            st.integers(1, 7),
            st.sampled_from((NODE, OTHER)),
            draw(st.sampled_from((conditions, st.just((None, None, None))))),
            manner,
        )
        return EndpointSlice(
            metadata=ObjectMeta(
                name=f"{name}-{draw(st.integers(0, 1))}",
                namespace="shop",
                labels={"kubernetes.io/service-name": name},
            ),
            addressType="IPv4" if plan.family == "ip" else "IPv6",
            ports=[
                EndpointPort(name=protocol.lower(), port=8000 + port, protocol=protocol)
                for protocol, port in PORTS
            ],
            endpoints=draw(st.lists(endpoint, max_size=7, unique_by=lambda e: e.addresses[0])),
        )

    return draw_slice()


# The model.


@dataclass
class World:
    """What the API holds, and where the node is."""

    plan: Plan
    services: dict[str, Service] = field(default_factory=dict)
    slices: dict[str, EndpointSlice] = field(default_factory=dict)
    zone: str = ""


@dataclass(frozen=True)
class Expected:
    """`to` are the endpoints with equal chances; empty where the packet is not sent on."""

    verdict: str
    to: tuple[tuple[str, int], ...] = ()
    is_masqueraded: bool = False
    affinity: int = 0


def is_true(value: bool | None, default: bool) -> bool:
    return default if value is None else value


def known_endpoints(world: World, name: str) -> list[Endpoint]:
    """Of several entries with one address the one that stays, and of those the last."""
    found: dict[str, Endpoint] = {}
    for slice_ in world.slices.values():
        if slice_.metadata.labels["kubernetes.io/service-name"] != name:
            continue
        for endpoint in slice_.endpoints:
            known = found.get(endpoint.addresses[0])
            if known is None or (
                is_true(known.conditions.terminating, False)
                and not is_true(endpoint.conditions.terminating, False)
            ):
                found[endpoint.addresses[0]] = endpoint
    return list(found.values())


def cluster_endpoints(world: World, name: str) -> list[Endpoint]:
    every = known_endpoints(world, name)
    ready = [e for e in every if is_true(e.conditions.ready, True)]
    if not ready:
        return falling_back(every)
    if all(e.hints and e.hints.forNodes for e in ready):
        here = [e for e in ready if NODE in [n.name for n in e.hints.forNodes]]  # type: ignore[union-attr]
        if here:
            return here
    if world.zone and all(e.hints and e.hints.forZones for e in ready):
        here = [e for e in ready if world.zone in [z.name for z in e.hints.forZones]]  # type: ignore[union-attr]
        if here:
            return here
    return ready


def falling_back(every: Sequence[Endpoint]) -> list[Endpoint]:
    return [
        e
        for e in every
        if is_true(e.conditions.serving, True) and is_true(e.conditions.terminating, False)
    ]


def local_endpoints(world: World, name: str) -> list[Endpoint]:
    here = [e for e in known_endpoints(world, name) if e.nodeName == NODE]
    return [e for e in here if is_true(e.conditions.ready, True)] or falling_back(here)


def owner(world: World, packet: Packet) -> tuple[Service, ServicePort, str] | None:
    """The Service port that a packet is for, and as what: "cluster", "balancer" or "external"."""
    claims = []
    for service in world.services.values():
        spec = service.spec
        if spec.clusterIP == "None":
            continue
        balancers = [i.ip for i in service.status.loadBalancer.ingress if i.ipMode in (None, "VIP")]
        for port in spec.ports:
            if port.protocol.lower() != packet.protocol:
                continue
            kind = ""
            if port.port == packet.port:
                if packet.destination == spec.clusterIP:
                    kind = "cluster"
                elif packet.destination in balancers:
                    kind = "balancer"
                elif packet.destination in spec.externalIPs:
                    kind = "external"
            if port.nodePort == packet.port and packet.destination == world.plan.node:
                kind = "external"
            if kind:
                order = (kind != "cluster", service.metadata.creationTimestamp or "")
                claims.append((order, service.metadata.name, service, port, kind))
    if not claims:
        return None
    _, _, service, port, kind = min(claims, key=lambda claim: claim[:2])
    return service, port, kind


def is_in(address: str, ranges: Sequence[str]) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(r.strip()) for r in ranges)


def expected(world: World, packet: Packet) -> Expected:
    plan = world.plan
    found = owner(world, packet)
    if found is None:
        active = {s.spec.clusterIP for s in world.services.values()}
        if packet.destination in active:
            return Expected("reject")
        return Expected("drop" if is_in(packet.destination, [plan.service_cidr]) else "accept")
    service, port, kind = found
    spec = service.spec
    ranges = spec.loadBalancerSourceRanges
    if kind == "balancer" and ranges and not any(r.strip().endswith("/0") for r in ranges):
        allowed = is_in(packet.source, ranges)
        from_balancer = packet.source == packet.destination and is_in(plan.node, ranges)
        if not allowed and not from_balancer:
            return Expected("drop")
    name = service.metadata.name
    everywhere, here = cluster_endpoints(world, name), local_endpoints(world, name)
    if not everywhere:
        return Expected("reject")
    is_pod, is_node = is_in(packet.source, [plan.pod_cidr]), packet.source == plan.node
    affinity = 0
    if spec.sessionAffinity == "ClientIP":
        affinity = spec.sessionAffinityConfig.clientIP.timeoutSeconds or 0  # type: ignore[union-attr]
    chosen, masquerade = everywhere, not is_pod
    if kind == "cluster":
        if spec.internalTrafficPolicy == "Local":
            chosen = here
    elif spec.externalTrafficPolicy == "Cluster":
        masquerade = True
    elif is_pod or is_node:
        masquerade = is_node
    else:
        chosen, masquerade = here, False
    if not chosen:
        return Expected("drop")
    # An address that another Service has as its ClusterIP is masqueraded as such.
    clusters = {s.spec.clusterIP for s in world.services.values()}
    if packet.destination in clusters and not is_pod:
        masquerade = True
    target = 8000 + port.port
    to = tuple(sorted((e.addresses[0], target) for e in chosen))
    return Expected("accept", to, masquerade, affinity)


# The comparison.


def packets(world: World) -> list[Packet]:
    plan = world.plan
    sources = [plan.node, plan.client, f"{plan.outside}77", pod_address(plan, 1)]
    destinations = [f"{plan.cluster}{n}" for n in (1, 2, 3, 4)]
    destinations += [f"{plan.outside}{n}" for n in (1, 2)] + [f"{plan.cluster}9"]
    destinations += [f"{plan.balancer}{n}" for n in (1, 2)]
    asked = [
        Packet(source, destination, protocol.lower(), port)
        for source in sources
        for destination in destinations
        for protocol, port in PORTS
    ]
    return asked + [
        Packet(source, plan.node, protocol, port)
        for source in sources
        for protocol in ("tcp", "udp")
        for port in NODE_PORTS
    ]


def local_pods(world: World) -> set[tuple[str, str]]:
    """(address, Service) of pods here."""
    return {
        (e.addresses[0], name)
        for name in NAMES
        for e in known_endpoints(world, name)
        if e.nodeName == NODE
    }


def check(world: World, table: MemoryTable) -> None:
    walk = Walk(table, frozenset((world.plan.node,)))
    pods = local_pods(world)
    here = {address for address, _ in pods}
    for packet in packets(world):
        endings, wanted = walk.endings(packet), expected(world, packet)
        where = f"{packet} -> {wanted}"
        assert {e.verdict for e in endings} == {wanted.verdict}, f"{where}: {endings}"
        if not wanted.to:
            assert all(not e.packet.is_dnat for e in endings), where
            continue
        got = sorted((e.packet.destination, e.packet.port) for e in endings)
        assert got == list(wanted.to), f"{where}: {endings}"
        share = Fraction(1, len(wanted.to))
        assert {e.packet.share for e in endings} == {share}, where
        for ending in endings:
            after = ending.packet.is_masqueraded
            if ending.packet.destination != packet.source or wanted.is_masqueraded:
                assert after == wanted.is_masqueraded, f"{where}: {ending}"
            elif after:
                assert packet.source in here, f"{where}: {ending}"
            else:
                # To itself, and unmasqueraded: only where such a pod cannot be on this node.
                found = owner(world, packet)
                assert found is not None
                assert (packet.source, found[0].metadata.name) not in pods, f"{where}: {ending}"
        check_affinity(walk, packet, wanted, endings)


def check_affinity(walk: Walk, packet: Packet, wanted: Expected, endings: Sequence[Ending]) -> None:
    """A client that a rule has learned comes back to the endpoint that learned it."""
    for ending in endings:
        assert bool(ending.packet.learned) == bool(wanted.affinity)
        for name, address in ending.packet.learned:
            assert f"timeout {wanted.affinity}s" in walk.table.sets[name]
            known = Walk(walk.table, walk.local, {name: frozenset((address,))})
            (again,) = known.endings(packet)
            assert again.packet.destination == ending.packet.destination


def plain(table: MemoryTable) -> tuple[Mapping[str, Sequence[str]], object, object]:
    """A table without the emptied chains that wait for their deletion."""
    used = table.referred()
    chains = {
        name: rules
        for name, rules in table.chains.items()
        if rules or "/" not in name or name in used
    }
    return chains, table.sets, table.elements


class Killed(Exception):
    """The proxy's process is gone."""


class Watched(MemoryKernel):
    """Kills the proxy after so many transactions; somebody may look at the table after each."""

    def __init__(self) -> None:
        super().__init__()
        self.left = -1
        self.look: Callable[[], None] = lambda: None

    async def apply(self, commands: Sequence[str]) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1
        await super().apply(commands)
        self.look()


class Runner:
    """A proxy over a kernel in memory, beside the model."""

    def __init__(self, plan: Plan) -> None:
        self.world = World(plan)
        self.before = World(plan)
        """What the table was made from."""
        self.kernel = Watched()
        self.clock = FakeClock()
        self.proxier = self.fresh(self.kernel)

    def fresh(self, kernel: MemoryKernel) -> Proxier:
        """A proxy that has just been started."""
        place = Place(NODE, self.world.zone)
        plan = self.world.plan
        started = Proxier(plan.family, plan.network, place, kernel, self.clock)
        for service in self.world.services.values():
            started.put_service(service)
        for slice_ in self.world.slices.values():
            started.put_slice(slice_)
        return started

    def change(self, step: object) -> None:
        world = self.world
        match step:
            case Service():
                world.services[step.metadata.name] = step
                self.proxier.put_service(step)
            case EndpointSlice():
                world.slices[step.metadata.name] = step
                self.proxier.put_slice(step)
            case ("no service", str(name)):
                if (service := world.services.pop(name, None)) is not None:
                    self.proxier.remove_service(service)
            case ("no slice", str(name)):
                if (slice_ := world.slices.pop(name, None)) is not None:
                    self.proxier.remove_slice(slice_)
            case ("zone", str(zone)):
                world.zone = zone
                self.proxier.set_zone(zone)

    async def do(self, step: object) -> None:
        match step:
            case "sync":
                await self.check()
            case "restart":
                self.proxier = self.fresh(self.kernel)
                self.kernel.look = self.check_the_undisturbed
                await self.check()
                self.kernel.look = lambda: None
            case ("kill", int(after)):
                self.kernel.left = after
                with contextlib.suppress(Killed):
                    await self.proxier.sync()
                self.kernel.left = -1
                self.proxier = self.fresh(self.kernel)
                await self.check()
            case _:
                self.change(step)

    def table(self, kernel: MemoryKernel) -> MemoryTable:
        return kernel.tables.tables[(self.world.plan.family, "kube-proxy")]

    async def check(self) -> None:
        await self.proxier.sync()
        table = self.table(self.kernel)
        check(self.world, table)
        other = MemoryKernel()
        await self.fresh(other).sync()
        assert plain(table) == plain(self.table(other))
        world = self.world
        self.before = World(world.plan, dict(world.services), dict(world.slices), world.zone)
        await self.clock.advance(2)

    def check_the_undisturbed(self) -> None:
        """While the rules are laid again, what is not to change does not change."""
        walk = Walk(self.table(self.kernel), frozenset((self.world.plan.node,)))
        for packet in packets(self.before):
            wanted = expected(self.world, packet)
            if wanted.to and wanted == expected(self.before, packet):
                endings = walk.endings(packet)
                got = sorted((e.packet.destination, e.packet.port) for e in endings)
                assert got == list(wanted.to), f"{packet}: {got} in between"


def steps(plan: Plan) -> st.SearchStrategy[list[object]]:
    slice_names = st.sampled_from([f"{name}-{number}" for name in NAMES for number in (0, 1)])
    step = st.one_of(
        services(plan),
        services(plan),
        slices(plan),
        slices(plan),
        st.tuples(st.just("no service"), st.sampled_from(NAMES)),
        st.tuples(st.just("no slice"), slice_names),
        st.tuples(st.just("zone"), st.sampled_from(("", "za", "zb"))),
        st.tuples(st.just("kill"), st.integers(0, 4)),
        st.just("restart"),
        st.just("sync"),
    )
    start = [st.one_of(services(plan, [name]), slices(plan, [name])) for name in ("a", "b")]
    first = st.tuples(services(plan, ["a"]), slices(plan, ["a"]), *start)
    zone = st.tuples(st.just("zone"), st.sampled_from(("za", "zb")))
    return st.builds(
        lambda first, zone, more: [*first, zone, "sync", *more],
        first,
        zone,
        st.lists(step, max_size=8),
    )


@settings(max_examples=30)
@given(st.sampled_from(PLANS).flatmap(lambda plan: st.tuples(st.just(plan), steps(plan))))
def test_packets_end_where_the_decision_table_says(drawn: tuple[Plan, list[object]]) -> None:
    plan, history = drawn

    async def run() -> None:
        runner = Runner(plan)
        for step in history:
            await runner.do(step)
        await runner.check()

    # Every Service in a transaction of its own: most can go wrong in between.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proxier, "SERVICES_AT_ONCE", 1)
        asyncio.run(run())
