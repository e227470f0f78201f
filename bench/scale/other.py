"""The burst of pods against whatever control plane runs already: `python -m bench.scale.other
--kubeconfig FILE [--pids NAME=PID,PID ...]`. That is how the figures of upstream's kube-apiserver,
etcd and kube-scheduler are taken, by the same pods, the same client and the same end.

The nodes are objects and nothing else, as in upstream's scheduler_perf; where a node lifecycle
controller runs it must not take their silence for their end within the time. Objects stay behind:
give it a server of its own. The rights of an administrator are needed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop

from bench.load import Target
from bench.process import Processes
from bench.report import Row, show
from bench.scale.bursts import bound, each
from bench.scale.cluster import LOAD, Usage
from navarch.api.errors import ApiError
from navarch.api.types.core_v1 import Namespace, Node, NodeCondition, ServiceAccount
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.client.client import Client
from navarch.client.config import ClientConfig

CAPACITY = {"cpu": "64", "memory": "256Gi", "pods": "250"}
ZONES = 3


async def add_node(client: Client, number: int) -> None:
    """A node that is ready and has room."""
    name = f"node-{number}"
    labels = {
        "kubernetes.io/hostname": name,
        "topology.kubernetes.io/zone": f"zone-{number % ZONES}",
    }
    node = Node(metadata=ObjectMeta(name=name, labels=labels))
    node.status.capacity = node.status.allocatable = CAPACITY
    node.status.conditions = [NodeCondition(type="Ready", status="True")]
    nodes = client.resource(Node)
    await nodes.create(node)
    # Admission has given it the taint of those that are not ready.
    await nodes.patch(name, "", {"spec": {"taints": None}})


async def burst(config: ClientConfig, nodes: int, pods: int, watched: Mapping[str, Any]) -> None:
    processes = {name: Processes(pids) for name, pids in watched.items()}

    def usage() -> Usage:
        cpu = {name: process.cpu() for name, process in processes.items()}
        return Usage(time.perf_counter(), {**cpu, LOAD: time.process_time()})

    async with Client(config) as client:
        for number in range(nodes):
            await add_node(client, number)
        namespace = f"bound-{nodes}"
        await client.resource(Namespace).create(Namespace(metadata=ObjectMeta(name=namespace)))
        account = ServiceAccount(metadata=ObjectMeta(name="default", namespace=namespace))
        try:
            await client.resource(ServiceAccount).create(account)
        except ApiError as error:
            if not error.is_already_exists:
                raise
        before = usage()
        seconds = await bound(None, Target.of(config), client, namespace, pods)
        show(
            [
                Row(f"{pods:,} pods on {nodes:,} nodes: created and bound", seconds, "s"),
                Row("  pods created and bound through the API", pods / seconds, "/s"),
                *each(before, usage(), pods),
            ]
        )


def named_pids(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, pids = text.partition("=")
    return name, tuple(map(int, pids.split(",")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--pids", type=named_pids, nargs="*", default=[], metavar="NAME=PID,PID")
    arguments = parser.parse_args()
    config = ClientConfig.from_kubeconfig(arguments.kubeconfig)
    uvloop.run(burst(config, arguments.nodes, arguments.pods, dict(arguments.pids)))


if __name__ == "__main__":
    main()
