"""RBAC objects and certificate signing requests."""

from __future__ import annotations

from navarch.api import names
from navarch.api.pem import (
    check_signature,
    decode_base64,
    parse_certificates,
    parse_signing_request,
)
from navarch.api.validation.common import Object, dns1123_subdomain
from navarch.api.validation.fields import Field

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


def validate_role(obj: Field) -> None:
    for rule in obj["rules"]:
        _check_rule(rule, namespaced=True)


def validate_cluster_role(obj: Field) -> None:
    for rule in obj["rules"]:
        _check_rule(rule, namespaced=False)
    selectors = obj["aggregationRule"]["clusterRoleSelectors"]
    if obj["aggregationRule"].is_set:
        detail = "at least one clusterRoleSelector required if aggregationRule is non-nil"
        selectors.present(detail)
    for selector in selectors:
        selector.label_selector()


def _check_rule(rule: Field, namespaced: bool) -> None:
    rule["verbs"].present("verbs must contain at least one value")
    if urls := rule["nonResourceURLs"]:
        if namespaced:
            urls.invalid("namespaced rules cannot apply to non-resource URLs")
        if any(rule.each("apiGroups", "resources", "resourceNames")):
            detail = "rules cannot apply to both regular resources and non-resource URLs"
            urls.invalid(detail)
        return
    rule["apiGroups"].present("resource rules must supply at least one api group")
    rule["resources"].present("resource rules must supply at least one resource")


def validate_role_binding(obj: Field) -> None:
    _check_binding(obj, namespaced=True)


def validate_cluster_role_binding(obj: Field) -> None:
    _check_binding(obj, namespaced=False)


def _check_binding(obj: Field, namespaced: bool) -> None:
    reference = obj["roleRef"]
    reference.text("apiGroup").optional_choice((RBAC_GROUP,))
    reference.text("kind").optional_choice(
        ("Role", "ClusterRole") if namespaced else ("ClusterRole",)
    )
    reference["name"].name(names.path_segment_name)
    for subject in obj["subjects"]:
        _check_subject(subject, namespaced)


def _check_subject(subject: Field, namespaced: bool) -> None:
    kind, name, group = subject.text("kind"), subject["name"], subject.text("apiGroup")
    name.present()
    if kind.value == "ServiceAccount":
        name.check_unless_empty(dns1123_subdomain)
        group.optional_choice(("",))
        if not namespaced:
            subject["namespace"].present()
    elif kind.value in ("User", "Group"):
        group.optional_choice((RBAC_GROUP,))
    else:
        kind.not_supported(("ServiceAccount", "User", "Group"))


def validate_role_binding_update(obj: Field, old: Field) -> None:
    validate_role_binding(obj)
    _check_role_kept(obj, old)


def validate_cluster_role_binding_update(obj: Field, old: Field) -> None:
    validate_cluster_role_binding(obj)
    _check_role_kept(obj, old)


def _check_role_kept(obj: Field, old: Field) -> None:
    if obj.get("roleRef") != old.get("roleRef"):
        obj["roleRef"].invalid("cannot change roleRef")


def validate_signing_request(obj: Field) -> None:
    """A new request. Who asks must show by its signature to have the key that is to be signed."""
    spec = obj["spec"]
    request, usages, seconds = spec["request"], spec["usages"], spec["expirationSeconds"]
    try:
        check_signature(parse_signing_request(request.value or ""))
    except ValueError as error:
        request.showing(request.value or None).invalid(str(error))
    usages.present()
    seen: set[str] = set()
    for usage in usages:
        usage.optional_choice(USAGES)
        usage.once(seen)
    _check_signer(spec["signerName"])
    if seconds.is_set and seconds.value < 600:
        seconds.invalid("may not specify a duration less than 600 seconds (10 minutes)")


def _check_signer(signer: Field) -> None:
    if not signer:
        signer.required()
        return
    if signer.value == "kubernetes.io/legacy-unknown":
        signer.invalid("the legacy signerName is not allowed via this API version")
    domain, slash, path = signer.value.partition("/")
    if not slash or "/" in path:
        signer.invalid(
            "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        )
        return
    problems = dns1123_subdomain(domain)
    if problems:
        signer.invalid(f'validating label "{domain}": {"; ".join(problems)}')
    elif "." not in domain:
        signer.showing(domain).invalid(
            "should be a domain with at least two segments separated by dots"
        )
    if segment := dns1123_subdomain(path):
        signer.invalid(f'validating label "{path}": {"; ".join(segment)}')


def validate_signing_request_update(obj: Field, old: Field, subresource: str) -> None:
    status, issued = obj["status"], old["status"].get("certificate")
    conditions, certificate = status["conditions"], status["certificate"]
    known = old["status"].get("conditions") or []
    _check_conditions(conditions, known)
    if certificate and certificate.value != issued:
        try:
            parse_certificates(decode_base64(certificate.value))
        except ValueError as error:
            certificate.showing("<certificate data>").invalid(str(error))
    for verdict in (*VERDICTS, "Failed"):
        new = [each.value for each in conditions if each.get("type") == verdict]
        old_ones = [each for each in known if each.get("type") == verdict]
        what = f'a condition of type "{verdict}"'
        if len(new) < len(old_ones):
            conditions.forbidden(f"updates may not remove {what}")
        elif verdict in VERDICTS and subresource != "approval" and new != old_ones:
            verb = "add" if len(new) > len(old_ones) else "modify"
            conditions.forbidden(f"updates may not {verb} {what}")
    if certificate.value != issued:
        if subresource != "status":
            certificate.forbidden("updates may not set certificate content")
        elif issued:
            certificate.forbidden("updates may not modify existing certificate content")


def _check_conditions(conditions: Field, known: list[Object]) -> None:
    """What was wrong before may stay so, for otherwise nothing else could be changed."""
    before = [each.get("type") or "" for each in known]
    seen: set[str] = set()
    for condition in conditions:
        kind = condition.text("type")
        if not kind and "" not in before:
            kind.required()
        is_verdict = kind.value in (*VERDICTS, "Failed")
        condition["status"].choice(("True",) if is_verdict else ("False", "True", "Unknown"))
        others = set(VERDICTS) - {kind.value}
        if kind.value in VERDICTS and others & seen and not set(VERDICTS) <= set(before):
            detail = "Approved and Denied conditions are mutually exclusive"
            conditions.showing(kind.value).invalid(detail)
        if kind.value in seen and len(set(before)) == len(before):
            kind.duplicate()
        seen.add(kind.value)
