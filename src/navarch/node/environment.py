"""A container's environment variables and the `$(NAME)` references in its command line. Pure.

Order, lowest precedence first: variables of Services, `envFrom` in list order, `env` in list order.
ConfigMaps and Secrets are looked up beforehand (`references` says which) and handed in.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from navarch.api.types.core_v1 import (
    ConfigMap,
    ConfigMapEnvSource,
    ConfigMapKeySelector,
    Container,
    EnvVar,
    EnvVarSource,
    FileKeySelector,
    Pod,
    Secret,
    SecretEnvSource,
    SecretKeySelector,
    Service,
)

from .downward import PodAddresses, field_value, resource_value
from .env_files import EnvFiles
from .resources import NodeResources

_Reference = ConfigMapEnvSource | SecretEnvSource | ConfigMapKeySelector | SecretKeySelector
_Texts = Mapping[str, str]

_REFERENCE = re.compile(r"\$(\$|\(([^)]*)\))")


class EnvironmentProblem(Exception):
    """A required source or key is missing: the container waits with CreateContainerConfigError."""


@dataclass(frozen=True)
class EnvironmentSources:
    """What variables may be taken from. A missing object is absent from its mapping."""

    config_maps: Mapping[str, ConfigMap] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    files: EnvFiles = field(default_factory=dict)
    services: Sequence[Service] = ()
    addresses: PodAddresses = field(default_factory=PodAddresses)
    node: NodeResources = field(default_factory=lambda: NodeResources(0, 0))


def references(container: Container) -> tuple[set[str], set[str]]:
    """The names of ConfigMaps and Secrets the container's environment refers to."""
    config_maps, secrets = set(), set()
    for source in container.envFrom:
        if source.configMapRef is not None:
            config_maps.add(source.configMapRef.name)
        if source.secretRef is not None:
            secrets.add(source.secretRef.name)
    for variable in container.env:
        value_from = variable.valueFrom
        if value_from is not None and value_from.configMapKeyRef is not None:
            config_maps.add(value_from.configMapKeyRef.name)
        if value_from is not None and value_from.secretKeyRef is not None:
            secrets.add(value_from.secretKeyRef.name)
    return config_maps, secrets


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replaces `$(NAME)`; `$$` is a literal dollar, what cannot be resolved stays as it is."""

    def replacement(found: re.Match[str]) -> str:
        if found[1] == "$":
            return "$"
        return variables.get(found[2], found[0])

    return _REFERENCE.sub(replacement, text)


def unresolved(text: str, variables: Mapping[str, str]) -> list[str]:
    """The references in `text` that have no value."""
    found = _REFERENCE.finditer(text)
    return [each[2] for each in found if each[1] != "$" and each[2] not in variables]


def build(pod: Pod, container: Container, sources: EnvironmentSources) -> dict[str, str]:
    """The environment of one container at the moment it is created."""
    services = service_variables(pod, sources.services)
    result = dict(_from_sources(container, sources))
    # References see the Services' variables as well, but an explicit variable hides them.
    visible = {**services, **result}
    for variable in container.env:
        resolved = _value(pod, container, variable, sources, visible)
        if resolved is not None:
            result[variable.name] = visible[variable.name] = resolved
    return {**services, **result}


def _from_sources(container: Container, sources: EnvironmentSources) -> Iterable[tuple[str, str]]:
    for source in container.envFrom:
        for kind, reference in (("ConfigMap", source.configMapRef), ("Secret", source.secretRef)):
            if reference is not None:
                found = _texts(kind, reference, sources) or {}
                for key in sorted(found):
                    yield source.prefix + key, found[key]


def _texts(kind: str, reference: _Reference, sources: EnvironmentSources) -> _Texts | None:
    """What the ConfigMap or Secret says; None for one that need not exist."""
    found: _Texts | None = None
    if kind == "ConfigMap" and (config_map := sources.config_maps.get(reference.name)):
        found = config_map.data
    elif kind == "Secret" and (secret := sources.secrets.get(reference.name)):
        found = {key: _secret_text(text) for key, text in secret.data.items()}
    if found is None:
        _require(reference.optional, f'{kind.lower()} "{reference.name}" not found')
    return found


def _require(optional: bool | None, problem: str) -> None:
    if not optional:
        raise EnvironmentProblem(problem)


def _secret_text(text: str) -> str:
    """A secret's value as text; bytes that are no text pass through unharmed (surrogates)."""
    return base64.b64decode(text).decode("utf-8", "surrogateescape")


def _value(
    pod: Pod,
    container: Container,
    variable: EnvVar,
    sources: EnvironmentSources,
    visible: Mapping[str, str],
) -> str | None:
    if variable.valueFrom is None:
        return expand(variable.value, visible)
    return _value_from(pod, container, variable.valueFrom, sources)


def _value_from(
    pod: Pod, container: Container, source: EnvVarSource, sources: EnvironmentSources
) -> str | None:
    if source.fieldRef is not None:
        return field_value(pod, source.fieldRef.fieldPath, sources.addresses)
    if source.resourceFieldRef is not None:
        return resource_value(pod, source.resourceFieldRef, container, sources.node)
    for kind, reference in (
        ("ConfigMap", source.configMapKeyRef),
        ("Secret", source.secretKeyRef),
    ):
        if reference is None:
            continue
        found = _texts(kind, reference, sources)
        if found is not None and reference.key not in found:
            where = f"{kind} {pod.metadata.namespace}/{reference.name}"
            _require(reference.optional, f"couldn't find key {reference.key} in {where}")
        return None if found is None else found.get(reference.key)
    if (file := source.fileKeyRef) is not None:
        return _file_value(file, sources.files)
    raise EnvironmentProblem("environment variable source is not supported by this node")


def _file_value(reference: FileKeySelector, files: EnvFiles) -> str | None:
    """An empty value counts as none; "optional" forgives a missing key, not a missing file."""
    file = files[reference.volumeName, reference.path]
    if reference.key not in file.values and not file.is_whole:
        raise EnvironmentProblem("couldn't parse env file")
    value = file.values.get(reference.key)
    if not value:
        text = f'environment variable key "{reference.key}" not found in file "{reference.path}"'
        _require(reference.optional, text)
        return None
    return value


def service_variables(pod: Pod, services: Sequence[Service]) -> dict[str, str]:
    """Docker-link style variables of the namespace's Services, and always of the API server."""
    links = pod.spec.enableServiceLinks is not False
    chosen: dict[str, Service] = {}
    for service in services:
        if service.spec.clusterIP in ("", "None"):
            continue
        name, namespace = service.metadata.name, service.metadata.namespace
        if namespace == pod.metadata.namespace and links:
            chosen[name] = service
        elif namespace == "default" and name == "kubernetes":
            chosen.setdefault(name, service)
    result: dict[str, str] = {}
    for name in sorted(chosen):
        result.update(_variables_of(chosen[name]))
    return result


def _variables_of(service: Service) -> dict[str, str]:
    prefix = _variable_name(service.metadata.name)
    address = service.spec.clusterIP
    result = {f"{prefix}_SERVICE_HOST": address}
    for number, port in enumerate(service.spec.ports):
        if number == 0:
            result[f"{prefix}_SERVICE_PORT"] = str(port.port)
        if port.name:
            result[f"{prefix}_SERVICE_PORT_{_variable_name(port.name)}"] = str(port.port)
    host = f"[{address}]" if ":" in address else address
    for number, port in enumerate(service.spec.ports):
        protocol = port.protocol or "TCP"
        url = f"{protocol.lower()}://{host}:{port.port}"
        if number == 0:
            result[f"{prefix}_PORT"] = url
        each = f"{prefix}_PORT_{port.port}_{protocol.upper()}"
        result[each] = url
        result[f"{each}_PROTO"] = protocol.lower()
        result[f"{each}_PORT"] = str(port.port)
        result[f"{each}_ADDR"] = address
    return result


def _variable_name(name: str) -> str:
    return name.replace("-", "_").upper()
