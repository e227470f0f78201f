"""The tables of who may do what: roles, certificates, admission, flow control, extensions."""

from __future__ import annotations

from datetime import datetime, timedelta

from navarch.apiserver.tables.table import Cells, MakeCells, Object, Table, columns
from navarch.apiserver.tables.text import (
    NONE,
    UNSET,
    age,
    at,
    condition,
    human_duration,
    label_text,
    name,
    number,
    selector_text,
    word,
)


def _binding(obj: Object, now: datetime) -> Cells:
    names: dict[str, list[str]] = {"User": [], "Group": [], "ServiceAccount": []}
    for subject in obj.get("subjects") or ():
        text = word(subject, "name")
        if subject.get("kind") == "ServiceAccount":
            text = f"{word(subject, 'namespace')}/{text}"
        names.get(subject.get("kind"), []).append(text)
    role = f"{word(obj, 'roleRef', 'kind')}/{word(obj, 'roleRef', 'name')}"
    return [name(obj), role, age(obj, now), *(", ".join(each) for each in names.values())]


def _signing_request(obj: Object, now: datetime) -> Cells:
    types = {each.get("type") for each in at(obj, "status", "conditions") or ()}
    state = "Denied" if "Denied" in types else "Approved" if "Approved" in types else "Pending"
    if "Failed" in types:
        state += ",Failed"
    if at(obj, "status", "certificate"):
        state += ",Issued"
    seconds = at(obj, "spec", "expirationSeconds")
    return [
        name(obj),
        age(obj, now),
        word(obj, "spec", "signerName", otherwise=NONE),
        word(obj, "spec", "username"),
        NONE if seconds is None else human_duration(timedelta(seconds=seconds)),
        state,
    ]


def _trust_bundle(obj: Object, now: datetime) -> Cells:
    return [name(obj), word(obj, "spec", "signerName", otherwise=NONE)]


def _pod_certificate_request(obj: Object, now: datetime) -> Cells:
    state = "Pending"
    for each in at(obj, "status", "conditions") or ():
        if each.get("type") in ("Issued", "Denied", "Failed"):
            state = each["type"]
    fields = ("podName", "serviceAccountName", "nodeName", "signerName")
    words = [word(obj, "spec", field) for field in fields]
    return [name(obj), *words, state, label_text(at(obj, "spec", "unverifiedUserAnnotations"))]


def _counting(*path: str) -> MakeCells:
    """The length of a list, and the age."""

    def cells(obj: Object, now: datetime) -> Cells:
        return [name(obj), len(at(obj, *path) or ()), age(obj, now)]

    return cells


def _policy(rules: str) -> MakeCells:
    """An admission policy: how many rules it has, and what kind its parameters are."""

    def cells(obj: Object, now: datetime) -> Cells:
        kind = at(obj, "spec", "paramKind")
        text = UNSET
        if kind is not None:
            text = f"{word(kind, 'apiVersion')}/{word(kind, 'kind')}"
        return [name(obj), len(at(obj, "spec", rules) or ()), text, age(obj, now)]

    return cells


def _policy_binding(obj: Object, now: datetime) -> Cells:
    reference = at(obj, "spec", "paramRef") or {}
    text = UNSET
    if reference.get("name"):
        text = f"{reference.get('namespace') or '*'}/{reference['name']}"
    elif reference.get("selector") is not None:
        text = selector_text(reference["selector"], empty="")
    return [name(obj), word(obj, "spec", "policyName"), text, age(obj, now)]


def _flow_schema(obj: Object, now: datetime) -> Cells:
    return [
        name(obj),
        word(obj, "spec", "priorityLevelConfiguration", "name"),
        number(obj, "spec", "matchingPrecedence"),
        word(obj, "spec", "distinguisherMethod", "type", otherwise=NONE),
        age(obj, now),
        condition(obj, "Dangling").get("status", "?"),
    ]


def _priority_level(obj: Object, now: datetime) -> Cells:
    limited = at(obj, "spec", "limited")
    queuing = at(limited, "limitResponse", "queuing")
    shares = NONE if limited is None else number(limited, "nominalConcurrencyShares")
    fields = ("queues", "handSize", "queueLengthLimit")
    queues = [NONE if queuing is None else number(queuing, field) for field in fields]
    return [name(obj), word(obj, "spec", "type"), shares, *queues, age(obj, now)]


def _api_service(obj: Object, now: datetime) -> Cells:
    service = at(obj, "spec", "service")
    target = "Local"
    if service is not None:
        target = f"{word(service, 'namespace')}/{word(service, 'name')}"
    available = condition(obj, "Available")
    state = str(available.get("status", "Unknown"))
    if available and state != "True":
        state = f"{state} ({word(available, 'reason')})"
    return [name(obj), target, state, age(obj, now)]


def _definition(obj: Object, now: datetime) -> Cells:
    return [name(obj), at(obj, "metadata", "creationTimestamp")]


_BINDING = Table(columns("Name|Role|Age|Users*|Groups*|ServiceAccounts*"), _binding)
_WEBHOOKS = Table(columns("Name|Webhooks:integer|Age"), _counting("webhooks"))
_POLICY_BINDING = Table(columns("Name|PolicyName|ParamRef|Age"), _policy_binding)
_ADMISSION = "admissionregistration.k8s.io"
_FLOW = "flowcontrol.apiserver.k8s.io"
TABLES = {
    "rolebindings.rbac.authorization.k8s.io": _BINDING,
    "clusterrolebindings.rbac.authorization.k8s.io": _BINDING,
    "certificatesigningrequests.certificates.k8s.io": Table(
        columns("Name|Age|SignerName|Requestor|RequestedDuration|Condition"), _signing_request
    ),
    "clustertrustbundles.certificates.k8s.io": Table(columns("Name|SignerName"), _trust_bundle),
    "podcertificaterequests.certificates.k8s.io": Table(
        columns(
            "Name|PodName|ServiceAccountName|NodeName|SignerName|State|UnverifiedUserAnnotations"
        ),
        _pod_certificate_request,
    ),
    f"mutatingwebhookconfigurations.{_ADMISSION}": _WEBHOOKS,
    f"validatingwebhookconfigurations.{_ADMISSION}": _WEBHOOKS,
    f"validatingadmissionpolicies.{_ADMISSION}": Table(
        columns("Name|Validations:integer|ParamKind|Age"), _policy("validations")
    ),
    f"mutatingadmissionpolicies.{_ADMISSION}": Table(
        columns("Name|Mutations:integer|ParamKind|Age"), _policy("mutations")
    ),
    f"validatingadmissionpolicybindings.{_ADMISSION}": _POLICY_BINDING,
    f"mutatingadmissionpolicybindings.{_ADMISSION}": _POLICY_BINDING,
    f"flowschemas.{_FLOW}": Table(
        columns("Name|PriorityLevel|MatchingPrecedence|DistinguisherMethod|Age|MissingPL"),
        _flow_schema,
    ),
    f"prioritylevelconfigurations.{_FLOW}": Table(
        columns("Name|Type|NominalConcurrencyShares|Queues|HandSize|QueueLengthLimit|Age"),
        _priority_level,
    ),
    "apiservices.apiregistration.k8s.io": Table(
        columns("Name|Service|Available|Age"), _api_service
    ),
    "customresourcedefinitions.apiextensions.k8s.io": Table(
        columns("Name|Created At:date"), _definition
    ),
}
