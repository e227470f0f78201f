"""Pod specs, in pods and in templates, and the templates themselves."""

from __future__ import annotations

from navarch.api import names
from navarch.api.pod_resources import pod_limits, pod_requests
from navarch.api.validation.common import (
    MAX_INT32,
    Object,
    dns1123_label,
    dns1123_subdomain,
    quantity,
)
from navarch.api.validation.containers import (
    PodFacts,
    check_containers,
    check_ephemeral_containers,
    check_init_containers,
)
from navarch.api.validation.fields import Field
from navarch.api.validation.go_values import shown_as
from navarch.api.validation.meta import check_annotations
from navarch.api.validation.resources import check_requirements, is_huge_page
from navarch.api.validation.scheduling import check_affinity, check_spread, check_tolerations
from navarch.api.validation.security import (
    check_host_users,
    check_operating_system,
    check_pod_context,
)
from navarch.api.validation.volumes import check_volumes

RESTART_POLICIES = ("Always", "OnFailure", "Never")
DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
MIRROR_ANNOTATION = "kubernetes.io/config.mirror"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
APP_ARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"
"""With a container's name: what had the profile before the field `appArmorProfile`."""
_PROFILES = ("", "runtime/default", "unconfined")
_KINDS = ("containers", "initContainers", "ephemeralContainers")


def check_template(template: Field) -> None:
    """A PodTemplateSpec."""
    metadata, spec = template["metadata"], template["spec"]
    template.at("labels", metadata.get("labels")).labels()
    if metadata.get("annotations"):
        annotations = template.at("annotations", metadata.get("annotations"))
        check_annotations(annotations)
        check_pod_annotations(annotations, spec)
    check_pod_spec(spec)
    if spec.get("ephemeralContainers"):
        detail = "ephemeral containers not allowed in pod template"
        spec["ephemeralContainers"].forbidden(detail)


def check_pod_annotations(annotations: Field, spec: Field) -> None:
    mirror, cost = annotations.get(MIRROR_ANNOTATION), annotations.get(DELETION_COST)
    if mirror is not None and not spec.get("nodeName"):
        detail = "must set spec.nodeName if mirror pod annotation is set"
        annotations.at(f"[{MIRROR_ANNOTATION}]", mirror).invalid(detail)
    if cost is not None:
        digits = cost.removeprefix("-")
        fits = digits.isascii() and digits.isdigit() and -(2**31) <= int(cost[:12]) < 2**31
        if not fits or (len(digits) > 1 and digits.startswith("0")) or cost == "-0":
            annotations.at(f"[{DELETION_COST}]", cost).invalid("must be a 32bit integer")
    for key, profile in annotations.entries():
        if key.startswith(APP_ARMOR_ANNOTATION):
            name = key.removeprefix(APP_ARMOR_ANNOTATION)
            if not any(each.get("name") == name for kind in spec.each(*_KINDS) for each in kind):
                profile.showing(name).invalid("container not found")
            if profile.value not in _PROFILES and not profile.value.startswith("localhost/"):
                profile.invalid(f'invalid AppArmor profile name: "{profile.value}"')


def check_pod_spec(spec: Field, pod: Object | None = None) -> None:
    """A pod's spec; `pod` is the pod itself, None inside a template."""
    metadata = (pod or {}).get("metadata") or {}
    grace = spec["terminationGracePeriodSeconds"]
    grace.must_be_set()
    volumes = check_volumes(spec["volumes"], metadata.get("name") or "")
    claims = {each["name"] for each in spec.get("resourceClaims") or () if each.get("name")}
    if spec.get("resourceClaims"):
        _check_claims(spec["resourceClaims"], metadata)
    facts = PodFacts(
        volumes=volumes,
        claims=claims,
        restart_policy=spec.get("restartPolicy") or "",
        grace_seconds=grace.value,
        host_users=spec.get("hostUsers") is not False,
        operating_system=spec["os"].get("name") or "",
    )
    check_containers(spec["containers"], facts)
    if spec.get("initContainers"):
        check_init_containers(spec, facts)
    if spec.get("ephemeralContainers"):
        check_ephemeral_containers(spec, facts)
    if spec.get("resources"):
        check_requirements(spec["resources"], claims, pod_level=True)
        _check_pod_level(spec)
    if spec.get("hostNetwork"):
        _check_host_network_ports(spec["containers"], pod is not None)
    spec["restartPolicy"].choice(RESTART_POLICIES)
    spec["dnsPolicy"].choice(DNS_POLICIES)
    check_pod_context(spec)
    check_host_users(spec)
    _check_placement(spec)
    _check_dns(spec["dnsConfig"], spec.get("dnsPolicy") == "None")
    _check_names(spec)
    _check_lists(spec)
    _check_file_references(spec)


def _check_pod_level(spec: Field) -> None:
    """What is set for the pod as a whole is enough for its containers."""
    resources = spec["resources"]
    containers = {"spec": {**spec.value, "resources": {}}}
    for kind, amounts in (
        ("requests", pod_requests(containers, overhead=False)),
        ("limits", pod_limits(containers, overhead=False)),
    ):
        for name, level in resources[kind].entries():
            own, whole = amounts.get(name), quantity(level.value)
            counts = kind == "requests" or is_huge_page(name)
            if counts and own is not None and whole is not None and own > whole:
                level.invalid(
                    f"must be greater than or equal to aggregate container {kind} of {own}"
                )
    most = resources["limits"]
    for container in spec["containers"]:
        place = resources["containers"].at(f"[{container.step}]", None)
        for name, limit in container["resources"]["limits"].entries():
            own, whole = quantity(limit.value), quantity(most.get(name) or "")
            if own is not None and whole is not None and own > whole:
                shown = place.at(f"[{name}]", None).at("limits", limit.value)
                shown.invalid(f"must be less than or equal to pod limits of {whole}")


def _check_placement(spec: Field) -> None:
    spec["nodeSelector"].labels()
    if spec.get("affinity"):
        check_affinity(spec["affinity"])
    check_tolerations(spec["tolerations"])
    check_spread(spec["topologySpreadConstraints"])
    deadline = spec["activeDeadlineSeconds"]
    if deadline.is_set and not 1 <= deadline.value <= MAX_INT32:
        deadline.invalid(names.in_range(1, MAX_INT32))
    if spec["preemptionPolicy"].is_set:
        spec["preemptionPolicy"].choice(("PreemptLowerPriority", "Never"))
    if spec.get("overhead"):
        check_requirements(spec.at("overhead", {"limits": spec.get("overhead")}), set())
    if spec.get("os") is not None:
        name = spec["os"]["name"]
        name.present()
        if name:
            spec["os"].showing(name.value).optional_choice(("linux", "windows"))
            check_operating_system(spec)


def _check_names(spec: Field) -> None:
    for field in ("serviceAccountName", "nodeName", "priorityClassName"):
        spec[field].check_unless_empty(dns1123_subdomain)
    spec["runtimeClassName"].check_if_set(dns1123_subdomain)
    for field in ("hostname", "subdomain"):
        spec[field].check_unless_empty(dns1123_label)
    override = spec["hostnameOverride"]
    if override.is_set:
        for field in ("setHostnameAsFQDN", "hostNetwork"):
            if spec.get(field):
                override.forbidden(f"may not be specified when {field} is true")
        override.no_longer(64)
        override.check(dns1123_subdomain)


def _check_lists(spec: Field) -> None:
    for alias in spec["hostAliases"]:
        alias.text("ip").address()
        for name in alias["hostnames"]:
            name.check(dns1123_subdomain)
    for gate in spec["readinessGates"]:
        gate["conditionType"].label_name()
    seen: set[str] = set()
    for gate in spec["schedulingGates"]:
        shown = gate.showing(gate.get("name") or "")
        shown.label_name()
        shown.once(seen)


def _check_host_network_ports(containers: Field, is_pod: bool) -> None:
    for container in containers:
        for port in container["ports"]:
            host = port.number("hostPort")
            if (is_pod or host) and host.value != port.get("containerPort"):
                host.invalid("must match `containerPort` when `hostNetwork` is true")


def _check_dns(config: Field, is_needed: bool) -> None:
    if not config.is_set:
        if is_needed:
            config.required("must provide `dnsConfig` when `dnsPolicy` is None")
        return
    servers, searches = config["nameservers"], config["searches"]
    if is_needed and not servers:
        servers.required("must provide at least one DNS nameserver when `dnsPolicy` is None")
        return
    if len(servers) > 3:
        servers.invalid("must not have more than 3 nameservers")
    for server in servers:
        server.address()
    if len(searches) > 32:
        searches.invalid("must not have more than 32 search paths")
    if searches and len(" ".join(searches.value)) > 2048:
        detail = "must not have more than 2048 characters (including spaces) in the search list"
        searches.invalid(detail)
    for search in searches:
        if search.value != ".":
            plain = search.showing(search.value.removesuffix("."))
            plain.check(names.dns1123_subdomain_with_underscore)
    for option in config["options"]:
        if not option.get("name"):
            option.required("must not be empty")


def _check_claims(claims: Field, metadata: Object) -> None:
    if MIRROR_ANNOTATION in (metadata.get("annotations") or {}):
        Field(None, claims.errors).forbidden("static pods do not support resource claims")
        return
    seen: set[str] = set()
    for claim in claims:
        name = claim["name"]
        if name and name.value in seen:
            name.duplicate()
        else:
            name.name(dns1123_label)
            seen.add(name.value)
        sources = claim.each("resourceClaimName", "resourceClaimTemplateName")
        given = [field for field in sources if field.is_set]
        shown = claim if len(given) == 1 else shown_as(claim, "core_v1.PodResourceClaim")
        if len(given) == 2:
            shown.invalid(
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"
            )
        if not given:
            detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"
            shown.invalid(detail)
        for field in given:
            field.check(dns1123_subdomain)


def _check_file_references(spec: Field) -> None:
    """Environment files live in emptyDir volumes of the pod."""
    volumes = {volume.get("name"): volume for volume in spec.get("volumes") or ()}
    for containers in spec.each("initContainers", "containers", "ephemeralContainers"):
        for container in containers:
            for variable in container["env"]:
                reference = variable["valueFrom"]["fileKeyRef"]
                if not reference.is_set:
                    continue
                name = reference.text("volumeName")
                if name.value not in volumes:
                    name.not_found()
                elif "emptyDir" not in volumes[name.value]:
                    name.invalid("referenced volume must be of type emptyDir")
