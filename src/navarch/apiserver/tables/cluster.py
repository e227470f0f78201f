"""The tables of the cluster itself: nodes, namespaces, events, configuration, quotas, leases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from navarch.apiserver.tables.table import Cells, Object, Table, columns, table
from navarch.apiserver.tables.text import (
    NONE,
    UNKNOWN,
    at,
    condition,
    grouped,
    name,
    number,
    since,
    word,
)

_ROLE_PREFIX = "node-role.kubernetes.io/"


def _roles(labels: Mapping[str, str] | None) -> str:
    found = {
        key.removeprefix(_ROLE_PREFIX) if key.startswith(_ROLE_PREFIX) else value
        for key, value in (labels or {}).items()
        if key.startswith(_ROLE_PREFIX) or key == "kubernetes.io/role"
    }
    return ",".join(sorted(found - {""})) or NONE


def _address(of_type: str) -> Callable[[Sequence[Object] | None], str]:
    return lambda found: next(
        (word(each, "address") for each in found or () if each.get("type") == of_type), NONE
    )


def _node_status(obj: Object) -> str:
    ready = condition(obj, "Ready").get("status")
    state = "Unknown" if ready is None else "Ready" if ready == "True" else "NotReady"
    return f"{state},SchedulingDisabled" if at(obj, "spec", "unschedulable") else state


def _kernel(info: Object | None) -> str:
    architecture = word(info, "architecture")
    version = word(info, "kernelVersion", otherwise=UNKNOWN)
    return f"{version} ({architecture})" if architecture else version


def _first_seen(obj: Object, now: datetime) -> str:
    return since(obj.get("firstTimestamp") or obj.get("eventTime"), now)


def _last_seen(obj: Object, now: datetime) -> str:
    if (series := obj.get("series")) is not None:
        return since(series.get("lastObservedTime"), now)
    return since(obj["lastTimestamp"], now) if obj.get("lastTimestamp") else _first_seen(obj, now)


def _times(obj: Object) -> int:
    series = obj.get("series")
    return number(obj, "count") or 1 if series is None else number(series, "count")


def _about(reference: Object | None) -> str:
    kind, name = word(reference, "kind").lower(), word(reference, "name")
    return f"{kind}/{name}" if name else kind


def _source(obj: Object) -> str:
    component = word(obj, "source", "component") or word(obj, "reportingComponent")
    host = word(obj, "source", "host") or word(obj, "reportingInstance")
    return f"{component}, {host}" if host else component


def _quota(limits: bool) -> Callable[[Object | None], str]:
    def cell(status: Object | None) -> str:
        hard, used = at(status, "hard") or {}, at(status, "used") or {}
        return ", ".join(
            f"{resource}: {used.get(resource, '0')}/{hard[resource]}"
            for resource in sorted(hard)
            if resource.startswith("limits.") is limits
        )

    return cell


def _component_status(obj: Object, now: datetime) -> Cells:
    for each in obj.get("conditions") or ():
        if each.get("type") == "Healthy":
            state = "Healthy" if each.get("status") == "True" else "Unhealthy"
            return [name(obj), state, word(each, "message"), word(each, "error")]
    return [name(obj), "Unknown", "", ""]


def _claim_state(obj: Object) -> str:
    states = ["deleted"] if at(obj, "metadata", "deletionTimestamp") else []
    if at(obj, "status", "allocation") is None:
        return ",".join(states or ["pending"])
    states.append("allocated")
    if at(obj, "status", "reservedFor"):
        states.append("reserved")
    return ",".join(states)


def _migration_state(conditions: Sequence[Object] | None) -> str:
    true = [each["type"] for each in conditions or () if each.get("status") == "True"]
    return next((t for t in reversed(true) if t in ("Running", "Failed", "Succeeded")), "Unknown")


_EVENT = table(
    "Last Seen=last(, now)|Type=type|Reason=reason|Object=about(involvedObject)|"
    "Subobject*=involvedObject.fieldPath|Source*=source()|Message=stripped(message)|"
    "First Seen*=first(, now)|Count*=times()|Name*",
    last=_last_seen,
    first=_first_seen,
    about=_about,
    source=_source,
    stripped=lambda text: str(text or "").strip(),
    times=_times,
)
PLAIN = table("Name|Age")
"""Of kinds that have nothing else to show."""
_MIGRATION = table(
    "Name|Resource=resource(spec.resource)|Status=state(status.conditions)",
    resource=lambda found: grouped(word(found, "resource"), word(found, "group")),
    state=_migration_state,
)
_MIGRATION.columns[0]["format"] = ""
TABLES = {
    "nodes": table(
        "Name|Status=status()|Roles=roles(metadata.labels)|Age|"
        "Version=status.nodeInfo.kubeletVersion|Internal-IP*=internal(status.addresses)|"
        "External-IP*=external(status.addresses)|OS-Image*=status.nodeInfo.osImage?<unknown>|"
        "Kernel-Version*=kernel(status.nodeInfo)|"
        "Container-Runtime*=status.nodeInfo.containerRuntimeVersion?<unknown>",
        status=_node_status,
        roles=_roles,
        internal=_address("InternalIP"),
        external=_address("ExternalIP"),
        kernel=_kernel,
    ),
    "namespaces": table("Name|Status=status.phase|Age"),
    "events": _EVENT,
    "events.events.k8s.io": _EVENT,
    "configmaps": table(
        "Name|Data=size()|Age",
        size=lambda obj: len(obj.get("data") or ()) + len(obj.get("binaryData") or ()),
    ),
    "secrets": table("Name|Type=type|Data=count(data)|Age"),
    "serviceaccounts": PLAIN,
    "resourcequotas": table(
        "Name|Request=requests(status)|Limit=limits(status)|Age",
        requests=_quota(limits=False),
        limits=_quota(limits=True),
    ),
    "componentstatuses": Table(columns("Name|Status|Message|Error"), _component_status),
    "leases.coordination.k8s.io": table("Name|Holder=spec.holderIdentity|Age"),
    "leasecandidates.coordination.k8s.io": table(
        "Name|LeaseName=spec.leaseName|BinaryVersion=spec.binaryVersion|"
        "EmulationVersion=spec.emulationVersion|Age"
    ),
    "priorityclasses.scheduling.k8s.io": table(
        "Name|Value:integer=number(value)|Global-Default:boolean=flag(globalDefault)|Age|"
        "PreemptionPolicy=preemptionPolicy"
    ),
    "runtimeclasses.node.k8s.io": table("Name|Handler=handler|Age"),
    "deviceclasses.resource.k8s.io": PLAIN,
    "resourceclaimtemplates.resource.k8s.io": PLAIN,
    "resourceclaims.resource.k8s.io": table("Name|State=state()|Age", state=_claim_state),
    "resourceslices.resource.k8s.io": table(
        "Name|Node=spec.nodeName|Driver=spec.driver|Pool=spec.pool.name|Age"
    ),
    "storageversionmigrations.storagemigration.k8s.io": _MIGRATION,
}
