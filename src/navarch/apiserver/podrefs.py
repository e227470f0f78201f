"""What other objects a pod refers to, by kind: read by the node authorizer and by admission.

Every check on a pod's references has to see all containers (init and ephemeral ones too) and all
ways to refer (env, envFrom, volumes, projected volumes): a way left out is a way around the check.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from navarch.apiserver.contracts import Object

CONTAINER_LISTS = ("initContainers", "containers", "ephemeralContainers")


def containers(pod: Object) -> Iterator[Object]:
    """All containers: init, then normal, then ephemeral ones."""
    spec = pod.get("spec") or {}
    for field in CONTAINER_LISTS:
        yield from spec.get(field) or ()


def volumes(pod: Object) -> Iterator[Object]:
    yield from (pod.get("spec") or {}).get("volumes") or ()


def projections(volume: Object) -> Iterator[Object]:
    yield from (volume.get("projected") or {}).get("sources") or ()


def secret_names(pod: Object) -> Iterator[str]:
    for ref in (pod.get("spec") or {}).get("imagePullSecrets") or ():
        yield from _named(ref, "name")
    yield from _from_environment(pod, "secretKeyRef", "secretRef")
    for volume in volumes(pod):
        yield from _named(volume.get("secret"), "secretName")
        yield from _named(volume.get("azureFile"), "secretName")
        for driver in ("cephfs", "cinder", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos"):
            yield from _named((volume.get(driver) or {}).get("secretRef"), "name")
        yield from _named((volume.get("csi") or {}).get("nodePublishSecretRef"), "name")
        for source in projections(volume):
            yield from _named(source.get("secret"), "name")


def config_map_names(pod: Object) -> Iterator[str]:
    yield from _from_environment(pod, "configMapKeyRef", "configMapRef")
    for volume in volumes(pod):
        yield from _named(volume.get("configMap"), "name")
        for source in projections(volume):
            yield from _named(source.get("configMap"), "name")


def claim_names(pod: Object) -> Iterator[str]:
    for volume in volumes(pod):
        yield from claim_name(pod, volume)


def claim_name(pod: Object, volume: Object) -> Iterator[str]:
    """The claim a volume mounts, if it mounts one: named, or made for an ephemeral volume."""
    yield from _named(volume.get("persistentVolumeClaim"), "claimName")
    if volume.get("ephemeral") is not None:
        yield f"{pod['metadata']['name']}-{volume.get('name', '')}"


def _from_environment(pod: Object, key_field: str, source_field: str) -> Iterator[str]:
    for container in containers(pod):
        for variable in container.get("env") or ():
            yield from _named((variable.get("valueFrom") or {}).get(key_field), "name")
        for source in container.get("envFrom") or ():
            yield from _named(source.get(source_field), "name")


def _named(ref: dict[str, Any] | None, field: str) -> Iterator[str]:
    name = (ref or {}).get(field)
    if name:
        yield str(name)
