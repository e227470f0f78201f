"""From what pods use to how many there should be: pure.

The rule is a proportion: with twice the use that was aimed at, twice the pods. What makes it long
is what is not known. A pod without a sample is taken to use as much as speaks against the change
that the others suggest, and so is, for processor time, a pod that has only just started; if that
turns the suggestion round, nothing happens. A change within the tolerance is none.

Amounts are thousandths of a unit, as integers, and are divided as Go divides them: what a
HorizontalPodAutoscaler decides at a border must be what it decides elsewhere.

Source: upstream's `pkg/controller/podautoscaler/replica_calculator.go`; for pod-level requests
KEP-2837, for tolerances KEP-4951.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from navarch.api.objects import to_object
from navarch.api.pod_resources import pod_requests
from navarch.api.quantity import parse_quantity
from navarch.api.times import parse_time
from navarch.api.types.core_v1 import Pod
from navarch.controllers.pods import is_ready, ready_condition

MAX_INT32, MAX_INT64 = 2**31 - 1, 2**63 - 1
NO_PODS = "no pods returned by selector while calculating replica count"
POD_LEVEL = ("cpu", "memory")


class CannotCompute(Exception):
    """There is no number; the text says why."""


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How far use may be from its target before anything is done."""

    down: float = 0.1
    up: float = 0.1

    def cover(self, ratio: float) -> bool:
        return 1.0 - self.down <= ratio <= 1.0 + self.up


@dataclass(frozen=True, slots=True)
class Sample:
    """What a pod was seen to use over the `window` up to `time`."""

    value: int
    time: datetime
    window: timedelta


@dataclass(frozen=True, slots=True)
class Delays:
    """How long after its start a pod's use of processor time says little."""

    cpu_initialization: timedelta = timedelta(minutes=5)
    """So long only samples count that lie wholly after the pod became ready."""
    initial_readiness: timedelta = timedelta(seconds=30)
    """Later, a pod that became unready no later than this after its start has never been ready."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What a computation goes out from. `pods` are all that the target's selector matches."""

    pods: Sequence[Pod]
    replicas: int
    now: datetime
    tolerances: Tolerances = field(default_factory=Tolerances)
    delays: Delays = field(default_factory=Delays)


@dataclass(frozen=True, slots=True)
class Proposal:
    """So many replicas, because so much is used: on average, and as a percentage of requests."""

    replicas: int
    usage: int
    utilization: int | None = None


# ---- metrics of pods


@dataclass(frozen=True, slots=True)
class Grouped:
    """The samples that count, and the pods by what is known of them."""

    values: Mapping[str, int]
    ready: int
    unready: frozenset[str]
    missing: frozenset[str]


def grouped(scene: Scene, samples: Mapping[str, Sample], resource: str) -> Grouped:
    """Sort the pods. Raises CannotCompute when nothing is left to go by."""
    if not scene.pods:
        raise CannotCompute(NO_PODS)
    groups: dict[str, set[str]] = {"ready": set(), "unready": set(), "missing": set()}
    dropped = set()
    for pod in scene.pods:
        name = pod.metadata.name
        group = _group(pod, samples.get(name), resource, scene)
        if group:
            groups[group].add(name)
        if group in ("", "unready"):
            dropped.add(name)
    values = {name: each.value for name, each in samples.items() if name not in dropped}
    if not values:
        raise CannotCompute("did not receive metrics for targeted pods (pods might be unready)")
    unready, missing = frozenset(groups["unready"]), frozenset(groups["missing"])
    return Grouped(values, len(groups["ready"]), unready, missing)


def _group(pod: Pod, sample: Sample | None, resource: str, scene: Scene) -> str:
    if pod.metadata.deletionTimestamp or pod.status.phase == "Failed":
        return ""
    if pod.status.phase == "Pending":
        return "unready"
    if sample is None:
        return "missing"
    return "unready" if resource == "cpu" and _is_warming_up(pod, sample, scene) else "ready"


def _is_warming_up(pod: Pod, sample: Sample, scene: Scene) -> bool:
    """Whether what the pod used says more of its start than of its work."""
    condition = ready_condition(pod)
    if condition is None or not pod.status.startTime:
        return True
    started = parse_time(pod.status.startTime)
    changed = parse_time(condition.lastTransitionTime) if condition.lastTransitionTime else started
    is_unready = condition.status == "False"
    if started + scene.delays.cpu_initialization > scene.now:
        return is_unready or sample.time < changed + sample.window
    return is_unready and started + scene.delays.initial_readiness > changed


@dataclass(frozen=True, slots=True)
class Measured:
    """Use in proportion to its target."""

    ratio: float
    usage: int
    utilization: int | None = None


def by_utilization(
    scene: Scene, samples: Mapping[str, Sample], resource: str, container: str, target: int
) -> Proposal:
    """Towards a percentage of what the pods (or that container of theirs) request."""
    found = grouped(scene, samples, resource)
    requests = {pod.metadata.name: requested(pod, container, resource) for pod in scene.pods}

    def measure(values: Mapping[str, int]) -> Measured:
        known = [name for name in values if name in requests]
        total = sum(requests[name] for name in known)
        if total == 0:
            raise CannotCompute("no metrics returned matched known pods")
        used = sum(values[name] for name in known)
        percent = _quotient(used * 100, total)
        return Measured(percent / target, _quotient(used, len(known)), percent)

    def full(name: str) -> int:
        return requests[name] * max(100, target) // 100

    return _proposed(scene, found, measure, full)


def by_average(scene: Scene, samples: Mapping[str, Sample], resource: str, target: int) -> Proposal:
    """Towards an amount for each pod. `resource` is empty for metrics that are none's."""

    def measure(values: Mapping[str, int]) -> Measured:
        usage = _quotient(sum(values.values()), len(values))
        return Measured(_ratio(usage, target), usage)

    return _proposed(scene, grouped(scene, samples, resource), measure, lambda name: target)


def _proposed(
    scene: Scene,
    found: Grouped,
    measure: Callable[[Mapping[str, int]], Measured],
    full: Callable[[str], int],
) -> Proposal:
    """`full` is what a pod without a sample is taken to use when there seem to be too many."""
    first = measure(found.values)
    ratio = first.ratio
    stays = Proposal(scene.replicas, first.usage, first.utilization)
    counts_unready = bool(found.unready) and ratio > 1
    if not counts_unready and not found.missing:
        if scene.tolerances.cover(ratio):
            return stays
        return Proposal(_ceil(ratio * found.ready), first.usage, first.utilization)
    values = dict(found.values)
    if ratio < 1:
        values |= {name: full(name) for name in found.missing}
    elif ratio > 1:
        values |= dict.fromkeys(found.missing, 0)
    if counts_unready:
        values |= dict.fromkeys(found.unready, 0)
    again = measure(values).ratio
    if scene.tolerances.cover(again) or (ratio - 1) * (again - 1) < 0:
        return stays
    replicas = _ceil(again * len(values))
    if (again < 1 and replicas > scene.replicas) or (again > 1 and replicas < scene.replicas):
        return stays
    return Proposal(replicas, first.usage, first.utilization)


def requested(pod: Pod, container: str, resource: str) -> int:
    """What a pod requests of a resource, or one of its containers. Raises CannotCompute when any
    that counts requests none."""
    name = pod.metadata.name
    whole = pod.spec.resources.requests if pod.spec.resources is not None else {}
    if not container and any(_is_pod_level(each) for each in whole):
        amount = pod_requests(to_object(pod)).get(resource)
        if amount is None:
            raise CannotCompute(f"missing pod-level request for {resource} in Pod {name}")
        return amount.milli_value()
    total = 0
    is_found = not container
    sidecars = [each for each in pod.spec.initContainers if each.restartPolicy == "Always"]
    for each in (*pod.spec.containers, *sidecars):
        if container and each.name != container:
            continue
        request = (each.resources.requests or {}).get(resource)
        if request is None:
            raise CannotCompute(
                f"missing request for {resource} in container {each.name} of Pod {name}"
            )
        total += parse_quantity(request).milli_value()
        is_found = True
    if not is_found:
        raise CannotCompute(f"container {container} not found in Pod {name}")
    return total


def _is_pod_level(name: str) -> bool:
    return name in POD_LEVEL or name.startswith("hugepages-")


# ---- metrics of other things


def by_value(scene: Scene, usage: int, target: int) -> Proposal:
    """Towards one amount for all pods together: a queue that is twice as long as it should be
    takes twice the pods that are ready."""
    ratio = _ratio(usage, target)
    if scene.replicas == 0:
        return Proposal(_ceil(ratio), usage)
    if scene.tolerances.cover(ratio):
        return Proposal(scene.replicas, usage)
    if not scene.pods:
        raise CannotCompute(f"unable to calculate ready pods: {NO_PODS}")
    ready = sum(pod.status.phase == "Running" and is_ready(pod) for pod in scene.pods)
    return Proposal(_ceil(ratio * ready), usage)


def by_value_per_pod(replicas: int, usage: int, target: int, tolerances: Tolerances) -> Proposal:
    """Towards an amount for each of the `replicas` that the target's status counts."""
    shared = usage if replicas == 0 or usage >= MAX_INT64 else math.ceil(usage / replicas)
    if replicas and tolerances.cover(_ratio(usage, target * replicas)):
        return Proposal(replicas, shared)
    return Proposal(_ceil(_ratio(usage, target)), shared)


def total(values: Sequence[int]) -> int:
    """The sum of all series of an external metric."""
    return min(sum(values), MAX_INT64)


def _ratio(usage: int, target: int) -> float:
    return usage / target if target else math.inf


def _quotient(first: int, second: int) -> int:
    """As Go divides: towards zero."""
    return first // second if first >= 0 else -(-first // second)


def _ceil(replicas: float) -> int:
    return MAX_INT32 if replicas > MAX_INT32 else math.ceil(replicas)
