"""Where autoscalers have their figures from: the three metrics APIs, behind the API server.

`metrics.k8s.io` is what containers use. `custom.metrics.k8s.io` and `external.metrics.k8s.io` are
served by adapters of monitoring systems, if somebody has installed one; of the former, the version
is asked for that the server prefers. All amounts are thousandths.

Source: upstream's `pkg/controller/podautoscaler/metrics` and `k8s.io/metrics/pkg/client`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import TypeVar
from urllib.parse import quote

import msgspec

from navarch.api.errors import ApiError
from navarch.api.quantity import QuantityError, parse_quantity
from navarch.api.selectors import SelectorError, label_selector_from_object
from navarch.api.times import TimeError, parse_duration, parse_time
from navarch.api.types.autoscaling_v2 import CrossVersionObjectReference, MetricIdentifier
from navarch.client import Client
from navarch.controllers.discovery import ApiResource
from navarch.controllers.horizontal_pod_autoscaler_plan import CannotCompute, Sample

CUSTOM = "custom.metrics.k8s.io"
VERSIONS = (f"{CUSTOM}/v1beta2", f"{CUSTOM}/v1beta1")
DEFAULT_WINDOW = timedelta(minutes=1)
NO_SUCH = "the server could not find the requested resource"
UNABLE = "the server is currently unable to handle the request"

T = TypeVar("T")
Mapper = Callable[[str, str], Awaitable[ApiResource]]
"""The resource of a group and kind. Raises CannotCompute."""


class _Meta(msgspec.Struct):
    name: str = ""


class _Container(msgspec.Struct):
    name: str = ""
    usage: dict[str, str] = {}


class _PodMetrics(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    timestamp: str | None = None
    window: str = "0s"
    containers: list[_Container] = []


class _Value(msgspec.Struct):
    """Of a custom metric, in either version, or of an external one."""

    describedObject: _Meta = msgspec.field(default_factory=_Meta)
    timestamp: str | None = None
    window: int | None = None
    windowSeconds: int | None = None
    value: str | int = "0"


class _PodMetricsList(msgspec.Struct):
    items: list[_PodMetrics] | None = None


class _Values(msgspec.Struct):
    items: list[_Value] | None = None


class _GroupVersion(msgspec.Struct):
    groupVersion: str = ""


class _Group(msgspec.Struct):
    versions: list[_GroupVersion] = []
    preferredVersion: _GroupVersion = msgspec.field(default_factory=_GroupVersion)


class MetricsApis:
    """Every method raises CannotCompute when there is no answer, or nothing in it."""

    def __init__(self, client: Client, mapper: Mapper) -> None:
        self._client = client
        self._mapper = mapper

    async def resource(
        self, namespace: str, selector: str, resource: str, container: str = ""
    ) -> dict[str, Sample]:
        """What each pod uses of a resource, or one of its containers."""
        path = f"/apis/metrics.k8s.io/v1beta1/namespaces/{quote(namespace)}/pods"
        query = {"labelSelector": selector}
        found = await self._ask("resource", path, query, _PodMetricsList, "pods.metrics.k8s.io")
        items = found.items
        if not items:
            raise CannotCompute("no metrics returned from resource metrics API")
        result = {}
        for each in items:
            uses = [
                one.usage.get(resource)
                for one in each.containers
                if not container or one.name == container
            ]
            if uses and None not in uses:
                value = sum(_milli(use) for use in uses if use is not None)
                result[each.metadata.name] = _sample(value, each.timestamp, _span(each.window))
        return result

    async def pods(
        self, namespace: str, selector: str, metric: MetricIdentifier
    ) -> dict[str, Sample]:
        """A custom metric of each pod."""
        root = await self._custom()
        path = f"{root}/namespaces/{quote(namespace)}/pods/*/{quote(metric.name, safe='')}"
        query = {"labelSelector": selector, "metricLabelSelector": _text(metric)}
        found = await self._ask("custom", path, query, _Values, f"pods.{CUSTOM} *")
        if not found.items:
            raise CannotCompute("no metrics returned from custom metrics API")
        return {
            each.describedObject.name: _sample(
                _milli(each.value), each.timestamp, _window(each.windowSeconds, each.window)
            )
            for each in found.items
        }

    async def object(
        self, namespace: str, target: CrossVersionObjectReference, metric: MetricIdentifier
    ) -> int:
        """A custom metric of one object."""
        root = await self._custom()
        group = target.apiVersion.rpartition("/")[0]
        name = quote(metric.name, safe="")
        if (group, target.kind) == ("", "Namespace"):
            # Which one is not asked: an autoscaler looks at its own.
            path = f"{root}/namespaces/{quote(namespace)}/metrics/{name}"
            where = f"namespaces.{CUSTOM} {namespace}"
        else:
            try:
                found = await self._mapper(group, target.kind)
            except CannotCompute as error:
                kind = f"{target.kind}.{group}" if group else target.kind
                text = f"unable to map kind {kind} to resource: {error}"
                raise _failed("custom", text) from error
            plural = f"{found.plural}.{group}" if group else found.plural
            of = quote(target.name, safe="")
            path = f"{root}/namespaces/{quote(namespace)}/{plural}/{of}/{name}"
            where = f"{plural}.{CUSTOM} {target.name}"
        query = {"metricLabelSelector": _text(metric)}
        items = (await self._ask("custom", path, query, _Values, where)).items or []
        if len(items) != 1:
            text = f"the custom metrics API server returned {len(items)} results when we asked for"
            raise _failed("custom", f"{text} exactly one")
        return _milli(items[0].value)

    async def external(self, namespace: str, metric: MetricIdentifier) -> Sequence[int]:
        """All series of an external metric."""
        name = quote(metric.name, safe="")
        path = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{quote(namespace)}/{name}"
        query = {"labelSelector": _text(metric)}
        where = f"{metric.name}.external.metrics.k8s.io"
        items = (await self._ask("external", path, query, _Values, where)).items
        if not items:
            raise CannotCompute("no metrics returned from external metrics API")
        return [_milli(each.value) for each in items]

    async def _custom(self) -> str:
        """Where the preferred version of custom metrics is. It may change at any time."""
        try:
            data = await self._client.request("GET", f"/apis/{CUSTOM}")
        except ApiError as error:
            if not error.is_not_found:
                raise _failed("custom", str(error)) from error
            text = f"no custom metrics API ({CUSTOM}) registered"
            raise _failed("custom", text) from error
        found = _decoded("custom", data, _Group)
        served = [found.preferredVersion, *found.versions]
        for each in served:
            if each.groupVersion in VERSIONS:
                return f"/apis/{each.groupVersion}"
        raise _failed("custom", "no known available metric versions found")

    async def _ask(
        self, api: str, path: str, query: Mapping[str, str], of: type[T], what: str
    ) -> T:
        given = {name: value for name, value in query.items() if value}
        try:
            data = await self._client.request("GET", path, query=given)
        except ApiError as error:
            text = str(error)
            if not error.reason:
                # No Status: as the Go client puts it.
                text = {404: NO_SUCH, 503: UNABLE}.get(error.status, text)
                text = f"{text} (get {what})"
            raise _failed(api, text) from error
        return _decoded(api, data, of)


def _failed(api: str, text: str) -> CannotCompute:
    return CannotCompute(f"unable to fetch metrics from {api} metrics API: {text}")


def _decoded(api: str, data: bytes, of: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=of)
    except msgspec.DecodeError as error:
        raise _failed(api, f"couldn't read version-specific list: {error}") from error


def _milli(value: str | int) -> int:
    try:
        return parse_quantity(str(value)).milli_value()
    except QuantityError as error:
        raise CannotCompute(str(error)) from error


def _sample(value: int, timestamp: str | None, window: timedelta) -> Sample:
    try:
        return Sample(value, parse_time(timestamp or "0001-01-01T00:00:00Z"), window)
    except TimeError as error:
        raise CannotCompute(str(error)) from error


def _window(*given: int | None) -> timedelta:
    """That of a custom metric, in whichever field its version has it."""
    return next((_span(f"{each}s") for each in given if each is not None), DEFAULT_WINDOW)


def _span(text: str) -> timedelta:
    try:
        return timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError) as error:
        raise CannotCompute(f'"{text}" is no time that a metric can be about') from error


def _text(metric: MetricIdentifier) -> str:
    """A metric's own selector as a parameter. Raises CannotCompute."""
    try:
        selector = label_selector_from_object(metric.selector)
    except SelectorError as error:
        raise CannotCompute(str(error)) from error
    return "" if metric.selector is None else str(selector)


def go_text(metric: MetricIdentifier) -> str:
    """A metric's selector as upstream's messages print it."""
    selector = metric.selector
    if selector is None:
        return "nil"
    labels = "".join(f"{key}: {selector.matchLabels[key]}," for key in sorted(selector.matchLabels))
    expressions = "".join(
        f"LabelSelectorRequirement{{Key:{each.key},Operator:{each.operator},"
        f"Values:[{' '.join(each.values)}],}},"
        for each in selector.matchExpressions
    )
    return (
        f"&LabelSelector{{MatchLabels:map[string]string{{{labels}}},"
        f"MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
