"""The tables of what makes pods, and of what limits and scales it."""

from __future__ import annotations

from datetime import datetime

from navarch.api.times import parse_time
from navarch.apiserver.tables.table import Cells, Object, Table, columns
from navarch.apiserver.tables.text import (
    NONE,
    UNKNOWN,
    UNSET,
    age,
    at,
    container_cells,
    human_duration,
    is_true,
    label_text,
    name,
    number,
    selector_text,
    since,
    some,
    word,
)


def _pod_spec(obj: Object) -> Object | None:
    spec: Object | None = at(obj, "spec", "template", "spec")
    return spec


def _pod_template(obj: Object, now: datetime) -> Cells:
    template = obj.get("template") or {}
    labels = label_text(at(template, "metadata", "labels"))
    return [name(obj), *container_cells(template.get("spec")), labels]


def _replicas(obj: Object, now: datetime) -> Cells:
    """Of a replica set or a replication controller, up to its age."""
    return [
        name(obj),
        number(obj, "spec", "replicas"),
        number(obj, "status", "replicas"),
        number(obj, "status", "readyReplicas"),
        age(obj, now),
        *container_cells(_pod_spec(obj)),
    ]


def _replication_controller(obj: Object, now: datetime) -> Cells:
    return [*_replicas(obj, now), label_text(at(obj, "spec", "selector"))]


def _replica_set(obj: Object, now: datetime) -> Cells:
    return [*_replicas(obj, now), selector_text(at(obj, "spec", "selector"))]


def _ready(obj: Object) -> str:
    return f"{number(obj, 'status', 'readyReplicas')}/{number(obj, 'spec', 'replicas')}"


def _deployment(obj: Object, now: datetime) -> Cells:
    return [
        name(obj),
        _ready(obj),
        number(obj, "status", "updatedReplicas"),
        number(obj, "status", "availableReplicas"),
        age(obj, now),
        *container_cells(_pod_spec(obj)),
        selector_text(at(obj, "spec", "selector"), empty=""),
    ]


def _stateful_set(obj: Object, now: datetime) -> Cells:
    return [name(obj), _ready(obj), age(obj, now), *container_cells(_pod_spec(obj))]


def _daemon_set(obj: Object, now: datetime) -> Cells:
    counts = (
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    )
    return [
        name(obj),
        *(number(obj, "status", count) for count in counts),
        label_text(at(_pod_spec(obj), "nodeSelector")),
        age(obj, now),
        *container_cells(_pod_spec(obj)),
        selector_text(at(obj, "spec", "selector")),
    ]


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


def _job(obj: Object, now: datetime) -> Cells:
    return [
        name(obj),
        _job_status(obj),
        _job_completions(obj),
        _job_duration(obj, now),
        age(obj, now),
        *container_cells(_pod_spec(obj)),
        selector_text(at(obj, "spec", "selector")),
    ]


def _cron_job(obj: Object, now: datetime) -> Cells:
    suspend = at(obj, "spec", "suspend")
    last = at(obj, "status", "lastScheduleTime")
    job = at(obj, "spec", "jobTemplate", "spec") or {}
    return [
        name(obj),
        word(obj, "spec", "schedule"),
        word(obj, "spec", "timeZone", otherwise=NONE),
        UNSET if suspend is None else str(bool(suspend)),
        len(at(obj, "status", "active") or ()),
        since(last, now) if last else NONE,
        age(obj, now),
        *container_cells(at(job, "template", "spec")),
        selector_text(job.get("selector")),
    ]


def _disruption_budget(obj: Object, now: datetime) -> Cells:
    limits = [at(obj, "spec", field) for field in ("minAvailable", "maxUnavailable")]
    return [
        name(obj),
        *("N/A" if limit is None else str(limit) for limit in limits),
        number(obj, "status", "disruptionsAllowed"),
        age(obj, now),
    ]


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


def _autoscaler(obj: Object, now: datetime) -> Cells:
    specs = at(obj, "spec", "metrics") or []
    statuses = at(obj, "status", "currentMetrics") or []
    texts = [
        _metric(spec, statuses[index] if index < len(statuses) else None)
        for index, spec in enumerate(specs)
    ]
    minimum = at(obj, "spec", "minReplicas")
    target = at(obj, "spec", "scaleTargetRef") or {}
    return [
        name(obj),
        f"{word(target, 'kind')}/{word(target, 'name')}",
        some(texts, 2, ", ", empty=NONE),
        UNSET if minimum is None else str(minimum),
        number(obj, "spec", "maxReplicas"),
        number(obj, "status", "currentReplicas"),
        age(obj, now),
    ]


def _controller_revision(obj: Object, now: datetime) -> Cells:
    owner = NONE
    for each in at(obj, "metadata", "ownerReferences") or ():
        if each.get("controller"):
            group = word(each, "apiVersion").rpartition("/")[0]
            kind = f"{each.get('kind', '')}.{group}" if group else word(each, "kind")
            owner = f"{kind.lower()}/{each.get('name', '')}"
            break
    return [name(obj), owner, number(obj, "revision"), age(obj, now)]


def _scale(obj: Object, now: datetime) -> Cells:
    replicas = number(obj, "spec", "replicas"), number(obj, "status", "replicas")
    return [name(obj), *replicas, age(obj, now)]


_COUNTED = "Name|Desired:integer|Current:integer|Ready:integer|Age|Containers*|Images*|Selector*"
SCALE = Table(columns("Name|Desired:integer|Available:integer|Age"), _scale)
TABLES = {
    "podtemplates": Table(columns("Name|Containers|Images|Pod Labels"), _pod_template),
    "replicationcontrollers": Table(columns(_COUNTED), _replication_controller),
    "replicasets.apps": Table(columns(_COUNTED), _replica_set),
    "deployments.apps": Table(
        columns("Name|Ready|Up-to-date|Available|Age|Containers*|Images*|Selector*"), _deployment
    ),
    "statefulsets.apps": Table(columns("Name|Ready|Age|Containers*|Images*"), _stateful_set),
    "daemonsets.apps": Table(
        columns(
            "Name|Desired:integer|Current:integer|Ready:integer|Up-to-date:integer|"
            "Available:integer|Node Selector|Age|Containers*|Images*|Selector*"
        ),
        _daemon_set,
    ),
    "controllerrevisions.apps": Table(
        columns("Name|Controller|Revision|Age"), _controller_revision
    ),
    "jobs.batch": Table(
        columns("Name|Status|Completions|Duration|Age|Containers*|Images*|Selector*"), _job
    ),
    "cronjobs.batch": Table(
        columns(
            "Name|Schedule|Timezone|Suspend:boolean|Active:integer|Last Schedule|Age|"
            "Containers*|Images*|Selector*"
        ),
        _cron_job,
    ),
    "poddisruptionbudgets.policy": Table(
        columns("Name|Min Available|Max Unavailable|Allowed Disruptions:integer|Age"),
        _disruption_budget,
    ),
    "horizontalpodautoscalers.autoscaling": Table(
        columns("Name|Reference|Targets|MinPods|MaxPods|Replicas|Age"), _autoscaler
    ),
}
