"""What a manifest of a static pod says: the pod it stands for on this node, and its mirror. Pure.

A static pod is named `<name>-<node>`; its uid is a digest of its manifest, so that a changed file
is another pod. It is held to all that the API would hold it to, and may refer to nothing that the
API has (`pkg/kubelet/config/common.go`, `pkg/kubelet/pod/mirror_client.go`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import msgspec

from navarch.api.errors import ApiError
from navarch.api.kinds import kind_by_name
from navarch.api.names import dns1123_subdomain
from navarch.api.objects import Object, copy_object, from_object
from navarch.api.schema.decode import FieldValidation, normalise_object, parse_document
from navarch.api.schema.defaults import apply_defaults
from navarch.api.strategies.pod import PodStrategy
from navarch.api.times import format_time
from navarch.api.types.core_v1 import Container, Pod, Volume
from navarch.api.types.meta_v1 import OwnerReference
from navarch.api.validation.meta import validate_object_meta

from .podspec import CONFIG_HASH, CONFIG_MIRROR, CONFIG_SOURCE

SEEN = "kubernetes.io/config.seen"
FILE, URL = "file", "http"
_OF_THE_API = {
    "configMap": "configmaps (via configmap volumes)",
    "secret": "secrets (via secret volumes)",
    "csi": "csidrivers (via CSI volumes)",
    "glusterfs": "endpoints (via glusterFS volumes)",
    "persistentVolumeClaim": "persistentvolumeclaims",
    "ephemeral": "persistentvolumeclaims (via ephemeral volumes)",
    "azureFile": "secrets (via azureFile volumes)",
}
_PROJECTED_OF_THE_API = {
    "configMap": "configmaps (via projected volumes)",
    "secret": "secrets (via projected volumes)",
    "serviceAccountToken": "serviceaccounts (via projected volumes)",
    "clusterTrustBundle": "clustertrustbundles",
    "podCertificate": "podcertificates",
}


class ManifestProblem(Exception):
    """A manifest that no pod can be made of."""


def static_pods(text: bytes, source: str, place: str, node_name: str) -> list[Pod]:
    """The pods of a manifest: one, or from a URL also a list. `place` is the file or URL."""
    try:
        document, _ = parse_document(text, "application/yaml")
    except ApiError as error:
        raise ManifestProblem(f"couldn't parse as pod: {error.message}") from error
    if not isinstance(document, dict):
        raise ManifestProblem("couldn't parse as pod: it is no object")
    if source == URL and document.get("kind") == "PodList" and document.get("apiVersion") == "v1":
        kind, items = {"apiVersion": "v1", "kind": "Pod"}, document.get("items") or []
        if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
            raise ManifestProblem("couldn't parse as pod list: items are no objects")
        return [_static_pod({**kind, **each}, source, place, node_name) for each in items]
    return [_static_pod(document, source, place, node_name)]


def _static_pod(document: Object, source: str, place: str, node_name: str) -> Pod:
    if (document.get("apiVersion"), document.get("kind")) != ("v1", "Pod"):
        what = f"{document.get('apiVersion')}, Kind={document.get('kind')}"
        raise ManifestProblem(f"invalid pod: it is {what}")
    origin = f"host:{node_name}file:{place}" if source == FILE else f"url:{place}"
    encoded = msgspec.json.encode([document, origin], order="sorted")
    digest = hashlib.md5(encoded, usedforsecurity=False).hexdigest()
    kind = kind_by_name("", "v1", "Pod")
    assert kind is not None, "there are pods"
    try:
        obj, _ = normalise_object(kind, document, FieldValidation.WARN)
    except ApiError as error:
        raise ManifestProblem(f"couldn't parse as pod: {error.message}") from error
    meta, spec = obj.setdefault("metadata", {}), obj.setdefault("spec", {})
    if not meta.get("name"):
        raise ManifestProblem("invalid pod: name is needed for the pod")
    meta["uid"] = meta.get("uid") or digest
    if wrong := dns1123_subdomain(meta["uid"].lower()):  # it will be the name of a directory
        raise ManifestProblem(f"invalid pod: metadata.uid: Invalid value: {wrong[0]}")
    meta["name"] = f"{meta['name']}-{node_name.lower()}"
    meta["namespace"] = meta.get("namespace") or "default"
    spec["nodeName"] = node_name
    hash_and_source = {CONFIG_HASH: meta["uid"], CONFIG_SOURCE: source}
    meta["annotations"] = {**(meta.get("annotations") or {}), **hash_and_source}
    if source == FILE:
        # Nothing but the manifest decides whether the pod runs here.
        everything = {"operator": "Exists", "effect": "NoExecute"}
        spec["tolerations"] = [*(spec.get("tolerations") or ()), everything]
    strategy = PodStrategy()
    apply_defaults(kind, obj)
    strategy.defaults(obj)
    problems = [*validate_object_meta(meta, True, dns1123_subdomain), *strategy.validate(obj)]
    if problems:
        raise ManifestProblem(f"invalid pod: [{', '.join(str(each) for each in problems)}]")
    obj["status"] = {"phase": "Pending"}
    meta["generation"] = 1
    pod = from_object(Pod, obj)
    reference = next(_references(pod), "")
    if reference:
        raise ManifestProblem(f"static pods may not reference {reference}")
    return pod


def seen_at(pod: Pod, moment: datetime) -> Pod:
    """The pod with the time it was first seen, which tells nothing of the pod itself."""
    pod.metadata.annotations[SEEN] = format_time(moment)
    return pod


def _references(pod: Pod) -> Iterator[str]:
    spec = pod.spec
    if spec.serviceAccountName:
        yield "serviceaccounts"
    if spec.imagePullSecrets:
        yield "secrets"
    for container in (*spec.initContainers, *spec.containers):
        yield from _variables_of_the_api(container)
    if spec.resourceClaims:
        yield "resourceclaims"
    for volume in spec.volumes:
        yield from _volumes_of_the_api(volume)


def _variables_of_the_api(container: Container) -> Iterator[str]:
    for source in container.envFrom:
        if source.secretRef is not None:
            yield "secrets"
        if source.configMapRef is not None:
            yield "configmaps"
    for variable in container.env:
        if variable.valueFrom is not None and variable.valueFrom.secretKeyRef is not None:
            yield "secrets"
        if variable.valueFrom is not None and variable.valueFrom.configMapKeyRef is not None:
            yield "configmaps"


def _volumes_of_the_api(volume: Volume) -> Iterator[str]:
    yield from _fields_that_are_set(volume, _OF_THE_API)
    for source in volume.projected.sources if volume.projected is not None else ():
        yield from _fields_that_are_set(source, _PROJECTED_OF_THE_API)


def _fields_that_are_set(value: Any, names: Mapping[str, str]) -> Iterator[str]:
    return (text for name, text in names.items() if getattr(value, name) is not None)


def mirror_of(pod: Pod, node_uid: str) -> Pod:
    """The object that shows a static pod in the API."""
    mirror = copy_object(pod)
    mirror.metadata.uid = ""
    mirror.metadata.generation = 0
    mirror.metadata.annotations[CONFIG_MIRROR] = pod.metadata.annotations[CONFIG_HASH]
    mirror.metadata.ownerReferences = [
        OwnerReference(
            apiVersion="v1", kind="Node", name=pod.spec.nodeName, uid=node_uid, controller=True
        )
    ]
    return mirror


def is_mirror_of(mirror: Pod, pod: Pod | None) -> bool:
    """Whether a mirror shows this pod as it is, and is to stay."""
    if pod is None or mirror.metadata.deletionTimestamp is not None:
        return False
    shown = mirror.metadata.annotations.get(CONFIG_MIRROR)
    return shown == pod.metadata.annotations[CONFIG_HASH]
