"""The gateway component: an nginx of this node for Gateways, and the controller that tells it what
to serve. It is the ingress component's sibling, with an nginx of its own."""

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
from navarch.network.gateway.controller import GatewayController, Node
from navarch.network.ingress.main import REPLACED
from navarch.network.nginx.process import Nginx
from navarch.network.nginx.render import Settings


@dataclass(frozen=True, slots=True)
class GatewayOptions:
    """`addresses` to listen on; `state_directory` keeps what was served last, `shared_directory`
    is where nginx's workers read and write, so it must be reachable for their user."""

    kubeconfig: str
    addresses: tuple[str, ...]
    state_directory: str
    shared_directory: str = ""
    node_name: str = ""
    health_port: int = 10264
    workers: int = 2
    access_log: str = ""


def settings(options: GatewayOptions) -> Settings:
    directory = Path(options.state_directory)
    name = hashlib.sha256(str(directory).encode()).hexdigest()[:12]
    return Settings(
        directory=directory,
        shared=Path(options.shared_directory or f"/run/navarch-nginx-{name}"),
        addresses=options.addresses,
        health_port=options.health_port,
        workers=options.workers,
        access_log=options.access_log or str(directory / "gateway-access.log"),
    )


async def run(options: GatewayOptions) -> None:
    """Serve until cancelled."""
    clock = RealClock()
    node = options.node_name or socket.gethostname()
    nginx = Nginx(settings(options), clock)
    async with Client(ClientConfig.from_kubeconfig(options.kubeconfig)) as client:
        context = ControllerContext(client, InformerFactory(client), clock, node)
        controller = GatewayController(context, nginx, Node(node, options.addresses))
        try:
            await controller.run()
        finally:
            if REPLACED in os.environ:
                await nginx.leave()
            else:
                await nginx.stop()
            await context.close()
