"""What the files of configMap, secret, downwardAPI and projected volumes contain. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from navarch.api.types.core_v1 import (
    ConfigMap,
    ConfigMapProjection,
    DownwardAPIProjection,
    DownwardAPIVolumeFile,
    Pod,
    ProjectedVolumeSource,
    Secret,
    SecretProjection,
    ServiceAccountTokenProjection,
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
    projected = _as_projected(volume)
    sources = projected.sources if projected is not None else []
    return VolumeReferences(
        frozenset(each.configMap.name for each in sources if each.configMap is not None),
        frozenset(each.secret.name for each in sources if each.secret is not None),
        frozenset(_wish(each.serviceAccountToken) for each in sources if each.serviceAccountToken),
    )


def _as_projected(volume: Volume) -> ProjectedVolumeSource | None:
    """A volume that is made of files as a projected one, which the other types are special cases
    of: they have one source."""
    if (config_map := volume.configMap) is not None:
        source = VolumeProjection(
            configMap=ConfigMapProjection(
                name=config_map.name, items=config_map.items, optional=config_map.optional
            )
        )
        return ProjectedVolumeSource(sources=[source], defaultMode=config_map.defaultMode)
    if (secret := volume.secret) is not None:
        source = VolumeProjection(
            secret=SecretProjection(
                name=secret.secretName, items=secret.items, optional=secret.optional
            )
        )
        return ProjectedVolumeSource(sources=[source], defaultMode=secret.defaultMode)
    if (downward := volume.downwardAPI) is not None:
        source = VolumeProjection(downwardAPI=DownwardAPIProjection(items=downward.items))
        return ProjectedVolumeSource(sources=[source], defaultMode=downward.defaultMode)
    return volume.projected


def _wish(token: ServiceAccountTokenProjection) -> TokenWish:
    return TokenWish(token.audience, token.expirationSeconds or 3600)


def payload_of(pod: Pod, volume: Volume, sources: VolumeSources) -> dict[str, FileContent] | None:
    """The files of the volume, or None for a volume that is not made of files. Of equal paths the
    last counts. Everything that is wrong is told."""
    projected = _as_projected(volume)
    if projected is None:
        return None
    result: dict[str, FileContent] = {}
    problems = []
    mode = DEFAULT_MODE if projected.defaultMode is None else projected.defaultMode
    for source in projected.sources:
        try:
            result |= _projection(pod, source, mode, sources)
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
        data = _config_map_data(sources.config_maps.get(config_map.name), config_map)
        return _select(data, config_map, default, CONFIG)
    if (secret := source.secret) is not None:
        data = _secret_data(sources.secrets.get(secret.name), secret)
        return _select(data, secret, default, SECRET)
    if source.downwardAPI is not None:
        return _downward(pod, source.downwardAPI.items, default, sources)
    if (token := source.serviceAccountToken) is not None:
        owner = single_user(pod)
        context = pod.spec.securityContext
        group = context.fsGroup if context is not None else None
        mode = default if owner is None and group is None else PRIVATE_MODE
        return {token.path: FileContent(sources.tokens[_wish(token)].encode(), mode, owner)}
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


def _config_map_data(found: ConfigMap | None, wanted: ConfigMapProjection) -> dict[str, bytes]:
    if found is None:
        return _nothing(wanted, "configmap")
    data = {key: text.encode() for key, text in found.data.items()}
    return data | {key: base64.b64decode(text) for key, text in found.binaryData.items()}


def _secret_data(found: Secret | None, wanted: SecretProjection) -> dict[str, bytes]:
    if found is None:
        return _nothing(wanted, "secret")
    return {key: base64.b64decode(text) for key, text in found.data.items()}


def _nothing(wanted: ConfigMapProjection | SecretProjection, kind: str) -> dict[str, bytes]:
    if not wanted.optional:
        raise VolumeProblem(f'{kind} "{wanted.name}" not found')
    return {}


def _select(
    data: Mapping[str, bytes],
    wanted: ConfigMapProjection | SecretProjection,
    mode: int,
    complaint: str,
) -> dict[str, FileContent]:
    if not wanted.items:
        return {key: FileContent(content, mode) for key, content in data.items()}
    result = {}
    for item in wanted.items:
        if item.key in data:
            item_mode = mode if item.mode is None else item.mode
            result[item.path] = FileContent(data[item.key], item_mode)
        elif not wanted.optional:
            raise VolumeProblem(f"{complaint}: {item.key}")
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
