"""Ingresses, ingress classes, network policies, service CIDRs and IP addresses."""

from __future__ import annotations

import ipaddress

from navarch.api import names
from navarch.api.errors import invalid, required
from navarch.api.validation.addresses import (
    address_warnings,
    canonical_problem,
    cidr_warnings,
    parse_address,
)
from navarch.api.validation.common import (
    IMMUTABLE,
    PROTOCOLS,
    Errors,
    Object,
    dns1123_label,
    dns1123_subdomain,
    indexed,
)

CLASS_ANNOTATION = "kubernetes.io/ingress.class"
PATH_TYPES = ("Exact", "ImplementationSpecific", "Prefix")
_BAD_SEQUENCES = ("//", "/./", "/../", "%2f", "%2F")
_BAD_SUFFIXES = ("/..", "/.")


def validate_ingress_create(errors: Errors, obj: Object) -> None:
    annotation = (obj["metadata"].get("annotations") or {}).get(CLASS_ANNOTATION)
    named = (obj.get("spec") or {}).get("ingressClassName")
    if annotation is not None and named is not None and annotation != named:
        detail = "must match `ingressClassName` when both are specified"
        errors.invalid(f"annotations.{CLASS_ANNOTATION}", annotation, detail)
    validate_ingress(errors, obj)


def validate_ingress(errors: Errors, obj: Object) -> None:
    spec = obj.get("spec") or {}
    backend, rules = spec.get("defaultBackend"), spec.get("rules") or []
    if not rules and backend is None:
        detail = "either `defaultBackend` or `rules` must be specified"
        errors.invalid("spec", rules or None, detail)
    if backend is not None:
        _check_backend(errors, "spec.defaultBackend", backend)
    for here, rule in indexed("spec.rules", rules):
        host = rule.get("host") or ""
        if host:
            _check_host(errors, f"{here}.host", host)
            if parse_address(host) is not None:
                errors.invalid(f"{here}.host", host, "must be a DNS name, not an IP address")
        if rule.get("http") is not None:
            _check_http(errors, f"{here}.http", rule["http"])
    for here, tls in indexed("spec.tls", spec.get("tls")):
        for position, host in enumerate(tls.get("hosts") or ()):
            _check_host(errors, f"{here}.hosts[{position}]", host)
        secret = tls.get("secretName")
        if secret:
            errors.check(f"{here}.secretName", secret, dns1123_subdomain)
    if spec.get("ingressClassName") is not None:
        errors.check("spec.ingressClassName", spec["ingressClassName"], dns1123_subdomain)


def _check_host(errors: Errors, path: str, host: str) -> None:
    problems = names.wildcard_subdomain(host) if "*" in host else dns1123_subdomain(host)
    errors.problems(path, host, problems)


def _check_http(errors: Errors, path: str, http: Object) -> None:
    errors.present(f"{path}.paths", http.get("paths"))
    for here, each in indexed(f"{path}.paths", http.get("paths")):
        kind, target = each.get("pathType"), each.get("path") or ""
        if kind is None:
            errors.required(f"{here}.pathType", "pathType must be specified")
            continue
        if kind in ("Exact", "Prefix"):
            if not target.startswith("/"):
                errors.invalid(f"{here}.path", target, "must be an absolute path")
            for sequence in _BAD_SEQUENCES:
                if sequence in target:
                    errors.invalid(f"{here}.path", target, f"must not contain '{sequence}'")
            for suffix in _BAD_SUFFIXES:
                if target.endswith(suffix):
                    errors.invalid(f"{here}.path", target, f"cannot end with '{suffix}'")
        elif kind == "ImplementationSpecific":
            if target and not target.startswith("/"):
                errors.invalid(f"{here}.path", target, "must be an absolute path")
        else:
            errors.not_supported(f"{here}.pathType", kind, PATH_TYPES)
        _check_backend(errors, f"{here}.backend", each.get("backend") or {})


def _check_backend(errors: Errors, path: str, backend: Object) -> None:
    resource, service = backend.get("resource"), backend.get("service")
    if resource is not None and service is not None:
        errors.invalid(path, "", "cannot set both resource and service backends")
    elif resource is not None:
        _check_reference(errors, f"{path}.resource", resource)
    elif service is None:
        errors.invalid(path, "", "resource or service backend is required")
    else:
        errors.name(f"{path}.service.name", service.get("name"), dns1123_label)
        port = service.get("port") or {}
        if port.get("name") and port.get("number"):
            errors.invalid(path, "", "cannot set both port name & port number")
        elif port.get("name"):
            errors.check(f"{path}.service.port.name", port["name"], names.port_name)
        elif port.get("number"):
            errors.port(f"{path}.service.port.number", port["number"])
        else:
            errors.required(path, "port name or number is required")


def _check_reference(errors: Errors, path: str, reference: Object) -> None:
    """An object of whatever kind, by name."""
    if reference.get("apiGroup") is not None:
        errors.check(f"{path}.apiGroup", reference["apiGroup"], dns1123_subdomain)
    for field in ("kind", "name"):
        errors.name(f"{path}.{field}", reference.get(field), names.path_segment_name)


def validate_ingress_status(errors: Errors, obj: Object) -> None:
    ingress = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    for here, each in indexed("status.loadBalancer.ingress", ingress):
        if each.get("ip"):
            errors.address(f"{here}.ip", each["ip"])
        hostname = each.get("hostname")
        if hostname:
            errors.check(f"{here}.hostname", hostname, dns1123_subdomain)
            if parse_address(hostname) is not None:
                detail = "must be a DNS name, not an IP address"
                errors.invalid(f"{here}.hostname", hostname, detail)


def validate_ingress_class(errors: Errors, obj: Object) -> None:
    spec = obj.get("spec") or {}
    controller, parameters = spec.get("controller") or "", spec.get("parameters")
    errors.no_longer("spec.controller", controller, 250)
    errors.name("spec.controller", controller, names.domain_prefixed_path)
    if parameters is None:
        return
    here = "spec.parameters"
    _check_reference(errors, here, parameters)
    scope, namespace = parameters.get("scope"), parameters.get("namespace")
    if scope is None:
        errors.required(f"{here}.scope")
    errors.optional_choice(f"{here}.scope", scope, ("Cluster", "Namespace"))
    if scope == "Namespace":
        detail = "`parameters.scope` is set to 'Namespace'"
        errors.name(f"{here}.namespace", namespace, dns1123_label, detail)
    elif scope == "Cluster" and namespace is not None:
        errors.forbidden(f"{here}.namespace", "`parameters.scope` is set to 'Cluster'")


def validate_ingress_class_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_ingress_class(errors, obj)
    new, before = (
        (obj.get("spec") or {}).get("controller"),
        (old.get("spec") or {}).get("controller"),
    )
    errors.immutable("spec.controller", new, before)


def validate_network_policy(obj: Object) -> Errors:
    errors = Errors()
    spec = obj.get("spec") or {}
    errors.label_selector("spec.podSelector", spec.get("podSelector"))
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for here, rule in indexed(f"spec.{direction}", spec.get(direction)):
            for position, port in enumerate(rule.get("ports") or ()):
                _check_policy_port(errors, f"{here}.ports[{position}]", port)
            for position, peer in enumerate(rule.get(peers) or ()):
                _check_peer(errors, f"{here}.{peers}[{position}]", peer)
    kinds = spec.get("policyTypes") or []
    if len(kinds) > 2:
        errors.invalid("spec.policyTypes", kinds, "may not specify more than two policyTypes")
    for index, kind in enumerate(kinds):
        errors.optional_choice(f"spec.policyTypes[{index}]", kind, ("Ingress", "Egress"))
    return errors


def _check_policy_port(errors: Errors, path: str, port: Object) -> None:
    choices = ("TCP", "UDP", "SCTP")
    protocol = port.get("protocol")
    if protocol not in PROTOCOLS:
        errors.optional_choice(f"{path}.protocol", protocol, choices)
    number, end = port.get("port"), port.get("endPort")
    if number is None:
        if end is not None:
            detail = "may not be specified when `port` is not specified"
            errors.invalid(f"{path}.endPort", end, detail)
    elif isinstance(number, str):
        if end is not None:
            detail = "may not be specified when `port` is non-numeric"
            errors.invalid(f"{path}.endPort", end, detail)
        errors.check(f"{path}.port", number, names.port_name)
    else:
        errors.port(f"{path}.port", number)
        if end is not None:
            if end < number:
                errors.invalid(f"{path}.endPort", number, "must be greater than or equal to `port`")
            errors.port(f"{path}.endPort", end)


def _check_peer(errors: Errors, path: str, peer: Object) -> None:
    block = peer.get("ipBlock")
    selectors = [
        each for each in ("podSelector", "namespaceSelector") if peer.get(each) is not None
    ]
    for field in selectors:
        errors.label_selector(f"{path}.{field}", peer[field])
    if block is not None:
        _check_block(errors, f"{path}.ipBlock", block)
        if selectors:
            errors.forbidden(path, "may not specify both ipBlock and another peer")
    elif not selectors:
        errors.required(path, "must specify a peer")


def _check_block(errors: Errors, path: str, block: Object) -> None:
    text = block.get("cidr") or ""
    if not text:
        errors.required(f"{path}.cidr")
        return
    before = len(errors)
    errors.cidr(f"{path}.cidr", text)
    if len(errors) != before:
        return
    whole = ipaddress.ip_network(text, strict=False)
    for here, part in indexed(f"{path}.except", block.get("except")):
        before = len(errors)
        errors.cidr(here, part)
        if len(errors) != before:
            continue
        inner = ipaddress.ip_network(part, strict=False)
        inside = inner.version == whole.version and inner.network_address in whole
        if not inside or inner.prefixlen <= whole.prefixlen:
            errors.invalid(here, part, "must be a strict subset of `cidr`")


def validate_service_cidr(errors: Errors, obj: Object) -> None:
    ranges, here = (obj.get("spec") or {}).get("cidrs") or [], "spec.cidrs"
    errors.present(here, ranges, "at least one CIDR required")
    if len(ranges) > 2:
        errors.invalid(here, obj.get("spec"), "may only hold up to 2 values")
    for index, each in enumerate(ranges):
        problem = canonical_problem(each, is_range=True)
        if problem:
            errors.invalid(f"{here}[{index}]", each, problem)
    if len(ranges) == 2 and len({":" in each for each in ranges}) < 2:
        detail = (
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and "
            "2001:db8::/64"
        )
        errors.invalid(here, ranges, detail)


def validate_service_cidr_update(errors: Errors, obj: Object, old: Object) -> None:
    new = (obj.get("spec") or {}).get("cidrs") or []
    before = (old.get("spec") or {}).get("cidrs") or []
    if len(before) == 1 and len(new) == 2:
        # A second family may be added, once.
        if new[0] != before[0]:
            errors.append(invalid("spec.cidrs[0]", new[0], IMMUTABLE))
            return
        validate_service_cidr(errors, obj)
        return
    if len(new) != len(before):
        errors.append(invalid("spec.cidrs", new, IMMUTABLE))
        return
    errors += [
        invalid(f"spec.cidrs[{index}]", each, IMMUTABLE)
        for index, each in enumerate(new)
        if each != before[index]
    ]


def validate_address_name(name: str) -> list[str]:
    """An IPAddress is named by its address, in the one canonical form."""
    problem = canonical_problem(name)
    return [problem] if problem else []


def validate_ip_address(errors: Errors, obj: Object) -> None:
    parent = (obj.get("spec") or {}).get("parentRef")
    here = "spec.parentRef"
    if parent is None:
        errors.append(required(here))
        return
    if parent.get("group"):
        errors.check(f"{here}.group", parent["group"], dns1123_subdomain)
    for field in ("resource", "name"):
        errors.name(f"{here}.{field}", parent.get(field), names.path_segment_name)
    if parent.get("namespace"):
        errors.check(f"{here}.namespace", parent["namespace"], names.path_segment_name)


def validate_ip_address_update(errors: Errors, obj: Object, old: Object) -> None:
    validate_ip_address(errors, obj)
    new = (obj.get("spec") or {}).get("parentRef")
    errors.immutable("spec.parentRef", new, (old.get("spec") or {}).get("parentRef"))


def policy_warnings(obj: Object) -> list[str]:
    """Of the ranges in a NetworkPolicy."""
    spec = obj.get("spec") or {}
    warnings: list[str] = []
    for direction, peers in (("ingress", "from"), ("egress", "to")):
        for index, rule in enumerate(spec.get(direction) or ()):
            for position, peer in enumerate(rule.get(peers) or ()):
                block = peer.get("ipBlock")
                if not block:
                    continue
                here = f"spec.{direction}[{index}].{peers}[{position}].ipBlock"
                warnings += cidr_warnings(f"{here}.cidr", block.get("cidr") or "")
                for place, each in enumerate(block.get("except") or ()):
                    warnings += cidr_warnings(f"{here}.except[{place}]", each)
    return warnings


def ingress_status_warnings(obj: Object) -> list[str]:
    """Of the addresses that a load balancer has, of an Ingress or a Service."""
    ingress = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return [
        told
        for index, each in enumerate(ingress)
        if each.get("ip")
        for told in address_warnings(f"status.loadBalancer.ingress[{index}]", each["ip"])
    ]
