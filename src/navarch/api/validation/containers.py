"""Containers of a pod: regular, init, sidecar and ephemeral."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from navarch.api import names
from navarch.api.validation.common import PROTOCOLS, Object, dns1123_label, dns1123_subdomain
from navarch.api.validation.fields import Field
from navarch.api.validation.resources import check_requirements
from navarch.api.validation.security import check_container_context
from navarch.api.validation.volume_sources import check_descending, check_no_backsteps
from navarch.api.validation.volumes import (
    ENV_FIELD_PATHS,
    check_field_reference,
    check_resource_reference,
)

PULL_POLICIES = ("Always", "IfNotPresent", "Never")
EPHEMERAL_FIELDS = frozenset(
    {
        "name",
        "image",
        "command",
        "args",
        "workingDir",
        "envFrom",
        "env",
        "volumeMounts",
        "volumeDevices",
        "terminationMessagePath",
        "terminationMessagePolicy",
        "imagePullPolicy",
        "securityContext",
        "stdin",
        "stdinOnce",
        "tty",
        "targetContainerName",
    }
)
"""What an ephemeral container may set (`resources` only when empty)."""
NOT_EPHEMERAL = "cannot be set for an Ephemeral Container"
ONLY_SIDECAR = "may not be set for init containers without restartPolicy=Always"
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc", "sleep")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_PROBE_NUMBERS = (
    "initialDelaySeconds",
    "timeoutSeconds",
    "periodSeconds",
    "successThreshold",
    "failureThreshold",
)
_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What the checks of a container need to know of its pod."""

    volumes: dict[str, Object]
    claims: Set[str]
    restart_policy: str
    grace_seconds: int | None
    host_users: bool
    operating_system: str


def check_containers(containers: Field, pod: PodFacts) -> None:
    containers.present()
    seen: set[str] = set()
    for container in containers:
        _check_common(container, pod)
        container.text("name").once(seen)
        _check_life(container, pod)
        _check_restart_policy(container)
    _check_host_ports(containers)


def check_init_containers(spec: Field, pod: PodFacts) -> None:
    seen = {container.get("name") or "" for container in spec.get("containers") or ()}
    for container in spec["initContainers"]:
        name = container.text("name")
        _check_common(container, pod)
        _check_restart_policy(container)
        if name.value in seen:
            name.duplicate()
        elif name:
            seen.add(name.value)
        _check_host_ports(spec.at("initContainers", [container.value]))
        if container.get("restartPolicy") == "Always":
            _check_life(container, pod)
            continue
        for field in container.each("lifecycle", *_PROBES):
            if field.is_set:
                field.forbidden(ONLY_SIDECAR)
        for policy in container["resizePolicy"]:
            if policy.get("restartPolicy") == "RestartContainer":
                detail = "must not be set to 'RestartContainer' for non-sidecar initContainers"
                policy["restartPolicy"].invalid(detail)


def check_ephemeral_containers(spec: Field, pod: PodFacts) -> None:
    others = {
        container.get("name") or ""
        for field in ("containers", "initContainers")
        for container in spec.get(field) or ()
    }
    seen = set(others)
    for container in spec["ephemeralContainers"]:
        _check_common(container, pod)
        check_image_whitespace(container)
        container.text("name").once(seen)
        target = container["targetContainerName"]
        if target and target.value not in others:
            target.not_found()
        for field, value in container.value.items():
            if value and field not in EPHEMERAL_FIELDS:
                container[field].forbidden(NOT_EPHEMERAL)
        for mount in container["volumeMounts"]:
            for path in mount.each("subPath", "subPathExpr"):
                if path:
                    path.forbidden(NOT_EPHEMERAL)


def check_image_whitespace(container: Field) -> None:
    image = container.get("image") or ""
    if image != image.strip():
        container["image"].invalid("must not have leading or trailing whitespace")


def _check_common(container: Field, pod: PodFacts) -> None:
    container["name"].name(dns1123_label)
    container["image"].present()
    container["terminationMessagePolicy"].choice(("File", "FallbackToLogsOnError"))
    _check_ports(container["ports"])
    for variable in container["env"]:
        variable["name"].name(names.environment_name)
        if variable.get("valueFrom") is not None:
            _check_value_source(variable)
    _check_environment_sources(container["envFrom"])
    if container.get("volumeMounts"):
        _check_mounts(container, pod)
    if container.get("volumeDevices"):
        _check_devices(container, pod)
    container["imagePullPolicy"].choice(PULL_POLICIES)
    if container.get("resources"):
        check_requirements(container["resources"], pod.claims)
    _check_resize_policy(container["resizePolicy"], pod)
    if context := container["securityContext"]:
        check_container_context(context, pod.host_users)


def _check_ports(ports: Field) -> None:
    seen: set[str] = set()
    for port in ports:
        name = port["name"]
        if name:
            problems = names.port_name(name.value)
            name.problems(problems)
            if not problems and name.value in seen:
                name.duplicate()
            seen.add(name.value)
        port["containerPort"].present()
        for field in port.each("containerPort", "hostPort"):
            if field:
                field.port()
        port["protocol"].choice(PROTOCOLS)


def _check_host_ports(containers: Field) -> None:
    seen: set[str] = set()
    for container in containers:
        for port in container["ports"]:
            if number := port.get("hostPort"):
                key = f"{port.get('protocol')}/{port.get('hostIP') or ''}/{number}"
                port.at("hostPort", key).once(seen)


def _check_value_source(variable: Field) -> None:
    source = variable["valueFrom"]
    if source["fieldRef"].is_set:
        check_field_reference(source["fieldRef"], ENV_FIELD_PATHS)
    if source["resourceFieldRef"].is_set:
        check_resource_reference(source["resourceFieldRef"], volume=False)
    for reference in source.each("configMapKeyRef", "secretKeyRef"):
        if reference.is_set:
            reference["name"].check(dns1123_subdomain)
            reference["key"].name(names.config_map_key)
    file = source["fileKeyRef"]
    if file.is_set:
        file["key"].name(names.environment_name)
        file["volumeName"].name(dns1123_label)
        file["path"].present()
        check_no_backsteps(file["path"])
    count = sum(field.is_set for field in source.each(*_SOURCES))
    shown = source.showing("")
    if not count:
        listed = "`fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        shown.invalid(f"must specify one of: {listed}")
    elif variable.get("value"):
        shown.invalid("may not be specified when `value` is not empty")
    elif count > 1:
        shown.invalid("may not have more than one field specified at a time")


def _check_environment_sources(sources: Field) -> None:
    shown = sources.showing("")
    for source in sources:
        source["prefix"].check_unless_empty(names.environment_name)
        given = [field for field in source.each("configMapRef", "secretRef") if field.is_set]
        for field in given:
            field["name"].name(dns1123_subdomain)
        if not given:
            shown.invalid("must specify one of: `configMapRef` or `secretRef`")
        elif len(given) > 1:
            shown.invalid("may not have more than one field specified at a time")


def _check_mounts(container: Field, pod: PodFacts) -> None:
    devices = {
        device.get("name"): device.get("devicePath")
        for device in container.get("volumeDevices") or ()
    }
    targets: set[str] = set()
    for mount in container["volumeMounts"]:
        name, target = mount.text("name"), mount.text("mountPath")
        name.present()
        if name.value not in pod.volumes:
            name.not_found()
        target.present()
        _unique(target, targets)
        if name.value in devices:
            name.invalid("must not already exist in volumeDevices")
        if target.value in devices.values():
            target.invalid("must not already exist as a path in volumeDevices")
        if len(mount) > 2:
            _check_mount_options(mount, container)


def _unique(field: Field, seen: set[str]) -> None:
    if field.value in seen:
        field.invalid("must be unique")
    seen.add(field.value)


def _check_mount_options(mount: Field, container: Field) -> None:
    # Upstream hangs some of these on the list instead of the item; clients see the same paths here.
    mounts = container["volumeMounts"]
    path, expression = mount.get("subPath"), mount["subPathExpr"]
    if path:
        check_descending(mounts.at("subPath", path))
    if expression:
        if path:
            expression.invalid("subPathExpr and subPath are mutually exclusive")
        check_descending(mounts.at("subPathExpr", expression.value))
    propagation = mounts.at("mountPropagation", mount.get("mountPropagation"))
    propagation.optional_choice(("Bidirectional", "HostToContainer", "None"))
    if propagation.value == "Bidirectional" and not container["securityContext"].get("privileged"):
        detail = "Bidirectional mount propagation is available only to privileged containers"
        propagation.forbidden(detail)
    recursive = mounts.at("recursiveReadOnly", mount.get("recursiveReadOnly"))
    recursive.optional_choice(("Disabled", "Enabled", "IfPossible"))
    if recursive.value in ("Enabled", "IfPossible"):
        if not mount.get("readOnly"):
            recursive.forbidden("may only be specified when readOnly is true")
        if propagation.value not in (None, "None"):
            detail = "may only be specified when mountPropagation is None or not specified"
            recursive.forbidden(detail)


def _check_devices(container: Field, pod: PodFacts) -> None:
    mounts = {
        mount.get("name"): mount.get("mountPath") for mount in container.get("volumeMounts") or ()
    }
    seen: set[str] = set()
    targets: set[str] = set()
    for device in container["volumeDevices"]:
        name, target = device.text("name"), device.text("devicePath")
        volume = pod.volumes.get(name.value)
        name.present()
        _unique(name, seen)
        if volume is None:
            name.not_found()
        elif not volume.keys() & {"persistentVolumeClaim", "ephemeral"}:
            name.invalid(
                "can only use volume source type of PersistentVolumeClaim or Ephemeral "
                "for block mode"
            )
        target.present()
        _unique(target, targets)
        if ".." in target.value.split("/"):
            target.invalid("can not contain backsteps ('..')")
        if name.value in mounts:
            name.invalid("must not already exist in volumeMounts")
        if target.value in mounts.values():
            target.invalid("must not already exist as a path in volumeMounts")


def _check_life(container: Field, pod: PodFacts) -> None:
    if lifecycle := container["lifecycle"]:
        for hook in lifecycle.each("postStart", "preStop"):
            if hook.is_set:
                _check_handler(hook, pod)
        if lifecycle["stopSignal"].is_set:
            _check_stop_signal(lifecycle["stopSignal"], pod)
    for field in _PROBES:
        if container.get(field) is not None:
            _check_probe(container[field], pod, readiness=field == "readinessProbe")


def _check_stop_signal(signal: Field, pod: PodFacts) -> None:
    if not pod.operating_system:
        signal.forbidden("may not be set for containers with empty `spec.os.name`")
    elif pod.operating_system == "windows":
        signal.optional_choice(("SIGKILL", "SIGTERM"))
    else:
        signal.optional_choice(LINUX_SIGNALS)


def _check_probe(probe: Field, pod: PodFacts, readiness: bool) -> None:
    _check_handler(probe, pod)
    for field in probe.each(*_PROBE_NUMBERS):
        field.not_negative()
    grace, successes = probe["terminationGracePeriodSeconds"], probe["successThreshold"]
    if grace.is_set and grace.value <= 0:
        grace.invalid("must be greater than 0")
    if readiness:
        if grace.is_set:
            grace.invalid("must not be set for readinessProbes")
    elif successes.value not in (None, 1):
        successes.invalid("must be 1")


def _check_handler(handler: Field, pod: PodFacts) -> None:
    given = [field for field in _HANDLERS if handler.get(field) is not None]
    if not given:
        handler.required("must specify a handler type")
        return
    first, *more = given
    action = handler[first]
    if first == "exec":
        action["command"].present()
    elif first == "httpGet":
        _check_http(action)
    elif first == "sleep":
        seconds, most = action.get("seconds") or 0, pod.grace_seconds
        if most is not None and not 0 <= seconds <= most:
            action.showing(seconds).invalid(
                f"must be non-negative and less than terminationGracePeriodSeconds ({most})"
            )
    else:
        action["port"].port_or_name()
    for field in more:
        handler[field].forbidden("may not specify more than 1 handler type")


def _check_http(action: Field) -> None:
    action["path"].present()
    action["port"].port_or_name()
    action.text("scheme").optional_choice(("HTTP", "HTTPS"))
    for header in action.get("httpHeaders") or ():
        action.at("httpHeaders", header.get("name")).check(names.http_header_name)


def _check_resize_policy(policies: Field, pod: PodFacts) -> None:
    seen: set[Any] = set()
    for policy in policies:
        resource, restart = policy.get("resourceName"), policy.get("restartPolicy")
        policy.showing(resource).once(seen)
        policies.showing(resource).choice(("cpu", "memory"))
        policies.showing(restart).choice(("NotRequired", "RestartContainer"))
        if pod.restart_policy == "Never" and restart != "NotRequired":
            detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'"
            policies.showing(restart or "").invalid(detail)


def _check_restart_policy(container: Field) -> None:
    policy, rules = container["restartPolicy"], container["restartPolicyRules"]
    if rules and not policy.is_set:
        policy.required("must specify restartPolicy when restart rules are used")
    policy.optional_choice(("Always", "Never", "OnFailure"))
    rules.at_most(20)
    for rule in rules:
        rule.text("action").optional_choice(RESTART_ACTIONS)
        codes = rule["exitCodes"]
        if not codes.is_set:
            codes.required("must be specified")
            continue
        codes.text("operator").optional_choice(("In", "NotIn"))
        codes["values"].at_most(255)


RESTART_ACTIONS = ("Restart", "RestartAllContainers")

_SIGNALS = (
    "ABRT,ALRM,BUS,CHLD,CLD,CONT,FPE,HUP,ILL,INT,IO,IOT,KILL,PIPE,POLL,PROF,PWR,QUIT,RTMAX,RTMIN,"
    "SEGV,STKFLT,STOP,SYS,TERM,TRAP,TSTP,TTIN,TTOU,URG,USR1,USR2,VTALRM,WINCH,XCPU,XFSZ"
)
LINUX_SIGNALS = tuple(
    sorted(
        [f"SIG{name}" for name in _SIGNALS.split(",")]
        + [f"SIGRTMAX-{number}" for number in range(1, 15)]
        + [f"SIGRTMIN+{number}" for number in range(1, 16)]
    )
)
