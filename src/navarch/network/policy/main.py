"""Enforcement of NetworkPolicies, one per node: `navarch policy`.

It follows pods, namespaces and NetworkPolicies of the whole cluster and keeps the node's table. The
table stays when this ends: what is denied remains denied, and pods that it does not know cannot
start, because their kubelet waits for it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from navarch.api.types.core_v1 import Namespace, Pod
from navarch.api.types.networking_v1 import NetworkPolicy
from navarch.client.client import Client
from navarch.client.clock import RealClock
from navarch.client.config import ClientConfig
from navarch.client.informer import InformerFactory
from navarch.network.policy import SOCKET_NAME
from navarch.network.policy.claims import Book, serve
from navarch.network.policy.enforcer import Enforcer
from navarch.network.policy.kernel import LinuxKernel
from navarch.network.policy.planner import Planner
from navarch.network.policy.rules import TABLE, dns_service


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """`dns_addresses` are where the node's own name server is asked. `directory` holds the socket
    at which the kubelet announces pods, and what it has announced; without it, new pods are
    isolated only when the API tells of their addresses."""

    kubeconfig: str
    node_name: str
    dns_addresses: tuple[str, ...] = ()
    directory: Path | None = None
    enforce: bool = True
    """Off where others do it: then the table of former times is taken away."""


async def run(options: PolicyOptions) -> None:
    """Enforce policies until cancelled; the rules stay in the kernel afterwards."""
    if not options.enforce:
        former = LinuxKernel()
        try:
            await former.apply([f"add table {TABLE}", f"delete table {TABLE}"])
        finally:
            former.close()
        await asyncio.Event().wait()
    book = Book(options.node_name, options.directory)
    planner = Planner([dns_service(options.dns_addresses)])
    kernel = LinuxKernel(lambda: enforcer.distrust())
    enforcer = Enforcer(planner, book, kernel, RealClock())
    try:
        async with Client(ClientConfig.from_kubeconfig(options.kubeconfig)) as client:
            informers = InformerFactory(client)
            informers.informer(Namespace).add_handler(
                on_add=enforcer.put_namespace,
                on_update=lambda _, new: enforcer.put_namespace(new),
                on_delete=enforcer.remove_namespace,
            )
            informers.informer(NetworkPolicy).add_handler(
                on_add=enforcer.put_policy,
                on_update=lambda _, new: enforcer.put_policy(new),
                on_delete=enforcer.remove_policy,
            )
            informers.informer(Pod, field_selector="spec.hostNetwork=false").add_handler(
                on_add=enforcer.put_pod,
                on_update=lambda _, new: enforcer.put_pod(new),
                on_delete=enforcer.remove_pod,
            )
            await informers.start()
            try:
                await informers.wait_synced()
                async with asyncio.TaskGroup() as group:
                    group.create_task(enforcer.run(), name="network policies")
                    group.create_task(informers.join(), name="policy informers")
                    if options.directory is not None:
                        socket = options.directory / SOCKET_NAME
                        group.create_task(serve(socket, enforcer.admit), name="announced pods")
            finally:
                await informers.stop()
    finally:
        kernel.close()
