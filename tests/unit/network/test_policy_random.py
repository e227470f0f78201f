"""Random pods, namespaces and policies: what the rules let through is what the API's words say."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.unit.network.policy_model import World

from navarch.api.types.core_v1 import (
    Container,
    ContainerPort,
    Pod,
    PodIP,
    PodSpec,
    PodStatus,
)
from navarch.api.types.meta_v1 import LabelSelector, LabelSelectorRequirement, ObjectMeta
from navarch.api.types.networking_v1 import (
    IPBlock,
    NetworkPolicy,
    NetworkPolicyEgressRule,
    NetworkPolicyIngressRule,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    NetworkPolicySpec,
)
from navarch.network.policy.model import facts_of, policy_of
from navarch.network.policy.planner import Planner
from navarch.network.policy.table import Table
from navarch.network.policy.verdicts import Connection, Verdicts

NODES = ("here", "there")
NAMESPACES = ("a", "b", "c")
NAMES = ("one", "two", "three")
OUTSIDE = ("192.0.2.7", "10.0.0.99", "2001:db8::7")
PORTS = (("TCP", 80), ("TCP", 81), ("UDP", 80), ("SCTP", 80), ("ICMP", 0))

labels = st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2)
requirements = st.builds(
    lambda key, operator, values: LabelSelectorRequirement(
        key=key, operator=operator, values=values if operator.endswith("In") else []
    ),
    st.sampled_from("xy"),
    st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"]),
    st.lists(st.sampled_from("12"), min_size=1, max_size=2),
)
selectors = st.builds(
    lambda matching, expressions: LabelSelector(matchLabels=matching, matchExpressions=expressions),
    st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=1),
    st.lists(requirements, max_size=1),
)
blocks = st.sampled_from(
    [
        IPBlock(cidr="0.0.0.0/0", except_=["192.0.2.0/24"]),
        IPBlock(cidr="10.0.0.0/24", except_=["10.0.0.0/29", "10.0.0.96/27"]),
        IPBlock(cidr="10.0.0.0/28"),
        IPBlock(cidr="192.0.2.7/32"),
        IPBlock(cidr="2001:db8::/64", except_=["2001:db8::/125"]),
    ]
)
peers = st.one_of(
    st.builds(
        lambda pods, namespaces: NetworkPolicyPeer(podSelector=pods, namespaceSelector=namespaces),
        selectors,
        st.none() | selectors,
    ),
    st.builds(lambda each: NetworkPolicyPeer(namespaceSelector=each), selectors),
    st.builds(lambda each: NetworkPolicyPeer(ipBlock=each), blocks),
)
ports = st.sampled_from(
    [
        NetworkPolicyPort(),
        NetworkPolicyPort(protocol="UDP"),
        NetworkPolicyPort(port=80),
        NetworkPolicyPort(port=80, endPort=81, protocol="TCP"),
        NetworkPolicyPort(port="web"),
        NetworkPolicyPort(port="web", protocol="UDP"),
        NetworkPolicyPort(port=80, protocol="SCTP"),
    ]
)
specs = st.builds(
    lambda selector, ingress, egress, types: NetworkPolicySpec(
        podSelector=selector,
        ingress=[NetworkPolicyIngressRule(from_=a, ports=b) for a, b in ingress],
        egress=[NetworkPolicyEgressRule(to=a, ports=b) for a, b in egress],
        policyTypes=types,
    ),
    selectors,
    *[st.lists(st.tuples(st.lists(peers, max_size=2), st.lists(ports, max_size=2)), max_size=2)]
    * 2,
    st.sampled_from([[], ["Ingress"], ["Egress"], ["Ingress", "Egress"]]),
)


def make_pod(key: tuple[str, str], own: dict[str, str], place: Any) -> Pod:
    node, phase, host_network, named = place
    number = NAMESPACES.index(key[0]) * len(NAMES) + NAMES.index(key[1]) + 1
    container = Container(
        name="main",
        ports=[
            ContainerPort(name="web", containerPort=port, protocol=protocol)
            for protocol, port in named
        ],
    )
    return Pod(
        metadata=ObjectMeta(name=key[1], namespace=key[0], labels=own),
        spec=PodSpec(nodeName=node, hostNetwork=host_network, containers=[container]),
        status=PodStatus(
            phase=phase, podIPs=[PodIP(ip=f"10.0.0.{number}"), PodIP(ip=f"2001:db8::{number}")]
        ),
    )


keys = st.tuples(st.sampled_from(NAMESPACES), st.sampled_from(NAMES))
places = st.tuples(
    st.sampled_from(NODES),
    st.sampled_from(["Running", "Running", "Running", "Succeeded"]),
    st.sampled_from([False, False, False, True]),
    st.sampled_from([(), (("TCP", 80),), (("TCP", 81), ("UDP", 80))]),
)
changes = st.one_of(
    st.tuples(st.just("pod"), keys, labels, places),
    st.tuples(st.just("pod"), keys, labels, places),
    st.tuples(st.just("policy"), keys, specs),
    st.tuples(st.just("policy"), keys, specs),
    st.tuples(st.just("namespace"), st.sampled_from(NAMESPACES), labels),
    st.tuples(st.sampled_from(["no pod", "no policy"]), keys),
    st.tuples(st.just("no namespace"), st.sampled_from(NAMESPACES)),
    st.tuples(st.just("flush")),
)


class Node:
    def __init__(self, name: str) -> None:
        self.name, self.planner, self.table = name, Planner(), Table()
        self.table.replace(self.planner.everything())

    def put_pod(self, pod: Pod) -> None:
        facts = facts_of(pod, self.name)
        key = (pod.metadata.namespace, pod.metadata.name)
        if facts is None:
            self.planner.remove_pod(key)
        else:
            self.planner.put_pod(facts)

    def flush(self) -> None:
        self.table.change(self.planner.flush())


def apply(change: Any, world: World, nodes: list[Node]) -> None:
    def everywhere(do: Callable[[Node], object]) -> None:
        for node in nodes:
            do(node)

    match change:
        case ("pod", key, own, place):
            pod = world.pods[key] = make_pod(key, own, place)
            everywhere(lambda node: node.put_pod(pod))
        case ("no pod", key):
            world.pods.pop(key, None)
            everywhere(lambda node: node.planner.remove_pod(key))
        case ("policy", key, spec):
            policy = NetworkPolicy(metadata=ObjectMeta(namespace=key[0], name=key[1]), spec=spec)
            world.policies[key] = policy
            everywhere(lambda node: node.planner.put_policy(policy_of(policy)))
        case ("no policy", key):
            world.policies.pop(key, None)
            everywhere(lambda node: node.planner.remove_policy(key))
        case ("namespace", name, own):
            world.namespaces[name] = own
            everywhere(lambda node: node.planner.put_namespace(name, own))
        case ("no namespace", name):
            world.namespaces.pop(name, None)
            everywhere(lambda node: node.planner.put_namespace(name, None))
        case ("flush",):
            everywhere(Node.flush)


def fresh(world: World, name: str) -> Node:
    """A node that learns all of it at once."""
    node = Node(name)
    for namespace, own in world.namespaces.items():
        node.planner.put_namespace(namespace, own)
    for pod in world.pods.values():
        node.put_pod(pod)
    for policy in world.policies.values():
        node.planner.put_policy(policy_of(policy))
    node.flush()
    return node


populations = st.tuples(
    *[st.tuples(st.just("namespace"), st.just(each), labels) for each in NAMESPACES],
    *[
        st.tuples(st.just("pod"), st.just(each), labels, places)
        for each in itertools.product(NAMESPACES[:2], NAMES)
    ],
    *[
        st.tuples(st.just("policy"), st.just(each), specs)
        for each in itertools.product(NAMESPACES[:2], NAMES[:2])
    ],
)


@settings(max_examples=120, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(populations, st.lists(changes, max_size=12))
def test_rules_allow_what_the_words_of_the_api_allow(
    population: tuple[Any, ...], history: list[Any]
) -> None:
    world = World()
    nodes = [Node(name) for name in NODES]
    for change in (*population, ("flush",), *history):
        apply(change, world, nodes)
    for node in nodes:
        node.flush()
        other = fresh(world, node.name)
        assert node.table.parts == other.table.parts
        assert node.table.parts == node.planner.everything()
    judges = [Verdicts(node.table) for node in nodes]
    addresses = [*OUTSIDE, *(ip.ip for pod in world.pods.values() for ip in pod.status.podIPs)]
    for source, target in itertools.product(addresses, repeat=2):
        if (":" in source) != (":" in target) or (source in OUTSIDE and target in OUTSIDE):
            continue
        for protocol, port in PORTS:
            packet = Connection(source, target, protocol.lower(), port)
            said = all(judge.allows(packet) for judge in judges)
            meant = world.allows(source, target, protocol, port)
            assert said == meant, (packet, world)
