"""The tables of who may do what: roles, certificates, admission, flow control, extensions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from navarch.apiserver.tables.table import table
from navarch.apiserver.tables.text import (
    NONE,
    UNSET,
    Object,
    at,
    condition,
    human_duration,
    number,
    pair,
    selector_text,
    word,
)

_account = pair("namespace", "name")


def _subjects(kind: str) -> Callable[[Sequence[Object] | None], str]:
    text = _account if kind == "ServiceAccount" else lambda each: word(each, "name")
    return lambda found: ", ".join(text(each) for each in found or () if each.get("kind") == kind)


def _request_state(status: Object | None) -> str:
    types = {each.get("type") for each in at(status, "conditions") or ()}
    state = "Denied" if "Denied" in types else "Approved" if "Approved" in types else "Pending"
    if "Failed" in types:
        state += ",Failed"
    return state + ",Issued" if at(status, "certificate") else state


def _issue_state(conditions: Sequence[Object] | None) -> str:
    types = [each.get("type") for each in conditions or ()]
    return next((str(t) for t in reversed(types) if t in ("Issued", "Denied", "Failed")), "Pending")


def _parameters(reference: Object | None) -> str:
    reference = reference or {}
    if reference.get("name"):
        return f"{reference.get('namespace') or '*'}/{reference['name']}"
    if reference.get("selector") is not None:
        return selector_text(reference["selector"], empty="")
    return UNSET


def _number_in(field: str) -> Callable[[Object | None], Any]:
    return lambda obj: NONE if obj is None else number(obj, field)


def _available(obj: Object) -> str:
    available = condition(obj, "Available")
    state = str(available.get("status", "Unknown"))
    return f"{state} ({word(available, 'reason')})" if available and state != "True" else state


_BINDING = table(
    "Name|Role=role(roleRef)|Age|Users*=users(subjects)|Groups*=groups(subjects)|"
    "ServiceAccounts*=accounts(subjects)",
    role=pair("kind", "name"),
    users=_subjects("User"),
    groups=_subjects("Group"),
    accounts=_subjects("ServiceAccount"),
)
_WEBHOOKS = table("Name|Webhooks:integer=count(webhooks)|Age")
_POLICY = "ParamKind=kind(spec.paramKind)?<unset>|Age"
_POLICY_BINDING = table(
    "Name|PolicyName=spec.policyName|ParamRef=reference(spec.paramRef)|Age", reference=_parameters
)
_QUEUING = "spec.limited.limitResponse.queuing"
_ADMISSION = "admissionregistration.k8s.io"
_FLOW = "flowcontrol.apiserver.k8s.io"
TABLES = {
    "rolebindings.rbac.authorization.k8s.io": _BINDING,
    "clusterrolebindings.rbac.authorization.k8s.io": _BINDING,
    "certificatesigningrequests.certificates.k8s.io": table(
        "Name|Age|SignerName=spec.signerName?<none>|Requestor=spec.username|"
        "RequestedDuration=span(spec.expirationSeconds)?<none>|Condition=state(status)",
        span=lambda seconds: human_duration(timedelta(seconds=seconds)),
        state=_request_state,
    ),
    "clustertrustbundles.certificates.k8s.io": table("Name|SignerName=spec.signerName?<none>"),
    "podcertificaterequests.certificates.k8s.io": table(
        "Name|PodName=spec.podName|ServiceAccountName=spec.serviceAccountName|"
        "NodeName=spec.nodeName|SignerName=spec.signerName|State=state(status.conditions)|"
        "UnverifiedUserAnnotations=labels(spec.unverifiedUserAnnotations)",
        state=_issue_state,
    ),
    f"mutatingwebhookconfigurations.{_ADMISSION}": _WEBHOOKS,
    f"validatingwebhookconfigurations.{_ADMISSION}": _WEBHOOKS,
    f"validatingadmissionpolicies.{_ADMISSION}": table(
        f"Name|Validations:integer=count(spec.validations)|{_POLICY}",
        kind=pair("apiVersion", "kind"),
    ),
    f"mutatingadmissionpolicies.{_ADMISSION}": table(
        f"Name|Mutations:integer=count(spec.mutations)|{_POLICY}", kind=pair("apiVersion", "kind")
    ),
    f"validatingadmissionpolicybindings.{_ADMISSION}": _POLICY_BINDING,
    f"mutatingadmissionpolicybindings.{_ADMISSION}": _POLICY_BINDING,
    f"flowschemas.{_FLOW}": table(
        "Name|PriorityLevel=spec.priorityLevelConfiguration.name|"
        "MatchingPrecedence=number(spec.matchingPrecedence)|"
        "DistinguisherMethod=spec.distinguisherMethod.type?<none>|Age|MissingPL=dangling()",
        dangling=lambda obj: condition(obj, "Dangling").get("status", "?"),
    ),
    f"prioritylevelconfigurations.{_FLOW}": table(
        f"Name|Type=spec.type|NominalConcurrencyShares=shares(spec.limited)|"
        f"Queues=queues({_QUEUING})|HandSize=hand({_QUEUING})|"
        f"QueueLengthLimit=length({_QUEUING})|Age",
        shares=_number_in("nominalConcurrencyShares"),
        queues=_number_in("queues"),
        hand=_number_in("handSize"),
        length=_number_in("queueLengthLimit"),
    ),
    "apiservices.apiregistration.k8s.io": table(
        "Name|Service=service(spec.service)?Local|Available=available()|Age",
        service=_account,
        available=_available,
    ),
    "customresourcedefinitions.apiextensions.k8s.io": table(
        "Name|Created At:date=value(metadata.creationTimestamp)"
    ),
}
