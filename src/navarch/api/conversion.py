"""Conversions between the served versions of a kind and the one the store holds.

Most versions of a kind differ in `apiVersion` alone. The others are here: autoscaling v1 and v2,
events in the core group and in events.k8s.io, resource.k8s.io v1beta1. Pure functions that may take
their argument apart; the result is in the canonical form of its version. What an older version
cannot say travels in annotations, as upstream's does, so a round trip loses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from navarch.api.kinds import Kind
from navarch.api.schema.facts import schema_for, type_facts
from navarch.api.schema.walker import TypeProblem, Walk, walker_of

Object = dict[str, Any]
Conversion = Callable[[Object], Object]


def conversions(stored: Kind, kind: Kind) -> tuple[Conversion | None, Conversion | None]:
    """(from the stored version, to the stored version); None where only `apiVersion` differs."""
    pair = _PAIRS.get((stored.api_version, kind.api_version, kind.kind))
    if pair is None:
        return None, None
    return _completed(pair[0], kind), _completed(pair[1], stored)


def _completed(change: Callable[[Object], None], target: Kind) -> Conversion:
    """The change, then the version's name and canonical form."""

    def convert(obj: Object) -> Object:
        change(obj)
        walker = walker_of(schema_for(*target.gvk))
        result = walker(obj, None, Walk())
        result["apiVersion"] = target.api_version
        return result

    return convert


# Events.

_EVENT_FIELDS = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_CORE_EVENT_FIELDS = {new: old for old, new in _EVENT_FIELDS.items()}


def _renamed(names: Mapping[str, str]) -> Callable[[Object], None]:
    def change(obj: Object) -> None:
        for old, new in names.items():
            if old in obj:
                obj[new] = obj.pop(old)

    return change


# Dynamic resources: v1beta1 has the fields of an exact request in the request itself, and those of
# a device in `basic`.

_REQUEST_FIELDS = ("name", "firstAvailable")


def _requests(obj: Object) -> list[Object]:
    spec = obj.get("spec", {})
    spec = spec.get("spec", spec)  # that of a claim template's claims
    return spec.get("devices", {}).get("requests") or []


def _nest_requests(obj: Object) -> None:
    for request in _requests(obj):
        exact = {key: request.pop(key) for key in list(request) if key not in _REQUEST_FIELDS}
        # Values of nothing ask for nothing: Go's clients send an empty class beside alternatives.
        if any(value is False or value for value in exact.values()):
            request["exactly"] = exact


def _flatten_requests(obj: Object) -> None:
    for request in _requests(obj):
        request.update(request.pop("exactly", None) or {})


def _nest_devices(obj: Object) -> None:
    for device in obj.get("spec", {}).get("devices") or ():
        device["basic"] = {key: device.pop(key) for key in list(device) if key != "name"}


def _flatten_devices(obj: Object) -> None:
    spec = obj.get("spec", {})
    for device in spec.get("devices") or ():
        device.update(device.pop("basic", None) or {})
    # Values in v1beta1, pointers in v1: zero means unset.
    for key in ("nodeName", "allNodes"):
        if not spec.get(key):
            spec.pop(key, None)


# Horizontal pod autoscalers: v1 knows one CPU percentage; everything else is in annotations.

_ALPHA = "autoscaling.alpha.kubernetes.io/"
_METRICS = _ALPHA + "metrics"
_STATUSES = _ALPHA + "current-metrics"
_CONDITIONS = _ALPHA + "conditions"
_BEHAVIOR = _ALPHA + "behavior"
_ROUND_TRIP = (
    _METRICS,
    _STATUSES,
    _CONDITIONS,
    _BEHAVIOR,
    _ALPHA + "scale-down-tolerance",
    _ALPHA + "scale-up-tolerance",
)
DEFAULT_CPU_PERCENT = 80

_Fields = tuple[tuple[str, str], ...]
_RESOURCE_SPEC: _Fields = (
    ("name", "name"),
    ("targetAverageUtilization", "target.averageUtilization"),
    ("targetAverageValue", "target.averageValue"),
)
_SPEC_FIELDS: dict[str, _Fields] = {
    "resource": _RESOURCE_SPEC,
    "containerResource": (*_RESOURCE_SPEC, ("container", "container")),
    "pods": (
        ("metricName", "metric.name"),
        ("selector", "metric.selector"),
        ("targetAverageValue", "target.averageValue"),
    ),
    "object": (
        ("target", "describedObject"),
        ("metricName", "metric.name"),
        ("selector", "metric.selector"),
        ("targetValue", "target.value"),
        ("averageValue", "target.averageValue"),
    ),
    "external": (
        ("metricName", "metric.name"),
        ("metricSelector", "metric.selector"),
        ("targetValue", "target.value"),
        ("targetAverageValue", "target.averageValue"),
    ),
}
_RESOURCE_STATUS: _Fields = (
    ("name", "name"),
    ("currentAverageUtilization", "current.averageUtilization"),
    ("currentAverageValue", "current.averageValue"),
)
_STATUS_FIELDS: dict[str, _Fields] = {
    "resource": _RESOURCE_STATUS,
    "containerResource": (*_RESOURCE_STATUS, ("container", "container")),
    "pods": (
        ("metricName", "metric.name"),
        ("selector", "metric.selector"),
        ("currentAverageValue", "current.averageValue"),
    ),
    "object": (
        ("target", "describedObject"),
        ("metricName", "metric.name"),
        ("selector", "metric.selector"),
        ("currentValue", "current.value"),
        ("averageValue", "current.averageValue"),
    ),
    "external": (
        ("metricName", "metric.name"),
        ("metricSelector", "metric.selector"),
        ("currentValue", "current.value"),
        ("currentAverageValue", "current.averageValue"),
    ),
}
_ALWAYS = {
    "pods": ("targetAverageValue", "currentAverageValue"),
    "object": ("targetValue", "currentValue"),
    "external": ("currentValue",),
    "resource": ("currentAverageValue",),
    "containerResource": ("currentAverageValue",),
}
"""Quantities of the older form that are values in Go: "0" where the newer form has none."""


def _to_old(metric: Object, fields: Mapping[str, _Fields]) -> Object:
    """A metric's specification or status in the form the annotations hold."""
    result: Object = {"type": metric.get("type", "")}
    for source, members in fields.items():
        given = metric.get(source)
        if given is None:
            continue
        old = result[source] = {}
        for name, path in members:
            outer, _, inner = path.partition(".")
            value = given.get(outer, {}).get(inner) if inner else given.get(outer)
            if value is None and name in _ALWAYS.get(source, ()):
                value = "0"
            if value is not None:
                old[name] = value
    return result


def _to_new(metric: Object, fields: Mapping[str, _Fields]) -> Object:
    """The reverse of `_to_old`."""
    result: Object = {"type": metric.get("type", "")}
    for source, members in fields.items():
        given = metric.get(source)
        if given is None:
            continue
        if not isinstance(given, dict):
            raise TypeProblem(source)
        new: Object = {}
        for name, path in members:
            if name in given:
                outer, _, inner = path.partition(".")
                if inner:
                    new.setdefault(outer, {})[inner] = given[name]
                else:
                    new[outer] = given[name]
        if fields is _SPEC_FIELDS:
            _set_target_type(source, new.setdefault("target", {}))
        result[source] = new
    return result


def _set_target_type(source: str, target: Object) -> None:
    """The kind of target, which the older form leaves to the reader."""
    if source == "object" and "averageValue" in target and target.get("value") == "0":
        del target["value"]
    if "averageUtilization" in target:
        target["type"] = "Utilization"
    elif source == "external":
        target["type"] = "Value" if "value" in target else "AverageValue"
    elif source == "object":
        target["type"] = "AverageValue" if "averageValue" in target else "Value"
    else:
        target["type"] = "AverageValue"


def _is_cpu(metric: Object) -> bool:
    return metric.get("type") == "Resource" and metric.get("resource", {}).get("name") == "cpu"


def _cpu_percent(metric: Object, member: str) -> int | None:
    found: int | None = None
    if _is_cpu(metric):
        found = metric["resource"].get(member, {}).get("averageUtilization")
    return found


def _cased(value: Any, change: Callable[[str], str]) -> Any:
    """The keys of all objects recased: the behaviour annotation is in Go's own field names."""
    if isinstance(value, dict):
        return {change(key): _cased(item, change) for key, item in value.items()}
    return [_cased(item, change) for item in value] if isinstance(value, list) else value


def _capitalised(key: str) -> str:
    return key[:1].upper() + key[1:]


def _uncapitalised(key: str) -> str:
    return key[:1].lower() + key[1:]


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _take_annotations(obj: Object) -> dict[str, str]:
    """Take the round-trip annotations off an object."""
    metadata = obj.setdefault("metadata", {})
    annotations = metadata.get("annotations") or {}
    taken = {key: annotations.pop(key) for key in _ROUND_TRIP if key in annotations}
    if not annotations:
        metadata.pop("annotations", None)
    return taken


def _read(text: str | None, type_name: str, change: Callable[[Any], Any]) -> list[Object] | None:
    """The objects in an annotation, in the newer form. Anybody may have written it, so what does
    not fit the type counts as absent."""
    try:
        value = json.loads(text or "null")
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            return None
        walker = walker_of(type_facts("autoscaling_v2", type_name))
        return [walker(change(item), None, Walk()) for item in value]
    except (ValueError, RecursionError):  # no JSON, or a `TypeProblem`
        return None


def _autoscaler_to_v1(obj: Object) -> None:
    _take_annotations(obj)
    spec, status = obj.setdefault("spec", {}), obj.setdefault("status", {})
    kept: dict[str, str] = {}
    others = []
    for metric in spec.pop("metrics", ()):
        percent = _cpu_percent(metric, "target")
        if percent is None:
            others.append(_to_old(metric, _SPEC_FIELDS))
        else:
            spec.setdefault("targetCPUUtilizationPercentage", percent)
    if others:
        kept[_METRICS] = _dump(others)
    if behavior := spec.pop("behavior", None):
        kept[_BEHAVIOR] = _dump(_cased(behavior, _capitalised))
    statuses = status.pop("currentMetrics", None) or []
    for metric in statuses:
        percent = _cpu_percent(metric, "current")
        if percent is not None:
            status["currentCPUUtilizationPercentage"] = percent
    if statuses:
        kept[_STATUSES] = _dump([_to_old(metric, _STATUS_FIELDS) for metric in statuses])
    if conditions := status.pop("conditions", None):
        kept[_CONDITIONS] = _dump(conditions)
    if kept:
        obj["metadata"].setdefault("annotations", {}).update(kept)


def _autoscaler_to_v2(obj: Object) -> None:
    kept = _take_annotations(obj)
    spec, status = obj.setdefault("spec", {}), obj.setdefault("status", {})
    metrics = _read(kept.get(_METRICS), "MetricSpec", partial(_to_new, fields=_SPEC_FIELDS)) or []
    percent = spec.pop("targetCPUUtilizationPercentage", None)
    if percent is None and not metrics:
        percent = DEFAULT_CPU_PERCENT
    if percent is not None:
        target = {"type": "Utilization", "averageUtilization": percent}
        metrics.append({"type": "Resource", "resource": {"name": "cpu", "target": target}})
    spec["metrics"] = metrics
    recase = partial(_cased, change=_uncapitalised)
    if found := _read(f"[{kept.get(_BEHAVIOR, '')}]", "HorizontalPodAutoscalerBehavior", recase):
        spec["behavior"] = found[0]
    percent = status.pop("currentCPUUtilizationPercentage", None)
    new_status = partial(_to_new, fields=_STATUS_FIELDS)
    statuses = _read(kept.get(_STATUSES), "MetricStatus", new_status)
    if statuses is not None:
        status["currentMetrics"] = statuses
    elif percent is not None:
        current = {"averageUtilization": percent}
        metric = {"type": "Resource", "resource": {"name": "cpu", "current": current}}
        status["currentMetrics"] = [metric]
    if conditions := _read(kept.get(_CONDITIONS), "HorizontalPodAutoscalerCondition", dict):
        status["conditions"] = conditions


_CLAIMS = (_flatten_requests, _nest_requests)
_PAIRS: dict[tuple[str, str, str], tuple[Callable[[Object], None], Callable[[Object], None]]] = {
    ("v1", "events.k8s.io/v1", "Event"): (_renamed(_EVENT_FIELDS), _renamed(_CORE_EVENT_FIELDS)),
    ("autoscaling/v2", "autoscaling/v1", "HorizontalPodAutoscaler"): (
        _autoscaler_to_v1,
        _autoscaler_to_v2,
    ),
    ("resource.k8s.io/v1", "resource.k8s.io/v1beta1", "ResourceClaim"): _CLAIMS,
    ("resource.k8s.io/v1", "resource.k8s.io/v1beta1", "ResourceClaimTemplate"): _CLAIMS,
    ("resource.k8s.io/v1", "resource.k8s.io/v1beta1", "ResourceSlice"): (
        _nest_devices,
        _flatten_devices,
    ),
}
"""By stored and other version: the changes from the stored one and to it."""
