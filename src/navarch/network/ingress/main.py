"""The ingress component: an nginx of this node, and the controller that tells it what to serve.

It listens on the node's own addresses, ports 80 and 443, as minikube's addon does, and makes itself
the endpoint of the Service `ingress-nginx/ingress-nginx-controller`, which has an address of its
own. nginx outlives a controller that is killed; a controller that is stopped takes it along.
"""

from __future__ import annotations

import hashlib
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from navarch.client.client import Client
from navarch.client.clock import RealClock
from navarch.client.config import ClientConfig
from navarch.client.controller import ControllerContext
from navarch.client.informer import InformerFactory
from navarch.network.ingress.controller import IngressController, Scope
from navarch.network.ingress.status import Published, StatusWriter
from navarch.network.ingress.translate import Ports
from navarch.network.nginx.process import Nginx
from navarch.network.nginx.render import Settings

REPLACED = "NAVARCH_REPLACED"
"""In the environment when the process ends only to be started anew."""


@dataclass(frozen=True, slots=True)
class IngressOptions:
    """`addresses` to listen on; `state_directory` keeps what was served last, `shared_directory`
    is where nginx's workers read and write, so it must be reachable for their user."""

    kubeconfig: str
    addresses: tuple[str, ...]
    state_directory: str
    shared_directory: str = ""
    node_name: str = ""
    http_port: int = 80
    https_port: int = 443
    health_port: int = 10254
    workers: int = 2
    controller_class: str = "k8s.io/ingress-nginx"
    watch_ingress_without_class: bool = True
    publish_service: str = "ingress-nginx/ingress-nginx-controller"
    cluster_dns: tuple[str, ...] = ()
    domain: str = "cluster.local"
    access_log: str = ""


def settings(options: IngressOptions) -> Settings:
    directory = Path(options.state_directory)
    name = hashlib.sha256(str(directory).encode()).hexdigest()[:12]
    return Settings(
        directory=directory,
        shared=Path(options.shared_directory or f"/run/navarch-nginx-{name}"),
        addresses=options.addresses,
        health_port=options.health_port,
        workers=options.workers,
        resolvers=options.cluster_dns,
        access_log=options.access_log or str(directory / "ingress-access.log"),
    )


async def run(options: IngressOptions) -> None:
    """Serve until cancelled."""
    clock = RealClock()
    node = options.node_name or socket.gethostname()
    ports = Ports(options.http_port, options.https_port)
    nginx = Nginx(settings(options), clock)
    namespace, _, name = options.publish_service.partition("/")
    published = Published(namespace, name, node, options.addresses, ports)
    async with Client(ClientConfig.from_kubeconfig(options.kubeconfig)) as client:
        context = ControllerContext(client, InformerFactory(client), clock, node)
        scope = Scope(
            options.controller_class, options.watch_ingress_without_class, ports, options.domain
        )
        controller = IngressController(context, nginx, scope)
        status = StatusWriter(context, published, lambda: controller.ours)
        try:
            await controller.run(status.run)
        finally:
            if REPLACED in os.environ:
                await nginx.leave()
            else:
                await status.clear()
                await nginx.stop()
            await context.close()
