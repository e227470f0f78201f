"""The ingress component: an nginx of this node, and the controller that tells it what to serve.

It listens on the node's own addresses, ports 80 and 443, as minikube's addon does, and makes them
endpoints of the Service `ingress-nginx/ingress-nginx-controller`, which has an address of its
own.
"""

from __future__ import annotations

from dataclasses import dataclass

from navarch.client.controller import ControllerContext
from navarch.network.ingress.controller import IngressServing, Scope
from navarch.network.ingress.translate import Ports
from navarch.network.nginx.process import Nginx
from navarch.network.nginx.publish import Place
from navarch.network.nginx.serving import ServingOptions, serve


@dataclass(frozen=True, slots=True)
class IngressOptions(ServingOptions):
    http_port: int = 80
    https_port: int = 443
    controller_class: str = "k8s.io/ingress-nginx"
    watch_ingress_without_class: bool = True
    publish_service: str = "ingress-nginx/ingress-nginx-controller"
    domain: str = "cluster.local"


async def run(options: IngressOptions) -> None:
    """Serve until cancelled."""
    scope = Scope(
        options.controller_class,
        options.watch_ingress_without_class,
        Ports(options.http_port, options.https_port),
        options.domain,
        options.publish_service,
    )

    def make(context: ControllerContext, nginx: Nginx, place: Place) -> IngressServing:
        return IngressServing(context, nginx, place, scope)

    await serve(options, "ingress", make)
