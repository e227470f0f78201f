"""Pod specs, in pods and in templates, and the templates themselves."""

from __future__ import annotations

from navarch.api import names
from navarch.api.validation.common import (
    MAX_INT32,
    Errors,
    Object,
    dns1123_label,
    dns1123_subdomain,
    indexed,
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
    errors.labels(f"{path}.labels", metadata.get("labels"))
    annotations = metadata.get("annotations") or {}
    if annotations:
        check_annotations(errors, f"{path}.annotations", annotations)
        check_pod_annotations(errors, f"{path}.annotations", annotations, spec)
    check_pod_spec(errors, f"{path}.spec", spec)
    if spec.get("ephemeralContainers"):
        detail = "ephemeral containers not allowed in pod template"
        errors.forbidden(f"{path}.spec.ephemeralContainers", detail)


def check_pod_annotations(errors: Errors, path: str, annotations: Object, spec: Object) -> None:
    mirror = annotations.get(MIRROR_ANNOTATION)
    if mirror is not None and not spec.get("nodeName"):
        detail = "must set spec.nodeName if mirror pod annotation is set"
        errors.invalid(f"{path}[{MIRROR_ANNOTATION}]", mirror, detail)
    cost = annotations.get(DELETION_COST)
    if cost is not None:
        digits = cost.removeprefix("-")
        fits = digits.isascii() and digits.isdigit() and -(2**31) <= int(cost[:12]) < 2**31
        if not fits or (len(digits) > 1 and digits.startswith("0")) or cost == "-0":
            errors.invalid(f"{path}[{DELETION_COST}]", cost, "must be a 32bit integer")


def check_pod_spec(errors: Errors, path: str, spec: Object, pod: Object | None = None) -> None:
    """A pod's spec; `pod` is the pod itself, None inside a template."""
    metadata = (pod or {}).get("metadata") or {}
    grace = spec.get("terminationGracePeriodSeconds")
    if grace is None:
        errors.required(f"{path}.terminationGracePeriodSeconds")
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
    errors.choice(f"{path}.restartPolicy", spec.get("restartPolicy"), RESTART_POLICIES)
    errors.choice(f"{path}.dnsPolicy", spec.get("dnsPolicy"), DNS_POLICIES)
    check_pod_context(errors, f"{path}.securityContext", spec)
    check_host_users(errors, path, spec)
    _check_placement(errors, path, spec)
    _check_dns(errors, f"{path}.dnsConfig", spec)
    _check_names(errors, path, spec)
    _check_lists(errors, path, spec)
    _check_file_references(errors, path, spec)


def _check_placement(errors: Errors, path: str, spec: Object) -> None:
    if spec.get("nodeSelector"):
        errors.labels(f"{path}.nodeSelector", spec["nodeSelector"])
    if spec.get("affinity"):
        check_affinity(errors, f"{path}.affinity", spec["affinity"])
    if spec.get("tolerations"):
        check_tolerations(errors, f"{path}.tolerations", spec["tolerations"])
    if spec.get("topologySpreadConstraints"):
        check_spread(errors, f"{path}.topologySpreadConstraints", spec["topologySpreadConstraints"])
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= MAX_INT32:
        detail = names.in_range(1, MAX_INT32)
        errors.invalid(f"{path}.activeDeadlineSeconds", deadline, detail)
    policy = spec.get("preemptionPolicy")
    errors.optional_choice(f"{path}.preemptionPolicy", policy, ("PreemptLowerPriority", "Never"))
    if spec.get("overhead"):
        check_requirements(errors, f"{path}.overhead", {"limits": spec["overhead"]}, set())
    system = spec.get("os")
    if system is not None:
        if not system.get("name"):
            errors.required(f"{path}.os.name")
        else:
            errors.optional_choice(f"{path}.os", system["name"], ("linux", "windows"))


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
            errors.check(f"{path}.{field}", value, rule)
    override = spec.get("hostnameOverride")
    if override is not None:
        here = f"{path}.hostnameOverride"
        if spec.get("setHostnameAsFQDN"):
            errors.forbidden(here, "may not be specified when setHostnameAsFQDN is true")
        if spec.get("hostNetwork"):
            errors.forbidden(here, "may not be specified when hostNetwork is true")
        errors.no_longer(here, override, 64)
        errors.check(here, override, dns1123_subdomain)


def _check_lists(errors: Errors, path: str, spec: Object) -> None:
    for here, alias in indexed(f"{path}.hostAliases", spec.get("hostAliases")):
        errors.address(f"{here}.ip", alias.get("ip") or "")
        for position, name in enumerate(alias.get("hostnames") or ()):
            errors.check(f"{here}.hostnames[{position}]", name, dns1123_subdomain)
    for index, gate in enumerate(spec.get("readinessGates") or ()):
        here = f"{path}.readinessGates[{index}].conditionType"
        errors.label_name(here, gate.get("conditionType") or "")
    seen: set[str] = set()
    for here, gate in indexed(f"{path}.schedulingGates", spec.get("schedulingGates")):
        name = gate.get("name") or ""
        errors.label_name(here, name)
        errors.once(seen, here, name)


def _check_host_network_ports(errors: Errors, path: str, spec: Object, is_pod: bool) -> None:
    for index, container in enumerate(spec.get("containers") or ()):
        for position, port in enumerate(container.get("ports") or ()):
            host = port.get("hostPort") or 0
            if (is_pod or host) and host != port.get("containerPort"):
                here = f"{path}.containers[{index}].ports[{position}].hostPort"
                errors.invalid(here, host, "must match `containerPort` when `hostNetwork` is true")


def _check_dns(errors: Errors, path: str, spec: Object) -> None:
    config = spec.get("dnsConfig")
    if spec.get("dnsPolicy") == "None":
        if config is None:
            errors.required(path, "must provide `dnsConfig` when `dnsPolicy` is None")
            return
        if not config.get("nameservers"):
            detail = "must provide at least one DNS nameserver when `dnsPolicy` is None"
            errors.required(f"{path}.nameservers", detail)
            return
    if config is None:
        return
    servers, searches = config.get("nameservers") or [], config.get("searches") or []
    if len(servers) > 3:
        errors.invalid(f"{path}.nameservers", servers, "must not have more than 3 nameservers")
    for index, server in enumerate(servers):
        errors.address(f"{path}.nameservers[{index}]", server)
    if len(searches) > 32:
        errors.invalid(f"{path}.searches", searches, "must not have more than 32 search paths")
    if len(" ".join(searches)) > 2048:
        detail = "must not have more than 2048 characters (including spaces) in the search list"
        errors.invalid(f"{path}.searches", searches, detail)
    for index, search in enumerate(searches):
        if search != ".":
            plain = search.removesuffix(".")
            errors.check(
                f"{path}.searches[{index}]", plain, names.dns1123_subdomain_with_underscore
            )
    for index, option in enumerate(config.get("options") or ()):
        errors.present(f"{path}.options[{index}]", option.get("name"), "must not be empty")


def _check_claims(errors: Errors, path: str, spec: Object, metadata: Object) -> None:
    if MIRROR_ANNOTATION in (metadata.get("annotations") or {}):
        errors.forbidden("", "static pods do not support resource claims")
        return
    seen: set[str] = set()
    for here, claim in indexed(path, spec["resourceClaims"]):
        name = claim.get("name")
        if not name:
            errors.required(f"{here}.name")
        elif name in seen:
            errors.duplicate(f"{here}.name", name)
        else:
            errors.check(f"{here}.name", name, dns1123_label)
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
            errors.invalid(here, claim, detail)
        if not given:
            detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            errors.invalid(here, claim, detail)
        for field in given:
            errors.check(f"{here}.{field}", claim[field], dns1123_subdomain)


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
                    errors.not_found(here, name)
                elif "emptyDir" not in volumes[name]:
                    errors.invalid(here, name, "referenced volume must be of type emptyDir")
