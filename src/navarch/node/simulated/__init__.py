"""Nodes without containers: thousands of them in one process, for tests of scale and of whatever
works with pods rather than in them.

Each has a Node object and a Lease like any other. Pods bound to them go through their life by a
timetable: Pending, Running and ready, perhaps Succeeded or Failed, gone. One watch serves all
nodes, one queue all pods; nothing is kept per pod but what an informer holds. Needs no root.

    options    what they are told; config: groups of nodes and rules for pods, from a file
    timetable  how long things take; life: what a pod's status is by it (both pure)
    nodes      Node objects and heartbeats; faults: what befalls nodes on demand
    pods       drives the life of all pods; load: what they take of a node; slim: their memory
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .config import parse_taint
from .options import SimulatedOptions, default_timetable, fleet_of, members

if TYPE_CHECKING:
    from navarch.client import Client

__all__ = ["SimulatedOptions", "parse_taint", "run", "run_nodes"]


async def run(options: SimulatedOptions) -> None:
    """Be these nodes until cancelled."""
    # Commands read configurations, too, and must not pay for what only nodes need.
    from navarch.client import Client, ClientConfig

    config = ClientConfig.from_kubeconfig(options.kubeconfig)
    async with Client(config.with_user_agent("simulated")) as client:
        await run_nodes(client, options)


async def run_nodes(client: Client, options: SimulatedOptions) -> None:
    """Be nodes with a client that is there already."""
    from navarch.client import ControllerContext, InformerFactory

    from .nodes import SimulatedNodes
    from .pods import SimulatedPods

    fleet = fleet_of(options)
    timetable = default_timetable(options)
    context = ControllerContext(client, InformerFactory(client), client.clock)
    try:
        nodes = SimulatedNodes(context, options, members(options, fleet))
        await context.informers.start()
        async with asyncio.TaskGroup() as group:
            group.create_task(nodes.run(), name="simulated nodes")
            await nodes.are_heard.wait()
            pods = SimulatedPods(context, nodes, fleet, timetable)
            await context.informers.start()
            group.create_task(pods.run(), name="simulated pods")
    finally:
        await context.close()
