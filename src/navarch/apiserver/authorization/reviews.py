"""The review kinds of authorization.k8s.io: questions to the authorizer, posted as objects.

SubjectAccessReview asks for anybody, SelfSubjectAccessReview for the caller, the local one for one
namespace; SelfSubjectRulesReview lists the caller's rules. Nothing is stored: the answer is the
object with its status filled in.
"""

from __future__ import annotations

from typing import Any

from navarch.api.errors import FieldError, bad_request, invalid, invalid_object, required
from navarch.api.selectors import (
    SelectorError,
    escape_field_value,
    parse_field_selector,
    parse_label_selector,
)
from navarch.apiserver.authorization import Authorization
from navarch.apiserver.authorization.node import node_of
from navarch.apiserver.contracts import Attributes, Decision, Object, RequestInfo, UserInfo

GROUP = "authorization.k8s.io"


def question_of(review: Object, user: UserInfo | None = None) -> Attributes | None:
    """What a review asks (about a user, or else the one it names); None when it makes no sense."""
    spec = review.get("spec") or {}
    if _spec_errors(spec, user is None):
        return None
    return _attributes(spec, user or _subject_of(spec))[0]


def subject_access_review(review: Object, authorization: Authorization) -> Object:
    spec = review.get("spec") or {}
    return _decide(review, spec, _subject_of(spec), authorization, _spec_errors(spec, True))


def local_subject_access_review(
    review: Object, namespace: str, authorization: Authorization
) -> Object:
    spec = review.get("spec") or {}
    errors = _spec_errors(spec, True)
    own = (review.get("metadata") or {}).get("namespace", "")
    asked = spec.get("resourceAttributes")
    if asked is not None and asked.get("namespace", "") != (own or namespace):
        path = "spec.resourceAttributes.namespace"
        errors.append(invalid(path, asked.get("namespace", ""), "must match metadata.namespace"))
    if spec.get("nonResourceAttributes") is not None:
        path, value = "spec.nonResourceAttributes", spec["nonResourceAttributes"]
        errors.append(invalid(path, value, "disallowed on this kind of request"))
    if own and own != namespace:
        raise bad_request(f"spec.resourceAttributes.namespace must match namespace: {namespace}")
    return _decide(review, spec, _subject_of(spec), authorization, errors, local=True)


def self_subject_access_review(
    review: Object, user: UserInfo, authorization: Authorization
) -> Object:
    spec = review.get("spec") or {}
    return _decide(review, spec, user, authorization, _spec_errors(spec, False))


def self_subject_rules_review(
    review: Object, user: UserInfo, authorization: Authorization
) -> Object:
    namespace = (review.get("spec") or {}).get("namespace", "")
    if not namespace:
        raise bad_request("no namespace on request")
    permissions = authorization.rbac.permissions(user, namespace)
    status: Object = {"resourceRules": [], "nonResourceRules": [], "incomplete": False}
    for rule, _ in permissions.rules:
        if rule.resources:
            status["resourceRules"].append(rule.to_object())
        if rule.urls:
            status["nonResourceRules"].append(rule.to_object())
    errors = list(permissions.errors)
    if node_of(user) is not None:
        status["incomplete"] = True
        errors.insert(0, "node authorizer does not support user rule resolution")
    if errors:
        status["evaluationError"] = ", ".join(errors)
    return {
        "kind": "SelfSubjectRulesReview",
        "apiVersion": f"{GROUP}/v1",
        "metadata": {},
        "spec": {},
        "status": status,
    }


def _decide(
    review: Object,
    spec: Object,
    user: UserInfo,
    authorization: Authorization,
    errors: list[FieldError],
    local: bool = False,
) -> Object:
    errors += _metadata_errors(review, local)
    if errors:
        # Upstream has lost the kind by then, and says so.
        raise invalid_object("", GROUP, "", errors)
    attributes, problems = _attributes(spec, user)
    decision, reason = authorization.authorize(attributes)
    status: Object = {"allowed": decision is Decision.ALLOW}
    if decision is Decision.DENY:
        status["denied"] = True
    if reason:
        status["reason"] = reason
    if problems:
        status["evaluationError"] = "; ".join(problems)
    return {**review, "metadata": review.get("metadata") or {}, "status": status}


def _subject_of(spec: Object) -> UserInfo:
    extra = {key: tuple(values or ()) for key, values in (spec.get("extra") or {}).items()}
    groups = tuple(spec.get("groups") or ())
    return UserInfo(spec.get("user", ""), spec.get("uid", ""), groups, extra)


def _attributes(spec: Object, user: UserInfo) -> tuple[Attributes, list[str]]:
    asked = spec.get("resourceAttributes")
    if asked is None:
        path = spec["nonResourceAttributes"]
        info = RequestInfo(False, path.get("path", ""), path.get("verb", ""))
        return Attributes(user, info), []
    info = RequestInfo(
        True,
        "",
        asked.get("verb", ""),
        asked.get("group", ""),
        asked.get("version", "") or "*",
        asked.get("resource", ""),
        asked.get("subresource", ""),
        asked.get("namespace", ""),
        asked.get("name", ""),
    )
    problems: list[str] = []
    fields = _selector(asked.get("fieldSelector"), "fieldSelector", problems)
    labels = _selector(asked.get("labelSelector"), "labelSelector", problems)
    return Attributes(user, info, fields, labels), problems


def _selector(selector: Object | None, field: str, problems: list[str]) -> str:
    """The selector as text. Requirements that make no sense are left out: since requirements only
    narrow a request, leaving one out asks for more, never for less."""
    if not selector:
        return ""
    raw: str = selector.get("rawSelector", "")
    parse = parse_field_selector if field == "fieldSelector" else parse_label_selector
    if raw:
        try:
            parse(raw)
        except SelectorError:
            problems.append(f"spec.resourceAttributes.{field} ignored due to parse error")
            return ""
        return raw
    requirements = selector.get("requirements") or ()
    terms = [_term(requirement, field) for requirement in requirements]
    good = [term for term in terms if term]
    if len(good) < len(terms):
        extent = "partially ignored" if good else "ignored"
        problems.append(f"spec.resourceAttributes.{field} {extent} due to parse error")
    return ",".join(good)


def _term(requirement: Object, field: str) -> str:
    key, operator = requirement.get("key", ""), requirement.get("operator", "")
    values = requirement.get("values") or []
    if field == "fieldSelector":
        sign = {"In": "=", "NotIn": "!="}.get(operator)
        if sign is None or len(values) != 1:
            return ""
        return f"{key}{sign}{escape_field_value(str(values[0]))}"
    text: str = {
        "In": f"{key} in ({','.join(values)})",
        "NotIn": f"{key} notin ({','.join(values)})",
        "Exists": key,
        "DoesNotExist": f"!{key}",
    }.get(operator, "")
    try:
        parse_label_selector(text)
    except SelectorError:
        return ""
    return text


def _spec_errors(spec: Object, needs_subject: bool) -> list[FieldError]:
    errors = []
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if resource is not None and path is not None:
        detail = "cannot be specified in combination with resourceAttributes"
        errors.append(invalid("spec.nonResourceAttributes", path, detail))
    if resource is None and path is None:
        detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        errors.append(invalid("spec.resourceAttributes", None, detail))
    if needs_subject and not spec.get("user") and not spec.get("groups"):
        detail = "at least one of user or group must be specified"
        errors.append(invalid("spec.user", spec.get("user", ""), detail))
    for field in ("fieldSelector", "labelSelector"):
        selector = (resource or {}).get(field)
        if selector is not None:
            errors += _selector_errors(selector, f"spec.resourceAttributes.{field}")
    return errors


def _selector_errors(selector: dict[str, Any], path: str) -> list[FieldError]:
    raw, requirements = selector.get("rawSelector", ""), selector.get("requirements") or []
    if raw and requirements:
        detail = "may not specified at the same time as requirements"
        return [invalid(f"{path}.rawSelector", raw, detail)]
    if not raw and not requirements:
        detail = f"when {path} is specified, requirements or rawSelector is required"
        return [required(f"{path}.requirements", detail)]
    return []


def _metadata_errors(review: Object, local: bool) -> list[FieldError]:
    allowed = (
        ("managedFields", "namespace", "creationTimestamp")
        if local
        else ("managedFields", "creationTimestamp")
    )
    metadata = review.get("metadata") or {}
    if any(value for key, value in metadata.items() if key not in allowed):
        detail = "must be empty except for namespace" if local else "must be empty"
        return [invalid("metadata", metadata, detail)]
    return []
