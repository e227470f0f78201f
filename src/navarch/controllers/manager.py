"""The controller manager: all controllers in one process, over one client and one set of caches.

Controllers share informers, so each kind is listed, watched and kept once however many controllers
look at it. Every controller runs in a task of its own; if one ends, which it must never do, the
process ends and starts over with a clean mind rather than limping on without it.

Which controllers run is chosen as with upstream's `--controllers`: names, `*` for all, and `-name`
for all but that one. With `leader_elect` several managers may be started, of which one acts.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from navarch.client import (
    Client,
    ClientConfig,
    Controller,
    ControllerContext,
    InformerFactory,
    LeaderElector,
)

log = logging.getLogger(__name__)

LEASE = "kube-controller-manager"


@dataclass(frozen=True, slots=True)
class ManagerOptions:
    """What the controllers of a cluster have to be told."""

    kubeconfig: str
    controllers: tuple[str, ...] = ("*",)
    """Names of controllers, `*` for all, `-name` for none of that name."""
    cluster_cidr: str = ""
    """Addresses for pods, one range per address family, separated by commas; each node gets a
    part. Empty leaves the nodes' ranges to somebody else."""
    node_cidr_mask_size: int = 24
    """The size of a node's part of the IPv4 range, as a prefix length."""
    node_cidr_mask_size_ipv6: int = 64
    root_ca: str = ""
    """A file with the certificates that pods trust the API server by."""
    terminated_pod_threshold: int = 12500
    """So many finished pods are kept; the oldest above that are collected. 0 keeps them all."""
    leader_elect: bool = False


Arguments = Callable[[ManagerOptions], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Registered:
    """Where a controller's class is, and what it takes of the options."""

    module: str
    class_name: str
    arguments: Arguments = lambda options: {}

    def make(self, context: ControllerContext, options: ManagerOptions) -> Controller:
        module = importlib.import_module(f"navarch.controllers.{self.module}")
        controller: Controller = getattr(module, self.class_name)(
            context, **self.arguments(options)
        )
        return controller


CONTROLLERS: Mapping[str, Registered] = {
    "replicaset": Registered("replicaset", "ReplicaSetController"),
    "replicationcontroller": Registered("replicaset", "ReplicationControllerController"),
    "deployment": Registered("deployment", "DeploymentController"),
    "endpoints": Registered("endpoints", "EndpointsController"),
    "endpointslice": Registered("endpointslice", "EndpointSliceController"),
}
"""By the names that upstream's `--controllers` knows."""


def selected(patterns: Sequence[str]) -> list[str]:
    """The names of the controllers to run. Raises ValueError for one that does not exist."""
    for pattern in patterns:
        if pattern != "*" and pattern.removeprefix("-") not in CONTROLLERS:
            raise ValueError(f"no controller is called {pattern.removeprefix('-')!r}")
    return [
        name
        for name in CONTROLLERS
        if f"-{name}" not in patterns and (name in patterns or "*" in patterns)
    ]


async def run(options: ManagerOptions) -> None:
    """Run the controllers until cancelled."""
    config = ClientConfig.from_kubeconfig(options.kubeconfig)
    async with Client(config.with_user_agent("controllers")) as client:

        async def work() -> None:
            await run_controllers(client, options)

        if not options.leader_elect:
            await work()
            return
        identity = f"{platform.node()}_{os.getpid()}"
        await LeaderElector(client, LEASE, identity).run(work)


async def run_controllers(client: Client, options: ManagerOptions) -> None:
    """Make the chosen controllers and run them until cancelled, or until one of them fails."""
    context = ControllerContext(client, InformerFactory(client), client.clock)
    try:
        # All are made before anything starts: indexes and handlers belong to an empty cache.
        made = [CONTROLLERS[name].make(context, options) for name in selected(options.controllers)]
        await context.informers.start()
        log.info("running %s", ", ".join(controller.name for controller in made))
        async with asyncio.TaskGroup() as group:
            for controller in made:
                group.create_task(controller.run(), name=controller.name)
    finally:
        await context.close()
