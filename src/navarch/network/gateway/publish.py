"""What a Gateway brings into the API: a Service of type LoadBalancer, which gets an address of its
own, leads to nginx, and goes when the Gateway goes (GEP-1762)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from navarch.api.named_secrets import GATEWAY_LABEL
from navarch.api.types.core_v1 import Service, ServicePort, ServiceSpec
from navarch.api.types.meta_v1 import ObjectMeta
from navarch.network.gateway import GROUP, HOSTNAMES
from navarch.network.gateway.listeners import GatewayState
from navarch.network.gateway.objects import Gateway
from navarch.network.nginx.publish import owner

ADDRESSES = "metallb.io/loadBalancerIPs"
LONGEST = 63
MOST_HOSTNAMES = 500
"""Annotations have a limit: 500 of the longest names are half of it."""


def fitting(name: str) -> str:
    """A name that a Service and a label can have: a Gateway's may be longer, and have dots."""
    plain = re.sub(r"[^a-z0-9-]", "-", name)
    if not plain[:1].isalpha():
        plain = f"gateway-{plain}"
    if plain == name and len(plain) <= LONGEST:
        return plain
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{plain[: LONGEST - 9].rstrip('-')}-{digest}"


def service_name(gateway: Gateway) -> str:
    return fitting(f"{gateway.metadata.name}-{gateway.spec.gatewayClassName}")


def service_of(state: GatewayState, hostnames: Iterable[str] = ()) -> Service | None:
    """The Service of a Gateway; none while there is nothing to serve."""
    gateway = state.gateway
    if not state.ports:
        return None
    infrastructure = gateway.spec.infrastructure
    annotations = dict(infrastructure.annotations)
    annotations.pop(HOSTNAMES, None)
    if values := [each.value for each in gateway.spec.addresses if each.value]:
        annotations[ADDRESSES] = ",".join(values)
    if names := sorted(hostnames)[:MOST_HOSTNAMES]:
        annotations[HOSTNAMES] = ",".join(names)
    label = gateway.metadata.name
    metadata = ObjectMeta(
        name=service_name(gateway),
        namespace=gateway.metadata.namespace,
        labels={
            **infrastructure.labels,
            GATEWAY_LABEL: label if len(label) <= LONGEST else fitting(label),
            "app.kubernetes.io/managed-by": "navarch",
        },
        annotations=annotations,
        ownerReferences=[owner(f"{GROUP}/v1", "Gateway", gateway.metadata)],
    )
    spec = ServiceSpec(
        type="LoadBalancer",
        # Who asks is seen by backends.
        externalTrafficPolicy="Local",
        ipFamilyPolicy="PreferDualStack",
        allocateLoadBalancerNodePorts=False,
        ports=[
            ServicePort(name=port_name(port), port=port, targetPort=port, protocol="TCP")
            for port in state.ports
        ],
    )
    return Service(metadata=metadata, spec=spec)


def port_name(port: int) -> str:
    return f"port-{port}"
