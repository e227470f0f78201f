"""What the files of configMap, secret, downwardAPI and projected volumes contain. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from navarch.api.types.core_v1 import (
    ConfigMap,
    DownwardAPIVolumeFile,
    KeyToPath,
    Pod,
    ProjectedVolumeSource,
    Secret,
    Volume,
    VolumeProjection,
)

from ..downward import InvalidField, PodAddresses, field_value, resource_value
from ..resources import NodeResources
from .atomic import FileContent
from .plugin import VolumeProblem

DEFAULT_MODE = 0o644
PRIVATE_MODE = 0o600
CONFIG = "configmap references non-existent config key"
SECRET = "references non-existent secret key"


@dataclass(frozen=True, slots=True)
class TokenWish:
    """A service-account token that a projected volume asks for."""

    audience: str
    expiration_seconds: int


@dataclass(frozen=True)
class VolumeSources:
    """The objects and tokens that were looked up; what does not exist is absent."""

    config_maps: Mapping[str, ConfigMap] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    tokens: Mapping[TokenWish, str] = field(default_factory=dict)
    node: NodeResources = field(default_factory=lambda: NodeResources(0, 0))


@dataclass(frozen=True)
class VolumeReferences:
    """What a volume's content depends on."""

    config_maps: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    tokens: frozenset[TokenWish] = frozenset()

    def __or__(self, other: VolumeReferences) -> VolumeReferences:
        return VolumeReferences(
            self.config_maps | other.config_maps,
            self.secrets | other.secrets,
            self.tokens | other.tokens,
        )


def references(volume: Volume) -> VolumeReferences:
    """The objects a volume's files are made of."""
    if volume.configMap is not None:
        return VolumeReferences(config_maps=frozenset([volume.configMap.name]))
    if volume.secret is not None:
        return VolumeReferences(secrets=frozenset([volume.secret.secretName]))
    result = VolumeReferences()
    for source in volume.projected.sources if volume.projected is not None else ():
        if source.configMap is not None:
            result |= VolumeReferences(config_maps=frozenset([source.configMap.name]))
        if source.secret is not None:
            result |= VolumeReferences(secrets=frozenset([source.secret.name]))
        if (token := source.serviceAccountToken) is not None:
            wish = TokenWish(token.audience, token.expirationSeconds or 3600)
            result |= VolumeReferences(tokens=frozenset([wish]))
    return result


def payload_of(pod: Pod, volume: Volume, sources: VolumeSources) -> dict[str, FileContent] | None:
    """The files of the volume, or None for a volume that is not made of files."""
    if (config_map := volume.configMap) is not None:
        found = sources.config_maps.get(config_map.name)
        data = _config_map_data(found, config_map.name, config_map.optional)
        mode = _mode(config_map.defaultMode)
        return _select(data, config_map.items, mode, config_map.optional, CONFIG)
    if (secret := volume.secret) is not None:
        secret_found = sources.secrets.get(secret.secretName)
        data = _secret_data(secret_found, secret.secretName, secret.optional)
        mode = _mode(secret.defaultMode)
        return _select(data, secret.items, mode, secret.optional, SECRET)
    if volume.downwardAPI is not None:
        mode = _mode(volume.downwardAPI.defaultMode)
        return _downward(pod, volume.downwardAPI.items, mode, sources)
    if volume.projected is not None:
        return _projected(pod, volume.projected, sources)
    return None


def _projected(
    pod: Pod, projected: ProjectedVolumeSource, sources: VolumeSources
) -> dict[str, FileContent]:
    """All sources in one; of equal paths the last counts. Everything that is wrong is told."""
    result: dict[str, FileContent] = {}
    problems = []
    for source in projected.sources:
        try:
            result |= _projection(pod, source, _mode(projected.defaultMode), sources)
        except VolumeProblem as problem:
            problems.append(str(problem))
    if problems:
        listed = ", ".join(dict.fromkeys(problems))
        raise VolumeProblem(listed if len(problems) == 1 else f"[{listed}]")
    return result


def _projection(
    pod: Pod, source: VolumeProjection, default: int, sources: VolumeSources
) -> dict[str, FileContent]:
    if (config_map := source.configMap) is not None:
        found = sources.config_maps.get(config_map.name)
        data = _config_map_data(found, config_map.name, config_map.optional)
        return _select(data, config_map.items, default, config_map.optional, CONFIG)
    if (secret := source.secret) is not None:
        data = _secret_data(sources.secrets.get(secret.name), secret.name, secret.optional)
        return _select(data, secret.items, default, secret.optional, SECRET)
    if source.downwardAPI is not None:
        return _downward(pod, source.downwardAPI.items, default, sources)
    if (token := source.serviceAccountToken) is not None:
        wish = TokenWish(token.audience, token.expirationSeconds or 3600)
        owner = single_user(pod)
        context = pod.spec.securityContext
        group = context.fsGroup if context is not None else None
        mode = default if owner is None and group is None else PRIVATE_MODE
        return {token.path: FileContent(sources.tokens[wish].encode(), mode, owner)}
    kind = "clusterTrustBundle" if source.clusterTrustBundle is not None else "podCertificate"
    raise VolumeProblem(f"{kind} projection is not supported by this node")


def single_user(pod: Pod) -> int | None:
    """The uid that every container of the pod runs as, if the specification gives just one."""
    context = pod.spec.securityContext
    default = context.runAsUser if context is not None else None
    everyone = [*pod.spec.initContainers, *pod.spec.containers]
    users = set()
    for container in everyone:
        own = container.securityContext.runAsUser if container.securityContext else None
        users.add(own if own is not None else default)
    return users.pop() if len(users) == 1 else None


def _mode(value: int | None) -> int:
    return DEFAULT_MODE if value is None else value


def _config_map_data(
    config_map: ConfigMap | None, name: str, optional: bool | None
) -> dict[str, bytes]:
    if config_map is None:
        if optional:
            return {}
        raise VolumeProblem(f'configmap "{name}" not found')
    data = {key: text.encode() for key, text in config_map.data.items()}
    return data | {key: base64.b64decode(text) for key, text in config_map.binaryData.items()}


def _secret_data(secret: Secret | None, name: str, optional: bool | None) -> dict[str, bytes]:
    if secret is None:
        if optional:
            return {}
        raise VolumeProblem(f'secret "{name}" not found')
    return {key: base64.b64decode(text) for key, text in secret.data.items()}


def _select(
    data: Mapping[str, bytes],
    items: Sequence[KeyToPath],
    mode: int,
    optional: bool | None,
    complaint: str,
) -> dict[str, FileContent]:
    if not items:
        return {key: FileContent(content, mode) for key, content in data.items()}
    result = {}
    for item in items:
        if item.key not in data:
            if optional:
                continue
            raise VolumeProblem(f"{complaint}: {item.key}")
        item_mode = mode if item.mode is None else item.mode
        result[item.path] = FileContent(data[item.key], item_mode)
    return result


def _downward(
    pod: Pod, items: Sequence[DownwardAPIVolumeFile], mode: int, sources: VolumeSources
) -> dict[str, FileContent]:
    result = {}
    for item in items:
        try:
            if item.fieldRef is not None:
                text = field_value(pod, item.fieldRef.fieldPath, PodAddresses())
            elif item.resourceFieldRef is not None:
                text = resource_value(pod, item.resourceFieldRef, None, sources.node)
            else:
                continue
        except InvalidField as problem:
            raise VolumeProblem(str(problem)) from problem
        item_mode = mode if item.mode is None else item.mode
        result[item.path] = FileContent(text.encode(), item_mode)
    return result
