"""Networking kinds beside services: Ingress, IngressClass, NetworkPolicy, EndpointSlice,
ServiceCIDR and IPAddress."""

from __future__ import annotations

from collections.abc import Iterable

from navarch.api.strategies.base import Object
from navarch.api.strategies.generic import GenericStrategy, Rules
from navarch.api.validation import endpoints as endpoints_rules
from navarch.api.validation import networking as validation


class IngressStrategy(GenericStrategy):
    has_generation = True
    rules = Rules(
        validation.validate_ingress_create,
        lambda obj, _: validation.validate_ingress(obj),
        status=lambda obj, _: validation.validate_ingress_status(obj),
    )

    def warnings(self, obj: Object, old: Object | None) -> Iterable[str]:
        if old is not None:
            changed = obj.get("status") != old.get("status")
            return validation.ingress_status_warnings(obj) if changed else []
        key = "kubernetes.io/ingress.class"
        if key in (obj["metadata"].get("annotations") or {}):
            return [
                f"annotation \"{key}\" is deprecated, please use 'spec.ingressClassName' instead"
            ]
        return []


class IngressClassStrategy(GenericStrategy):
    has_generation = True
    rules = Rules(validation.validate_ingress_class, validation.validate_ingress_class_update)


class NetworkPolicyStrategy(GenericStrategy):
    has_generation = True
    rules = Rules(validation.validate_network_policy, validation.validate_network_policy_update)

    def defaults(self, obj: Object) -> None:
        spec = obj.setdefault("spec", {})
        if not spec.get("policyTypes"):
            spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]

    def warnings(self, obj: Object, old: Object | None) -> Iterable[str]:
        return validation.policy_warnings(obj)


class EndpointSliceStrategy(GenericStrategy):
    has_generation = True
    rules = Rules(endpoints_rules.validate_slice, endpoints_rules.validate_slice_update)

    def desired_state(self, obj: Object) -> Object:
        return {**super().desired_state(obj), "labels": obj["metadata"].get("labels") or {}}

    def prepare_create(self, obj: Object) -> None:
        super().prepare_create(obj)
        for endpoint in obj.get("endpoints") or ():
            # Left from before v1, where it can only be carried on.
            endpoint.pop("deprecatedTopology", None)

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        known = [each.get("deprecatedTopology") for each in old.get("endpoints") or ()]
        for endpoint in obj.get("endpoints") or ():
            if endpoint.get("deprecatedTopology") not in known:
                endpoint.pop("deprecatedTopology", None)

    def warnings(self, obj: Object, old: Object | None) -> Iterable[str]:
        return endpoints_rules.slice_warnings(obj, old)


class ServiceCIDRStrategy(GenericStrategy):
    status_keeps_metadata = True
    rules = Rules(validation.validate_service_cidr, validation.validate_service_cidr_update)


class IPAddressStrategy(GenericStrategy):
    rules = Rules(validation.validate_ip_address, validation.validate_ip_address_update)

    def validate_name(self, name: str) -> list[str]:
        return validation.validate_address_name(name)
