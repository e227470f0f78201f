"""NetworkPolicies in a real kernel, by real packets: between pods of one node, to and from another
node's, by everything that a policy can say. What is meant to pass is said by the literal model."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.cluster.policy_ground import NODE, OUTSIDE, Ground, ground, make_pod
from tests.unit.network.policy_model import World

from navarch.api.types.core_v1 import Namespace, Pod
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.networking_v1 import NetworkPolicy
from navarch.client.clock import RealClock
from navarch.network.policy.claims import Book
from navarch.network.policy.enforcer import Enforcer
from navarch.network.policy.kernel import LinuxKernel
from navarch.network.policy.planner import Planner
from navarch.network.policy.rules import dns_service

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed"),
]
PORTS = (("TCP", 80), ("TCP", 81), ("UDP", 80))
REMOTE = "10.1.1.7"


class Scene:
    """Two namespaces of three pods each, and one pod on another node in a third."""

    def __init__(self, where: Ground) -> None:
        self.ground, self.world = where, World()
        self.strangers = 0
        self.kernel = LinuxKernel(self.stranger)
        planner = Planner([dns_service([NODE])])
        self.enforcer = Enforcer(planner, Book("here"), self.kernel, RealClock())
        self.pods: dict[str, Pod] = {}

    def stranger(self) -> None:
        self.strangers += 1
        self.enforcer.distrust()

    async def fill(self) -> None:
        for name in ("x", "y", "z"):
            self.put_namespace(name)
        for number, (namespace, name) in enumerate((n, p) for n in "xy" for p in "abc"):
            self.put_pod(make_pod(namespace, name, self.ground.plug(number)))
        self.ground.add_remote(REMOTE)
        self.put_pod(make_pod("z", "a", REMOTE, "there"))
        for address in (*self.addresses, OUTSIDE, NODE):
            await self.ground.serve(address, 80, 81)
        await self.ground.serve(NODE, 53)
        await self.enforcer.sync()

    @property
    def addresses(self) -> list[str]:
        return [pod.status.podIP for pod in self.pods.values()]

    def put_namespace(self, name: str, **labels: str) -> None:
        labels |= {"kubernetes.io/metadata.name": name}
        self.world.namespaces[name] = labels
        self.enforcer.put_namespace(Namespace(metadata=ObjectMeta(name=name, labels=labels)))

    def put_pod(self, pod: Pod) -> None:
        key = (pod.metadata.namespace, pod.metadata.name)
        self.pods["/".join(key)] = self.world.pods[key] = pod
        self.enforcer.put_pod(pod)

    def relabel(self, name: str, **labels: str) -> None:
        namespace, pod = name.split("/")
        address = self.pods[name].status.podIP
        self.put_pod(make_pod(namespace, pod, address, labels=labels))

    def address(self, name: str) -> str:
        return self.pods[name].status.podIP

    def put(self, spec: dict[str, Any], name: str = "p", namespace: str = "x") -> None:
        document = {"metadata": {"name": name, "namespace": namespace},
                    "spec": {"podSelector": {}} | spec}  # fmt: skip
        policy = msgspec.convert(document, NetworkPolicy)
        self.world.policies[namespace, name] = policy
        self.enforcer.put_policy(policy)

    def clear(self) -> None:
        for policy in self.world.policies.values():
            self.enforcer.remove_policy(policy)
        self.world.policies.clear()

    async def check(self, what: str) -> None:
        """Everybody asks everybody, and gets what the model says."""
        await self.enforcer.sync()
        addresses = [*self.addresses, OUTSIDE]
        found = await self.ground.table(addresses, PORTS)
        wrong = []
        for cell, answered in found.items():
            here = self.ground.outside not in (self.ground.places[cell[0]],) or (
                self.ground.places[cell[1]] != self.ground.outside
            )
            if here and answered != self.world.allows(*cell):
                wrong.append((*cell, answered))
        assert not wrong, (what, wrong, rules())


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    with ground() as where:
        made = Scene(where)
        try:
            await made.fill()
            yield made
        finally:
            made.kernel.close()


def rules() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout


def block(cidr: str, *but: str) -> dict[str, Any]:
    return {"ipBlock": {"cidr": cidr, "except": list(but)}}


def pods(**labels: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": labels}}


def namespaces(*names: str) -> dict[str, Any]:
    expression = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": list(names)}
    return {"namespaceSelector": {"matchExpressions": [expression]}}


TCP_80, TCP_81 = {"port": 80}, {"port": 81}
TO_A = {"podSelector": {"matchLabels": {"pod": "a"}}}
CASES: dict[str, list[dict[str, Any]]] = {
    "default deny ingress": [{"ingress": []}],
    "default deny all": [{"policyTypes": ["Ingress", "Egress"]}],
    "default deny egress": [{"policyTypes": ["Egress"]}],
    "allow all": [{"ingress": [{}], "egress": [{}]}],
    "by pod selector": [TO_A | {"ingress": [{"from": [pods(pod="b")]}]}],
    "by namespace selector": [TO_A | {"ingress": [{"from": [namespaces("y", "z")]}]}],
    "either selector": [TO_A | {"ingress": [{"from": [pods(pod="b"), namespaces("y")]}]}],
    "both selectors": [TO_A | {"ingress": [{"from": [pods(pod="b") | namespaces("y", "z")]}]}],
    "one port": [TO_A | {"ingress": [{"ports": [TCP_81]}]}],
    "a range of ports": [TO_A | {"ingress": [{"ports": [{"port": 79, "endPort": 80}]}]}],
    "named port in": [TO_A | {"ingress": [{"ports": [{"port": "serve-81-tcp"}]}]}],
    "named port out": [
        TO_A | {"policyTypes": ["Egress"], "egress": [{"ports": [{"port": "serve-80-tcp"}]}]}
    ],
    "a protocol": [TO_A | {"ingress": [{"ports": [{"protocol": "UDP"}]}]}],
    "SCTP is not TCP": [TO_A | {"ingress": [{"ports": [{"protocol": "SCTP", "port": 80}]}]}],
    "block with exceptions": [
        {"egress": [{"to": [block("10.1.0.0/24", "10.1.0.0/30", "10.1.0.7/32")]}],
         "policyTypes": ["Egress"]}
    ],
    "an exception that another peer allows": [
        TO_A | {"ingress": [{"from": [block("0.0.0.0/0", "10.1.0.0/16"), block("10.1.1.7/32")]}]}
    ],
    "stacked": [
        TO_A | {"ingress": [{"from": [pods(pod="b")], "ports": [TCP_80]}]},
        TO_A | {"ingress": [{"from": [namespaces("y")], "ports": [TCP_81]}]},
        {"policyTypes": ["Egress"], "egress": [{"to": [pods(), block("192.0.2.2/32")]}]},
    ],
}  # fmt: skip


async def test_packets_pass_as_the_model_says(scene: Scene) -> None:
    await scene.check("no policies")
    for what, specs in CASES.items():
        scene.clear()
        for number, spec in enumerate(specs):
            scene.put(spec, f"p{number}")
        await scene.check(what)
    scene.clear()
    await scene.check("no policies any more")
    assert not scene.strangers


async def test_changed_labels_and_policies_are_followed(scene: Scene) -> None:
    scene.put({"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"team": "blue"}}}]}]})
    await scene.check("nobody is blue")
    scene.put_namespace("y", team="blue")
    await scene.check("a namespace turned blue")
    scene.put({"ingress": [{"from": [pods(role="guest")]}]})
    await scene.check("the policy changed")
    scene.relabel("x/b", role="guest")
    await scene.check("a pod became a guest")
    scene.put(pods(role="guest") | {"policyTypes": ["Egress"]}, "silence")
    await scene.check("guests were silenced")
    scene.relabel("x/b")
    await scene.check("the guest left")
