"""RBAC objects and certificate signing requests."""

from __future__ import annotations

from navarch.api import names
from navarch.api.errors import FieldError, invalid
from navarch.api.pem import (
    check_signature,
    decode_base64,
    parse_certificates,
    parse_signing_request,
)
from navarch.api.validation.common import Errors, Object, dns1123_subdomain, indexed

RBAC_GROUP = "rbac.authorization.k8s.io"
USAGES = (
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
)
VERDICTS = ("Approved", "Denied")


def validate_role(errors: Errors, obj: Object) -> None:
    for index, rule in enumerate(obj.get("rules") or ()):
        _check_rule(errors, f"rules[{index}]", rule, namespaced=True)


def validate_cluster_role(errors: Errors, obj: Object) -> None:
    for index, rule in enumerate(obj.get("rules") or ()):
        _check_rule(errors, f"rules[{index}]", rule, namespaced=False)
    aggregation = obj.get("aggregationRule")
    if aggregation is not None:
        here, selectors = (
            "aggregationRule.clusterRoleSelectors",
            aggregation.get("clusterRoleSelectors"),
        )
        if not selectors:
            detail = "at least one clusterRoleSelector required if aggregationRule is non-nil"
            errors.required(here, detail)
        for index, selector in enumerate(selectors or ()):
            errors.label_selector(f"{here}[{index}]", selector)


def _check_rule(errors: Errors, path: str, rule: Object, namespaced: bool) -> None:
    errors.present(f"{path}.verbs", rule.get("verbs"), "verbs must contain at least one value")
    urls = rule.get("nonResourceURLs")
    if urls:
        if namespaced:
            detail = "namespaced rules cannot apply to non-resource URLs"
            errors.invalid(f"{path}.nonResourceURLs", urls, detail)
        if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
            detail = "rules cannot apply to both regular resources and non-resource URLs"
            errors.invalid(f"{path}.nonResourceURLs", urls, detail)
        return
    if not rule.get("apiGroups"):
        errors.required(f"{path}.apiGroups", "resource rules must supply at least one api group")
    if not rule.get("resources"):
        errors.required(f"{path}.resources", "resource rules must supply at least one resource")


def validate_binding(obj: Object, namespaced: bool) -> Errors:
    """A RoleBinding, or a ClusterRoleBinding when not namespaced."""
    errors = Errors()
    reference = obj.get("roleRef") or {}
    group, kind = reference.get("apiGroup") or "", reference.get("kind") or ""
    if group != RBAC_GROUP:
        errors.not_supported("roleRef.apiGroup", group, (RBAC_GROUP,))
    kinds = ("Role", "ClusterRole") if namespaced else ("ClusterRole",)
    if kind not in kinds:
        errors.not_supported("roleRef.kind", kind, kinds)
    errors.name("roleRef.name", reference.get("name"), names.path_segment_name)
    for index, subject in enumerate(obj.get("subjects") or ()):
        _check_subject(errors, f"subjects[{index}]", subject, namespaced)
    return errors


def _check_subject(errors: Errors, path: str, subject: Object, namespaced: bool) -> None:
    kind, name, group = (
        subject.get("kind") or "",
        subject.get("name"),
        subject.get("apiGroup") or "",
    )
    errors.present(f"{path}.name", name)
    if kind == "ServiceAccount":
        if name:
            errors.check(f"{path}.name", name, dns1123_subdomain)
        if group:
            errors.not_supported(f"{path}.apiGroup", group, ("",))
        if not namespaced and not subject.get("namespace"):
            errors.required(f"{path}.namespace")
    elif kind in ("User", "Group"):
        if group != RBAC_GROUP:
            errors.not_supported(f"{path}.apiGroup", group, (RBAC_GROUP,))
    else:
        errors.not_supported(f"{path}.kind", kind, ("ServiceAccount", "User", "Group"))


def validate_role_ref_update(obj: Object, old: Object) -> list[FieldError]:
    if obj.get("roleRef") != old.get("roleRef"):
        return [invalid("roleRef", obj.get("roleRef"), "cannot change roleRef")]
    return []


def validate_signing_request(obj: Object) -> Errors:
    """A new request. Who asks must show by its signature to have the key that is to be signed."""
    errors = Errors()
    spec = obj.get("spec") or {}
    try:
        check_signature(parse_signing_request(spec.get("request") or ""))
    except ValueError as error:
        errors.invalid("spec.request", spec.get("request") or None, str(error))
    usages = spec.get("usages") or ()
    errors.present("spec.usages", usages)
    seen: set[str] = set()
    for index, usage in enumerate(usages):
        if usage not in USAGES:
            errors.not_supported(f"spec.usages[{index}]", usage, USAGES)
        errors.once(seen, f"spec.usages[{index}]", usage)
    _check_signer(errors, spec.get("signerName") or "")
    seconds = spec.get("expirationSeconds")
    if seconds is not None and seconds < 600:
        detail = "may not specify a duration less than 600 seconds (10 minutes)"
        errors.invalid("spec.expirationSeconds", seconds, detail)
    return errors


def _check_signer(errors: Errors, signer: str) -> None:
    here = "spec.signerName"
    if not signer:
        errors.required(here)
        return
    if signer == "kubernetes.io/legacy-unknown":
        errors.invalid(here, signer, "the legacy signerName is not allowed via this API version")
    domain, slash, path = signer.partition("/")
    if not slash or "/" in path:
        detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        errors.invalid(here, signer, detail)
        return
    problems = dns1123_subdomain(domain)
    if problems:
        errors.invalid(here, signer, f'validating label "{domain}": {"; ".join(problems)}')
    elif "." not in domain:
        detail = "should be a domain with at least two segments separated by dots"
        errors.invalid(here, signer, detail)
    if segment := dns1123_subdomain(path):
        errors.invalid(here, signer, f'validating label "{path}": {"; ".join(segment)}')


def validate_signing_request_update(obj: Object, old: Object, subresource: str) -> Errors:
    errors = Errors()
    status, before = obj.get("status") or {}, old.get("status") or {}
    conditions, known = status.get("conditions") or [], before.get("conditions") or []
    certificate, issued = status.get("certificate"), before.get("certificate")
    _check_conditions(errors, conditions, known)
    if certificate and certificate != issued:
        try:
            parse_certificates(decode_base64(certificate))
        except ValueError as error:
            errors.invalid("status.certificate", "<certificate data>", str(error))
    here = "status.conditions"
    for verdict in (*VERDICTS, "Failed"):
        new = [each for each in conditions if each.get("type") == verdict]
        old_ones = [each for each in known if each.get("type") == verdict]
        if len(new) < len(old_ones):
            errors.forbidden(here, f'updates may not remove a condition of type "{verdict}"')
        elif verdict in VERDICTS and subresource != "approval" and new != old_ones:
            verb = "add" if len(new) > len(old_ones) else "modify"
            errors.forbidden(here, f'updates may not {verb} a condition of type "{verdict}"')
    if certificate != issued:
        if subresource != "status":
            errors.forbidden("status.certificate", "updates may not set certificate content")
        elif issued:
            detail = "updates may not modify existing certificate content"
            errors.forbidden("status.certificate", detail)
    return errors


def _check_conditions(errors: Errors, conditions: list[Object], known: list[Object]) -> None:
    """What was wrong before may stay so, for otherwise nothing else could be changed."""
    before = [each.get("type") or "" for each in known]
    seen: set[str] = set()
    for here, condition in indexed("status.conditions", conditions):
        kind = condition.get("type") or ""
        if not kind and "" not in before:
            errors.required(f"{here}.type")
        choices = ("True",) if kind in (*VERDICTS, "Failed") else ("False", "True", "Unknown")
        status = condition.get("status")
        if not status:
            errors.required(f"{here}.status")
        elif status not in choices:
            errors.not_supported(f"{here}.status", status, choices)
        others = set(VERDICTS) - {kind}
        if kind in VERDICTS and others & seen and not set(VERDICTS) <= set(before):
            detail = "Approved and Denied conditions are mutually exclusive"
            errors.invalid("status.conditions", kind, detail)
        if kind in seen and len(set(before)) == len(before):
            errors.duplicate(f"{here}.type", kind)
        seen.add(kind)
