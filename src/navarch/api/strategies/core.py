"""The smaller kinds of the core group: namespaces, nodes, configuration, accounts, events and
limits."""

from __future__ import annotations

import base64
from collections.abc import Iterable

from navarch.api import names
from navarch.api.strategies.base import Object
from navarch.api.strategies.generic import GenericStrategy, Rules, keep, keep_generation
from navarch.api.validation import config as config_rules
from navarch.api.validation import endpoints as endpoints_rules
from navarch.api.validation import events as events_rules
from navarch.api.validation import limits as limits_rules
from navarch.api.validation import nodes as node_rules

NAME_LABEL = "kubernetes.io/metadata.name"
FINALIZER = "kubernetes"


class NamespaceStrategy(GenericStrategy):
    rules = Rules(
        node_rules.validate_namespace_finalizers,
        lambda obj, old: None,
        status=lambda obj, _: node_rules.validate_namespace_status(obj),
        others={"finalize": lambda obj, _: node_rules.validate_namespace_finalizers(obj)},
    )

    def defaults(self, obj: Object) -> None:
        name = obj["metadata"].get("name")
        if name:
            obj["metadata"].setdefault("labels", {})[NAME_LABEL] = name

    def prepare_create(self, obj: Object) -> None:
        super().prepare_create(obj)
        finalizers = obj.setdefault("spec", {}).setdefault("finalizers", [])
        if FINALIZER not in finalizers:
            finalizers.append(FINALIZER)

    def empty_status(self, obj: Object) -> Object:
        return {"phase": "Active"}

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        if subresource == "finalize":
            # Only the finalizers of the spec are taken; they are all a namespace's spec has.
            keep_generation(obj, old)
            keep(obj, old, "status")
            return
        super().prepare_update(obj, old, subresource)
        if not subresource:
            keep(obj, old, "spec")

    def validate_name(self, name: str) -> list[str]:
        return names.dns1123_label(name)

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        return {
            "name": obj.get("metadata", {}).get("name") or "",
            "status.phase": (obj.get("status") or {}).get("phase") or "",
        }


class NodeStrategy(GenericStrategy):
    rules = Rules(
        node_rules.validate_node,
        node_rules.validate_node_update,
        status=node_rules.validate_node_update,
    )

    def defaults(self, obj: Object) -> None:
        status = obj.get("status") or {}
        if status.get("capacity") and not status.get("allocatable"):
            status["allocatable"] = dict(status["capacity"])
        spec = obj.get("spec") or {}
        # One range is written in two fields, of which the older one wins.
        if (first := spec.get("podCIDR")) and (spec.get("podCIDRs") or [""])[0] != first:
            spec["podCIDRs"] = [first]
        elif spec.get("podCIDRs") and not first:
            spec["podCIDR"] = spec["podCIDRs"][0]

    def empty_status(self, obj: Object) -> Object:
        # A node registers together with its status.
        status: Object = obj.get("status") or super().empty_status(obj) or {}
        return status

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        if subresource and "config" not in (old.get("status") or {}):
            (obj.get("status") or {}).pop("config", None)

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        unschedulable = bool((obj.get("spec") or {}).get("unschedulable"))
        return {"spec.unschedulable": "true" if unschedulable else "false"}


class ConfigMapStrategy(GenericStrategy):
    rules = Rules(config_rules.validate_config_map, config_rules.validate_config_map_update)


class SecretStrategy(GenericStrategy):
    rules = Rules(config_rules.validate_secret, config_rules.validate_secret_update)

    def defaults(self, obj: Object) -> None:
        # stringData is for writing only: it ends up in data, encoded, and wins over it.
        plain = obj.pop("stringData", None)
        if plain:
            data = obj["data"] = dict(obj.get("data") or {})
            for key, value in plain.items():
                text = "" if value is None else str(value)
                raw = text.encode(errors="surrogatepass")
                data[key] = base64.b64encode(raw).decode()
        obj.setdefault("type", "Opaque")

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        return {"type": obj.get("type") or ""}


class ServiceAccountStrategy(GenericStrategy):
    def prepare_create(self, obj: Object) -> None:
        super().prepare_create(obj)
        _only_names(obj)

    def prepare_update(self, obj: Object, old: Object, subresource: str) -> None:
        super().prepare_update(obj, old, subresource)
        _only_names(obj)


def _only_names(account: Object) -> None:
    """References to secrets are names in the account's own namespace."""
    if account.get("secrets"):
        account["secrets"] = [
            {"name": reference["name"]} if reference.get("name") else {}
            for reference in account["secrets"]
        ]


class EndpointsStrategy(GenericStrategy):
    allow_create_on_update = True
    rules = Rules(endpoints_rules.validate_endpoints, endpoints_rules.validate_endpoints_update)

    def defaults(self, obj: Object) -> None:
        for subset in obj.get("subsets") or ():
            for port in subset.get("ports") or ():
                port.setdefault("protocol", "TCP")

    def warnings(self, obj: Object, old: Object | None) -> Iterable[str]:
        return endpoints_rules.endpoints_warnings(obj)


_REFERENCE = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")


def _reference_fields(event: Object, field: str) -> dict[str, str]:
    """What the object that an event is about can be selected by."""
    reference = event.get(field) or {}
    return {f"{field}.{key}": reference.get(key) or "" for key in _REFERENCE}


class EventStrategy(GenericStrategy):
    allow_create_on_update = True
    rules = Rules(events_rules.validate_event)

    def validate_name(self, name: str) -> list[str]:
        return names.path_segment_name(name)

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        source = obj.get("source") or {}
        fields = _reference_fields(obj, "involvedObject")
        reporter = obj.get("reportingComponent") or ""
        fields["reason"] = obj.get("reason") or ""
        fields["reportingComponent"] = reporter
        fields["source"] = source.get("component") or reporter
        fields["type"] = obj.get("type") or ""
        return fields


class EventsV1Strategy(EventStrategy):
    """events.k8s.io/v1: the same objects under other field names and stricter rules."""

    rules = Rules(events_rules.validate_new_event, events_rules.validate_new_event_update)

    def selectable_fields(self, obj: Object) -> dict[str, str]:
        fields = _reference_fields(obj, "regarding")
        fields["reason"] = obj.get("reason") or ""
        fields["reportingController"] = obj.get("reportingController") or ""
        fields["type"] = obj.get("type") or ""
        return fields


class LimitRangeStrategy(GenericStrategy):
    allow_create_on_update = True
    rules = Rules(limits_rules.validate_limit_range)

    def defaults(self, obj: Object) -> None:
        for item in (obj.get("spec") or {}).get("limits") or ():
            if item.get("type") != "Container":
                continue
            limits = {**(item.get("max") or {}), **(item.get("default") or {})}
            requests = {**(item.get("min") or {}), **limits, **(item.get("defaultRequest") or {})}
            if limits:
                item["default"] = limits
            if requests:
                item["defaultRequest"] = requests


class ResourceQuotaStrategy(GenericStrategy):
    rules = Rules(
        limits_rules.validate_resource_quota,
        limits_rules.validate_resource_quota_update,
        status=lambda obj, _: limits_rules.validate_resource_quota_status(obj),
    )
