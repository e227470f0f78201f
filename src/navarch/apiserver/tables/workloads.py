"""The tables of what makes pods, and of what limits and scales it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from navarch.api.times import parse_time
from navarch.apiserver.tables.table import Object, table
from navarch.apiserver.tables.text import (
    NONE,
    UNKNOWN,
    at,
    grouped,
    human_duration,
    is_true,
    number,
    pair,
    some,
    word,
)


def _ready(obj: Object) -> str:
    return f"{number(obj, 'status', 'readyReplicas')}/{number(obj, 'spec', 'replicas')}"


def _job_status(obj: Object) -> str:
    if is_true(obj, "Complete"):
        return "Complete"
    if is_true(obj, "Failed"):
        return "Failed"
    if at(obj, "metadata", "deletionTimestamp"):
        return "Terminating"
    for condition in ("Suspended", "FailureTarget", "SuccessCriteriaMet"):
        if is_true(obj, condition):
            return condition
    return "Running"


def _job_completions(obj: Object) -> str:
    succeeded = number(obj, "status", "succeeded")
    wanted = at(obj, "spec", "completions")
    if wanted is not None:
        return f"{succeeded}/{wanted}"
    parallelism = number(obj, "spec", "parallelism")
    return f"{succeeded}/1 of {parallelism}" if parallelism > 1 else f"{succeeded}/1"


def _job_duration(obj: Object, now: datetime) -> str:
    started, completed = at(obj, "status", "startTime"), at(obj, "status", "completionTime")
    if not started:
        return ""
    end = parse_time(completed) if completed else now
    return human_duration(end - parse_time(started))


_METRIC_FIELDS = {
    "External": "external",
    "Pods": "pods",
    "Object": "object",
    "Resource": "resource",
    "ContainerResource": "containerResource",
}


def _metric(spec: Object, status: Object | None) -> str:
    """`current/target` of one metric, with the name in front when it is a resource's."""
    field = _METRIC_FIELDS.get(spec.get("type", ""))
    if field is None:
        return "<unknown type>"
    source = spec.get(field) or {}
    target, current = source.get("target") or {}, at(status, field, "current") or {}
    average = target.get("averageValue")
    if field in ("resource", "containerResource"):
        label = f"{word(source, 'name')}: "
        if average is not None:
            return f"{label}{current.get('averageValue', UNKNOWN)}/{average}"
        shown, wanted = current.get("averageUtilization"), target.get("averageUtilization")
        left = UNKNOWN if shown is None else f"{shown}%"
        return f"{label}{left}/{'<auto>' if wanted is None else f'{wanted}%'}"
    if field == "pods":
        return f"{current.get('averageValue', UNKNOWN)}/{average}"
    if average is not None:
        return f"{current.get('averageValue', UNKNOWN)}/{average} (avg)"
    return f"{current.get('value', UNKNOWN)}/{target.get('value')}"


def _metrics(obj: Object) -> str:
    specs = at(obj, "spec", "metrics") or []
    statuses = at(obj, "status", "currentMetrics") or []
    texts = [
        _metric(spec, statuses[index] if index < len(statuses) else None)
        for index, spec in enumerate(specs)
    ]
    return some(texts, 2, ", ", empty=NONE)


def _owner(references: Sequence[Object] | None) -> str:
    for each in references or ():
        if each.get("controller"):
            kind = grouped(word(each, "kind"), word(each, "apiVersion").rpartition("/")[0])
            return f"{kind.lower()}/{each.get('name', '')}"
    return NONE


def _limit(value: object) -> str:
    return "N/A" if value is None else str(value)


def _containers(path: str, star: str = "*") -> str:
    return f"Containers{star}=names({path}.containers)|Images{star}=images({path}.containers)"


_OF_TEMPLATE = _containers("spec.template.spec")
_COUNTED = (
    "Name|Desired:integer=number(spec.replicas)|Current:integer=number(status.replicas)|"
    f"Ready:integer=number(status.readyReplicas)|Age|{_OF_TEMPLATE}"
)
SCALE = table(
    "Name|Desired:integer=number(spec.replicas)|Available:integer=number(status.replicas)|Age"
)
TABLES = {
    "podtemplates": table(
        f"Name|{_containers('template.spec', '')}|Pod Labels=labels(template.metadata.labels)"
    ),
    "replicationcontrollers": table(f"{_COUNTED}|Selector*=labels(spec.selector)"),
    "replicasets.apps": table(f"{_COUNTED}|Selector*=selector(spec.selector)"),
    "deployments.apps": table(
        "Name|Ready=ready()|Up-to-date=number(status.updatedReplicas)|"
        f"Available=number(status.availableReplicas)|Age|{_OF_TEMPLATE}|"
        "Selector*=selector(spec.selector)?",
        ready=_ready,
    ),
    "statefulsets.apps": table(f"Name|Ready=ready()|Age|{_OF_TEMPLATE}", ready=_ready),
    "daemonsets.apps": table(
        "Name|Desired:integer=number(status.desiredNumberScheduled)|"
        "Current:integer=number(status.currentNumberScheduled)|"
        "Ready:integer=number(status.numberReady)|"
        "Up-to-date:integer=number(status.updatedNumberScheduled)|"
        "Available:integer=number(status.numberAvailable)|"
        "Node Selector=labels(spec.template.spec.nodeSelector)|Age|"
        f"{_OF_TEMPLATE}|Selector*=selector(spec.selector)"
    ),
    "controllerrevisions.apps": table(
        "Name|Controller=owner(metadata.ownerReferences)|Revision=number(revision)|Age",
        owner=_owner,
    ),
    "jobs.batch": table(
        "Name|Status=status()|Completions=completions()|Duration=duration(, now)|Age|"
        f"{_OF_TEMPLATE}|Selector*=selector(spec.selector)",
        status=_job_status,
        completions=_job_completions,
        duration=_job_duration,
    ),
    "cronjobs.batch": table(
        "Name|Schedule=spec.schedule|Timezone=spec.timeZone?<none>|"
        "Suspend:boolean=unset(spec.suspend)|Active:integer=count(status.active)|"
        "Last Schedule=since(status.lastScheduleTime, now)?<none>|Age|"
        f"{_containers('spec.jobTemplate.spec.template.spec')}|"
        "Selector*=selector(spec.jobTemplate.spec.selector)"
    ),
    "poddisruptionbudgets.policy": table(
        "Name|Min Available=limit(spec.minAvailable)|Max Unavailable=limit(spec.maxUnavailable)|"
        "Allowed Disruptions:integer=number(status.disruptionsAllowed)|Age",
        limit=_limit,
    ),
    "horizontalpodautoscalers.autoscaling": table(
        "Name|Reference=target(spec.scaleTargetRef)|Targets=metrics()|"
        "MinPods=unset(spec.minReplicas)|MaxPods=number(spec.maxReplicas)|"
        "Replicas=number(status.currentReplicas)|Age",
        target=pair("kind", "name"),
        metrics=_metrics,
    ),
}
