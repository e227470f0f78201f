"""What NetworkPolicies cost, in a real kernel: `python -m bench.policy`, as root.

A node of a cluster with 1,000 pods, 100 of them its own, and 100 policies in ten namespaces. The
cost of a connection is that of a TCP handshake between two pods of the node, one after another; the
policies are put in and taken out again and again, because the machine is never the same twice.
"""

from __future__ import annotations

import asyncio
import socket
import time
from statistics import median

import msgspec
from tests.cluster.policy_ground import Ground, Scene, ground, inside, make_pod

from bench.report import Row, show
from navarch.api.types.core_v1 import Namespace
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.api.types.networking_v1 import NetworkPolicy
from navarch.client.clock import RealClock
from navarch.network.policy.claims import Book
from navarch.network.policy.enforcer import Enforcer
from navarch.network.policy.kernel import LinuxKernel
from navarch.network.policy.planner import Planner

PODS, LOCAL, POLICIES, NAMESPACES = 1000, 100, 100, 10
CHANGES, CONNECTIONS, ROUNDS = 20, 500, 7


def policy(number: int, **spec: object) -> NetworkPolicy:
    """Pods of one role take connections of two other roles, and of a namespace, on some ports."""
    peers = [
        {"podSelector": {"matchLabels": {"role": f"r{number % 20}"}}},
        {"namespaceSelector": {"matchLabels": {"team": f"t{number % NAMESPACES}"}}},
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": [f"10.{number}.0.0/16"]}},
    ]
    fields = {
        "podSelector": {"matchLabels": {"role": f"r{number // NAMESPACES % 20}"}},
        "ingress": [{"from": peers, "ports": [{"port": 80}, {"port": 8000, "endPort": 8100}]}],
        **spec,
    }
    metadata = {"name": f"p{number}", "namespace": f"n{number % NAMESPACES}"}
    return msgspec.convert({"metadata": metadata, "spec": fields}, NetworkPolicy)


def fill(enforcer: Enforcer) -> None:
    for number in range(NAMESPACES):
        metadata = ObjectMeta(name=f"n{number}", labels={"team": f"t{number}"})
        enforcer.put_namespace(Namespace(metadata=metadata))
    for number in range(PODS):
        put_pod(enforcer, number, f"r{number // NAMESPACES % 20}")
    for number in range(POLICIES):
        enforcer.put_policy(policy(number))


def put_pod(enforcer: Enforcer, number: int, role: str) -> None:
    namespace, address = f"n{number % NAMESPACES}", f"10.1.{2 + number // 250}.{number % 250 + 1}"
    node = "here" if number < LOCAL else "there"
    enforcer.put_pod(make_pod(namespace, f"p{number}", address, node, {"role": role}))


async def updates() -> list[Row]:
    kernel = LinuxKernel()
    enforcer = Enforcer(Planner(), Book("here"), kernel, RealClock())
    try:
        fill(enforcer)
        cold = await timed(enforcer)
        labels, pods, policies = [], [], []
        for at in range(CHANGES):
            put_pod(enforcer, at, f"r{(at + 7) % 20}")
            labels.append(await timed(enforcer))
            put_pod(enforcer, PODS + at, "r3")
            pods.append(await timed(enforcer))
            peers = [{"podSelector": {"matchLabels": {"role": f"r{at}", "pod": "p7"}}}]
            ports = [{"port": 1000 + at}]
            enforcer.put_policy(
                policy(POLICIES // 2 + at, ingress=[{"from": peers, "ports": ports}])
            )
            policies.append(await timed(enforcer))
    finally:
        kernel.close()
    among = f"among {PODS:,} pods and {POLICIES} policies"
    return [
        Row(f"a pod's label changed, {among}", median(labels) * 1e3, "ms", budget=200),
        Row(f"a pod added, {among}", median(pods) * 1e3, "ms", budget=200),
        Row(f"a policy changed, {among}", median(policies) * 1e3, "ms", budget=200),
        Row(f"cold start with {PODS:,} pods and {POLICIES} policies", cold * 1e3, "ms"),
    ]


async def timed(enforcer: Enforcer) -> float:
    begin = time.perf_counter()
    await enforcer.sync()
    return time.perf_counter() - begin


async def connections(where: Ground) -> list[Row]:
    scene = Scene(where)
    try:
        await scene.fill("n0/a", "n0/b")
        fill(scene.enforcer)
        scene.relabel("n0/a", role="r0")
        scene.relabel("n0/b", role="r0")
        without, within = [], []
        for _ in range(ROUNDS):
            for number in range(POLICIES):
                scene.enforcer.remove_policy(policy(number))
            await scene.enforcer.sync()
            without.append(await handshake(scene))
            for number in range(POLICIES):
                scene.enforcer.put_policy(policy(number))
            await scene.enforcer.sync()
            within.append(await handshake(scene))
    finally:
        scene.kernel.close()
    ratio = median(within) / median(without)
    return [
        Row("a TCP handshake between pods, no policies", median(without) * 1e6, "us"),
        Row(f"a TCP handshake between pods, {POLICIES} policies", median(within) * 1e6, "us"),
        Row("policies to none", ratio, "times", budget=1.25),
    ]


async def handshake(scene: Scene) -> float:
    a, b = scene.address("n0/a"), scene.address("n0/b")
    # Nobody takes the connections: the kernel alone answers, until the queue is full.
    listening = scene.ground.socket(a, socket.SOCK_STREAM, 8000)
    listening.listen(CONNECTIONS)

    def connect() -> float:
        begin = time.perf_counter()
        for _ in range(CONNECTIONS):
            with socket.create_connection((a, 8000), 5, (b, 0)):
                pass
        return (time.perf_counter() - begin) / CONNECTIONS

    with listening:
        return await asyncio.to_thread(inside, scene.ground.places[b], connect)


async def measure() -> None:
    with ground() as where:
        show(await updates())
        show(await connections(where))


def main() -> None:
    asyncio.run(measure())


if __name__ == "__main__":
    main()
