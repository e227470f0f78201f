"""Pod specs, in pods and in templates, and the templates themselves."""

from __future__ import annotations

from navarch.api import names
from navarch.api.errors import (
    duplicate,
    forbidden_field,
    invalid,
    not_found_field,
    required,
    too_long,
)
from navarch.api.validation.common import (
    MAX_INT32,
    Errors,
    Object,
    check,
    check_address,
    check_choice,
    check_label_name,
    check_labels,
    check_optional_choice,
    dns1123_label,
    dns1123_subdomain,
)
from navarch.api.validation.containers import (
    PodFacts,
    check_containers,
    check_ephemeral_containers,
    check_init_containers,
)
from navarch.api.validation.meta import check_annotations
from navarch.api.validation.resources import check_requirements
from navarch.api.validation.scheduling import check_affinity, check_spread, check_tolerations
from navarch.api.validation.security import check_host_users, check_pod_context
from navarch.api.validation.volumes import check_volumes

RESTART_POLICIES = ("Always", "OnFailure", "Never")
DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


def check_template(errors: Errors, path: str, template: Object) -> None:
    """A PodTemplateSpec."""
    metadata, spec = template.get("metadata") or {}, template.get("spec") or {}
    check_labels(errors, f"{path}.labels", metadata.get("labels"))
    annotations = metadata.get("annotations") or {}
    if annotations:
        check_annotations(errors, f"{path}.annotations", annotations)
        check_pod_annotations(errors, f"{path}.annotations", annotations, spec)
    check_pod_spec(errors, f"{path}.spec", spec)
    if spec.get("ephemeralContainers"):
        detail = "ephemeral containers not allowed in pod template"
        errors.append(forbidden_field(f"{path}.spec.ephemeralContainers", detail))


def check_pod_annotations(errors: Errors, path: str, annotations: Object, spec: Object) -> None:
    mirror = annotations.get(MIRROR_ANNOTATION)
    if mirror is not None and not spec.get("nodeName"):
        detail = "must set spec.nodeName if mirror pod annotation is set"
        errors.append(invalid(f"{path}[{MIRROR_ANNOTATION}]", mirror, detail))
    cost = annotations.get(DELETION_COST)
    if cost is not None:
        digits = cost.removeprefix("-")
        fits = digits.isascii() and digits.isdigit() and -(2**31) <= int(cost[:12]) < 2**31
        if not fits or (len(digits) > 1 and digits.startswith("0")) or cost == "-0":
            errors.append(invalid(f"{path}[{DELETION_COST}]", cost, "must be a 32bit integer"))


def check_pod_spec(errors: Errors, path: str, spec: Object, pod: Object | None = None) -> None:
    """A pod's spec; `pod` is the pod itself, None inside a template."""
    metadata = (pod or {}).get("metadata") or {}
    grace = spec.get("terminationGracePeriodSeconds")
    if grace is None:
        errors.append(required(f"{path}.terminationGracePeriodSeconds"))
    volumes = check_volumes(errors, f"{path}.volumes", spec, metadata.get("name") or "")
    claims = {each["name"] for each in spec.get("resourceClaims") or () if each.get("name")}
    if spec.get("resourceClaims"):
        _check_claims(errors, f"{path}.resourceClaims", spec, metadata)
    facts = PodFacts(
        volumes=volumes,
        claims=claims,
        restart_policy=spec.get("restartPolicy") or "",
        grace_seconds=grace,
        host_users=spec.get("hostUsers") is not False,
        operating_system=(spec.get("os") or {}).get("name") or "",
    )
    check_containers(errors, f"{path}.containers", spec.get("containers") or [], facts)
    if spec.get("initContainers"):
        check_init_containers(errors, f"{path}.initContainers", spec, facts)
    if spec.get("ephemeralContainers"):
        check_ephemeral_containers(errors, f"{path}.ephemeralContainers", spec, facts)
    if spec.get("resources"):
        check_requirements(errors, f"{path}.resources", spec["resources"], claims, pod_level=True)
    if spec.get("hostNetwork"):
        _check_host_network_ports(errors, path, spec, pod is not None)
    check_choice(errors, f"{path}.restartPolicy", spec.get("restartPolicy"), RESTART_POLICIES)
    check_choice(errors, f"{path}.dnsPolicy", spec.get("dnsPolicy"), DNS_POLICIES)
    check_pod_context(errors, f"{path}.securityContext", spec)
    check_host_users(errors, path, spec)
    _check_placement(errors, path, spec)
    _check_dns(errors, f"{path}.dnsConfig", spec)
    _check_names(errors, path, spec)
    _check_lists(errors, path, spec)
    _check_file_references(errors, path, spec)


def _check_placement(errors: Errors, path: str, spec: Object) -> None:
    if spec.get("nodeSelector"):
        check_labels(errors, f"{path}.nodeSelector", spec["nodeSelector"])
    if spec.get("affinity"):
        check_affinity(errors, f"{path}.affinity", spec["affinity"])
    if spec.get("tolerations"):
        check_tolerations(errors, f"{path}.tolerations", spec["tolerations"])
    if spec.get("topologySpreadConstraints"):
        constraints = spec["topologySpreadConstraints"]
        check_spread(errors, f"{path}.topologySpreadConstraints", constraints)
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= MAX_INT32:
        detail = names.in_range(1, MAX_INT32)
        errors.append(invalid(f"{path}.activeDeadlineSeconds", deadline, detail))
    policy = spec.get("preemptionPolicy")
    choices = ("PreemptLowerPriority", "Never")
    check_optional_choice(errors, f"{path}.preemptionPolicy", policy, choices)
    if spec.get("overhead"):
        check_requirements(errors, f"{path}.overhead", {"limits": spec["overhead"]}, set())
    system = spec.get("os")
    if system is not None:
        if not system.get("name"):
            errors.append(required(f"{path}.os.name"))
        else:
            check_optional_choice(errors, f"{path}.os", system["name"], ("linux", "windows"))


def _check_names(errors: Errors, path: str, spec: Object) -> None:
    for field, rule in (
        ("serviceAccountName", dns1123_subdomain),
        ("nodeName", dns1123_subdomain),
        ("priorityClassName", dns1123_subdomain),
        ("runtimeClassName", dns1123_subdomain),
        ("hostname", dns1123_label),
        ("subdomain", dns1123_label),
    ):
        value = spec.get(field)
        if value:
            check(errors, f"{path}.{field}", value, rule(value))
    override = spec.get("hostnameOverride")
    if override is not None:
        here = f"{path}.hostnameOverride"
        if spec.get("setHostnameAsFQDN"):
            detail = "may not be specified when setHostnameAsFQDN is true"
            errors.append(forbidden_field(here, detail))
        if spec.get("hostNetwork"):
            errors.append(forbidden_field(here, "may not be specified when hostNetwork is true"))
        if len(override) > 64:
            errors.append(too_long(here, 64))
        check(errors, here, override, dns1123_subdomain(override))


def _check_lists(errors: Errors, path: str, spec: Object) -> None:
    for index, alias in enumerate(spec.get("hostAliases") or ()):
        here = f"{path}.hostAliases[{index}]"
        check_address(errors, f"{here}.ip", alias.get("ip") or "")
        for position, name in enumerate(alias.get("hostnames") or ()):
            check(errors, f"{here}.hostnames[{position}]", name, dns1123_subdomain(name))
    for index, gate in enumerate(spec.get("readinessGates") or ()):
        here = f"{path}.readinessGates[{index}].conditionType"
        check_label_name(errors, here, gate.get("conditionType") or "")
    seen: set[str] = set()
    for index, gate in enumerate(spec.get("schedulingGates") or ()):
        here, name = f"{path}.schedulingGates[{index}]", gate.get("name") or ""
        check_label_name(errors, here, name)
        if name in seen:
            errors.append(duplicate(here, name))
        seen.add(name)


def _check_host_network_ports(errors: Errors, path: str, spec: Object, is_pod: bool) -> None:
    for index, container in enumerate(spec.get("containers") or ()):
        for position, port in enumerate(container.get("ports") or ()):
            host = port.get("hostPort") or 0
            if (is_pod or host) and host != port.get("containerPort"):
                here = f"{path}.containers[{index}].ports[{position}].hostPort"
                detail = "must match `containerPort` when `hostNetwork` is true"
                errors.append(invalid(here, host, detail))


def _check_dns(errors: Errors, path: str, spec: Object) -> None:
    config = spec.get("dnsConfig")
    if spec.get("dnsPolicy") == "None":
        if config is None:
            detail = "must provide `dnsConfig` when `dnsPolicy` is None"
            errors.append(required(path, detail))
            return
        if not config.get("nameservers"):
            detail = "must provide at least one DNS nameserver when `dnsPolicy` is None"
            errors.append(required(f"{path}.nameservers", detail))
            return
    if config is None:
        return
    servers, searches = config.get("nameservers") or [], config.get("searches") or []
    if len(servers) > 3:
        detail = "must not have more than 3 nameservers"
        errors.append(invalid(f"{path}.nameservers", servers, detail))
    for index, server in enumerate(servers):
        check_address(errors, f"{path}.nameservers[{index}]", server)
    if len(searches) > 32:
        detail = "must not have more than 32 search paths"
        errors.append(invalid(f"{path}.searches", searches, detail))
    if len(" ".join(searches)) > 2048:
        detail = "must not have more than 2048 characters (including spaces) in the search list"
        errors.append(invalid(f"{path}.searches", searches, detail))
    for index, search in enumerate(searches):
        if search != ".":
            plain = search.removesuffix(".")
            problems = names.dns1123_subdomain_with_underscore(plain)
            check(errors, f"{path}.searches[{index}]", plain, problems)
    for index, option in enumerate(config.get("options") or ()):
        if not option.get("name"):
            errors.append(required(f"{path}.options[{index}]", "must not be empty"))


def _check_claims(errors: Errors, path: str, spec: Object, metadata: Object) -> None:
    if MIRROR_ANNOTATION in (metadata.get("annotations") or {}):
        errors.append(forbidden_field("", "static pods do not support resource claims"))
        return
    seen: set[str] = set()
    for index, claim in enumerate(spec["resourceClaims"]):
        here, name = f"{path}[{index}]", claim.get("name")
        if not name:
            errors.append(required(f"{here}.name"))
        elif name in seen:
            errors.append(duplicate(f"{here}.name", name))
        else:
            check(errors, f"{here}.name", name, dns1123_label(name))
            seen.add(name)
        given = [
            field
            for field in ("resourceClaimName", "resourceClaimTemplateName")
            if claim.get(field) is not None
        ]
        if len(given) == 2:
            detail = (
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            )
            errors.append(invalid(here, claim, detail))
        if not given:
            detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            errors.append(invalid(here, claim, detail))
        for field in given:
            check(errors, f"{here}.{field}", claim[field], dns1123_subdomain(claim[field]))


def _check_file_references(errors: Errors, path: str, spec: Object) -> None:
    """Environment files live in emptyDir volumes of the pod."""
    volumes = {volume.get("name"): volume for volume in spec.get("volumes") or ()}
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(spec.get(kind) or ()):
            for position, variable in enumerate(container.get("env") or ()):
                reference = (variable.get("valueFrom") or {}).get("fileKeyRef")
                if reference is None:
                    continue
                here = f"{path}.{kind}[{index}].env[{position}].valueFrom.fileKeyRef.volumeName"
                name = reference.get("volumeName") or ""
                if name not in volumes:
                    errors.append(not_found_field(here, name))
                elif "emptyDir" not in volumes[name]:
                    detail = "referenced volume must be of type emptyDir"
                    errors.append(invalid(here, name, detail))
