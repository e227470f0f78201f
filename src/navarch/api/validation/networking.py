"""Ingresses, ingress classes, network policies, service CIDRs and IP addresses."""

from __future__ import annotations

import ipaddress

from navarch.api import names
from navarch.api.validation.addresses import (
    address_warnings,
    canonical_problem,
    cidr_warnings,
    parse_address,
)
from navarch.api.validation.common import (
    IMMUTABLE,
    PROTOCOLS,
    Object,
    dns1123_label,
    dns1123_subdomain,
)
from navarch.api.validation.fields import Field
from navarch.api.validation.go_values import shown_as
from navarch.api.validation.service import check_hostname

CLASS_ANNOTATION = "kubernetes.io/ingress.class"
PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_DIRECTIONS = (("ingress", "from"), ("egress", "to"))
_BAD_SEQUENCES = ("//", "/./", "/../", "%2f", "%2F")
_BAD_SUFFIXES = ("/..", "/.")


def validate_ingress_create(obj: Field) -> None:
    annotation = obj["metadata"]["annotations"].get(CLASS_ANNOTATION)
    named = obj["spec"].get("ingressClassName")
    if annotation is not None and named is not None and annotation != named:
        shown = obj.at(f"annotations.{CLASS_ANNOTATION}", annotation)
        shown.invalid("must match `ingressClassName` when both are specified")
    validate_ingress(obj)


def validate_ingress(obj: Field) -> None:
    spec = obj["spec"]
    backend, rules = spec["defaultBackend"], spec["rules"]
    if backend.is_set:
        _check_backend(backend)
    elif not rules:
        spec.showing(None).invalid("either `defaultBackend` or `rules` must be specified")
    for rule in rules:
        host = rule["host"]
        if host:
            _check_host(host)
            if parse_address(host.value) is not None:
                host.invalid("must be a DNS name, not an IP address")
        if rule["http"].is_set:
            _check_http(rule["http"])
    for tls in spec["tls"]:
        for host in tls["hosts"]:
            _check_host(host)
        tls["secretName"].check_unless_empty(dns1123_subdomain)
    spec["ingressClassName"].check_if_set(dns1123_subdomain)


def _check_host(host: Field) -> None:
    host.check(names.wildcard_subdomain if "*" in host else dns1123_subdomain)


def _check_http(http: Field) -> None:
    http["paths"].present()
    for each in http["paths"]:
        kind, target = each["pathType"], each.text("path")
        is_absolute = target.value.startswith("/")
        if not kind.is_set:
            kind.required("pathType must be specified")
            continue
        if kind.value in ("Exact", "Prefix"):
            if not is_absolute:
                target.invalid("must be an absolute path")
            for sequence in _BAD_SEQUENCES:
                if sequence in target:
                    target.invalid(f"must not contain '{sequence}'")
            for suffix in _BAD_SUFFIXES:
                if target.value.endswith(suffix):
                    target.invalid(f"cannot end with '{suffix}'")
        elif kind.value != "ImplementationSpecific":
            kind.not_supported(PATH_TYPES)
        elif target and not is_absolute:
            target.invalid("must be an absolute path")
        _check_backend(each["backend"])


def _check_backend(backend: Field) -> None:
    resource, service, shown = backend["resource"], backend["service"], backend.showing("")
    if resource.is_set and service.is_set:
        shown.invalid("cannot set both resource and service backends")
    elif resource.is_set:
        _check_reference(resource)
    elif not service.is_set:
        shown.invalid("resource or service backend is required")
    else:
        service["name"].name(dns1123_label)
        name, number = service["port"]["name"], service["port"]["number"]
        if name and number:
            shown.invalid("cannot set both port name & port number")
        elif name:
            name.check(names.port_name)
        elif number:
            number.port()
        else:
            backend.required("port name or number is required")


def _check_reference(reference: Field) -> None:
    """An object of whatever kind, by name."""
    reference["apiGroup"].check_if_set(dns1123_subdomain)
    for field in reference.each("kind", "name"):
        field.name(names.path_segment_name)


def validate_ingress_status(obj: Field) -> None:
    for each in obj["status"]["loadBalancer"]["ingress"]:
        if each.get("ip"):
            each["ip"].address()
        check_hostname(each["hostname"])


def validate_ingress_class(obj: Field) -> None:
    controller, parameters = obj["spec"]["controller"], obj["spec"]["parameters"]
    controller.no_longer(250)
    controller.name(names.domain_prefixed_path)
    if not parameters.is_set:
        return
    _check_reference(parameters)
    scope, namespace = parameters["scope"], parameters["namespace"]
    scope.must_be_set()
    scope.optional_choice(("Cluster", "Namespace"))
    if scope.value == "Namespace":
        namespace.must_be_set("`parameters.scope` is set to 'Namespace'")
        namespace.check_if_set(dns1123_label)
    elif scope.value == "Cluster" and namespace.is_set:
        namespace.forbidden("`parameters.scope` is set to 'Cluster'")


def validate_ingress_class_update(obj: Field, old: Field) -> None:
    validate_ingress_class(obj)
    obj["spec"].keeps(old["spec"], "controller")


def validate_network_policy(obj: Field) -> None:
    spec = obj["spec"]
    spec["podSelector"].label_selector()
    for direction, peers in _DIRECTIONS:
        for rule in spec[direction]:
            for port in rule["ports"]:
                _check_policy_port(port)
            for peer in rule[peers]:
                _check_peer(peer)
    kinds = spec["policyTypes"]
    if len(kinds) > 2:
        kinds.invalid("may not specify more than two policyTypes")
        return
    for kind in kinds:
        kind.optional_choice(("Ingress", "Egress"))


def validate_network_policy_update(obj: Field, old: Field) -> None:
    if obj.get("spec") != old.get("spec"):  # else it was right once
        validate_network_policy(obj)


def _check_policy_port(port: Field) -> None:
    if port.get("protocol") not in PROTOCOLS:
        port["protocol"].optional_choice(("TCP", "UDP", "SCTP"))
    number, end = port["port"], port["endPort"]
    if not number.is_set:
        if end.is_set:
            end.invalid("may not be specified when `port` is not specified")
    elif isinstance(number.value, str):
        if end.is_set:
            end.invalid("may not be specified when `port` is non-numeric")
        number.check(names.port_name)
    else:
        number.port()
        if end.is_set:
            if end.value < number.value:
                end.showing(number.value).invalid("must be greater than or equal to `port`")
            end.port()


def _check_peer(peer: Field) -> None:
    block = peer["ipBlock"]
    selectors = [each for each in peer.each("podSelector", "namespaceSelector") if each.is_set]
    for selector in selectors:
        selector.label_selector()
    if block.is_set:
        _check_block(block)
        if selectors:
            peer.forbidden("may not specify both ipBlock and another peer")
    elif not selectors:
        peer.required("must specify a peer")


def _check_block(block: Field) -> None:
    text = block["cidr"]
    text.present()
    whole = _network(text) if text else None
    for part in block["except"] if whole is not None else ():
        inner = _network(part)
        if inner is None or whole is None:
            continue
        inside = inner.version == whole.version and inner.network_address in whole
        if not inside or inner.prefixlen <= whole.prefixlen:
            part.invalid("must be a strict subset of `cidr`")


def _network(field: Field) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The range that a field holds, unless it is none, which is complained about."""
    before = len(field.errors)
    field.cidr()
    return ipaddress.ip_network(field.value, strict=False) if len(field.errors) == before else None


def validate_service_cidr(obj: Field) -> None:
    ranges = obj["spec"]["cidrs"]
    ranges.present("at least one CIDR required")
    if len(ranges) > 2:
        shown = shown_as(obj["spec"], "networking_v1.ServiceCIDRSpec")
        ranges.showing(shown.value).invalid("may only hold up to 2 values")
        return
    found = len(obj.errors)
    for each in ranges:
        if problem := canonical_problem(each.value, is_range=True):
            each.invalid(problem)
    if len(ranges) == 2 and found == len(obj.errors) and len({":" in each for each in ranges}) < 2:
        ranges.invalid(
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and "
            "2001:db8::/64"
        )


def validate_service_cidr_update(obj: Field, old: Field) -> None:
    ranges, before = obj["spec"]["cidrs"], old["spec"].get("cidrs") or []
    found = len(obj.errors)
    if len(before) == 1 and len(ranges) == 2:
        # A second family may be added, once.
        next(iter(ranges)).immutable(before[0])
        if len(obj.errors) == found:
            validate_service_cidr(obj)
    elif len(ranges) != len(before):
        ranges.showing(ranges.value or []).invalid(IMMUTABLE)
    else:
        for each, known in zip(ranges, before, strict=True):
            each.immutable(known)


def validate_address_name(name: str) -> list[str]:
    """An IPAddress is named by its address, in the one canonical form."""
    problem = canonical_problem(name)
    return [problem] if problem else []


def validate_ip_address(obj: Field) -> None:
    parent = obj["spec"]["parentRef"]
    if not parent.is_set:
        parent.required()
        return
    parent["group"].check_unless_empty(dns1123_subdomain)
    for field in parent.each("resource", "name"):
        field.name(names.path_segment_name)
    parent["namespace"].check_unless_empty(names.path_segment_name)


def validate_ip_address_update(obj: Field, old: Field) -> None:
    validate_ip_address(obj)
    obj["spec"].keeps(old["spec"], "parentRef")


def policy_warnings(obj: Object) -> list[str]:
    """Of the ranges in a NetworkPolicy."""
    warnings: list[str] = []
    for direction, peers in _DIRECTIONS:
        for rule in Field(obj)["spec"][direction]:
            for peer in rule[peers]:
                block = peer["ipBlock"]
                for each in (block.text("cidr"), *block["except"]) if block else ():
                    warnings += cidr_warnings(each.path, each.value)
    return warnings


def ingress_status_warnings(obj: Object) -> list[str]:
    """Of the addresses that a load balancer has, of an Ingress or a Service."""
    return [
        told
        for each in Field(obj)["status"]["loadBalancer"]["ingress"]
        if each.get("ip")
        for told in address_warnings(each.path, each.get("ip"))
    ]
