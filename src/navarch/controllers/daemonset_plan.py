"""What a DaemonSet wants on each node: pure.

A pod belongs on every node that the template's node selector and affinity choose and whose taints
it tolerates. Pods are pinned to their node by a required affinity for its name and placed by the
scheduler. Taints for what is wrong with a node (not ready, pressure, unschedulable) are tolerated,
because daemons are what nodes are mended with.

Source: upstream's `pkg/controller/daemon`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from navarch.api.intstr import scaled_value
from navarch.api.node_selection import may_be_on, tolerates
from navarch.api.objects import copy_object
from navarch.api.types.apps_v1 import DaemonSet, DaemonSetStatus
from navarch.api.types.core_v1 import (
    Affinity,
    Node,
    NodeAffinity,
    NodeSelector,
    NodeSelectorRequirement,
    NodeSelectorTerm,
    Pod,
    PodSpec,
    Toleration,
)
from navarch.controllers.history import HASH
from navarch.controllers.pods import is_available, is_ready, is_terminal, pod_from_template

GENERATION = "deprecated.daemonset.template.generation"
GENERATION_LABEL = "pod-template-generation"
NAME_FIELD = "metadata.name"
_PREFIX = "node.kubernetes.io/"
TOLERATED = (
    ("not-ready", "NoExecute"),
    ("unreachable", "NoExecute"),
    ("disk-pressure", "NoSchedule"),
    ("memory-pressure", "NoSchedule"),
    ("pid-pressure", "NoSchedule"),
    ("unschedulable", "NoSchedule"),
)
_NETWORK = ("network-unavailable", "NoSchedule")

PodsByNode = Mapping[str, Sequence[Pod]]


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a node is to get a pod, and whether one that is there may stay."""

    runs: bool
    stays: bool


@dataclass(slots=True)
class Actions:
    create: list[str] = field(default_factory=list)
    """Names of nodes."""
    delete: list[Pod] = field(default_factory=list)
    ended: list[Pod] = field(default_factory=list)
    """Those to be deleted because they ended, which needs to be told and must not go too fast."""


def with_tolerations(spec: PodSpec) -> PodSpec:
    spec = copy_object(spec)
    wanted = (*TOLERATED, _NETWORK) if spec.hostNetwork else TOLERATED
    for name, effect in wanted:
        added = Toleration(key=f"{_PREFIX}{name}", operator="Exists", effect=effect)
        present = [_kind_of(each) for each in spec.tolerations]
        if _kind_of(added) in present:
            # One that ends after some time would not do.
            spec.tolerations[present.index(_kind_of(added))] = added
        else:
            spec.tolerations.append(added)
    return spec


def _kind_of(toleration: Toleration) -> tuple[str, str, str, str]:
    return toleration.key, toleration.operator, toleration.value, toleration.effect


def fit(spec: PodSpec, node: Node) -> Fit:
    """`spec` is the template's, with the tolerations of daemons."""
    name = node.metadata.name
    if spec.nodeName not in ("", name) or not may_be_on(spec, name, node.metadata.labels):
        return Fit(False, False)
    effects = {
        taint.effect
        for taint in node.spec.taints
        if not any(tolerates(toleration, taint) for toleration in spec.tolerations)
    }
    runs = not effects & {"NoExecute", "NoSchedule"}
    return Fit(runs, "NoExecute" not in effects)


def target_node(pod: Pod) -> str:
    """The node a pod is on or, while it is not scheduled, pinned to."""
    if pod.spec.nodeName:
        return pod.spec.nodeName
    affinity = pod.spec.affinity.nodeAffinity if pod.spec.affinity is not None else None
    required = affinity.requiredDuringSchedulingIgnoredDuringExecution if affinity else None
    for term in required.nodeSelectorTerms if required is not None else ():
        for item in term.matchFields:
            if item.key == NAME_FIELD and item.operator == "In" and len(item.values) == 1:
                return item.values[0]
    return ""


def new_pod(owner: DaemonSet, node: str, hash_: str) -> Pod:
    pod = pod_from_template(owner.spec.template, owner)
    pod.spec = with_tolerations(pod.spec)
    pod.metadata.labels[HASH] = hash_
    if generation := owner.metadata.annotations.get(GENERATION):
        pod.metadata.labels[GENERATION_LABEL] = generation
    _pin(pod.spec, node)
    return pod


def _pin(spec: PodSpec, node: str) -> None:
    """Let the scheduler place it on that node and nowhere else. What else is demanded of nodes was
    asked when the node was chosen."""
    name = NodeSelectorRequirement(key=NAME_FIELD, operator="In", values=[node])
    spec.affinity = spec.affinity or Affinity()
    affinity = spec.affinity.nodeAffinity = spec.affinity.nodeAffinity or NodeAffinity()
    affinity.requiredDuringSchedulingIgnoredDuringExecution = NodeSelector(
        nodeSelectorTerms=[NodeSelectorTerm(matchFields=[name])]
    )


def is_updated(owner: DaemonSet, pod: Pod, hash_: str) -> bool:
    labels = pod.metadata.labels
    if hash_ and labels.get(HASH) == hash_:
        return True
    generation = owner.metadata.annotations.get(GENERATION)
    return bool(generation) and labels.get(GENERATION_LABEL) == generation


@dataclass(frozen=True, slots=True)
class View:
    """A DaemonSet and what there is of it."""

    owner: DaemonSet
    fits: Mapping[str, Fit]
    """By the names of all nodes."""
    pods: PodsByNode
    hash: str
    now: datetime

    @property
    def surge(self) -> int:
        return self._limit("maxSurge", 1)

    @property
    def desired(self) -> int:
        return sum(each.runs for each in self.fits.values())

    def _limit(self, name: str, total: int) -> int:
        strategy = self.owner.spec.updateStrategy
        if strategy.rollingUpdate is None or strategy.type == "OnDelete":
            return 0
        value: int | str | None = getattr(strategy.rollingUpdate, name)
        return 0 if value is None else scaled_value(value, total, True)

    def limits(self) -> tuple[int, int]:
        """How many nodes may have two pods, or none, at a time; something has to be allowed."""
        surge = self._limit("maxSurge", self.desired)
        unavailable = self._limit("maxUnavailable", self.desired)
        return surge, unavailable if surge or unavailable else 1

    def is_new(self, pod: Pod) -> bool:
        return is_updated(self.owner, pod, self.hash)

    def is_available(self, pod: Pod) -> bool:
        return is_available(pod, self.owner.spec.minReadySeconds, self.now)


def fits_of(owner: DaemonSet, nodes: Iterable[Node]) -> dict[str, Fit]:
    spec = with_tolerations(owner.spec.template.spec)
    return {node.metadata.name: fit(spec, node) for node in nodes}


def by_node(pods: Iterable[Pod]) -> dict[str, list[Pod]]:
    """Pods by the node they are on or meant for. Those that ended and are being deleted are left
    out: nothing more has to be done about them, and their successors need not wait."""
    result: dict[str, list[Pod]] = {}
    for pod in pods:
        name = target_node(pod)
        if name and not (is_terminal(pod) and pod.metadata.deletionTimestamp):
            result.setdefault(name, []).append(pod)
    return result


def manage(view: View) -> Actions:
    """A pod where there is to be one, none where there is not."""
    actions = Actions()
    for name, fitting in view.fits.items():
        present = view.pods.get(name, ())
        if fitting.runs and not present:
            actions.create.append(name)
        elif fitting.stays:
            _tidy(view, name, present, actions)
        else:
            actions.delete += [pod for pod in present if not pod.metadata.deletionTimestamp]
    for name, pods in view.pods.items():
        if name not in view.fits:
            # The node is gone before the pod got there; those that did get there are collected.
            actions.delete += [
                pod for pod in pods if not (pod.spec.nodeName or pod.metadata.deletionTimestamp)
            ]
    return actions


def _tidy(view: View, node: str, present: Iterable[Pod], actions: Actions) -> None:
    running: list[Pod] = []
    for pod in present:
        if pod.metadata.deletionTimestamp:
            continue
        if is_terminal(pod):
            actions.ended.append(pod)
        else:
            running.append(pod)
    running.sort(key=_rank)
    if not view.surge:
        actions.delete += running[1:]
        return
    if not running:
        if view.fits[node].runs:
            actions.create.append(node)
        return
    new = [pod for pod in running if pod.metadata.labels.get(HASH) == view.hash]
    old = [pod for pod in running if pod.metadata.labels.get(HASH) != view.hash]
    actions.delete += new[1:] + old[1:]
    if new and old and (not is_ready(old[0]) or view.is_available(new[0])):
        actions.delete.append(old[0])


def _rank(pod: Pod) -> tuple[bool, str, str]:
    """Of several pods on a node those that got there count before others, then the oldest."""
    return not pod.spec.nodeName, pod.metadata.creationTimestamp or "", pod.metadata.name


def update(view: View) -> Actions:
    """The next step of a rolling update: old pods go (or, with a surge, new ones come) as far as
    the limits allow; what does not work anyway is replaced at once."""
    strategy = view.owner.spec.updateStrategy
    if strategy.rollingUpdate is None or strategy.type == "OnDelete":
        return Actions()
    waiting = {name: () for name, each in view.fits.items() if each.runs}
    places = [(name, _generations(view, pods)) for name, pods in {**waiting, **view.pods}.items()]
    surge, unavailable = view.limits()
    if surge:
        return _add_first(view, places, surge)
    return _remove_first(view, places, unavailable)


@dataclass(frozen=True, slots=True)
class _Generations:
    """The pods of a node that are not being deleted."""

    new: Pod | None
    old: Pod | None
    is_crowded: bool
    """More than one of each: `manage` has to clean up first."""


def _generations(view: View, pods: Iterable[Pod]) -> _Generations:
    living = [pod for pod in pods if not pod.metadata.deletionTimestamp]
    new = [pod for pod in living if view.is_new(pod)]
    old = [pod for pod in living if not view.is_new(pod)]
    is_crowded = len(new) > 1 or len(old) > 1
    return _Generations(new[0] if new else None, old[0] if old else None, is_crowded)


def _remove_first(
    view: View, places: Iterable[tuple[str, _Generations]], unavailable: int
) -> Actions:
    actions = Actions()
    candidates: list[Pod] = []
    left = unavailable
    for _, here in places:
        if here.is_crowded or (here.new is None) == (here.old is None):
            left -= 1  # Nothing to rely on, or something `manage` has to see to.
        elif here.new is not None:
            left -= not view.is_available(here.new)
        elif here.old is not None and view.is_available(here.old):
            candidates.append(here.old)
        elif here.old is not None:
            left -= 1
            actions.delete.append(here.old)
    actions.delete += candidates[: max(0, left)]
    return actions


def _add_first(view: View, places: Iterable[tuple[str, _Generations]], surge: int) -> Actions:
    """With a surge all nodes are promised to be served at all times: where the set is no longer to
    run, a pod only goes when there are enough others."""
    actions = Actions()
    candidates: list[str] = []
    leaving: list[Pod] = []
    left, available = surge, 0
    for name, here in places:
        if here.is_crowded:
            left -= 1
            continue
        serving = here.old or here.new
        available += serving is not None and view.is_available(serving)
        if here.old is None:
            continue
        if here.new is not None:
            if view.is_available(here.new):
                actions.delete.append(here.old)
            else:
                left -= 1
        elif not view.fits.get(name, Fit(False, False)).runs:
            is_serving = view.is_available(here.old)
            (leaving if is_serving else actions.delete).append(here.old)
        elif view.is_available(here.old):
            candidates.append(name)
        else:
            actions.create.append(name)
    actions.delete += leaving[: max(0, available - view.desired)]
    actions.create += candidates[: max(0, left)]
    return actions


def next_status(view: View, collisions: int | None) -> DaemonSetStatus:
    """Of several pods on a node the first counts."""
    status = DaemonSetStatus(
        observedGeneration=view.owner.metadata.generation,
        collisionCount=collisions,
        conditions=view.owner.status.conditions,
    )
    for name, fitting in view.fits.items():
        pods = view.pods.get(name, ())
        if not fitting.runs:
            status.numberMisscheduled += bool(pods)
            continue
        status.desiredNumberScheduled += 1
        if not pods:
            continue
        pod = min(pods, key=_rank)
        status.currentNumberScheduled += 1
        status.updatedNumberScheduled += view.is_new(pod)
        status.numberReady += is_ready(pod)
        status.numberAvailable += view.is_available(pod)
    status.numberUnavailable = status.desiredNumberScheduled - status.numberAvailable
    return status
