"""Services. Allocation of addresses and node ports is the API server's; here are the defaults, the
fields a change of type drops, and the rules."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy

from navarch.api import names
from navarch.api.strategies.base import Object
from navarch.api.strategies.generic import GenericStrategy, Rules
from navarch.api.validation import service as validation
from navarch.api.validation.addresses import address_warnings, cidr_warnings
from navarch.api.validation.networking import ingress_status_warnings
from navarch.api.validation.service import TOPOLOGY_HINTS, TOPOLOGY_MODE

DEFAULT_AFFINITY_SECONDS = 10800


class ServiceStrategy(GenericStrategy):
    allow_create_on_update = True
    rules = Rules(
        validation.validate_service,
        validation.validate_service_update,
        status=validation.validate_service_status,
    )

    def defaults(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        kind = spec.setdefault("type", "ClusterIP")
        affinity = spec.setdefault("sessionAffinity", "None")
        if affinity == "None":
            spec.pop("sessionAffinityConfig", None)
        elif affinity == "ClientIP":
            config = spec.get("sessionAffinityConfig") or {}
            if (config.get("clientIP") or {}).get("timeoutSeconds") is None:
                spec["sessionAffinityConfig"] = {
                    "clientIP": {"timeoutSeconds": DEFAULT_AFFINITY_SECONDS}
                }
        for port in spec.get("ports") or ():
            port.setdefault("protocol", "TCP")
            if port.get("targetPort") in (None, 0, ""):
                port["targetPort"] = port.get("port", 0)
        if validation.is_externally_accessible(spec):
            spec.setdefault("externalTrafficPolicy", "Cluster")
        if kind in ("ClusterIP", "NodePort", "LoadBalancer"):
            spec.setdefault("internalTrafficPolicy", "Cluster")
        if kind == "LoadBalancer":
            spec.setdefault("allocateLoadBalancerNodePorts", True)
            for ingress in _ingress(obj):
                if ingress.get("ip"):
                    ingress.setdefault("ipMode", "VIP")

    def warnings(self, obj: Object, old: Object | None) -> Iterable[str]:
        """Fields that are set and do nothing, or not for long any more."""
        spec = obj["spec"]
        if old is not None and spec == old["spec"] and obj.get("status") != old.get("status"):
            return ingress_status_warnings(obj)
        is_headless, kind = spec.get("clusterIP") == "None", spec.get("type")
        has_external_ips = bool(spec.get("externalIPs"))
        texts = _address_warnings(spec, is_headless)
        if TOPOLOGY_HINTS in (obj["metadata"].get("annotations") or {}):
            texts.append(
                f"annotation {TOPOLOGY_HINTS} is deprecated, please use {TOPOLOGY_MODE} instead"
            )
        if is_headless:
            if spec.get("loadBalancerIP"):
                texts.append("spec.loadBalancerIP is ignored for headless services")
            if has_external_ips:
                texts.append("spec.externalIPs is ignored for headless services")
            if spec.get("sessionAffinity") != "None":
                texts.append("spec.SessionAffinity is ignored for headless services")
        elif has_external_ips and kind != "ExternalName":
            texts.append(
                "spec.externalIPs is deprecated and may no longer be implemented in some clusters"
            )
        if kind == "ExternalName" and has_external_ips:
            texts.append('spec.externalIPs is ignored when spec.type is "ExternalName"')
        if kind != "ExternalName" and spec.get("externalName"):
            texts.append('spec.externalName is ignored when spec.type is not "ExternalName"')
        if spec.get("trafficDistribution") == "PreferClose":
            texts.append(
                'spec.trafficDistribution: "PreferClose" is deprecated; use "PreferSameZone"'
            )
        return texts

    def prepare_create(self, obj: Object) -> None:
        super().prepare_create(obj)
        _complete_addresses(obj["spec"])

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        if not subresource:
            _keep_allocated(obj["spec"], old["spec"])
            _drop_for_type(obj["spec"], old["spec"])
            if obj["spec"].get("type") != "LoadBalancer" and _ingress(obj):
                obj["status"]["loadBalancer"] = {}

    def validate_name(self, name: str) -> list[str]:
        return names.dns1123_label(name)

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        spec = obj.get("spec") or {}
        return {"spec.clusterIP": spec.get("clusterIP") or "", "spec.type": spec.get("type") or ""}


def _address_warnings(spec: Object, is_headless: bool) -> list[str]:
    texts: list[str] = []
    for field in ("clusterIPs", "externalIPs"):
        if field == "clusterIPs" and (is_headless or spec.get("type") == "ExternalName"):
            continue
        for index, address in enumerate(spec.get(field) or ()):
            texts += address_warnings(f"spec.{field}[{index}]", address)
    if spec.get("loadBalancerIP"):
        texts += address_warnings("spec.loadBalancerIP", spec["loadBalancerIP"])
    for index, text in enumerate(spec.get("loadBalancerSourceRanges") or ()):
        texts += cidr_warnings(f"spec.loadBalancerSourceRanges[{index}]", text.strip())
    return texts


def _ingress(obj: Object) -> list[Object]:
    return ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []


def _complete_addresses(spec: Object) -> None:
    """Clients that know only the singular field mean the list of one."""
    if spec.get("clusterIP") and not spec.get("clusterIPs"):
        spec["clusterIPs"] = [spec["clusterIP"]]


def _keep_allocated(new: Object, old: Object) -> None:
    """An update that leaves allocated values out keeps them, as long as the type needs them: the
    manifest that a Service was made of can be sent again."""
    has_address = "ExternalName" not in (new.get("type"), old.get("type"))
    if has_address:
        for key in ("clusterIP", "clusterIPs"):
            if not new.get(key) and old.get(key):
                new[key] = copy(old[key])
    _agree(new, old)
    if _allocates_ports(new) and _allocates_ports(old):
        _keep_node_ports(new, old)
    if needs_health_check_port(new) and needs_health_check_port(old):
        port = old.get("healthCheckNodePort")
        if port and not new.get("healthCheckNodePort"):
            new["healthCheckNodePort"] = port


def _agree(new: Object, old: Object) -> None:
    """The singular and the plural field say the same for clients that know only one of them."""
    address, before = new.get("clusterIP") or "", old.get("clusterIP") or ""
    known = old.get("clusterIPs") or []
    if known and not new.get("clusterIPs") and address == before:
        new["clusterIPs"] = list(known)
    if address != before and (new.get("clusterIPs") or []) == known:
        if address:
            new["clusterIPs"] = [address]
        else:
            new.pop("clusterIPs", None)


def _allocates_ports(spec: Object) -> bool:
    return needs_node_ports(spec) and (
        spec.get("type") == "NodePort" or spec.get("allocateLoadBalancerNodePorts") is not False
    )


def _keep_node_ports(new: Object, old: Object) -> None:
    allocated = {port.get("name"): port.get("nodePort") for port in old.get("ports") or ()}
    taken = {port.get("nodePort") for port in new.get("ports") or ()}
    for port in new.get("ports") or ():
        known = allocated.get(port.get("name"))
        if known and not port.get("nodePort") and known not in taken:
            port["nodePort"] = known


def needs_node_ports(spec: Object) -> bool:
    return spec.get("type") in ("NodePort", "LoadBalancer")


def needs_health_check_port(spec: Object) -> bool:
    return spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local"


def _drop_for_type(new: Object, old: Object) -> None:
    """Drop what the new type has no use for, unless the same update changes it: then it is the
    client's wish, and validation answers."""

    def same(key: str) -> bool:
        return bool((new.get(key) or None) == (old.get(key) or None))

    if new.get("type") == "ExternalName" and old.get("type") != "ExternalName":
        if same("clusterIP") and same("clusterIPs"):
            new.pop("clusterIP", None)
            new.pop("clusterIPs", None)
        for key in ("ipFamilies", "ipFamilyPolicy"):
            if same(key):
                new.pop(key, None)
    if needs_node_ports(old) and not needs_node_ports(new):
        before = {port.get("nodePort") for port in old.get("ports") or ()} | {0, None}
        if all(port.get("nodePort") in before for port in new.get("ports") or ()):
            for port in new.get("ports") or ():
                port.pop("nodePort", None)
    if (
        needs_health_check_port(old)
        and not needs_health_check_port(new)
        and same("healthCheckNodePort")
    ):
        new.pop("healthCheckNodePort", None)
    if old.get("type") == "LoadBalancer" and new.get("type") != "LoadBalancer":
        for key in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if same(key):
                new.pop(key, None)
    if (
        validation.is_externally_accessible(old)
        and not validation.is_externally_accessible(new)
        and same("externalTrafficPolicy")
    ):
        new.pop("externalTrafficPolicy", None)
