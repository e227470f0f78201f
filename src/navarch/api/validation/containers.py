"""Containers of a pod: regular, init, sidecar and ephemeral."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Any

from navarch.api import names
from navarch.api.validation.common import (
    PROTOCOLS,
    Errors,
    Object,
    dns1123_label,
    dns1123_subdomain,
    indexed,
)
from navarch.api.validation.resources import check_requirements
from navarch.api.validation.security import check_container_context
from navarch.api.validation.volumes import (
    ENV_FIELD_PATHS,
    check_descending,
    check_field_reference,
    check_no_backsteps,
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


def check_containers(errors: Errors, path: str, containers: list[Object], pod: PodFacts) -> None:
    if not containers:
        errors.required(path)
        return
    seen: set[str] = set()
    for here, container in indexed(path, containers):
        name = container.get("name") or ""
        _check_common(errors, here, container, pod)
        errors.once(seen, f"{here}.name", name)
        _check_life(errors, here, container, pod)
        _check_restart_policy(errors, here, container)
    _check_host_ports(errors, path, containers)


def check_init_containers(errors: Errors, path: str, spec: Object, pod: PodFacts) -> None:
    seen = {container.get("name") or "" for container in spec.get("containers") or ()}
    for here, container in indexed(path, spec.get("initContainers")):
        name = container.get("name") or ""
        _check_common(errors, here, container, pod)
        _check_restart_policy(errors, here, container)
        if name in seen:
            errors.duplicate(f"{here}.name", name)
        elif name:
            seen.add(name)
        _check_host_ports(errors, path, [container])
        if container.get("restartPolicy") == "Always":
            _check_life(errors, here, container, pod)
            continue
        for field in ("lifecycle", *_PROBES):
            if container.get(field) is not None:
                errors.forbidden(f"{here}.{field}", ONLY_SIDECAR)
        for position, policy in enumerate(container.get("resizePolicy") or ()):
            if policy.get("restartPolicy") == "RestartContainer":
                detail = "must not be set to 'RestartContainer' for non-sidecar initContainers"
                where = f"{here}.resizePolicy[{position}].restartPolicy"
                errors.invalid(where, "RestartContainer", detail)


def check_ephemeral_containers(errors: Errors, path: str, spec: Object, pod: PodFacts) -> None:
    others = {
        container.get("name") or ""
        for field in ("containers", "initContainers")
        for container in spec.get(field) or ()
    }
    seen = set(others)
    for here, container in indexed(path, spec.get("ephemeralContainers")):
        name = container.get("name") or ""
        _check_common(errors, here, container, pod)
        check_image_whitespace(errors, here, container)
        errors.once(seen, f"{here}.name", name)
        target = container.get("targetContainerName")
        if target and target not in others:
            errors.not_found(f"{here}.targetContainerName", target)
        for field, value in container.items():
            if value and field not in EPHEMERAL_FIELDS:
                errors.forbidden(f"{here}.{field}", NOT_EPHEMERAL)
        for position, mount in enumerate(container.get("volumeMounts") or ()):
            for field in ("subPath", "subPathExpr"):
                if mount.get(field):
                    errors.forbidden(f"{here}.volumeMounts[{position}].{field}", NOT_EPHEMERAL)


def check_image_whitespace(errors: Errors, path: str, container: Object) -> None:
    image = container.get("image") or ""
    if image != image.strip():
        errors.invalid(f"{path}.image", image, "must not have leading or trailing whitespace")


def _check_common(errors: Errors, path: str, container: Object, pod: PodFacts) -> None:
    errors.name(f"{path}.name", container.get("name"), dns1123_label)
    errors.present(f"{path}.image", container.get("image"))
    errors.choice(
        f"{path}.terminationMessagePolicy",
        container.get("terminationMessagePolicy"),
        ("File", "FallbackToLogsOnError"),
    )
    if container.get("ports"):
        _check_ports(errors, f"{path}.ports", container["ports"])
    if container.get("env"):
        _check_environment(errors, f"{path}.env", container["env"])
    if container.get("envFrom"):
        _check_environment_sources(errors, f"{path}.envFrom", container["envFrom"])
    mounts, devices = container.get("volumeMounts") or (), container.get("volumeDevices") or ()
    if mounts:
        _check_mounts(errors, f"{path}.volumeMounts", container, pod)
    if devices:
        _check_devices(errors, f"{path}.volumeDevices", container, pod)
    errors.choice(f"{path}.imagePullPolicy", container.get("imagePullPolicy"), PULL_POLICIES)
    if container.get("resources"):
        check_requirements(errors, f"{path}.resources", container["resources"], pod.claims)
    if container.get("resizePolicy"):
        _check_resize_policy(errors, f"{path}.resizePolicy", container["resizePolicy"], pod)
    if container.get("securityContext"):
        context = container["securityContext"]
        check_container_context(errors, f"{path}.securityContext", context, pod.host_users)


def _check_ports(errors: Errors, path: str, ports: list[Object]) -> None:
    seen: set[str] = set()
    for here, port in indexed(path, ports):
        name = port.get("name")
        if name:
            problems = names.port_name(name)
            errors.problems(f"{here}.name", name, problems)
            if not problems and name in seen:
                errors.duplicate(f"{here}.name", name)
            seen.add(name)
        if not port.get("containerPort"):
            errors.required(f"{here}.containerPort")
        else:
            errors.port(f"{here}.containerPort", port["containerPort"])
        if port.get("hostPort"):
            errors.port(f"{here}.hostPort", port["hostPort"])
        errors.choice(f"{here}.protocol", port.get("protocol"), PROTOCOLS)


def _check_host_ports(errors: Errors, path: str, containers: list[Object]) -> None:
    seen: set[str] = set()
    for index, container in enumerate(containers):
        for position, port in enumerate(container.get("ports") or ()):
            if not port.get("hostPort"):
                continue
            key = f"{port.get('protocol')}/{port.get('hostIP') or ''}/{port['hostPort']}"
            errors.once(seen, f"{path}[{index}].ports[{position}].hostPort", key)


def _check_environment(errors: Errors, path: str, variables: list[Object]) -> None:
    for here, variable in indexed(path, variables):
        name = variable.get("name")
        if not name:
            errors.required(f"{here}.name")
        else:
            errors.check(f"{here}.name", name, names.environment_name)
        if variable.get("valueFrom") is not None:
            _check_value_source(errors, f"{here}.valueFrom", variable)


def _check_value_source(errors: Errors, path: str, variable: Object) -> None:
    source = variable["valueFrom"]
    for field in ("fieldRef",):
        if source.get(field) is not None:
            check_field_reference(errors, f"{path}.{field}", source[field], ENV_FIELD_PATHS)
    if source.get("resourceFieldRef") is not None:
        reference = source["resourceFieldRef"]
        check_resource_reference(errors, f"{path}.resourceFieldRef", reference, volume=False)
    for field in ("configMapKeyRef", "secretKeyRef"):
        if source.get(field) is not None:
            name, key = source[field].get("name") or "", source[field].get("key")
            errors.check(f"{path}.{field}.name", name, dns1123_subdomain)
            errors.name(f"{path}.{field}.key", key, names.config_map_key)
    if source.get("fileKeyRef") is not None:
        reference, here = source["fileKeyRef"], f"{path}.fileKeyRef"
        errors.name(f"{here}.key", reference.get("key"), names.environment_name)
        errors.name(f"{here}.volumeName", reference.get("volumeName"), dns1123_label)
        errors.present(f"{here}.path", reference.get("path"))
        check_no_backsteps(errors, f"{here}.path", reference.get("path") or "")
    count = sum(source.get(field) is not None for field in _SOURCES)
    if not count:
        listed = "`fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
        errors.invalid(path, "", f"must specify one of: {listed}")
    elif variable.get("value"):
        errors.invalid(path, "", "may not be specified when `value` is not empty")
    elif count > 1:
        errors.invalid(path, "", "may not have more than one field specified at a time")


def _check_environment_sources(errors: Errors, path: str, sources: list[Object]) -> None:
    for here, source in indexed(path, sources):
        if source.get("prefix"):
            errors.check(f"{here}.prefix", source["prefix"], names.environment_name)
        given = [each for each in ("configMapRef", "secretRef") if source.get(each) is not None]
        for field in given:
            errors.name(f"{here}.{field}.name", source[field].get("name"), dns1123_subdomain)
        if not given:
            errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")
        elif len(given) > 1:
            errors.invalid(path, "", "may not have more than one field specified at a time")


def _check_mounts(errors: Errors, path: str, container: Object, pod: PodFacts) -> None:
    devices = {
        device.get("name"): device.get("devicePath")
        for device in container.get("volumeDevices") or ()
    }
    targets: set[str] = set()
    for here, mount in indexed(path, container["volumeMounts"]):
        name, target = mount.get("name") or "", mount.get("mountPath") or ""
        errors.present(f"{here}.name", name)
        if name not in pod.volumes:
            errors.not_found(f"{here}.name", name)
        errors.present(f"{here}.mountPath", target)
        if target in targets:
            errors.invalid(f"{here}.mountPath", target, "must be unique")
        targets.add(target)
        if name in devices:
            errors.invalid(f"{here}.name", name, "must not already exist in volumeDevices")
        if target in devices.values():
            detail = "must not already exist as a path in volumeDevices"
            errors.invalid(f"{here}.mountPath", target, detail)
        if len(mount) > 2:
            _check_mount_options(errors, path, here, mount, container)


def _check_mount_options(
    errors: Errors, path: str, here: str, mount: Object, container: Object
) -> None:
    # Upstream hangs some of these on the list instead of the item; clients see the same paths here.
    if mount.get("subPath"):
        check_descending(errors, f"{path}.subPath", mount["subPath"])
    expression = mount.get("subPathExpr")
    if expression:
        if mount.get("subPath"):
            detail = "subPathExpr and subPath are mutually exclusive"
            errors.invalid(f"{here}.subPathExpr", expression, detail)
        check_descending(errors, f"{path}.subPathExpr", expression)
    propagation = mount.get("mountPropagation")
    errors.optional_choice(
        f"{path}.mountPropagation", propagation, ("Bidirectional", "HostToContainer", "None")
    )
    privileged = (container.get("securityContext") or {}).get("privileged")
    if propagation == "Bidirectional" and not privileged:
        detail = "Bidirectional mount propagation is available only to privileged containers"
        errors.forbidden(f"{path}.mountPropagation", detail)
    recursive = mount.get("recursiveReadOnly")
    if recursive in ("Enabled", "IfPossible"):
        if not mount.get("readOnly"):
            detail = "may only be specified when readOnly is true"
            errors.forbidden(f"{path}.recursiveReadOnly", detail)
        if propagation not in (None, "None"):
            detail = "may only be specified when mountPropagation is None or not specified"
            errors.forbidden(f"{path}.recursiveReadOnly", detail)
    else:
        choices = ("Disabled", "Enabled", "IfPossible")
        errors.optional_choice(f"{path}.recursiveReadOnly", recursive, choices)


def _check_devices(errors: Errors, path: str, container: Object, pod: PodFacts) -> None:
    mounts = {
        mount.get("name"): mount.get("mountPath") for mount in container.get("volumeMounts") or ()
    }
    seen: set[str] = set()
    targets: set[str] = set()
    for here, device in indexed(path, container["volumeDevices"]):
        name, target = device.get("name") or "", device.get("devicePath") or ""
        volume = pod.volumes.get(name)
        errors.present(f"{here}.name", name)
        if name in seen:
            errors.invalid(f"{here}.name", name, "must be unique")
        seen.add(name)
        if volume is None:
            errors.not_found(f"{here}.name", name)
        elif not volume.keys() & {"persistentVolumeClaim", "ephemeral"}:
            detail = (
                "can only use volume source type of PersistentVolumeClaim or Ephemeral "
                "for block mode"
            )
            errors.invalid(f"{here}.name", name, detail)
        errors.present(f"{here}.devicePath", target)
        if target in targets:
            errors.invalid(f"{here}.devicePath", target, "must be unique")
        if ".." in target.split("/"):
            errors.invalid(f"{here}.devicePath", target, "can not contain backsteps ('..')")
        targets.add(target)
        if name in mounts:
            errors.invalid(f"{here}.name", name, "must not already exist in volumeMounts")
        if target in mounts.values():
            detail = "must not already exist as a path in volumeMounts"
            errors.invalid(f"{here}.devicePath", target, detail)


def _check_life(errors: Errors, path: str, container: Object, pod: PodFacts) -> None:
    lifecycle = container.get("lifecycle")
    if lifecycle is not None:
        for field in ("postStart", "preStop"):
            if lifecycle.get(field) is not None:
                _check_handler(errors, f"{path}.lifecycle.{field}", lifecycle[field], pod)
        if lifecycle.get("stopSignal") is not None:
            _check_stop_signal(errors, f"{path}.lifecycle.stopSignal", lifecycle, pod)
    for field in _PROBES:
        probe = container.get(field)
        if probe is not None:
            _check_probe(errors, f"{path}.{field}", probe, pod, field == "readinessProbe")


def _check_stop_signal(errors: Errors, path: str, lifecycle: Object, pod: PodFacts) -> None:
    signal = lifecycle["stopSignal"]
    if not pod.operating_system:
        errors.forbidden(path, "may not be set for containers with empty `spec.os.name`")
    elif pod.operating_system == "windows":
        errors.optional_choice(path, signal, ("SIGKILL", "SIGTERM"))
    else:
        errors.optional_choice(path, signal, LINUX_SIGNALS)


def _check_probe(errors: Errors, path: str, probe: Object, pod: PodFacts, readiness: bool) -> None:
    _check_handler(errors, path, probe, pod)
    for field in (
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ):
        errors.not_negative(f"{path}.{field}", probe.get(field))
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None and grace <= 0:
        errors.invalid(f"{path}.terminationGracePeriodSeconds", grace, "must be greater than 0")
    if readiness:
        if grace is not None:
            detail = "must not be set for readinessProbes"
            errors.invalid(f"{path}.terminationGracePeriodSeconds", grace, detail)
    elif probe.get("successThreshold", 1) != 1:
        errors.invalid(f"{path}.successThreshold", probe["successThreshold"], "must be 1")


def _check_handler(errors: Errors, path: str, handler: Object, pod: PodFacts) -> None:
    given = [field for field in _HANDLERS if handler.get(field) is not None]
    errors.present(path, given, "must specify a handler type")
    for field in given[1:]:
        errors.forbidden(f"{path}.{field}", "may not specify more than 1 handler type")
    for field in given[:1]:
        here, action = f"{path}.{field}", handler[field]
        if field == "exec":
            errors.present(f"{here}.command", action.get("command"))
        elif field == "httpGet":
            _check_http(errors, here, action)
        elif field == "sleep":
            seconds, most = action.get("seconds") or 0, pod.grace_seconds
            if most is not None and not 0 <= seconds <= most:
                detail = (
                    f"must be non-negative and less than terminationGracePeriodSeconds ({most})"
                )
                errors.invalid(here, seconds, detail)
        else:
            errors.port_or_name(f"{here}.port", action.get("port"))


def _check_http(errors: Errors, path: str, action: Object) -> None:
    errors.present(f"{path}.path", action.get("path"))
    errors.port_or_name(f"{path}.port", action.get("port"))
    errors.optional_choice(f"{path}.scheme", action.get("scheme") or "", ("HTTP", "HTTPS"))
    for header in action.get("httpHeaders") or ():
        errors.check(f"{path}.httpHeaders", header.get("name") or "", names.http_header_name)


def _check_resize_policy(errors: Errors, path: str, policies: list[Object], pod: PodFacts) -> None:
    seen: set[Any] = set()
    for index, policy in enumerate(policies):
        resource, restart = policy.get("resourceName"), policy.get("restartPolicy")
        errors.once(seen, f"{path}[{index}]", resource)
        errors.choice(path, resource, ("cpu", "memory"))
        errors.choice(path, restart, ("NotRequired", "RestartContainer"))
        if pod.restart_policy == "Never" and restart != "NotRequired":
            detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'"
            errors.invalid(path, restart or "", detail)


def _check_restart_policy(errors: Errors, path: str, container: Object) -> None:
    policy, rules = container.get("restartPolicy"), container.get("restartPolicyRules") or ()
    if policy is None and not rules:
        return
    if policy is None:
        detail = "must specify restartPolicy when restart rules are used"
        errors.required(f"{path}.restartPolicy", detail)
    errors.optional_choice(f"{path}.restartPolicy", policy, ("Always", "Never", "OnFailure"))
    errors.at_most(f"{path}.restartPolicyRules", rules, 20)
    for here, rule in indexed(f"{path}.restartPolicyRules", rules):
        if rule.get("action") not in RESTART_ACTIONS:
            errors.not_supported(f"{here}.action", rule.get("action") or "", RESTART_ACTIONS)
        codes = rule.get("exitCodes")
        if codes is None:
            errors.required(f"{here}.exitCodes", "must be specified")
            continue
        operator, values = codes.get("operator") or "", codes.get("values") or ()
        errors.optional_choice(f"{here}.exitCodes.operator", operator, ("In", "NotIn"))
        errors.at_most(f"{here}.exitCodes.values", values, 255)


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
