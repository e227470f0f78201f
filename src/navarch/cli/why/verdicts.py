"""The most important line: whether a pod runs, and if not, what the one reason is.

The causes are asked in an order: what makes all others pointless comes first (the pod is on its way
out, it has no node, its node is dead), then what keeps containers from running, then what keeps
running ones from being ready.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from navarch.api.persistent_volumes import SELECTED_NODE
from navarch.api.types.core_v1 import Pod
from navarch.cli.why import placement
from navarch.cli.why.containers import Trouble, as_verdict, last_end, trouble
from navarch.cli.why.facts import Facts, condition, parts_of
from navarch.cli.why.report import State, Verdict
from navarch.cli.why.words import (
    ago,
    counted,
    duration,
    exit_code,
    latest,
    moment,
    shortened,
    since,
)

SURROUNDINGS = (
    "FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox",
    "NetworkNotReady", "FailedCreatePodContainer", "FailedPrepareDynamicResources",
    "FailedSync", "FailedBinding",
)  # fmt: skip
PLAINLY = {
    "FailedMount": "a volume cannot be mounted",
    "FailedMapVolume": "a volume cannot be mapped",
    "FailedAttachVolume": "a volume cannot be attached to the node",
    "FailedCreatePodSandBox": "its network or sandbox cannot be set up",
    "NetworkNotReady": "the node's network is not ready",
}
TEMPLATE = "resourceclaimtemplate.resource.k8s.io"
CLAIM = "resourceclaim.resource.k8s.io"
PATIENCE = 5.0
"""Seconds that a scheduler may take before its silence means something."""


def verdict(facts: Facts) -> Verdict:
    for cause in CAUSES:
        found = cause(facts)
        if found is not None:
            return found
    raise AssertionError("the last cause always applies")


def rank(pod: Pod) -> int:
    """How bad a pod is off, as far as it says itself: the worst has the lowest."""
    status = pod.status
    if pod.metadata.deletionTimestamp:
        return 3
    if status.phase == "Succeeded":
        return 6
    if status.phase == "Failed":
        return 4
    waiting = [
        p.status.state.waiting
        for p in parts_of(pod)
        if p.status and p.status.state and p.status.state.waiting
    ]
    if any(each.reason not in ("ContainerCreating", "PodInitializing", "") for each in waiting):
        return 0
    if not pod.spec.nodeName:
        return 1
    ready = condition(pod, "Ready")
    return 2 if ready is None or ready[0] != "True" else 5


def _name(facts: Facts) -> str:
    return f"pod {facts.pod.metadata.name}"


def _terminating(facts: Facts) -> Verdict | None:
    meta = facts.pod.metadata
    end = moment(meta.deletionTimestamp)
    if end is None:
        return None
    grace = meta.deletionGracePeriodSeconds or 0
    asked = (facts.now - (end - timedelta(seconds=grace))).total_seconds()
    begin = f"{_name(facts)} is being deleted (asked {duration(asked)} ago)"
    force = f"kubectl delete pod {meta.name} --grace-period=0 --force"
    if node := _node_trouble(facts):
        text = f"{begin}: {node}, so nobody can say that its containers have ended"
        remedy = f"bring the node back; only if it is surely off: {force}"
        return Verdict(State.TERMINATING, text, (remedy,))
    if facts.now < end:
        left = duration((end - facts.now).total_seconds())
        text = f"{begin}: it has {left} left of its grace period of {grace} s"
        return Verdict(State.TERMINATING, text)
    running = [p for p in parts_of(facts.pod) if p.status and p.status.state
               and p.status.state.running]  # fmt: skip
    if meta.finalizers and not running:
        text = f"{begin}: held by finalizers: {', '.join(meta.finalizers)}"
        remedy = "whoever set them has to remove them; find out whether that controller runs"
        return Verdict(State.TERMINATING, text, (remedy,))
    if running:
        names = ", ".join(part.spec.name for part in running)
        return Verdict(
            State.TERMINATING, f"{begin}: its grace period is over, and still running: {names}"
        )
    return Verdict(State.TERMINATING, f"{begin}: the node cleans up")


def _ended(facts: Facts) -> Verdict | None:
    status, name = facts.pod.status, _name(facts)
    if status.phase == "Succeeded":
        ends = [end.finishedAt for part in parts_of(facts.pod) if (end := last_end(part))]
        when = ago(max(filter(None, ends), default=None), facts.now)
        return Verdict(State.FINISHED, f"{name} has done its work and ended well {when}".rstrip())
    if status.phase != "Failed":
        return None
    target = condition(facts.pod, "DisruptionTarget")
    if status.reason or status.message:
        text = f"{status.reason or 'failed'}: {shortened(status.message, 300)}".rstrip(": ")
        if preempted := latest(facts.happenings, "Preempted", "Evicted"):
            text += f" ({shortened(preempted.message)})" if preempted.message not in text else ""
        return Verdict(State.BROKEN, f"{name} has failed: {text}", _eviction_remedy(status.reason))
    if target is not None and target[0] == "True":
        return Verdict(State.BROKEN, f"{name} has failed: {target[1]}: {shortened(target[2])}")
    for part in parts_of(facts.pod):
        end = last_end(part)
        if end is not None and end.exitCode:
            code = "OOMKilled" if end.reason == "OOMKilled" else exit_code(end.exitCode)
            text = f"{part.title} ended with exit code {end.exitCode} ({code})"
            if end.message.strip():
                text += f": {shortened(end.message)}"
            again = f"; restartPolicy {facts.pod.spec.restartPolicy}, so it is not started again"
            return Verdict(State.BROKEN, f"{name} has failed: {text}{again}")
    return Verdict(State.BROKEN, f"{name} has failed, and nobody says why")


def _eviction_remedy(reason: str) -> tuple[str, ...]:
    if reason == "Evicted":
        return ("the node was short of something: ask for what the pod really uses, or free room",)
    return ()


def _waits(facts: Facts, text: str, *remedies: str) -> Verdict:
    return Verdict(State.PENDING, f"{_name(facts)} is not running: {text}", remedies)


def _held_before_scheduling(facts: Facts) -> Verdict | None:
    pod = facts.pod
    if pod.spec.nodeName:
        return None
    if pod.spec.schedulingGates:
        gates = ", ".join(each.name for each in pod.spec.schedulingGates)
        text = f"it waits at {counted(len(pod.spec.schedulingGates), 'scheduling gate')} ({gates})"
        return _waits(facts, text, "whoever put the gates there has to take them away")
    if not facts.knows_scheduler and condition(pod, "PodScheduled") is None:
        text = f"it asks for scheduler {pod.spec.schedulerName}, and no such scheduler answers"
        return _waits(facts, text, "run that scheduler, or correct the name")
    return None


def _unscheduled(facts: Facts) -> Verdict | None:
    pod, found = facts.pod, facts.explanation
    if pod.spec.nodeName:
        return None
    told = condition(pod, "PodScheduled")
    if found is None:
        text = shortened(told[2], 300) if told else "it has no node, and no scheduler says why"
        return _waits(facts, text)
    if claim := _claim_trouble(facts):
        return _waits(facts, claim.text, *claim.remedies)
    if found.nodes == 0:
        remedy = "add nodes, or see why none has joined: kubectl get nodes"
        return _waits(facts, "there are no nodes", remedy)
    if found.rejection:
        failed = latest(facts.happenings, "FailedResourceClaimCreation")
        if failed is not None and "ResourceClaim not created" in found.rejection:
            text = f"a device claim cannot be made for it: {shortened(failed.message, 300)}"
            return _waits(facts, text, *_surrounding_remedy(failed.message))
        return _waits(facts, found.rejection, *_surrounding_remedy(found.rejection))
    if being_made := _volume_being_made(facts):
        return _waits(facts, being_made.text, *being_made.remedies)
    if found.feasible:
        return _could_run(facts, found.feasible)
    if waits_for := pod.status.nominatedNodeName:
        text = f"room is being made for it on {waits_for}, pods there are being ended"
        return _waits(facts, text)
    # Nodes that only a late rule stops came nearest to taking the pod: what stops them counts.
    order = list(dict.fromkeys(rule.plugin for rule in found.ruled_out))
    # Of devices those come first that are there and taken, however few nodes have any.
    rules = sorted(
        found.ruled_out,
        key=lambda each: (
            -order.index(each.plugin),
            0 if each.plugin == "DynamicResources" else -each.nodes,
        ),
    )
    reasons = "; ".join(placement.about(rule) for rule in rules[:2])
    more = f"; and {counted(len(rules) - 2, 'further reason')}" if len(rules) > 2 else ""
    remedies = tuple(dict.fromkeys(rule.remedy for rule in rules if rule.remedy))[:2]
    if len(rules) == 1:
        reasons = placement.cause(rules[0])
    who = f"none of {found.nodes} nodes can" if found.nodes > 1 else "the only node cannot"
    return _waits(facts, f"{who} take it: {reasons}{more}", *remedies)


def _could_run(facts: Facts, feasible: int) -> Verdict:
    told = condition(facts.pod, "PodScheduled")
    made = moment(facts.pod.metadata.creationTimestamp)
    age = (facts.now - made).total_seconds() if made else 0.0
    where = counted(feasible, "node") + " could take it now"
    if told is not None and told[1] == "SchedulerError":
        return _waits(facts, f"the scheduler fails over it: {shortened(told[2], 300)}")
    if told is None and age > PATIENCE:
        name = facts.pod.spec.schedulerName or "default-scheduler"
        text = f"{where}, but {name} has not looked at it in {duration(age)}"
        return _waits(facts, text, "see whether the scheduler runs")
    return _waits(facts, f"{where}, the scheduler will soon try it (again)")


def _claim_trouble(facts: Facts) -> Trouble | None:
    """Claims that hold a pod up whatever nodes are like."""
    for name, claim in facts.claims.items():
        if claim is None:
            text = f"its claim {name} does not exist"
            return Trouble(text, (f"create the PersistentVolumeClaim {name}",))
        if claim.status.phase == "Lost":
            text = f"the volume {claim.spec.volumeName} of its claim {name} is gone"
            return Trouble(text, ("make the volume again, or the claim anew",))
        if facts.explanation is None or "unbound" not in facts.explanation.rejection:
            continue
        if claim.status.phase == "Pending":
            storage_class = claim.spec.storageClassName
            text = f"its claim {name} has no volume" + (
                f" (class {storage_class})" if storage_class else " (no storage class)"
            )
            if said := _last_said(facts, name):
                text += f": {said}"
            return Trouble(text, (f"navarch why pvc/{name}",))
    return None


def _volume_being_made(facts: Facts) -> Trouble | None:
    """The claim whose volume is to be made where the scheduler will put the pod."""
    node = facts.pod.status.nominatedNodeName
    for name, claim in facts.claims.items():
        if not node or claim is None or claim.status.phase != "Pending":
            continue
        if claim.metadata.annotations.get(SELECTED_NODE) == node:
            text = f"it will be on node {node} once the volume of its claim {name} is made"
            said = _last_said(facts, name)
            return Trouble(text + (f": {said}" if said else ""), (f"navarch why pvc/{name}",))
    return None


def _last_said(facts: Facts, claim: str) -> str:
    events = facts.claim_events.get(claim, ())
    said = max(events, key=lambda e: e.lastTimestamp or e.eventTime or "", default=None)
    return shortened(said.message) if said is not None else ""


def _node_trouble(facts: Facts) -> str:
    """Why the node cannot look after its pods."""
    name = facts.pod.spec.nodeName
    if not name or not facts.node_known:
        return ""
    if facts.node is None:
        return f"its node {name} does not exist (any more)"
    ready = condition(facts.node, "Ready")
    if ready is None:
        return f"its node {name} has never been ready"
    if ready[0] == "Unknown":
        return f"its node {name} does not answer {since(ready[3], facts.now)}"
    if ready[0] == "False":
        return f"its node {name} is not ready {since(ready[3], facts.now)}: {shortened(ready[2])}"
    return ""


def _on_dead_node(facts: Facts) -> Verdict | None:
    found = _node_trouble(facts)
    if not found:
        return None
    text = f"{_name(facts)} cannot be relied upon: {found}"
    remedy = f"see the node: kubectl describe node {facts.pod.spec.nodeName}"
    if facts.node is None:
        remedy = "delete the pod, or bring the node (back): kubectl get nodes"
    return Verdict(State.BROKEN, text, (remedy,))


def _containers(facts: Facts) -> Verdict | None:
    found = trouble(facts)
    return as_verdict(found, _name(facts)) if found is not None else None


def _not_begun(facts: Facts) -> Verdict | None:
    """It has a node, and no container of it has been made."""
    pod = facts.pod
    if pod.status.phase not in ("Pending", ""):
        return None
    pulling = next(iter(facts.happenings[-1:]), None)
    stuck = latest(facts.happenings, *SURROUNDINGS)
    created = latest(facts.happenings, "Created", "Started", "Pulled")
    if stuck is not None and stuck.is_warning and (created is None or created.last <= stuck.last):
        text = f"{PLAINLY.get(stuck.reason, stuck.reason)}: {shortened(stuck.message, 300)}"
        return replace(_waits(facts, text, *_surrounding_remedy(stuck.message)), state=State.BROKEN)
    for part in parts_of(pod):
        running = part.status and part.status.state and part.status.state.running
        if part.is_init and running and part.spec.restartPolicy != "Always":
            since_when = since(running.startedAt, facts.now)
            return _waits(facts, f"{part.title} has not ended, it runs {since_when}")
    if pulling is not None and pulling.reason == "Pulling":
        since_when = since(pulling.last.isoformat(), facts.now)
        return _waits(facts, f"its image is being pulled {since_when}")
    if not pod.status.containerStatuses and not pod.status.startTime:
        return _waits(facts, f"node {pod.spec.nodeName} has not taken it up yet")
    return _waits(facts, "its containers are being made")


def _surrounding_remedy(message: str) -> tuple[str, ...]:
    for kind in ("configmap", "secret", "persistentvolumeclaim", TEMPLATE, CLAIM):
        if f'{kind} "' in message.lower() and "not found" in message:
            name = message.lower().partition(f'{kind} "')[2].partition('"')[0]
            kind = kind.partition(".")[0]
            return (f"create the {kind} {name}, or correct its name in the pod",)
    return ()


def _not_ready(facts: Facts) -> Verdict | None:
    pod = facts.pod
    ready = condition(pod, "Ready")
    if pod.status.phase != "Running" or (ready is not None and ready[0] == "True"):
        return None
    begin = f"{_name(facts)} runs but is not ready"
    for part in parts_of(pod):
        state = part.status.state if part.status else None
        if part.status is None or state is None or part.is_init or part.status.ready:
            continue
        if state.terminated is not None:
            end = state.terminated
            text = f"{part.title} has ended with exit code {end.exitCode}"
            return Verdict(State.NOT_READY, f"{begin}: {text} ({exit_code(end.exitCode)})")
        probe = "startup" if part.spec.startupProbe and not part.status.started else "readiness"
        failed = [
            each
            for each in facts.happenings
            if each.reason == "Unhealthy" and each.part in (part.spec.name, "")
            if each.message.lower().startswith(probe)
        ]
        if failed:
            last = failed[-1]
            said = shortened(last.message.partition(": ")[2] or last.message, 240)
            text = (
                f"the {probe} probe of {part.title} fails ({counted(last.count, 'time')}, last "
                f"{ago(last.last.isoformat(), facts.now)}): {said}"
            )
            return Verdict(State.NOT_READY, f"{begin}: {text}")
        text = f"the {probe} probe of {part.title} has not succeeded yet"
        return Verdict(State.NOT_READY, f"{begin}: {text}")
    for gate in pod.spec.readinessGates:
        found = condition(pod, gate.conditionType)
        if found is None or found[0] != "True":
            is_set = f"is {found[0]} ({shortened(found[2])})" if found else "is not set"
            text = f"its readiness gate {gate.conditionType} {is_set}"
            remedy = "the controller that looks after this condition has to set it"
            return Verdict(State.NOT_READY, f"{begin}: {text}", (remedy,))
    said = shortened(ready[2] or ready[1]) if ready else "its node has not said so yet"
    return Verdict(State.NOT_READY, f"{begin}: {said}")


def _fine(facts: Facts) -> Verdict:
    pod, now = facts.pod, facts.now
    ready = condition(pod, "Ready")
    text = f"{_name(facts)} runs on {pod.spec.nodeName} and is ready"
    if ready is not None and ready[3]:
        text += f" {since(ready[3], now)}"
    restarts = sum(part.status.restartCount for part in parts_of(pod) if part.status)
    if restarts:
        ends = [(p, end) for p in parts_of(pod) if (end := last_end(p)) and end.finishedAt]
        text += f"; restarted {counted(restarts, 'time')}"
        if ends:
            part, end = max(ends, key=lambda each: each[1].finishedAt or "")
            why = "OOMKilled" if end.reason == "OOMKilled" else f"exit code {end.exitCode}"
            text += f", last {ago(end.finishedAt, now)} ({part.spec.name}: {why})"
    return Verdict(State.RUNNING, text)


CAUSES: tuple[Callable[[Facts], Verdict | None], ...] = (
    _terminating,
    _ended,
    _held_before_scheduling,
    _unscheduled,
    _on_dead_node,
    _containers,
    _not_begun,
    _not_ready,
    _fine,
)
"""In the order in which they are asked."""
