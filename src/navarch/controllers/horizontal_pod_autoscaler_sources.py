"""The five sources of `spec.metrics`: each asked in its own way, and told of in its own words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def _saying(what: str) -> Iterator[None]:
    """What went wrong inside is told with this before it."""
    try:
        yield
    except CannotCompute as error:
        raise CannotCompute(f"{what}: {error}") from error


@contextmanager
def _failing(reason: str, what: str) -> Iterator[None]:
    """What went wrong inside is the metric's failure."""
    try:
        yield
    except CannotCompute as error:
        raise MetricFailed(reason, str(error), f"{what}: {error}") from error


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
    with _failing("FailedGetResourceMetric", f"failed to get {name} resource metric value"):
        found, current = await _used(apis, target, name, "", metric.resource.target)
    status = ResourceMetricStatus(name=name, current=current)
    what = f"{name} resource"
    if found.utilization is not None:
        what += " utilization (percentage of request)"
    return Computed(found.replicas, what, MetricStatus(type="Resource", resource=status))


async def _container_resource(apis: MetricsApis, target: Target, metric: MetricSpec) -> Computed:
    source = metric.containerResource
    assert source is not None
    name, container = source.name, source.container
    said = f"failed to get {container} container metric value"
    with _failing("FailedGetContainerResourceMetric", said):
        found, current = await _used(apis, target, name, container, source.target)
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
    with _saying(f"failed to get {resource} {'utilization' if average is None else 'usage'}"):
        with _saying(f"unable to get metrics for resource {resource}"):
            samples = await apis.resource(target.namespace, target.selector, resource, container)
        if average is not None:
            found = by_average(target.scene, samples, resource, _milli(average))
        else:
            assert percent is not None
            found = by_utilization(target.scene, samples, resource, container, percent)
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
    with _failing("FailedGetPodsMetric", "failed to get pods metric value"):
        with _saying(f"unable to get metric {identifier.name}"):
            samples = await apis.pods(target.namespace, target.selector, identifier)
        wanted = _milli(metric.pods.target.averageValue or "0")
        found = by_average(target.scene, samples, "", wanted)
    current = MetricValueStatus(averageValue=_quantity(found.usage))
    status = PodsMetricStatus(metric=_shown(identifier), current=current)
    name = f"pods metric {identifier.name}"
    return Computed(found.replicas, name, MetricStatus(type="Pods", pods=status))


async def _object(apis: MetricsApis, target: Target, metric: MetricSpec) -> Computed:
    source = metric.object
    assert source is not None
    identifier, about, wanted = source.metric, source.describedObject, source.target
    is_value = wanted.type == "Value" and wanted.value is not None
    said = "failed to get object metric value"
    if wanted.type == "AverageValue":
        said += f": failed to get {identifier.name} object metric"
    with _failing("FailedGetObjectMetric", said):
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
    kind = "external metric " + name if wanted.averageValue is None else name + " external metric"
    said = f"failed to get {name} external metric value: failed to get {kind}"
    with _failing("FailedGetExternalMetric", said):
        if wanted.averageValue is None and wanted.value is None:
            raise CannotCompute(
                "invalid external metric source: neither a value target nor an average value "
                "target was set"
            )
        which = f"{target.namespace}/{name}/{go_text(identifier)}"
        with _saying(f"unable to get external metric {which}"):
            usage = total(await apis.external(target.namespace, identifier))
        found = _proposed(target, wanted, usage)
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
