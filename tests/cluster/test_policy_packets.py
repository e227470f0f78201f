"""NetworkPolicies in a real kernel, by real packets: between pods of one node, to and from another
node's, by everything that a policy can say. What is meant to pass is said by the literal model."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.cluster.policy_ground import Scene, ground

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="nft is not installed"),
]


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    with ground() as where:
        made = Scene(where)
        try:
            await made.fill(*(f"{namespace}/{name}" for namespace in "xy" for name in "abc"))
            yield made
        finally:
            made.kernel.close()


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
