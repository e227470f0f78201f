"""HorizontalPodAutoscaler: as many pods as the work takes.

Every fifteen seconds each autoscaler reads its target's subresource `scale`, asks for the metrics
of `spec.metrics`, takes the largest number of replicas that any of them suggests, holds it against
limits, windows and rates, and writes it to the scale. The target may be of any kind that has a
scale, custom resources included. A target at zero replicas is left there: that is how one pauses an
autoscaler.

A metric that fails never scales down: the others may have seen less than it would have. Two
autoscalers for the same pods would pull against each other, so neither does anything. The first
look at an autoscaler only shows what the metrics say: statistics that nobody has asked for lately
begin with the use of a single second, and that is no ground for a decision.

What is computed is in three pure files: `..._plan` (from use to replicas), `..._behavior` (from
replicas to what is asked for) and, with the questions to the metrics APIs, `..._sources`.

Source: upstream's `pkg/controller/podautoscaler/horizontal.go`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import msgspec

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object, encode
from navarch.api.quantity import parse_quantity
from navarch.api.selectors import LabelSelector, SelectorError, parse_label_selector
from navarch.api.times import format_time
from navarch.api.types.autoscaling_v1 import Scale
from navarch.api.types.autoscaling_v2 import (
    HorizontalPodAutoscaler,
    HorizontalPodAutoscalerCondition,
    HPAScalingRules,
    MetricStatus,
)
from navarch.api.types.core_v1 import Pod
from navarch.client import Controller, ControllerContext, object_key
from navarch.controllers import horizontal_pod_autoscaler_figures as figures
from navarch.controllers.discovery import ApiResource, Discovered, discover
from navarch.controllers.garbage_collector_monitors import path_of
from navarch.controllers.horizontal_pod_autoscaler_behavior import (
    History,
    Question,
    longest_window,
    normalized,
)
from navarch.controllers.horizontal_pod_autoscaler_metrics import MetricsApis
from navarch.controllers.horizontal_pod_autoscaler_plan import (
    CannotCompute,
    Delays,
    Scene,
    Tolerances,
)
from navarch.controllers.horizontal_pod_autoscaler_sources import (
    Computed,
    MetricFailed,
    Target,
    compute,
)
from navarch.controllers.pods import find_condition

TRIES, PAUSE_SECONDS = 5, 0.01
"""Of writing a scale that others write as well."""
REDISCOVER_SECONDS = 30.0
"""A kind that is not known is looked for again so often."""

_scale = msgspec.json.Decoder(Scale)


@dataclass(frozen=True, slots=True)
class AutoscalerOptions:
    """Upstream's `--horizontal-pod-autoscaler-*`, in seconds."""

    sync_period: float = 15.0
    downscale_stabilization: float = 300.0
    cpu_initialization_period: float = 300.0
    initial_readiness_delay: float = 30.0
    tolerance: float = 0.1


@dataclass(frozen=True, slots=True)
class Found:
    """A scale and where it is."""

    path: str
    scale: Scale


@dataclass(frozen=True, slots=True)
class Suggestion:
    """The largest number that any metric suggests, and what became of the metrics. `problem` tells
    of those that failed."""

    replicas: int
    name: str
    statuses: list[MetricStatus]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    replicas: int
    reason: str = ""
    statuses: Sequence[MetricStatus] = ()
    problem: str = ""


class NothingToDo(Exception):
    """The metrics give no answer; the status says why, as far as it got."""

    def __init__(self, text: str, statuses: list[MetricStatus]) -> None:
        super().__init__(text)
        self.statuses = statuses


class HorizontalPodAutoscalerController(Controller):
    """Watches: autoscalers, each of which comes up again after the period, whatever happens."""

    name = "horizontalpodautoscaler"

    def __init__(
        self, context: ControllerContext, options: AutoscalerOptions | None = None
    ) -> None:
        super().__init__(context)
        self.options = options or AutoscalerOptions()
        self.autoscalers = context.informers.informer(HorizontalPodAutoscaler)
        self.pods = context.informers.informer(Pod)
        self.recorder = context.recorder("horizontal-pod-autoscaler")
        self.apis = MetricsApis(context.client, self._resource_of)
        self._histories: dict[str, History] = {}
        self._selectors: dict[str, LabelSelector] = {}
        """Of the autoscalers that have read theirs."""
        self._discovered = Discovered(())
        self._discover_at = 0.0
        self.depends_on(self.autoscalers)
        self.depends_on(self.pods)
        self.autoscalers.add_handler(self._appeared, self._changed, self._appeared)

    def _appeared(self, autoscaler: HorizontalPodAutoscaler) -> None:
        """A new one is looked at at once, and one that is gone forgotten."""
        self.queue.add(object_key(autoscaler))

    def _changed(self, old: HorizontalPodAutoscaler, new: HorizontalPodAutoscaler) -> None:
        """Its turn comes: also our own writes are changes."""
        self.queue.add_after(object_key(new), self.options.sync_period)

    async def reconcile(self, key: str) -> None:
        autoscaler = self.autoscalers.cache.get(key)
        if autoscaler is None:
            self._histories.pop(key, None)
            self._selectors.pop(key, None)
            figures.forget(key)
            return
        work = Work(self, key, copy_object(autoscaler))
        with figures.reconciliation(self.clock) as figure:
            try:
                figure.action = await work.run()
            except (ApiError, CannotCompute) as error:
                # The object says it too, and nobody but its owner can change it.
                figure.error = "internal"
                self.log.info("%s: %s", key, error)
            finally:
                self.queue.add_after(key, self.options.sync_period)

    # ---- what the work on one autoscaler needs of all

    def knows(self, key: str) -> bool:
        """Whether the autoscaler's scale was seen before."""
        return key in self._histories

    def history(self, key: str, replicas: int) -> History:
        """Begins with what there is at first sight."""
        known = self._histories.get(key)
        if known is None:
            now = self.clock.now()
            known = History().with_suggestion(now, replicas, timedelta(hours=1))
            self._histories[key] = known
        return known

    def remember(self, key: str, history: History) -> None:
        self._histories[key] = history

    def pods_of(self, key: str, selector: LabelSelector) -> list[Pod]:
        self._selectors[key] = selector
        namespace = key.partition("/")[0]
        return [
            pod for pod in self.pods.cache.list(namespace) if selector.matches(pod.metadata.labels)
        ]

    def rivals(self, key: str, pods: Sequence[Pod]) -> list[str]:
        """The autoscalers (this one among them) that one of the pods belongs to."""
        namespace = key.partition("/")[0]
        return sorted(
            name
            for name, selector in self._selectors.items()
            if name.partition("/")[0] == namespace
            and any(selector.matches(pod.metadata.labels) for pod in pods)
        )

    async def find_scale(self, autoscaler: HorizontalPodAutoscaler) -> Found:
        """Raises ApiError, CannotCompute."""
        reference = autoscaler.spec.scaleTargetRef
        if reference.apiVersion.count("/") > 1:
            raise CannotCompute(f"unexpected GroupVersion string: {reference.apiVersion}")
        group = reference.apiVersion.rpartition("/")[0]
        resource = await self._resource_of(group, reference.kind)
        if "scale" not in resource.subresources:
            await self._discover()
            resource = await self._resource_of(group, reference.kind)
        if "scale" not in resource.subresources:
            which = f"{resource.group}/{resource.version}, Resource={resource.plural}"
            text = f"could not find scale subresource for {which} in discovery information"
            raise CannotCompute(text)
        path = path_of(resource).path(autoscaler.metadata.namespace, reference.name, "scale")
        return await self.read_scale(path)

    async def read_scale(self, path: str) -> Found:
        try:
            return Found(path, _scale.decode(await self.client.request("GET", path)))
        except msgspec.DecodeError as error:
            raise CannotCompute(f"the answer is no Scale: {error}") from error

    async def _resource_of(self, group: str, kind: str) -> ApiResource:
        """Raises ApiError, CannotCompute."""
        if (group, kind) not in self._discovered.kinds:
            await self._discover()
        resource = self._discovered.kinds.get((group, kind))
        if resource is None:
            raise CannotCompute(f'no matches for kind "{kind}" in group "{group}"')
        return resource

    async def _discover(self) -> None:
        """Learn what kinds there are, if that was not done lately. Raises ApiError."""
        now = self.clock.monotonic()
        if now >= self._discover_at:
            self._discovered = await discover(self.client)
            self._discover_at = now + REDISCOVER_SECONDS


class Work:
    """One turn of one autoscaler, whose copy it fills in."""

    def __init__(
        self, controller: HorizontalPodAutoscalerController, key: str, hpa: HorizontalPodAutoscaler
    ) -> None:
        self._all = controller
        self._key = key
        self._hpa = hpa
        self._before = copy_object(hpa.status)
        self._least = 1 if hpa.spec.minReplicas is None else hpa.spec.minReplicas

    async def run(self) -> str:
        """The action for the figures. Raises ApiError, CannotCompute when something went wrong;
        what there is to say of it is written by then."""
        hpa = self._hpa
        target = hpa.spec.scaleTargetRef
        try:
            found = await self._all.find_scale(hpa)
        except (ApiError, CannotCompute) as error:
            text = f"the HPA controller was unable to get the target's current scale: {error}"
            self._event("Warning", "FailedGetScale", str(error))
            self._say("AbleToScale", "False", "FailedGetScale", text)
            await self._write()
            raise
        text = "the HPA controller was able to get the target's current scale"
        self._say("AbleToScale", "True", "SucceededGetScale", text)
        current = found.scale.spec.replicas
        is_first = not self._all.knows(self._key)
        self._all.history(self._key, current)
        try:
            decision = await self._decide(found.scale, is_first)
        except NothingToDo as error:
            self._set_status(current, hpa.status.desiredReplicas, error.statuses)
            await self._write()
            self._event("Warning", "FailedComputeMetricsReplicas", str(error))
            where = f"{target.kind}/{hpa.metadata.namespace}/{target.name}"
            raise CannotCompute(
                "failed to compute desired number of replicas based on listed metrics for "
                f"{where}: {error}"
            ) from error
        if decision.replicas != current:
            await self._rescale(found, decision)
        self._set_status(current, decision.replicas, decision.statuses)
        if decision.replicas != current:
            hpa.status.lastScaleTime = format_time(self._all.clock.now())
        figures.desired(self._key, decision.replicas)
        await self._write()
        if decision.problem:
            raise CannotCompute(decision.problem)
        if decision.replicas == current:
            return "none"
        return "scale_up" if decision.replicas > current else "scale_down"

    # ---- deciding

    async def _decide(self, scale: Scale, is_first: bool) -> Decision:
        """Raises NothingToDo."""
        current, spec = scale.spec.replicas, self._hpa.spec
        if current == 0:
            text = "scaling is disabled since the replica count of the target is zero"
            self._say("ScalingActive", "False", "ScalingDisabled", text)
            return Decision(0)
        if current > spec.maxReplicas:
            reason = "Current number of replicas above Spec.MaxReplicas"
            return Decision(spec.maxReplicas, reason)
        if current < self._least:
            return Decision(self._least, "Current number of replicas below Spec.MinReplicas")
        found = await self._suggested(scale)
        if is_first:
            return Decision(current, "", found.statuses, found.problem)
        reason = "All metrics below target"
        if found.replicas > current:
            reason = f"{found.name} above target"
        return Decision(self._normalized(current, found), reason, found.statuses, found.problem)

    async def _suggested(self, scale: Scale) -> Suggestion:
        """What the metrics suggest. Raises NothingToDo."""
        target = self._target(scale)
        metrics = self._hpa.spec.metrics
        statuses, computed, failed = [], list[Computed](), list[MetricFailed]()
        for metric in metrics:
            with figures.computation(self._all.clock, metric.type) as figure:
                try:
                    one = await compute(self._all.apis, target, metric)
                except MetricFailed as error:
                    is_spec = error.reason == "InvalidMetricSourceType"
                    figure.error = "spec" if is_spec else "internal"
                    self._event("Warning", error.reason, error.said)
                    failed.append(error)
                    statuses.append(MetricStatus())
                    continue
                figure.action = figures.action(self._hpa.status.currentReplicas, one.replicas)
            computed.append(one)
            statuses.append(one.status)
        problem = ""
        if failed:
            count = f"{len(failed)} invalid out of {len(metrics)}"
            problem = f"invalid metrics ({count}), first error is: {failed[0]}"
        # Of several that suggest as much the first is named.
        best = max(computed, key=lambda each: each.replicas, default=None)
        if best is None or (failed and best.replicas < scale.spec.replicas):
            text = f"the HPA was unable to compute the replica count: {failed[0].said}"
            self._say("ScalingActive", "False", failed[0].reason, text)
            raise NothingToDo(problem, statuses)
        text = f"the HPA was able to successfully calculate a replica count from {best.name}"
        self._say("ScalingActive", "True", "ValidMetricFound", text)
        return Suggestion(best.replicas, best.name, statuses, problem)

    def _target(self, scale: Scale) -> Target:
        """The pods behind the scale. Raises NothingToDo for a selector that cannot be used."""
        text = scale.status.selector
        if not text:
            said = "the HPA target's scale is missing a selector"
            raise self._unusable(
                "SelectorRequired", "InvalidSelector", "selector is required", said
            )
        try:
            selector = parse_label_selector(text)
        except SelectorError as error:
            said = (
                f"couldn't convert selector into a corresponding internal selector object: {error}"
            )
            raise self._unusable("InvalidSelector", "InvalidSelector", said) from error
        pods = self._all.pods_of(self._key, selector)
        rivals = self._all.rivals(self._key, pods)
        if len(rivals) > 1:
            names = [each.partition("/") for each in rivals]
            listed = " ".join(f"{{{name} {namespace}}}" for namespace, _, name in names)
            said = f"pods by selector {text} are controlled by multiple HPAs: [{listed}]"
            raise self._unusable("AmbiguousSelector", "AmbiguousSelector", said)
        options = self._all.options
        scene = Scene(
            pods,
            scale.spec.replicas,
            self._all.clock.now(),
            self._tolerances(),
            Delays(
                timedelta(seconds=options.cpu_initialization_period),
                timedelta(seconds=options.initial_readiness_delay),
            ),
        )
        return Target(self._hpa.metadata.namespace, str(selector), scale.status.replicas, scene)

    def _unusable(self, event: str, reason: str, text: str, said: str = "") -> NothingToDo:
        self._event("Warning", event, text)
        self._say("ScalingActive", "False", reason, said or text)
        return NothingToDo(text, [])

    def _tolerances(self) -> Tolerances:
        behavior, default = self._hpa.spec.behavior, self._all.options.tolerance

        def own(rules: HPAScalingRules | None) -> float:
            if rules is None or rules.tolerance is None:
                return default
            return float(parse_quantity(rules.tolerance))

        if behavior is None:
            return Tolerances(default, default)
        return Tolerances(own(behavior.scaleDown), own(behavior.scaleUp))

    def _normalized(self, current: int, found: Suggestion) -> int:
        spec, now = self._hpa.spec, self._all.clock.now()
        window = timedelta(seconds=self._all.options.downscale_stabilization)
        history = self._all.history(self._key, current)
        question = Question(current, found.replicas, self._least, spec.maxReplicas, now)
        result = normalized(question, spec.behavior, history, window)
        keep = longest_window(spec.behavior, window)
        self._all.remember(self._key, history.with_suggestion(now, found.replicas, keep))
        self._say("AbleToScale", "True", *result.able)
        self._say("ScalingLimited", str(result.is_limited), *result.limited)
        return result.replicas

    # ---- acting

    async def _rescale(self, found: Found, decision: Decision) -> None:
        """Raises ApiError, of which all is said."""
        size = f"New size: {decision.replicas}; reason: {decision.reason}"
        current = found.scale.spec.replicas
        try:
            await self._write_scale(found, decision.replicas)
        except (ApiError, CannotCompute) as error:
            self._event("Warning", "FailedRescale", f"{size}; error: {error}")
            text = f"the HPA controller was unable to update the target scale: {error}"
            self._say("AbleToScale", "False", "FailedUpdateScale", text)
            self._set_status(current, self._hpa.status.desiredReplicas, decision.statuses)
            await self._write()
            raise
        text = f"the HPA controller was able to update the target scale to {decision.replicas}"
        self._say("AbleToScale", "True", "SucceededRescale", text)
        self._event("Normal", "SuccessfulRescale", size)
        if self._hpa.spec.behavior is not None:
            history = self._all.history(self._key, current)
            now = self._all.clock.now()
            self._all.remember(self._key, history.with_change(now, current, decision.replicas))

    async def _write_scale(self, found: Found, replicas: int) -> None:
        scale = found.scale
        for left in reversed(range(TRIES)):
            wanted = copy_object(scale)
            wanted.spec.replicas = replicas
            try:
                await self._all.client.request("PUT", found.path, body=encode(wanted))
            except ApiError as error:
                if not error.is_conflict or not left:
                    raise
            else:
                return
            await self._all.clock.sleep(PAUSE_SECONDS)
            scale = (await self._all.read_scale(found.path)).scale

    # ---- saying

    def _event(self, kind: str, reason: str, message: str) -> None:
        self._all.recorder.event(self._hpa, kind, reason, message)

    def _say(self, kind: str, status: str, reason: str, message: str) -> None:
        conditions = self._hpa.status.conditions
        condition = find_condition(conditions, kind)
        if condition is None:
            condition = HorizontalPodAutoscalerCondition(type=kind)
            conditions.append(condition)
        if condition.status != status:
            condition.lastTransitionTime = format_time(self._all.clock.now())
        condition.status, condition.reason, condition.message = status, reason, message

    def _set_status(self, current: int, desired: int, statuses: Sequence[MetricStatus]) -> None:
        status = self._hpa.status
        status.observedGeneration = None
        status.currentReplicas, status.desiredReplicas = current, desired
        status.currentMetrics = list(statuses)

    async def _write(self) -> None:
        """Write the status if it says anything new. Raises ApiError."""
        if self._hpa.status == self._before:
            return
        try:
            await self._all.client.resource(HorizontalPodAutoscaler).update_status(self._hpa)
        except ApiError as error:
            self._event("Warning", "FailedUpdateStatus", str(error))
            raise
