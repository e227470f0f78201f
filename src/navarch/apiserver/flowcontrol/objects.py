"""The FlowSchemas and PriorityLevelConfigurations that every cluster has (KEP-1040).

The mandatory ones (exempt and catch-all) are always as they are here. The suggested ones are kept
so as long as their annotation says that we may.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]

GROUP = "flowcontrol.apiserver.k8s.io"
SCHEMAS = f"flowschemas.{GROUP}"
LEVELS = f"prioritylevelconfigurations.{GROUP}"
AUTOUPDATE = "apf.kubernetes.io/autoupdate-spec"

# name, shares, lendable percent, queues, hand size; no queues: excess is refused at once.
_LEVELS = (
    ("catch-all", 5, 0, 0, 0),
    ("system", 30, 33, 64, 6),
    ("node-high", 40, 25, 64, 6),
    ("leader-election", 10, 0, 16, 4),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
)
_EVERYBODY = ("Group system:unauthenticated", "Group system:authenticated")
_MANAGERS = ("User system:kube-controller-manager", "User system:kube-scheduler")
_KUBE_SYSTEM = "ServiceAccount kube-system/*"
_ALL = ("*", "*", "*")
_LEASES = ("*", "coordination.k8s.io", "leases")

# name, level, precedence, distinguisher, subjects, resource rules (verbs, group, resources)
_SCHEMAS: tuple[
    tuple[str, str, int, str, tuple[str, ...], tuple[tuple[str, str, str], ...]], ...
] = (
    ("exempt", "exempt", 1, "", ("Group system:masters",), (_ALL,)),
    ("probes", "exempt", 2, "", _EVERYBODY, ()),
    (
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        (*_MANAGERS, _KUBE_SYSTEM),
        (("get,create,update", "coordination.k8s.io", "leases"),),
    ),
    (
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        ("Group system:nodes",),
        (("*", "", "nodes,nodes/status"), _LEASES),
    ),
    ("system-nodes", "system", 500, "ByUser", ("Group system:nodes",), (_ALL,)),
    ("kube-controller-manager", "workload-high", 800, "ByNamespace", _MANAGERS[:1], (_ALL,)),
    ("kube-scheduler", "workload-high", 800, "ByNamespace", _MANAGERS[1:], (_ALL,)),
    ("kube-system-service-accounts", "workload-high", 900, "ByNamespace", (_KUBE_SYSTEM,), (_ALL,)),
    (
        "service-accounts",
        "workload-low",
        9000,
        "ByUser",
        ("Group system:serviceaccounts",),
        (_ALL,),
    ),
    ("global-default", "global-default", 9900, "ByUser", _EVERYBODY, (_ALL,)),
    ("catch-all", "catch-all", 10000, "ByUser", _EVERYBODY, (_ALL,)),
)


def flow_objects() -> Iterator[tuple[str, Object]]:
    """(resource, object) of all of them, levels first."""
    exempt = {"nominalConcurrencyShares": 0, "lendablePercent": 0}
    yield (
        LEVELS,
        _object("PriorityLevelConfiguration", "exempt", {"type": "Exempt", "exempt": exempt}),
    )
    for name, shares, lendable, queues, hand in _LEVELS:
        response: Object = {"type": "Reject"}
        if queues:
            queuing = {"queues": queues, "handSize": hand, "queueLengthLimit": 50}
            response = {"type": "Queue", "queuing": queuing}
        limited = {
            "nominalConcurrencyShares": shares,
            "lendablePercent": lendable,
            "limitResponse": response,
        }
        spec = {"type": "Limited", "limited": limited}
        yield LEVELS, _object("PriorityLevelConfiguration", name, spec)
    for name, level, precedence, distinguisher, subjects, rules in _SCHEMAS:
        rule: Object = {"subjects": [_subject(each) for each in subjects]}
        if rules:
            rule["resourceRules"] = [_resource_rule(*each) for each in rules]
        if name == "probes":
            paths = ["/healthz", "/readyz", "/livez"]
            rule["nonResourceRules"] = [{"verbs": ["get"], "nonResourceURLs": paths}]
        elif _ALL in rules:
            rule["nonResourceRules"] = [{"verbs": ["*"], "nonResourceURLs": ["*"]}]
        schema: Object = {
            "priorityLevelConfiguration": {"name": level},
            "matchingPrecedence": precedence,
            "rules": [rule],
        }
        if distinguisher:
            schema["distinguisherMethod"] = {"type": distinguisher}
        yield SCHEMAS, _object("FlowSchema", name, schema)


MANDATORY = frozenset({"exempt", "catch-all"})


def upkeep(wanted: Object, there: Object | None) -> Object | None:
    """The object to be written so that one of ours is as it should be; None when it is. Only the
    type and, of a catch-all, the rest of the specification is fixed for mandatory levels: the
    concurrency of `exempt` is the administrator's."""
    if there is None:
        return wanted
    name = wanted["metadata"]["name"]
    if name not in MANDATORY:
        annotations = there["metadata"].get("annotations") or {}
        if annotations.get(AUTOUPDATE) != "true":
            return None
    spec = wanted["spec"]
    if name == "exempt" and wanted["kind"] == "PriorityLevelConfiguration":
        spec = {**spec, "exempt": (there.get("spec") or {}).get("exempt") or spec["exempt"]}
    return None if _covers(there.get("spec"), spec) else {**there, "spec": spec}


def _covers(found: Any, wanted: Any) -> bool:
    """Whether everything wanted is found; what the server added as a default does not count."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            _covers(found.get(key), value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        is_alike = isinstance(found, list) and len(found) == len(wanted)
        return is_alike and all(_covers(*pair) for pair in zip(found, wanted, strict=True))
    return bool(found == wanted)


def dangling(level: str, is_there: bool) -> tuple[str, str, str]:
    """Status, reason and message of a FlowSchema's Dangling condition."""
    text = f'This FlowSchema references the PriorityLevelConfiguration object named "{level}" '
    if is_there:
        return "False", "Found", text + "and it exists"
    return "True", "NotFound", text + "but there is no such object"


def _object(kind: str, name: str, spec: Object) -> Object:
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": kind,
        "metadata": {"name": name, "annotations": {AUTOUPDATE: "true"}},
        "spec": spec,
    }


def _subject(text: str) -> Object:
    kind, name = text.split(" ")
    if kind == "ServiceAccount":
        namespace, _, name = name.partition("/")
        return {"kind": kind, "serviceAccount": {"namespace": namespace, "name": name}}
    return {"kind": kind, kind.lower(): {"name": name}}


def _resource_rule(verbs: str, group: str, resources: str) -> Object:
    rule: Object = {
        "verbs": verbs.split(","),
        "apiGroups": [group],
        "resources": resources.split(","),
        "namespaces": ["*"],
    }
    if group != "coordination.k8s.io":
        rule["clusterScope"] = True
    return rule
