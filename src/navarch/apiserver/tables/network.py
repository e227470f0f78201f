"""The tables of services, what is behind them, and what leads to them."""

from __future__ import annotations

from datetime import datetime

from navarch.apiserver.tables.table import Cells, Object, Table, columns
from navarch.apiserver.tables.text import (
    NONE,
    UNSET,
    age,
    at,
    is_default_class,
    label_text,
    name,
    selector_text,
    some,
    word,
)

DEFAULT_INGRESS_CLASS = "ingressclass.kubernetes.io/is-default-class"


def _ingress_points(obj: Object) -> list[str]:
    """The addresses at which a load balancer takes traffic."""
    points = at(obj, "status", "loadBalancer", "ingress") or ()
    return sorted({text for each in points if (text := each.get("ip") or each.get("hostname"))})


def _external(obj: Object) -> str:
    spec = obj.get("spec") or {}
    external = spec.get("externalIPs") or []
    of_type = spec.get("type")
    if of_type in ("ClusterIP", "NodePort"):
        return ",".join(external) or NONE
    if of_type == "LoadBalancer":
        return ",".join([*_ingress_points(obj), *external]) or "<pending>"
    return word(spec, "externalName") if of_type == "ExternalName" else "<unknown>"


def _port(port: Object) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port', 0)}{node_port}/{port.get('protocol', '')}"


def _service(obj: Object, now: datetime) -> Cells:
    spec = obj.get("spec") or {}
    return [
        name(obj),
        word(spec, "type"),
        (spec.get("clusterIPs") or [NONE])[0],
        _external(obj),
        ",".join(_port(port) for port in spec.get("ports") or ()) or NONE,
        age(obj, now),
        label_text(spec.get("selector")),
    ]


def _join_port(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _endpoints(obj: Object, now: datetime) -> Cells:
    subsets = obj.get("subsets") or []
    found: list[str] = []
    for subset in subsets:
        addresses = [each.get("ip", "") for each in subset.get("addresses") or ()]
        ports = subset.get("ports") or ()
        if not ports:
            found += addresses
        for port in ports:
            found += [_join_port(address, port.get("port", 0)) for address in addresses]
    return [name(obj), some(found, 3) if subsets else NONE, age(obj, now)]


def _slice_port(port: Object) -> str:
    if port.get("port") is not None:
        return str(port["port"])
    return "*" if port.get("name") is None else str(port["name"])


def _endpoint_slice(obj: Object, now: datetime) -> Cells:
    addresses = [
        address
        for endpoint in obj.get("endpoints") or ()
        for address in endpoint.get("addresses") or ()
    ]
    return [
        name(obj),
        word(obj, "addressType"),
        some([_slice_port(port) for port in obj.get("ports") or ()], 3, empty=UNSET),
        some(addresses, 3, empty=UNSET),
        age(obj, now),
    ]


def _hosts(obj: Object) -> str:
    """The hosts of the first three rules; a rule without a host takes any."""
    rules = at(obj, "spec", "rules") or []
    listed: list[str] = []
    for rule in rules:
        if len(listed) == 3:
            return f"{','.join(listed)} + {len(rules) - 3} more..."
        if rule.get("host"):
            listed.append(rule["host"])
    return ",".join(listed) or "*"


def _ingress(obj: Object, now: datetime) -> Cells:
    return [
        name(obj),
        word(obj, "spec", "ingressClassName", otherwise=NONE),
        _hosts(obj),
        ",".join(_ingress_points(obj)),
        "80, 443" if at(obj, "spec", "tls") else "80",
        age(obj, now),
    ]


def _ingress_class(obj: Object, now: datetime) -> Cells:
    parameters = at(obj, "spec", "parameters")
    text = NONE
    if parameters is not None:
        group = word(parameters, "apiGroup")
        kind = f"{word(parameters, 'kind')}.{group}" if group else word(parameters, "kind")
        text = f"{kind}/{word(parameters, 'name')}"
    mark = " (default)" if is_default_class(obj, [DEFAULT_INGRESS_CLASS]) else ""
    return [name(obj) + mark, word(obj, "spec", "controller"), text, age(obj, now)]


def _network_policy(obj: Object, now: datetime) -> Cells:
    return [name(obj), selector_text(at(obj, "spec", "podSelector")), age(obj, now)]


def _service_cidr(obj: Object, now: datetime) -> Cells:
    return [name(obj), ",".join(at(obj, "spec", "cidrs") or ()), age(obj, now)]


def _ip_address(obj: Object, now: datetime) -> Cells:
    parent = at(obj, "spec", "parentRef")
    if parent is None:
        return [name(obj), NONE]
    group = word(parent, "group")
    resource = f"{word(parent, 'resource')}.{group}" if group else word(parent, "resource")
    namespace = f"/{parent['namespace']}" if parent.get("namespace") else ""
    return [name(obj), f"{resource.lower()}{namespace}/{word(parent, 'name')}"]


TABLES = {
    "services": Table(columns("Name|Type|Cluster-IP|External-IP|Port(s)|Age|Selector*"), _service),
    "endpoints": Table(columns("Name|Endpoints|Age"), _endpoints),
    "endpointslices.discovery.k8s.io": Table(
        columns("Name|AddressType|Ports|Endpoints|Age"), _endpoint_slice
    ),
    "ingresses.networking.k8s.io": Table(columns("Name|Class|Hosts|Address|Ports|Age"), _ingress),
    "ingressclasses.networking.k8s.io": Table(
        columns("Name|Controller|Parameters|Age"), _ingress_class
    ),
    "networkpolicies.networking.k8s.io": Table(columns("Name|Pod-Selector|Age"), _network_policy),
    "servicecidrs.networking.k8s.io": Table(columns("Name|CIDRs|Age"), _service_cidr),
    "ipaddresses.networking.k8s.io": Table(columns("Name|ParentRef"), _ip_address),
}
