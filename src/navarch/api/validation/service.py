"""Services: ports, addresses, types and what each type may have."""

from __future__ import annotations

from navarch.api.validation.addresses import parse_address
from navarch.api.validation.common import (
    PROTOCOLS,
    Object,
    dns1123_label,
    dns1123_subdomain,
    qualified_name,
)
from navarch.api.validation.fields import Errors, Field
from navarch.api.validation.go_values import shown_as

TOPOLOGY_MODE = "service.kubernetes.io/topology-mode"
TOPOLOGY_HINTS = "service.kubernetes.io/topology-aware-hints"
TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
MAX_AFFINITY_SECONDS = 86400
SOURCE_RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"
FAMILIES = ("IPv4", "IPv6")
FAMILY_POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")


def validate_service(obj: Field) -> None:
    """A new service, which gets its addresses before upstream looks at the rest of it."""
    _check_addresses(obj["spec"], Field(None))
    if not obj.errors:
        check_service(obj, Field(None))


def check_service(obj: Field, old: Field) -> None:
    """A service, which may keep some old values that a new one must not have."""
    spec, before = obj["spec"], old["spec"]
    kind, headless = spec.get("type") or "", is_headless(spec.value)
    annotations = obj["metadata"]["annotations"]
    mode = annotations.get(TOPOLOGY_MODE)
    if mode is not None and annotations.get(TOPOLOGY_HINTS, mode) != mode:
        detail = f"must match annotations[{TOPOLOGY_HINTS}] when both are specified"
        annotations.at(f"[{TOPOLOGY_MODE}]", mode).invalid(detail)
    if not headless and kind != "ExternalName":
        spec["ports"].present()
    if headless and kind in ("LoadBalancer", "NodePort"):
        place = spec["clusterIPs"].at("[0]", "None")
        place.invalid(f"may not be set to 'None' for {kind} services")
    if kind == "ExternalName":
        _check_external_name(spec)
    _check_ports(spec)
    spec["selector"].labels()
    _check_affinity(spec)
    _check_addresses(spec, before)
    for address in spec["externalIPs"]:
        found = len(obj.errors)
        if address.value not in before["externalIPs"]:
            address.address()
        if len(obj.errors) == found:
            address.endpoint_address()
    spec["type"].choice(TYPES)
    _check_load_balancer(obj, before)
    _check_traffic(spec)


def is_headless(spec: Object) -> bool:
    return spec.get("clusterIPs") == ["None"] or (
        not spec.get("clusterIPs") and spec.get("clusterIP") == "None"
    )


def is_externally_accessible(spec: Object) -> bool:
    kind = spec.get("type")
    outside = kind in ("LoadBalancer", "NodePort")
    return outside or (kind == "ClusterIP" and bool(spec.get("externalIPs")))


def _check_external_name(spec: Field) -> None:
    for field in spec.each("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        if field:
            field.forbidden("may not be set for ExternalName services")
    name = spec.text("externalName")
    name.showing(name.value.removesuffix(".")).name(dns1123_subdomain)


def _check_ports(spec: Field) -> None:
    seen: set[str] = set()
    numbers: set[tuple[str, int]] = set()
    node_ports: set[tuple[str, int]] = set()
    for port in spec["ports"]:
        name, node_port = port["name"], port["nodePort"]
        if name:
            name.check(dns1123_label)
            name.once(seen)
        elif len(spec["ports"]) > 1:
            name.required()
        protocol, number = port.get("protocol") or "", port.get("port") or 0
        port["port"].port()
        port["protocol"].choice(PROTOCOLS)
        port["targetPort"].port_or_name()
        port["appProtocol"].check_if_set(qualified_name)
        if node_port:
            if spec.get("type") == "ClusterIP":
                node_port.forbidden("may not be used when `type` is 'ClusterIP'")
            if (protocol, node_port.value) in node_ports:
                node_port.duplicate()
            node_ports.add((protocol, node_port.value))
        if (protocol, number) in numbers:
            same = port.showing({"protocol": protocol, "port": number})
            shown_as(same, "core_v1.ServicePort").duplicate()
        numbers.add((protocol, number))


def _check_affinity(spec: Field) -> None:
    affinity, config = spec["sessionAffinity"], spec["sessionAffinityConfig"]
    affinity.choice(("ClientIP", "None"))
    if affinity.value == "None" and config.is_set:
        config.forbidden("must not be set when session affinity is None")
    if affinity.value != "ClientIP":
        return
    seconds = config["clientIP"]["timeoutSeconds"]
    for field in (config, config["clientIP"], seconds):
        if not field.is_set:
            field.required("when session affinity type is ClientIP")
            return
    if not 0 < seconds.value <= MAX_AFFINITY_SECONDS:
        seconds.invalid(f"must be greater than 0 and less than {MAX_AFFINITY_SECONDS}")


def _check_addresses(spec: Field, old: Field) -> None:
    if spec.get("type") == "ExternalName":
        return
    address, field = spec.get("clusterIP") or "", spec["clusterIPs"]
    addresses = field.value or []
    if address and not addresses:
        field.required()
    elif address and addresses[0] != address:
        field.invalid("first value must match `clusterIP`")
    elif addresses and not address:
        field.invalid("must be empty when `clusterIP` is not specified")
    _check_families(spec)
    before = len(spec.errors)
    is_headless_too = addresses[:1] == ["None"]
    if is_headless_too and len(addresses) > 1:
        field.invalid("'None' must be the first and only value")
    for index, each in enumerate(field):
        if each.value not in old["clusterIPs"] and not (is_headless_too and not index):
            each.address()
    is_wellformed = len(spec.errors) == before
    if len(addresses) > 2:
        field.invalid("may only hold up to 2 values")
    if not is_wellformed:
        # What follows would speak of families of what is no address.
        return
    if len(addresses) > 1 and len({":" in each for each in addresses}) < 2:
        field.invalid("may specify no more than one IP for each IP family")
    if is_headless_too:
        return
    families = spec.get("ipFamilies") or ()
    for index, (family, each) in enumerate(zip(families, field, strict=False)):
        if family in FAMILIES and (family == "IPv6") is not (":" in each):
            each.invalid(f"expected an {family} value as indicated by `ipFamilies[{index}]`")


def _check_families(spec: Field) -> None:
    seen: set[str] = set()
    for family in spec["ipFamilies"]:
        family.optional_choice(FAMILIES)
        family.once(seen)
    spec["ipFamilyPolicy"].optional_choice(FAMILY_POLICIES)


def _check_load_balancer(obj: Field, old: Field) -> None:
    spec = obj["spec"]
    is_balancer = spec.get("type") == "LoadBalancer"
    only_balancers = "may only be used when `type` is 'LoadBalancer'"
    ranges = spec.at("LoadBalancerSourceRanges", spec.get("loadBalancerSourceRanges"))
    text = obj["metadata"]["annotations"].get(SOURCE_RANGES)
    annotation = obj["metadata"]["annotations"].at(f"[{SOURCE_RANGES}]", text)
    if ranges:
        if not is_balancer:
            ranges.forbidden(only_balancers)
        for each in ranges:
            if each.value not in old["loadBalancerSourceRanges"]:
                each.showing(each.value.strip()).cidr()
    elif text is not None:
        if not is_balancer:
            annotation.forbidden(only_balancers)
        for each in text.strip().split(",") if text.strip() else ():
            annotation.showing(each.strip()).cidr()
    allocate = spec["allocateLoadBalancerNodePorts"]
    if allocate.is_set and not is_balancer:
        allocate.forbidden(only_balancers)
    if is_balancer and not allocate.is_set:
        obj["allocateLoadBalancerNodePorts"].required()
    balancer_class = spec["loadBalancerClass"]
    if balancer_class.is_set:
        if is_balancer:
            balancer_class.label_name()
        else:
            balancer_class.forbidden(only_balancers)


def _check_traffic(spec: Field) -> None:
    policy, port = spec["externalTrafficPolicy"], spec["healthCheckNodePort"]
    if is_externally_accessible(spec.value):
        policy.choice(("Cluster", "Local"))
    elif policy:
        policy.invalid("may only be set for externally-accessible services")
    if port and spec.get("type") == "LoadBalancer" and policy.value == "Local":
        # Without one it is allocated, after all this was checked.
        port.port()
    elif port:
        port.invalid(
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        )
    inside = spec["internalTrafficPolicy"]
    if not inside.is_set and spec.get("type") in ("NodePort", "LoadBalancer", "ClusterIP"):
        inside.required()
    inside.optional_choice(("Cluster", "Local"))
    near = ("PreferClose", "PreferSameZone", "PreferSameNode")
    spec["trafficDistribution"].optional_choice(near)


def validate_service_update(obj: Field, old: Field) -> None:
    spec, before = obj["spec"], old["spec"]
    balancer_class, port = spec["loadBalancerClass"], spec["healthCheckNodePort"]
    both = all(each.get("type") == "LoadBalancer" for each in (spec, before))
    if both and balancer_class.value != before.get("loadBalancerClass"):
        balancer_class.invalid("may not change once set")
    local = both and all(each.get("externalTrafficPolicy") == "Local" for each in (spec, before))
    if local and port.value != before.get("healthCheckNodePort"):
        port.forbidden("field is immutable")
    check_service(obj, old)


def validate_addresses_update(new: Object, before: Object) -> Errors:
    """What an update may not do to addresses and families. Asked once the families of the new spec
    are complete, so apart from the other rules: until then an update may leave them out."""
    spec = Field(new, step="spec")
    if "ExternalName" in (new.get("type"), before.get("type")):
        return []
    was, is_now = is_headless(before), is_headless(new)
    if not (was and is_now):
        _check_kept(spec, before, "clusterIPs", "clusterIP")
    if not (was or is_now):
        _check_kept(spec, before, "ipFamilies", "ipFamily")
    return spec.errors


def _check_kept(spec: Field, before: Object, plural: str, singular: str) -> None:
    """The first address or family stays for ever; a second one may come, and go when the policy
    says so."""
    values, known = spec.get(plural) or [], before.get(plural) or []
    first, detail = spec[plural].at("[0]", values), "may not change once set"
    if len(values) == len(known):
        for index, each in enumerate(known):
            if values[index] != each:
                place = index if plural == "clusterIPs" else 0
                spec[plural].at(f"[{place}]", values).invalid(detail)
        return
    if not spec.get("clusterIPs") and len(values) < len(known):
        first.invalid(f"primary {singular} can not be unset")
    if values and known and values[0] != known[0]:
        # Upstream shows the addresses here also where it is about families.
        first.showing(spec.get("clusterIPs") or []).invalid(detail)
    if len(values) == 1 < len(known) and spec.get("ipFamilyPolicy") != "SingleStack":
        detail = f"must be set to 'SingleStack' when releasing the secondary {singular}"
        spec["ipFamilyPolicy"].invalid(detail)


def validate_service_status(obj: Field, old: Field) -> None:
    ingress = obj["status"]["loadBalancer"]["ingress"]
    known = {each.get("ip") for each in old["status"]["loadBalancer"]["ingress"]}
    if obj["spec"].get("type") != "LoadBalancer" and ingress:
        ingress.forbidden("may only be used when `spec.type` is 'LoadBalancer'")
        return
    for each in ingress:
        address, mode = each["ip"], each["ipMode"]
        if address:
            if address.value not in known:
                address.address()
            mode.must_be_set("must be specified when `ip` is set")
        elif mode.is_set:
            mode.forbidden("may not be specified when `ip` is not set")
        mode.optional_choice(("Proxy", "VIP"))
        check_hostname(each["hostname"])


def check_hostname(hostname: Field) -> None:
    hostname.check_unless_empty(dns1123_subdomain)
    if hostname and parse_address(hostname.value) is not None:
        hostname.invalid("must be a DNS name, not an IP address")
