"""The tables of the cluster itself: nodes, namespaces, events, configuration, quotas, leases."""

from __future__ import annotations

from datetime import datetime

from navarch.apiserver.tables.table import Cells, Object, Table, column, columns
from navarch.apiserver.tables.text import (
    NONE,
    UNKNOWN,
    age,
    at,
    condition,
    name,
    number,
    since,
    word,
)

_ROLE_PREFIX = "node-role.kubernetes.io/"
_ROLE_LABEL = "kubernetes.io/role"


def _roles(node: Object) -> str:
    found = set()
    for key, value in (at(node, "metadata", "labels") or {}).items():
        if key.startswith(_ROLE_PREFIX):
            found.add(key.removeprefix(_ROLE_PREFIX))
        elif key == _ROLE_LABEL:
            found.add(value)
    return ",".join(sorted(found - {""})) or NONE


def _address(node: Object, of_type: str) -> str:
    for each in at(node, "status", "addresses") or ():
        if each.get("type") == of_type:
            return word(each, "address")
    return NONE


def _node(obj: Object, now: datetime) -> Cells:
    ready = condition(obj, "Ready").get("status")
    states = ["Unknown" if ready is None else "Ready" if ready == "True" else "NotReady"]
    if at(obj, "spec", "unschedulable"):
        states.append("SchedulingDisabled")
    info = at(obj, "status", "nodeInfo") or {}
    architecture = f" ({info['architecture']})" if info.get("architecture") else ""
    return [
        name(obj),
        ",".join(states),
        _roles(obj),
        age(obj, now),
        word(info, "kubeletVersion"),
        _address(obj, "InternalIP"),
        _address(obj, "ExternalIP"),
        word(info, "osImage", otherwise=UNKNOWN),
        word(info, "kernelVersion", otherwise=UNKNOWN) + architecture,
        word(info, "containerRuntimeVersion", otherwise=UNKNOWN),
    ]


def _namespace(obj: Object, now: datetime) -> Cells:
    return [name(obj), word(obj, "status", "phase"), age(obj, now)]


def _event(obj: Object, now: datetime) -> Cells:
    first = since(obj.get("firstTimestamp") or obj.get("eventTime"), now)
    last = since(obj["lastTimestamp"], now) if obj.get("lastTimestamp") else first
    count = number(obj, "count") or 1
    series = obj.get("series")
    if series is not None:
        last, count = since(series.get("lastObservedTime"), now), number(series, "count")
    about = obj.get("involvedObject") or {}
    target = word(about, "kind").lower()
    component = word(obj, "source", "component") or word(obj, "reportingComponent")
    host = word(obj, "source", "host") or word(obj, "reportingInstance")
    return [
        last,
        word(obj, "type"),
        word(obj, "reason"),
        f"{target}/{about['name']}" if about.get("name") else target,
        word(about, "fieldPath"),
        f"{component}, {host}" if host else component,
        word(obj, "message").strip(),
        first,
        count,
        name(obj),
    ]


def _config_map(obj: Object, now: datetime) -> Cells:
    size = len(obj.get("data") or ()) + len(obj.get("binaryData") or ())
    return [name(obj), size, age(obj, now)]


def _secret(obj: Object, now: datetime) -> Cells:
    return [name(obj), word(obj, "type"), len(obj.get("data") or ()), age(obj, now)]


def _quota(obj: Object, now: datetime) -> Cells:
    hard, used = at(obj, "status", "hard") or {}, at(obj, "status", "used") or {}
    parts: dict[bool, list[str]] = {False: [], True: []}
    for resource in sorted(hard):
        text = f"{resource}: {used.get(resource, '0')}/{hard[resource]}"
        parts[resource.startswith("limits.")].append(text)
    return [name(obj), ", ".join(parts[False]), ", ".join(parts[True]), age(obj, now)]


def _component_status(obj: Object, now: datetime) -> Cells:
    for each in obj.get("conditions") or ():
        if each.get("type") == "Healthy":
            state = "Healthy" if each.get("status") == "True" else "Unhealthy"
            return [name(obj), state, word(each, "message"), word(each, "error")]
    return [name(obj), "Unknown", "", ""]


def _lease(obj: Object, now: datetime) -> Cells:
    return [name(obj), word(obj, "spec", "holderIdentity"), age(obj, now)]


def _lease_candidate(obj: Object, now: datetime) -> Cells:
    fields = ("leaseName", "binaryVersion", "emulationVersion")
    return [name(obj), *(word(obj, "spec", field) for field in fields), age(obj, now)]


def _priority_class(obj: Object, now: datetime) -> Cells:
    is_default = bool(obj.get("globalDefault"))
    policy = word(obj, "preemptionPolicy")
    return [name(obj), number(obj, "value"), is_default, age(obj, now), policy]


def _runtime_class(obj: Object, now: datetime) -> Cells:
    return [name(obj), word(obj, "handler"), age(obj, now)]


def plain(obj: Object, now: datetime) -> Cells:
    """Of kinds that have nothing else to show."""
    return [name(obj), age(obj, now)]


def _claim_state(obj: Object) -> str:
    states = ["deleted"] if at(obj, "metadata", "deletionTimestamp") else []
    if at(obj, "status", "allocation") is None:
        return ",".join(states or ["pending"])
    states.append("allocated")
    if at(obj, "status", "reservedFor"):
        states.append("reserved")
    return ",".join(states)


def _resource_claim(obj: Object, now: datetime) -> Cells:
    return [name(obj), _claim_state(obj), age(obj, now)]


def _resource_slice(obj: Object, now: datetime) -> Cells:
    spec = obj.get("spec") or {}
    pool = word(spec, "pool", "name")
    return [name(obj), word(spec, "nodeName"), word(spec, "driver"), pool, age(obj, now)]


def _migration(obj: Object, now: datetime) -> Cells:
    resource = at(obj, "spec", "resource") or {}
    group = word(resource, "group")
    target = word(resource, "resource")
    state = "Unknown"
    for each in at(obj, "status", "conditions") or ():
        if each.get("status") == "True" and each["type"] in ("Running", "Failed", "Succeeded"):
            state = each["type"]
    return [name(obj), f"{target}.{group}" if group else target, state]


_EVENT = Table(
    columns("Last Seen|Type|Reason|Object|Subobject*|Source*|Message|First Seen*|Count*|Name*"),
    _event,
)
_PLAIN = Table(columns("Name|Age"), plain)
_MIGRATION = [column("Name"), *columns("Resource|Status")]
TABLES = {
    "nodes": Table(
        columns(
            "Name|Status|Roles|Age|Version|Internal-IP*|External-IP*|OS-Image*|Kernel-Version*|"
            "Container-Runtime*"
        ),
        _node,
    ),
    "namespaces": Table(columns("Name|Status|Age"), _namespace),
    "events": _EVENT,
    "events.events.k8s.io": _EVENT,
    "configmaps": Table(columns("Name|Data|Age"), _config_map),
    "secrets": Table(columns("Name|Type|Data|Age"), _secret),
    "serviceaccounts": _PLAIN,
    "resourcequotas": Table(columns("Name|Request|Limit|Age"), _quota),
    "componentstatuses": Table(columns("Name|Status|Message|Error"), _component_status),
    "leases.coordination.k8s.io": Table(columns("Name|Holder|Age"), _lease),
    "leasecandidates.coordination.k8s.io": Table(
        columns("Name|LeaseName|BinaryVersion|EmulationVersion|Age"), _lease_candidate
    ),
    "priorityclasses.scheduling.k8s.io": Table(
        columns("Name|Value:integer|Global-Default:boolean|Age|PreemptionPolicy"), _priority_class
    ),
    "runtimeclasses.node.k8s.io": Table(columns("Name|Handler|Age"), _runtime_class),
    "deviceclasses.resource.k8s.io": _PLAIN,
    "resourceclaimtemplates.resource.k8s.io": _PLAIN,
    "resourceclaims.resource.k8s.io": Table(columns("Name|State|Age"), _resource_claim),
    "resourceslices.resource.k8s.io": Table(columns("Name|Node|Driver|Pool|Age"), _resource_slice),
    "storageversionmigrations.storagemigration.k8s.io": Table(_MIGRATION, _migration),
}
