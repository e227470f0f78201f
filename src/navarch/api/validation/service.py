"""Services: ports, addresses, types and what each type may have."""

from __future__ import annotations

from navarch.api.errors import FieldError
from navarch.api.validation.addresses import parse_address
from navarch.api.validation.common import (
    PROTOCOLS,
    Errors,
    Object,
    dns1123_label,
    dns1123_subdomain,
    indexed,
)

TOPOLOGY_MODE = "service.kubernetes.io/topology-mode"
TOPOLOGY_HINTS = "service.kubernetes.io/topology-aware-hints"
TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
MAX_AFFINITY_SECONDS = 86400
SOURCE_RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"
FAMILIES = ("IPv4", "IPv6")
FAMILY_POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")


def validate_service(errors: Errors, obj: Object, old: Object | None = None) -> None:
    spec = obj["spec"]
    kind, headless = spec.get("type") or "", is_headless(spec)
    annotations = obj["metadata"].get("annotations") or {}
    mode = annotations.get(TOPOLOGY_MODE)
    if mode is not None and annotations.get(TOPOLOGY_HINTS, mode) != mode:
        detail = f"must match annotations[{TOPOLOGY_HINTS}] when both are specified"
        errors.invalid(f"metadata.annotations[{TOPOLOGY_MODE}]", mode, detail)
    if not spec.get("ports") and not headless and kind != "ExternalName":
        errors.required("spec.ports")
    if headless and kind in ("LoadBalancer", "NodePort"):
        detail = f"may not be set to 'None' for {kind} services"
        errors.invalid("spec.clusterIPs[0]", "None", detail)
    if kind == "ExternalName":
        _check_external_name(errors, spec)
    _check_ports(errors, spec)
    errors.labels("spec.selector", spec.get("selector"))
    _check_affinity(errors, spec)
    _check_addresses(errors, spec, ((old or {}).get("spec") or {}))
    known = ((old or {}).get("spec") or {}).get("externalIPs") or ()
    for here, address in indexed("spec.externalIPs", spec.get("externalIPs")):
        before = len(errors)
        if address not in known:
            errors.address(here, address)
        if len(errors) == before:
            errors.endpoint_address(here, address)
    errors.choice("spec.type", kind, TYPES)
    _check_load_balancer(errors, obj, ((old or {}).get("spec") or {}))
    _check_traffic(errors, spec)


def is_headless(spec: Object) -> bool:
    return spec.get("clusterIPs") == ["None"] or (
        not spec.get("clusterIPs") and spec.get("clusterIP") == "None"
    )


def is_externally_accessible(spec: Object) -> bool:
    kind = spec.get("type")
    outside = kind in ("LoadBalancer", "NodePort")
    return outside or (kind == "ClusterIP" and bool(spec.get("externalIPs")))


def _check_external_name(errors: Errors, spec: Object) -> None:
    for field in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        if spec.get(field):
            errors.forbidden(f"spec.{field}", "may not be set for ExternalName services")
    name = (spec.get("externalName") or "").removesuffix(".")
    if name:
        errors.check("spec.externalName", name, dns1123_subdomain)
    else:
        errors.required("spec.externalName")


def _check_ports(errors: Errors, spec: Object) -> None:
    ports = spec.get("ports") or ()
    seen: set[str] = set()
    numbers: set[tuple[str, int]] = set()
    node_ports: set[tuple[str, int]] = set()
    for here, port in indexed("spec.ports", ports):
        name, protocol = port.get("name"), port.get("protocol") or ""
        if not name and len(ports) > 1:
            errors.required(f"{here}.name")
        elif name:
            errors.check(f"{here}.name", name, dns1123_label)
            errors.once(seen, f"{here}.name", name)
        number, node_port = port.get("port") or 0, port.get("nodePort") or 0
        errors.port(f"{here}.port", number)
        errors.choice(f"{here}.protocol", protocol, PROTOCOLS)
        errors.port_or_name(f"{here}.targetPort", port.get("targetPort"))
        if port.get("appProtocol") is not None:
            errors.label_name(f"{here}.appProtocol", port["appProtocol"])
        if node_port:
            if spec.get("type") == "ClusterIP":
                errors.forbidden(f"{here}.nodePort", "may not be used when `type` is 'ClusterIP'")
            if (protocol, node_port) in node_ports:
                errors.duplicate(f"{here}.nodePort", node_port)
            node_ports.add((protocol, node_port))
        if (protocol, number) in numbers:
            errors.duplicate(here, {"protocol": protocol, "port": number})
        numbers.add((protocol, number))


def _check_affinity(errors: Errors, spec: Object) -> None:
    affinity, config = spec.get("sessionAffinity"), spec.get("sessionAffinityConfig")
    errors.choice("spec.sessionAffinity", affinity, ("ClientIP", "None"))
    here = "spec.sessionAffinityConfig"
    if affinity == "None" and config is not None:
        errors.forbidden(here, "must not be set when session affinity is None")
    if affinity != "ClientIP":
        return
    detail = "when session affinity type is ClientIP"
    if config is None:
        errors.required(here, detail)
    elif config.get("clientIP") is None:
        errors.required(f"{here}.clientIP", detail)
    elif config["clientIP"].get("timeoutSeconds") is None:
        errors.required(f"{here}.clientIP.timeoutSeconds", detail)
    else:
        seconds = config["clientIP"]["timeoutSeconds"]
        if not 0 < seconds <= MAX_AFFINITY_SECONDS:
            detail = f"must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"
            errors.invalid(f"{here}.clientIP.timeoutSeconds", seconds, detail)


def _check_addresses(errors: Errors, spec: Object, old: Object) -> None:
    if spec.get("type") == "ExternalName":
        return
    address, addresses = spec.get("clusterIP") or "", spec.get("clusterIPs") or []
    here = "spec.clusterIPs"
    if address and not addresses:
        errors.required(here)
    elif address and addresses[0] != address:
        errors.invalid(here, addresses, "first value must match `clusterIP`")
    elif addresses and not address:
        errors.invalid(here, addresses, "must be empty when `clusterIP` is not specified")
    _check_families(errors, spec)
    known, before = old.get("clusterIPs") or (), len(errors)
    is_headless_too = addresses[:1] == ["None"]
    if is_headless_too and len(addresses) > 1:
        errors.invalid(here, addresses, "'None' must be the first and only value")
    for index, each in enumerate(addresses):
        if each not in known and not (is_headless_too and not index):
            errors.address(f"{here}[{index}]", each)
    is_wellformed = len(errors) == before
    if len(addresses) > 2:
        errors.invalid(here, addresses, "may only hold up to 2 values")
    if not is_wellformed:
        # What follows would speak of families of what is no address.
        return
    if len(addresses) > 1 and len({":" in each for each in addresses}) < 2:
        errors.invalid(here, addresses, "may specify no more than one IP for each IP family")
    if is_headless_too:
        return
    for index, (family, each) in enumerate(
        zip(spec.get("ipFamilies") or (), addresses, strict=False)
    ):
        if family in FAMILIES and (family == "IPv6") is not (":" in each):
            detail = f"expected an {family} value as indicated by `ipFamilies[{index}]`"
            errors.invalid(f"{here}[{index}]", each, detail)


def _check_families(errors: Errors, spec: Object) -> None:
    families = spec.get("ipFamilies") or []
    for index, family in enumerate(families):
        here = f"spec.ipFamilies[{index}]"
        if family not in FAMILIES:
            errors.not_supported(here, family, FAMILIES)
        if family in families[:index]:
            errors.duplicate(here, family)
    errors.optional_choice("spec.ipFamilyPolicy", spec.get("ipFamilyPolicy"), FAMILY_POLICIES)


def _check_load_balancer(errors: Errors, obj: Object, old: Object) -> None:
    spec = obj["spec"]
    is_balancer, only = spec.get("type") == "LoadBalancer", "may only be used when `type` is "
    detail = f"{only}'LoadBalancer'"
    ranges = spec.get("loadBalancerSourceRanges") or ()
    text = (obj["metadata"].get("annotations") or {}).get(SOURCE_RANGES)
    if ranges:
        here = "spec.LoadBalancerSourceRanges"
        if not is_balancer:
            errors.forbidden(here, detail)
        known = old.get("loadBalancerSourceRanges") or ()
        for index, value in enumerate(ranges):
            if value not in known:
                errors.cidr(f"{here}[{index}]", value.strip())
    elif text is not None:
        here = f"metadata.annotations[{SOURCE_RANGES}]"
        if not is_balancer:
            errors.forbidden(here, detail)
        for value in text.strip().split(",") if text.strip() else ():
            errors.cidr(here, value.strip())
    allocate = spec.get("allocateLoadBalancerNodePorts")
    if allocate is not None and not is_balancer:
        errors.forbidden("spec.allocateLoadBalancerNodePorts", detail)
    if is_balancer and allocate is None:
        errors.required("allocateLoadBalancerNodePorts")
    load_balancer_class = spec.get("loadBalancerClass")
    if load_balancer_class is not None:
        if not is_balancer:
            errors.forbidden("spec.loadBalancerClass", detail)
        else:
            errors.label_name("spec.loadBalancerClass", load_balancer_class)


def _check_traffic(errors: Errors, spec: Object) -> None:
    policy, here = spec.get("externalTrafficPolicy"), "spec.externalTrafficPolicy"
    if is_externally_accessible(spec):
        errors.choice(here, policy, ("Cluster", "Local"))
    elif policy:
        errors.invalid(here, policy, "may only be set for externally-accessible services")
    port = spec.get("healthCheckNodePort")
    if spec.get("type") == "LoadBalancer" and policy == "Local":
        if port:
            # Without one it is allocated, after all this was checked.
            errors.port("spec.healthCheckNodePort", port)
    elif port:
        detail = (
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        )
        errors.invalid("spec.healthCheckNodePort", port, detail)
    inside = spec.get("internalTrafficPolicy")
    if inside is None and spec.get("type") in ("NodePort", "LoadBalancer", "ClusterIP"):
        errors.required("spec.internalTrafficPolicy")
    errors.optional_choice("spec.internalTrafficPolicy", inside, ("Cluster", "Local"))
    near = ("PreferClose", "PreferSameZone", "PreferSameNode")
    errors.optional_choice("spec.trafficDistribution", spec.get("trafficDistribution"), near)


def validate_service_update(errors: Errors, obj: Object, old: Object) -> None:
    new, before = obj["spec"], old["spec"]
    kinds = (new.get("type"), before.get("type"))
    if kinds == ("LoadBalancer", "LoadBalancer") and new.get("loadBalancerClass") != before.get(
        "loadBalancerClass"
    ):
        detail = "may not change once set"
        errors.invalid("spec.loadBalancerClass", new.get("loadBalancerClass"), detail)
    both = all(
        each.get("type") == "LoadBalancer" and each.get("externalTrafficPolicy") == "Local"
        for each in (new, before)
    )
    if both and new.get("healthCheckNodePort") != before.get("healthCheckNodePort"):
        errors.forbidden("spec.healthCheckNodePort", "field is immutable")
    validate_service(errors, obj, old)


def validate_addresses_update(new: Object, before: Object) -> list[FieldError]:
    """What an update may not do to addresses and families. Asked once the families of the new spec
    are complete, so apart from the other rules: until then an update may leave them out."""
    if "ExternalName" in (new.get("type"), before.get("type")):
        return []
    errors = Errors()
    was, is_now = is_headless(before), is_headless(new)
    if not (was and is_now):
        _check_kept(errors, new, before, ("clusterIPs", "clusterIP"))
    if not (was or is_now):
        _check_kept(errors, new, before, ("ipFamilies", "ipFamily"))
    return errors


def _check_kept(errors: Errors, new: Object, before: Object, names: tuple[str, str]) -> None:
    """The first address or family stays for ever; a second one may come, and go when the policy
    says so."""
    plural, singular = names
    values, known = new.get(plural) or [], before.get(plural) or []
    here, detail = f"spec.{plural}", "may not change once set"
    if len(values) == len(known):
        for index, each in enumerate(known):
            if values[index] != each:
                place = index if plural == "clusterIPs" else 0
                errors.invalid(f"{here}[{place}]", values, detail)
        return
    if not new.get("clusterIPs") and len(values) < len(known):
        errors.invalid(f"{here}[0]", values, f"primary {singular} can not be unset")
    if values and known and values[0] != known[0]:
        # Upstream shows the addresses here also where it is about families.
        errors.invalid(f"{here}[0]", new.get("clusterIPs") or [], detail)
    if len(values) == 1 < len(known) and new.get("ipFamilyPolicy") != "SingleStack":
        detail = f"must be set to 'SingleStack' when releasing the secondary {singular}"
        errors.invalid("spec.ipFamilyPolicy", new.get("ipFamilyPolicy"), detail)


def validate_service_status(errors: Errors, obj: Object, old: Object) -> None:
    ingress, before = (
        ((each.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
        for each in (obj, old)
    )
    known = {each.get("ip") for each in before}
    here = "status.loadBalancer.ingress"
    if obj["spec"].get("type") != "LoadBalancer" and ingress:
        errors.forbidden(here, "may only be used when `spec.type` is 'LoadBalancer'")
        return
    for index, each in enumerate(ingress):
        address, mode, hostname = each.get("ip"), each.get("ipMode"), each.get("hostname")
        if address:
            if address not in known:
                errors.address(f"{here}[{index}].ip", address)
            if mode is None:
                errors.required(f"{here}[{index}].ipMode", "must be specified when `ip` is set")
        elif mode is not None:
            errors.forbidden(f"{here}[{index}].ipMode", "may not be specified when `ip` is not set")
        errors.optional_choice(f"{here}[{index}].ipMode", mode, ("Proxy", "VIP"))
        if hostname:
            errors.check(f"{here}[{index}].hostname", hostname, dns1123_subdomain)
            if parse_address(hostname) is not None:
                detail = "must be a DNS name, not an IP address"
                errors.invalid(f"{here}[{index}].hostname", hostname, detail)
