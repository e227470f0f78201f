"""The tables of services, what is behind them, and what leads to them."""

from __future__ import annotations

from collections.abc import Sequence

from navarch.apiserver.tables.table import Object, table
from navarch.apiserver.tables.text import (
    NONE,
    UNSET,
    at,
    default_marker,
    grouped,
    some,
    word,
)


def _points(ingress: Sequence[Object] | None) -> str:
    """The addresses at which a load balancer takes traffic."""
    found = {each.get("ip") or each.get("hostname") for each in ingress or ()}
    return ",".join(sorted(filter(None, found)))


def _external(obj: Object) -> str:
    spec = obj.get("spec") or {}
    external = ",".join(spec.get("externalIPs") or [])
    of_type = spec.get("type")
    if of_type in ("ClusterIP", "NodePort"):
        return external or NONE
    if of_type == "LoadBalancer":
        points = _points(at(obj, "status", "loadBalancer", "ingress"))
        return ",".join(filter(None, (points, external))) or "<pending>"
    return word(spec, "externalName") if of_type == "ExternalName" else "<unknown>"


def _port(port: Object) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port', 0)}{node_port}/{port.get('protocol', '')}"


def _join_port(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _endpoints(subsets: Sequence[Object]) -> str:
    found: list[str] = []
    for subset in subsets:
        addresses = [each.get("ip", "") for each in subset.get("addresses") or ()]
        ports = subset.get("ports") or ()
        if not ports:
            found += addresses
        for port in ports:
            found += [_join_port(address, port.get("port", 0)) for address in addresses]
    return some(found, 3)


def _slice_port(port: Object) -> str:
    if port.get("port") is not None:
        return str(port["port"])
    return "*" if port.get("name") is None else str(port["name"])


def _slice_addresses(endpoints: Sequence[Object] | None) -> str:
    found = [address for each in endpoints or () for address in each.get("addresses") or ()]
    return some(found, 3, empty=UNSET)


def _hosts(rules: Sequence[Object] | None) -> str:
    """The hosts of the first three rules; a rule without a host takes any."""
    listed: list[str] = []
    for rule in rules or ():
        if len(listed) == 3:
            return f"{','.join(listed)} + {len(rules or ()) - 3} more..."
        if rule.get("host"):
            listed.append(rule["host"])
    return ",".join(listed) or "*"


def _class_parameters(parameters: Object) -> str:
    kind = grouped(word(parameters, "kind"), word(parameters, "apiGroup"))
    return f"{kind}/{word(parameters, 'name')}"


def _parent(parent: Object) -> str:
    resource = grouped(word(parent, "resource"), word(parent, "group")).lower()
    namespace = f"/{parent['namespace']}" if parent.get("namespace") else ""
    return f"{resource}{namespace}/{word(parent, 'name')}"


TABLES = {
    "services": table(
        "Name|Type=spec.type|Cluster-IP=first(spec.clusterIPs)?<none>|External-IP=external()|"
        "Port(s)=ports(spec.ports)?<none>|Age|Selector*=labels(spec.selector)",
        first=lambda addresses: addresses[0],
        external=_external,
        ports=lambda ports: ",".join(map(_port, ports)),
    ),
    "endpoints": table("Name|Endpoints=some(subsets)?<none>|Age", some=_endpoints),
    "endpointslices.discovery.k8s.io": table(
        "Name|AddressType=addressType|Ports=ports(ports)|Endpoints=addresses(endpoints)|Age",
        ports=lambda ports: some([_slice_port(port) for port in ports or ()], 3, empty=UNSET),
        addresses=_slice_addresses,
    ),
    "ingresses.networking.k8s.io": table(
        "Name|Class=spec.ingressClassName?<none>|Hosts=hosts(spec.rules)|"
        "Address=points(status.loadBalancer.ingress)|Ports=ports(spec.tls)|Age",
        hosts=_hosts,
        points=_points,
        ports=lambda tls: "80, 443" if tls else "80",
    ),
    "ingressclasses.networking.k8s.io": table(
        "Name=marked()|Controller=spec.controller|Parameters=what(spec.parameters)?<none>|Age",
        marked=default_marker("ingressclass.kubernetes.io/is-default-class"),
        what=_class_parameters,
    ),
    "networkpolicies.networking.k8s.io": table("Name|Pod-Selector=selector(spec.podSelector)|Age"),
    "servicecidrs.networking.k8s.io": table("Name|CIDRs=joined(spec.cidrs)|Age"),
    "ipaddresses.networking.k8s.io": table(
        "Name|ParentRef=parent(spec.parentRef)?<none>", parent=_parent
    ),
}
