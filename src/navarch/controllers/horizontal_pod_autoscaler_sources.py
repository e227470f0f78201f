"""The five sources of `spec.metrics`: each asked in its own way, and told of in its own words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from navarch.api.quantity import Format, Quantity, parse_quantity
from navarch.api.types.autoscaling_v2 import (
    ContainerResourceMetricStatus,
    ExternalMetricStatus,
    MetricIdentifier,
    MetricSpec,
    MetricStatus,
    MetricTarget,
    MetricValueStatus,
    ObjectMetricStatus,
    PodsMetricStatus,
    ResourceMetricStatus,
)
from navarch.controllers.horizontal_pod_autoscaler_metrics import MetricsApis, go_text
from navarch.controllers.horizontal_pod_autoscaler_plan import (
    CannotCompute,
    Proposal,
    Scene,
    by_average,
    by_utilization,
    by_value,
    by_value_per_pod,
    total,
)


class MetricFailed(CannotCompute):
    """A metric that gave no number. `reason` and `said` are for its condition and event; the text
    itself, which goes further up, says a little more."""

    def __init__(self, reason: str, said: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
        self.said = said


@dataclass(frozen=True, slots=True)
class Computed:
    """What one metric suggests, its name in messages, and its place in the status."""

    replicas: int
    name: str
    status: MetricStatus


@dataclass(frozen=True, slots=True)
class Target:
    """What is scaled, as metrics see it. `replicas` are those that its status counts."""

    namespace: str
    selector: str
    replicas: int
    scene: Scene


Compute = Callable[[MetricsApis, Target, MetricSpec], Awaitable[Computed]]


async def compute(apis: MetricsApis, target: Target, metric: MetricSpec) -> Computed:
    """Ask the source and compute. Raises MetricFailed."""
    source = _SOURCES.get(metric.type)
    if source is None:
        text = f'unknown metric source type "{metric.type}"'
        raise MetricFailed("InvalidMetricSourceType", text, text)
    return await source(apis, target, metric)


# ---- what containers use


async def _resource(apis: MetricsApis, target: Target, metric: MetricSpec) -> Computed:
    assert metric.resource is not None
    name = metric.resource.name
    try:
        found, current = await _used(apis, target, name, "", metric.resource.target)
    except CannotCompute as error:
        text = f"failed to get {name} resource metric value: {error}"
        raise MetricFailed("FailedGetResourceMetric", str(error), text) from error
    status = ResourceMetricStatus(name=name, current=current)
    what = f"{name} resource"
    if found.utilization is not None:
        what += " utilization (percentage of request)"
    return Computed(found.replicas, what, MetricStatus(type="Resource", resource=status))


async def _container_resource(apis: MetricsApis, target: Target, metric: MetricSpec) -> Computed:
    source = metric.containerResource
    assert source is not None
    name, container = source.name, source.container
    try:
        found, current = await _used(apis, target, name, container, source.target)
    except CannotCompute as error:
        text = f"failed to get {container} container metric value: {error}"
        raise MetricFailed("FailedGetContainerResourceMetric", str(error), text) from error
    status = ContainerResourceMetricStatus(name=name, container=container, current=current)
    what = f"{name} resource"
    if found.utilization is not None:
        what = f"{name} container resource utilization (percentage of request)"
    shown = MetricStatus(type="ContainerResource", containerResource=status)
    return Computed(found.replicas, what, shown)


async def _used(
    apis: MetricsApis, target: Target, resource: str, container: str, wanted: MetricTarget
) -> tuple[Proposal, MetricValueStatus]:
    average, percent = wanted.averageValue, wanted.averageUtilization
    if average is None and percent is None:
        raise CannotCompute(
            "invalid resource metric source: neither an average utilization target nor an average "
            "value (usage) target was set"
        )
    try:
        try:
            samples = await apis.resource(target.namespace, target.selector, resource, container)
        except CannotCompute as error:
            raise CannotCompute(
                f"unable to get metrics for resource {resource}: {error}"
            ) from error
        if average is not None:
            found = by_average(target.scene, samples, resource, _milli(average))
        else:
            assert percent is not None
            found = by_utilization(target.scene, samples, resource, container, percent)
    except CannotCompute as error:
        what = "usage" if average is not None else "utilization"
        raise CannotCompute(f"failed to get {resource} {what}: {error}") from error
    if resource == "memory":
        usage = str(Quantity.of(-(-found.usage // 1000), Format.BINARY))
    else:
        usage = _quantity(found.usage)
    current = MetricValueStatus(averageValue=usage, averageUtilization=found.utilization)
    return found, current


# ---- what adapters tell


async def _pods(apis: MetricsApis, target: Target, metric: MetricSpec) -> Computed:
    assert metric.pods is not None
    identifier = metric.pods.metric
    try:
        try:
            samples = await apis.pods(target.namespace, target.selector, identifier)
        except CannotCompute as error:
            raise CannotCompute(f"unable to get metric {identifier.name}: {error}") from error
        wanted = _milli(metric.pods.target.averageValue or "0")
        found = by_average(target.scene, samples, "", wanted)
    except CannotCompute as error:
        text = f"failed to get pods metric value: {error}"
        raise MetricFailed("FailedGetPodsMetric", str(error), text) from error
    current = MetricValueStatus(averageValue=_quantity(found.usage))
    status = PodsMetricStatus(metric=_shown(identifier), current=current)
    name = f"pods metric {identifier.name}"
    return Computed(found.replicas, name, MetricStatus(type="Pods", pods=status))


async def _object(apis: MetricsApis, target: Target, metric: MetricSpec) -> Computed:
    source = metric.object
    assert source is not None
    identifier, about, wanted = source.metric, source.describedObject, source.target
    is_value = wanted.type == "Value" and wanted.value is not None
    try:
        if not is_value and (wanted.type != "AverageValue" or wanted.averageValue is None):
            raise CannotCompute(
                "invalid object metric source: neither a value target nor an average value target "
                "was set"
            )
        try:
            usage = await apis.object(target.namespace, about, identifier)
        except CannotCompute as error:
            where = f"{about.kind} {target.namespace}/{about.name}"
            text = f"unable to get metric {identifier.name}: {error} on {where}"
            raise CannotCompute(text) from error
        found = _proposed(target, wanted, usage)
    except CannotCompute as error:
        inner = str(error)
        if wanted.type == "AverageValue":
            inner = f"failed to get {identifier.name} object metric: {error}"
        text = f"failed to get object metric value: {inner}"
        raise MetricFailed("FailedGetObjectMetric", str(error), text) from error
    current = _current(wanted, found.usage)
    status = ObjectMetricStatus(describedObject=about, metric=_shown(identifier), current=current)
    name = f"{about.kind} metric {identifier.name}"
    if not is_value:
        name = f"external metric {identifier.name}({go_text(identifier)})"
    return Computed(found.replicas, name, MetricStatus(type="Object", object=status))


async def _external(apis: MetricsApis, target: Target, metric: MetricSpec) -> Computed:
    source = metric.external
    assert source is not None
    identifier, wanted = source.metric, source.target
    name = identifier.name
    try:
        if wanted.averageValue is None and wanted.value is None:
            raise CannotCompute(
                "invalid external metric source: neither a value target nor an average value "
                "target was set"
            )
        try:
            usage = total(await apis.external(target.namespace, identifier))
        except CannotCompute as error:
            which = f"{target.namespace}/{name}/{go_text(identifier)}"
            raise CannotCompute(f"unable to get external metric {which}: {error}") from error
        found = _proposed(target, wanted, usage)
    except CannotCompute as error:
        inner = f"failed to get external metric {name}: {error}"
        if wanted.averageValue is not None:
            inner = f"failed to get {name} external metric: {error}"
        text = f"failed to get {name} external metric value: {inner}"
        raise MetricFailed("FailedGetExternalMetric", str(error), text) from error
    status = ExternalMetricStatus(metric=_shown(identifier), current=_current(wanted, found.usage))
    what = f"external metric {name}({go_text(identifier)})"
    return Computed(found.replicas, what, MetricStatus(type="External", external=status))


def _proposed(target: Target, wanted: MetricTarget, usage: int) -> Proposal:
    if wanted.averageValue is not None:
        each = _milli(wanted.averageValue)
        return by_value_per_pod(target.replicas, usage, each, target.scene.tolerances)
    return by_value(target.scene, usage, _milli(wanted.value or "0"))


def _current(wanted: MetricTarget, usage: int) -> MetricValueStatus:
    if wanted.averageValue is not None:
        return MetricValueStatus(averageValue=_quantity(usage))
    return MetricValueStatus(value=_quantity(usage))


def _shown(identifier: MetricIdentifier) -> MetricIdentifier:
    return MetricIdentifier(name=identifier.name, selector=identifier.selector)


def _milli(text: str) -> int:
    return parse_quantity(text).milli_value()


def _quantity(milli: int) -> str:
    return str(Quantity(milli * 10**6))


_SOURCES: dict[str, Compute] = {
    "ContainerResource": _container_resource,
    "External": _external,
    "Object": _object,
    "Pods": _pods,
    "Resource": _resource,
}
