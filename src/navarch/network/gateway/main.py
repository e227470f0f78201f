"""The gateway component: an nginx of this node for Gateways, and the controller that tells it what
to serve. It is the ingress component's sibling, with an nginx of its own."""

from __future__ import annotations

from dataclasses import dataclass

from navarch.network.gateway.controller import GatewayServing
from navarch.network.nginx.serving import ServingOptions, serve


@dataclass(frozen=True, slots=True)
class GatewayOptions(ServingOptions):
    health_port: int = 10264


async def run(options: GatewayOptions) -> None:
    """Serve until cancelled."""
    await serve(options, "gateway", GatewayServing)
