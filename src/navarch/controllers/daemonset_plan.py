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
from navarch.controllers.pods import is_available, is_ready, pod_from_template

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
    failed: list[Pod] = field(default_factory=list)
    """Those to be deleted because they ended, which needs to be told and must not go too fast."""


def with_tolerations(spec: PodSpec) -> PodSpec:
    spec = copy_object(spec)
    wanted = (*TOLERATED, _NETWORK) if spec.hostNetwork else TOLERATED
    for name, effect in wanted:
        toleration = Toleration(key=f"{_PREFIX}{name}", operator="Exists", effect=effect)
        if toleration not in spec.tolerations:
            spec.tolerations.append(toleration)
    return spec


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
    """Let the scheduler place it on that node and nowhere else; other demands on labels stay."""
    name = [NodeSelectorRequirement(key=NAME_FIELD, operator="In", values=[node])]
    spec.affinity = spec.affinity or Affinity()
    affinity = spec.affinity.nodeAffinity = spec.affinity.nodeAffinity or NodeAffinity()
    required = affinity.requiredDuringSchedulingIgnoredDuringExecution
    if required is None or not required.nodeSelectorTerms:
        required = NodeSelector(nodeSelectorTerms=[NodeSelectorTerm()])
        affinity.requiredDuringSchedulingIgnoredDuringExecution = required
    for term in required.nodeSelectorTerms:
        term.matchFields = name


def is_updated(owner: DaemonSet, pod: Pod, hash_: str) -> bool:
    labels = pod.metadata.labels
    if labels.get(HASH) == hash_:
        return True
    generation = owner.metadata.annotations.get(GENERATION)
    return bool(generation) and labels.get(GENERATION_LABEL) == generation


@dataclass(frozen=True, slots=True)
class View:
    """A DaemonSet and what there is of it."""

    owner: DaemonSet
    nodes: Sequence[Node]
    pods: PodsByNode
    hash: str
    now: datetime

    @property
    def surges(self) -> bool:
        rolling = self.owner.spec.updateStrategy.rollingUpdate
        return self._is_rolling and rolling is not None and bool(self._scaled(rolling.maxSurge, 1))

    @property
    def _is_rolling(self) -> bool:
        return self.owner.spec.updateStrategy.type in ("", "RollingUpdate")

    @staticmethod
    def _scaled(value: int | str | None, total: int) -> int:
        return 0 if value is None else scaled_value(value, total, True)

    def fits(self) -> dict[str, Fit]:
        spec = with_tolerations(self.owner.spec.template.spec)
        return {node.metadata.name: fit(spec, node) for node in self.nodes}

    def is_new(self, pod: Pod) -> bool:
        return is_updated(self.owner, pod, self.hash)

    def is_available(self, pod: Pod) -> bool:
        return is_available(pod, self.owner.spec.minReadySeconds, self.now)


def manage(view: View) -> Actions:
    """A pod where there is to be one, none where there is not."""
    actions = Actions()
    fits = view.fits()
    for name, fitting in fits.items():
        present = view.pods.get(name, ())
        if fitting.runs and not present:
            actions.create.append(name)
        elif fitting.stays:
            _tidy(view, present, actions)
        else:
            actions.delete += [pod for pod in present if not pod.metadata.deletionTimestamp]
    for name, pods in view.pods.items():
        if name not in fits:
            # The node is gone before the pod got there; those that did get there are collected.
            actions.delete += [
                pod for pod in pods if not (pod.spec.nodeName or pod.metadata.deletionTimestamp)
            ]
    return actions


def _tidy(view: View, present: Iterable[Pod], actions: Actions) -> None:
    running: list[Pod] = []
    for pod in present:
        if pod.metadata.deletionTimestamp:
            continue
        if pod.status.phase in ("Failed", "Succeeded"):
            actions.failed.append(pod)
        else:
            running.append(pod)
    running.sort(key=_age)
    if not view.surges:
        actions.delete += running[1:]
        return
    new = [pod for pod in running if view.is_new(pod)]
    old = [pod for pod in running if not view.is_new(pod)]
    actions.delete += new[1:] + old[1:]
    if new and old and (not is_ready(old[0]) or view.is_available(new[0])):
        actions.delete.append(old[0])


def _age(pod: Pod) -> tuple[str, str]:
    return pod.metadata.creationTimestamp or "", pod.metadata.name


def update(view: View) -> Actions:
    """The next step of a rolling update: old pods go (or, with a surge, new ones come) as far as
    the limits allow; what does not work anyway is replaced at once."""
    actions = Actions()
    rolling = view.owner.spec.updateStrategy.rollingUpdate
    if rolling is None or view.owner.spec.updateStrategy.type == "OnDelete":
        return actions
    desired = sum(each.runs for each in view.fits().values())
    surge = view._scaled(rolling.maxSurge, desired)
    unavailable = view._scaled(rolling.maxUnavailable, desired)
    if not surge and not unavailable:
        unavailable = 1
    left = surge or unavailable
    candidates: list[tuple[str, Pod]] = []
    for name, present in view.pods.items():
        pods = [pod for pod in present if not pod.metadata.deletionTimestamp]
        new = [pod for pod in pods if view.is_new(pod)]
        old = [pod for pod in pods if not view.is_new(pod)]
        if len(new) > 1 or len(old) > 1:
            left -= 1  # `manage` has to clean up first.
        elif surge:
            if new and old and not view.is_available(new[0]):
                left -= 1
            elif old and not new:
                if view.is_available(old[0]):
                    candidates.append((name, old[0]))
                else:
                    actions.create.append(name)
        elif new or not old:
            left -= not (new and view.is_available(new[0]))
        elif view.is_available(old[0]):
            candidates.append((name, old[0]))
        else:
            left -= 1
            actions.delete.append(old[0])
    for name, pod in candidates[: max(0, left)]:
        if surge:
            actions.create.append(name)
        else:
            actions.delete.append(pod)
    return actions


def next_status(view: View) -> DaemonSetStatus:
    """Of several pods on a node the oldest counts."""
    before = view.owner.status
    status = DaemonSetStatus(
        observedGeneration=view.owner.metadata.generation,
        collisionCount=before.collisionCount,
        conditions=before.conditions,
    )
    for name, fitting in view.fits().items():
        pods = sorted(view.pods.get(name, ()), key=_age)
        if not fitting.runs:
            status.numberMisscheduled += bool(pods)
            continue
        status.desiredNumberScheduled += 1
        if not pods:
            continue
        pod = pods[0]
        status.currentNumberScheduled += 1
        status.updatedNumberScheduled += view.is_new(pod)
        status.numberReady += is_ready(pod)
        status.numberAvailable += view.is_available(pod)
    status.numberUnavailable = status.desiredNumberScheduled - status.numberAvailable
    return status
