"""The chain of owners, each with its own state; and why an owner has no pods at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from navarch.api.objects import Object
from navarch.cli.why.facts import Owner
from navarch.cli.why.report import Line, State, Tone, Verdict
from navarch.cli.why.words import ago, condensed, counted, latest, shortened

CREATION_FAILED = ("FailedCreate", "ReplicaSetCreateError", "FailedUpdate")
JOB_CONTROLLER = "kubernetes.io/job-controller"


class Standing(NamedTuple):
    """How an owner is."""

    state: str
    is_bad: bool = False
    complaint: str = ""

    @property
    def text(self) -> str:
        return f"{self.state}; {self.complaint}" if self.complaint else self.state


def _conditions(obj: Object) -> dict[str, Object]:
    return {each["type"]: each for each in obj.get("status", {}).get("conditions", [])}


def _said(each: Object) -> str:
    return shortened(each.get("message") or each.get("reason") or "")


def _deployment(obj: Object, now: datetime) -> Standing:
    spec, status, conditions = obj.get("spec", {}), obj.get("status", {}), _conditions(obj)
    wanted, ready = spec.get("replicas", 1), status.get("readyReplicas", 0)
    updated = status.get("updatedReplicas", 0)
    text = f"{ready} of {wanted} ready"
    if updated != wanted:
        text += f", {updated} of the newest revision"
    if spec.get("paused"):
        text += ", paused"
    failure = conditions.get("ReplicaFailure", {})
    if failure.get("status") == "True":
        return Standing(text, True, f"pods cannot be made: {_said(failure)}")
    progress = conditions.get("Progressing", {})
    if progress.get("status") == "False":
        return Standing(
            f"{text}; rollout stuck ({progress.get('reason')}): {_said(progress)}", True
        )
    return Standing(text, ready < wanted)


def _replicas(obj: Object, now: datetime) -> Standing:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    wanted = spec.get("replicas", 1)
    there, ready = status.get("replicas", 0), status.get("readyReplicas", 0)
    text = f"{there} of {wanted} there, {ready} ready"
    failure = _conditions(obj).get("ReplicaFailure", {})
    if failure.get("status") == "True":
        return Standing(text, True, f"pods cannot be made: {_said(failure)}")
    return Standing(text, ready < wanted)


def _stateful_set(obj: Object, now: datetime) -> Standing:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    wanted, ready = spec.get("replicas", 1), status.get("readyReplicas", 0)
    text = f"{ready} of {wanted} ready"
    if status.get("updateRevision") != status.get("currentRevision"):
        text += f", {status.get('updatedReplicas', 0)} of the newest revision"
    if ready < wanted and spec.get("podManagementPolicy", "OrderedReady") == "OrderedReady":
        text += "; makes pods one after the other, each waits for those before it"
    return Standing(text, ready < wanted)


def _daemon_set(obj: Object, now: datetime) -> Standing:
    status = obj.get("status", {})
    wanted, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
    text = f"{ready} of {counted(wanted, 'node')} ready"
    if misplaced := status.get("numberMisscheduled", 0):
        text += f", {misplaced} where none should be"
    return Standing(text, ready < wanted)


def _job(obj: Object, now: datetime) -> Standing:
    spec, status, conditions = obj.get("spec", {}), obj.get("status", {}), _conditions(obj)
    completions = spec.get("completions")
    text = f"{status.get('succeeded', 0)} succeeded" + (
        f" of {completions}" if completions is not None else ""
    )
    text += f", {status.get('active', 0)} active, {status.get('failed', 0)} failed"
    limit = "backoffLimit" if spec.get("backoffLimitPerIndex") is None else "backoffLimitPerIndex"
    text += f" ({limit} {spec.get(limit, 6)})"
    if failed := status.get("failedIndexes"):
        text += f", failed indexes {failed}"
    if spec.get("managedBy", JOB_CONTROLLER) != JOB_CONTROLLER:
        text += f"; left to {spec['managedBy']} (managedBy)"
    if spec.get("suspend"):
        return Standing(f"{text}; suspended", True)
    for kind in ("Failed", "FailureTarget"):
        if conditions.get(kind, {}).get("status") == "True":
            each = conditions[kind]
            return Standing(f"{text}; given up ({each.get('reason')}): {_said(each)}", True)
    if conditions.get("Complete", {}).get("status") == "True":
        return Standing(f"{text}; complete")
    return Standing(text)


def _cron_job(obj: Object, now: datetime) -> Standing:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    text = f'schedule "{spec.get("schedule")}"'
    if zone := spec.get("timeZone"):
        text += f" in {zone}"
    last = ago(status.get("lastScheduleTime"), now)
    text += f", last run {last}" if last else ", has not run yet"
    if spec.get("suspend"):
        return Standing(f"{text}; suspended", True)
    return Standing(text)


def _autoscaler(obj: Object, now: datetime) -> Standing:
    spec, status = obj.get("spec", {}), obj.get("status", {})
    desired, current = status.get("desiredReplicas", 0), status.get("currentReplicas", 0)
    text = f"has {current} ({spec.get('minReplicas', 1)} to {spec.get('maxReplicas')})"
    if desired or not current:  # one that has never come to a result desires 0
        text = f"wants {desired}, {text}"
    for kind in ("AbleToScale", "ScalingActive"):
        each = _conditions(obj).get(kind, {})
        if each.get("status") == "False":
            return Standing(f"{text}; {each.get('reason')}: {_said(each)}", True)
    return Standing(text)


def _budget(obj: Object, now: datetime) -> Standing:
    status = obj.get("status", {})
    allowed = status.get("disruptionsAllowed", 0)
    text = f"{status.get('currentHealthy', 0)} healthy, {status.get('desiredHealthy', 0)} needed"
    return Standing(f"{text}; allows {counted(allowed, 'disruption')}")


def _other(obj: Object, now: datetime) -> Standing:
    """A kind of somebody else's: many have a condition Ready."""
    for kind in ("Ready", "Available"):
        each = _conditions(obj).get(kind)
        if each is not None:
            is_bad = each.get("status") != "True"
            return Standing(f"{kind} {each.get('status')} {_said(each)}".strip(), is_bad)
    return Standing("there")


STANDINGS: Mapping[str, Callable[[Object, datetime], Standing]] = {
    "Deployment": _deployment,
    "ReplicaSet": _replicas,
    "ReplicationController": _replicas,
    "StatefulSet": _stateful_set,
    "DaemonSet": _daemon_set,
    "Job": _job,
    "CronJob": _cron_job,
    "HorizontalPodAutoscaler": _autoscaler,
    "PodDisruptionBudget": _budget,
}


def standing(kind: str, obj: Object, now: datetime) -> Standing:
    found = STANDINGS.get(kind, _other)(obj, now)
    deleted = obj["metadata"].get("deletionTimestamp")
    if deleted:
        return Standing(f"{found.text}; being deleted, asked {ago(deleted, now)}", True)
    return found


def lines_of(owners: tuple[Owner, ...], now: datetime) -> Iterator[Line]:
    """The outermost owner first, each a step further in."""
    told: set[str] = set()
    for depth, owner in enumerate(owners):
        name = f"{owner.kind} {owner.name}"
        if owner.object is None:
            yield Line(f"{name}: is gone; what it owned is to be deleted", Tone.BAD, depth)
            continue
        found = standing(owner.kind, owner.object, now)
        # A Deployment says what its ReplicaSet says.
        text = found.state if found.complaint in told else found.text
        told.add(found.complaint)
        yield Line(f"{name}: {text}", Tone.BAD if found.is_bad else Tone.PLAIN, depth)
        warning = [each for each in condensed(owner.events) if each.is_warning][-1:]
        for each in warning:
            if not (found.complaint and each.reason in CREATION_FAILED):
                when = ago(each.last.isoformat(), now)
                times = f" ({counted(each.count, 'time')}, last {when})"
                yield Line(f"{each.reason}: {shortened(each.message)}{times}", Tone.BAD, depth + 1)


def why_no_pods(owners: tuple[Owner, ...], now: datetime) -> Verdict:
    """Of an owner without pods, with what it owns itself: what is the first reason for that."""
    owner = owners[0]
    subject = f"{owner.kind} {owner.name}"
    if owner.kind == "HorizontalPodAutoscaler" and len(owners) > 1:
        target = owners[1]
        if target.object is None:
            text = f"{subject} scales nothing: there is no {target.kind} {target.name}"
            return Verdict(State.BROKEN, text, ("correct its scaleTargetRef",))
        return why_no_pods(owners[1:], now)
    for each in owners:
        if each.object is None:
            continue
        spec = each.object.get("spec", {})
        name = f"{each.kind} {each.name}"
        if spec.get("suspend"):
            kind, key = each.kind.lower(), each.name
            patch = f"""kubectl patch {kind} {key} -p '{{"spec":{{"suspend":false}}}}'"""
            return Verdict(State.PENDING, f"{subject} has no pods: {name} is suspended", (patch,))
        if reason := _creation_failure(each):
            return Verdict(
                State.BROKEN, f"{subject} has no pods: they cannot be made: {reason}",
                remedies_of(reason),
            )  # fmt: skip
    obj = owner.object or {}
    spec, status = obj.get("spec", {}), obj.get("status", {})
    text, state = "the controller has not made any (yet)", State.PENDING
    remedies: tuple[str, ...] = ()
    if spec.get("replicas") == 0:
        text = "it asks for 0 replicas"
        remedies = (f"kubectl scale {owner.kind.lower()} {owner.name} --replicas=1",)
    elif spec.get("paused"):
        text = "it is paused"
        remedies = (f"kubectl rollout resume {owner.kind.lower()} {owner.name}",)
    elif owner.kind == "CronJob":
        text = _cron_job(obj, now).text
        state = State.FINISHED if status.get("lastScheduleTime") else State.PENDING
    elif owner.kind == "DaemonSet" and not status.get("desiredNumberScheduled"):
        text = "no node matches its selector, affinity and tolerations"
    elif owner.kind == "Job":
        return _job_without_pods(subject, obj, now)
    elif status.get("observedGeneration", 0) < obj["metadata"].get("generation", 0):
        text = "its controller has not looked at it yet: are the controllers running?"
    return Verdict(state, f"{subject} has no pods: {text}", remedies)


def _job_without_pods(subject: str, obj: Object, now: datetime) -> Verdict:
    found, conditions = _job(obj, now), _conditions(obj)
    if conditions.get("Complete", {}).get("status") == "True":
        return Verdict(State.FINISHED, f"{subject} is complete, its pods are gone: {found.text}")
    state = State.BROKEN if found.is_bad else State.PENDING
    return Verdict(state, f"{subject} has no pods: {found.text}")


def _creation_failure(owner: Owner) -> str:
    assert owner.object is not None
    conditions = _conditions(owner.object)
    failure = conditions.get("ReplicaFailure", {})
    if failure.get("status") == "True":
        return _said(failure)
    if any(conditions.get(each, {}).get("status") == "True" for each in ("Complete", "Failed")):
        return ""  # a Job that is over: what it could not make is past
    status, spec = owner.object.get("status", {}), owner.object.get("spec", {})
    if status.get("replicas") and status["replicas"] >= spec.get("replicas", 1):
        return ""
    failed = latest(condensed(owner.events), *CREATION_FAILED)
    return shortened(failed.message, 300) if failed is not None else ""


def remedies_of(reason: str) -> tuple[str, ...]:
    if "exceeded quota" in reason:
        return ("raise the quota (kubectl describe resourcequota), ask for less, or end others",)
    if "must specify" in reason and "quota" in reason:
        return ("the quota wants every container to say requests and limits, or a LimitRange",)
    if "violates PodSecurity" in reason:
        return ("change the pod's security context, or the namespace's pod-security labels",)
    if "serviceaccount" in reason and "not found" in reason:
        return ("create the service account",)
    if "webhook" in reason:
        return ("an admission webhook refuses or fails: kubectl get "
                "validatingwebhookconfigurations,mutatingwebhookconfigurations",)  # fmt: skip
    return ()
