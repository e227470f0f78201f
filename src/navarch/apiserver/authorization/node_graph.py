"""Which objects a node may read: those its pods refer to, kept while pods and volumes change.

The relation is shallow: pods name secrets, config maps, claims and service accounts; a persistent
volume bound to a claim may name a secret too. So instead of a general graph there is one count per
(object, node), and one hop through volumes. Mirror pods grant nothing: a node creates them itself,
and must not be able to give itself rights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from navarch.apiserver.contracts import Lookup, Object
from navarch.apiserver.podrefs import claim_names, config_map_names, secret_names

MIRROR_ANNOTATION = "kubernetes.io/config.mirror"

Key = tuple[str, str, str]
"""(resource, namespace, name)"""
Edges = tuple[str, tuple[Key, ...]]
"""A node, and what is related to it."""
V = TypeVar("V")
SHARED_LIMIT = 20_000


class NodeGraph:
    """Answers `relates(node, key)`; fed by pods, volumes, attachments and resource slices."""

    def __init__(self, lookup: Lookup) -> None:
        self._nodes_of: dict[Key, dict[str, int]] = {}
        self._edges: dict[Key, Edges] = {}
        """The object that causes edges (a pod, an attachment, a slice) -> its node, and the objects
        that it relates to the node besides itself."""
        self._shared: dict[Any, Any] = {}
        """Equal keys and edges once: all pods of a workload refer to the same objects."""
        self._additions: dict[Key, tuple[Any, ...]] = {}
        """What pods have beside their node that may change what they refer to; few have any."""
        self._claim_of_volume: dict[str, Key] = {}
        self._volume_secrets: dict[str, tuple[Key, ...]] = {}
        self._volumes_of_secret: dict[Key, set[str]] = {}
        lookup.follow("pods", self._pod_changed)
        lookup.subscribe("persistentvolumes", self._volume_changed)
        lookup.subscribe("volumeattachments.storage.k8s.io", self._attachment_changed)
        lookup.subscribe("resourceslices.resource.k8s.io", self._slice_changed)

    def relates(self, node: str, key: Key) -> bool:
        """Whether the object has to do with the node."""
        own = self._edges.get(key)
        if (own is not None and own[0] == node) or node in self._nodes_of.get(key, ()):
            return True
        if key[0] == "persistentvolumes":
            claim = self._claim_of_volume.get(key[2])
            return claim is not None and node in self._nodes_of.get(claim, ())
        return any(
            node in self._nodes_of.get(self._claim_of_volume[volume], ())
            for volume in self._volumes_of_secret.get(key, ())
        )

    def _set(self, cause: Key, node: str, keys: tuple[Key, ...]) -> None:
        before = self._edges.pop(cause, None)
        if before:
            self._drop(*before)
        if not node:
            return
        self._edges[cause] = self._once((node, tuple(map(self._once, keys))))
        for key in keys:
            counts = self._nodes_of.setdefault(key, {})
            counts[node] = counts.get(node, 0) + 1

    def _once(self, value: V) -> V:
        if len(self._shared) > SHARED_LIMIT:
            self._shared.clear()
        known: V = self._shared.setdefault(value, value)
        return known

    def _drop(self, node: str, keys: tuple[Key, ...]) -> None:
        for key in keys:
            counts = self._nodes_of[key]
            counts[node] -= 1
            if not counts[node]:
                del counts[node]
            if not counts:
                del self._nodes_of[key]

    def _pod_changed(self, namespace: str, name: str, pod: Object | None) -> None:
        key = ("pods", namespace, name)
        if pod is None:
            self._additions.pop(key, None)
            self._set(key, "", ())
            return
        node = (pod.get("spec") or {}).get("nodeName") or ""
        known = self._edges.get(key)
        additions = _additions(pod)
        if (known[0] if known else "") == node and self._additions.get(key, ()) == additions:
            return
        if additions:
            self._additions[key] = additions
        self._set(key, node, tuple(dict.fromkeys(_pod_references(pod))))

    def _volume_changed(self, old: Object | None, new: Object | None) -> None:
        name = (new or old or {})["metadata"]["name"]
        self._claim_of_volume.pop(name, None)
        for key in self._volume_secrets.pop(name, ()):
            volumes = self._volumes_of_secret[key]
            volumes.discard(name)
            if not volumes:
                del self._volumes_of_secret[key]
        claim = ((new or {}).get("spec") or {}).get("claimRef")
        if new is None or not claim:
            return
        self._claim_of_volume[name] = (
            "persistentvolumeclaims",
            claim.get("namespace", ""),
            claim.get("name", ""),
        )
        self._volume_secrets[name] = keys = tuple(_volume_secrets(new))
        for key in keys:
            self._volumes_of_secret.setdefault(key, set()).add(name)

    def _attachment_changed(self, old: Object | None, new: Object | None) -> None:
        self._named_node_changed("volumeattachments", old, new)

    def _slice_changed(self, old: Object | None, new: Object | None) -> None:
        self._named_node_changed("resourceslices", old, new)

    def _named_node_changed(self, resource: str, old: Object | None, new: Object | None) -> None:
        key = (resource, "", (new or old or {})["metadata"]["name"])
        self._set(key, ((new or {}).get("spec") or {}).get("nodeName") or "", ())


def _additions(pod: Object) -> tuple[Any, ...]:
    """What has to change, beside the node, for a pod's references to change: all else in them is
    immutable. Empty for most pods."""
    status = pod.get("status") or {}
    found = (
        len((pod.get("spec") or {}).get("ephemeralContainers") or ()),
        status.get("resourceClaimStatuses"),
        status.get("extendedResourceClaimStatus"),
    )
    return found if any(found) else ()


def _pod_references(pod: Object) -> Iterator[Key]:
    metadata, spec = pod["metadata"], pod.get("spec") or {}
    if MIRROR_ANNOTATION in (metadata.get("annotations") or {}):
        return
    namespace = metadata.get("namespace", "")
    if spec.get("serviceAccountName"):
        yield ("serviceaccounts", namespace, spec["serviceAccountName"])
    for name in secret_names(pod):
        yield ("secrets", namespace, name)
    for name in config_map_names(pod):
        yield ("configmaps", namespace, name)
    for name in claim_names(pod):
        yield ("persistentvolumeclaims", namespace, name)
    for name in _resource_claims(pod):
        yield ("resourceclaims", namespace, name)


def _resource_claims(pod: Object) -> Iterator[str]:
    status = pod.get("status") or {}
    made = {
        s.get("name"): s.get("resourceClaimName") for s in status.get("resourceClaimStatuses") or ()
    }
    for claim in (pod.get("spec") or {}).get("resourceClaims") or ():
        name = claim.get("resourceClaimName") or made.get(claim.get("name"))
        if name:
            yield name
    extended = (status.get("extendedResourceClaimStatus") or {}).get("resourceClaimName")
    if extended:
        yield extended


def _volume_secrets(volume: Object) -> Iterator[Key]:
    """The secrets a node needs to mount the volume (those only a provisioner needs are not its)."""
    spec = volume.get("spec") or {}
    claim_namespace = (spec.get("claimRef") or {}).get("namespace", "")
    csi = spec.get("csi") or {}
    for field in ("nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"):
        ref = csi.get(field)
        if ref:
            yield ("secrets", ref.get("namespace", ""), ref.get("name", ""))
    for source in ("cephfs", "rbd", "scaleIO", "iscsi", "flexVolume", "storageos", "cinder"):
        ref = (spec.get(source) or {}).get("secretRef")
        if ref:
            yield ("secrets", ref.get("namespace") or claim_namespace, ref.get("name", ""))
    azure = spec.get("azureFile")
    if azure:
        namespace = azure.get("secretNamespace") or claim_namespace
        yield ("secrets", namespace, azure.get("secretName", ""))
