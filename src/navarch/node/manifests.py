"""Static pods: manifests in a directory of the node, run without the API, shown by mirrors in it.

A static pod is named `<name>-<node>`; its uid is a digest of its manifest, so that a changed file
is another pod. The mirror is an object for people: deleting it deletes nothing but itself, and it
is made again (KEP-less lore; `pkg/kubelet/config/common.go`, `pkg/kubelet/pod/mirror_client.go`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from navarch.api.errors import ApiError
from navarch.api.objects import copy_object, from_object
from navarch.api.types.core_v1 import Pod, Toleration
from navarch.api.types.meta_v1 import OwnerReference
from navarch.client.informer import Informer

from .agent import NodeAgent
from .podapi import PodApi
from .podspec import CONFIG_HASH, CONFIG_MIRROR, CONFIG_SOURCE, is_mirror, pod_key
from .settings import NodeOptions

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
SEEN = "kubernetes.io/config.seen"


def static_pod(document: Mapping[str, Any], node_name: str) -> Pod:
    """The pod that a manifest stands for on this node, with the defaults the API would set."""
    digest = hashlib.md5(
        msgspec.json.encode([node_name, document], order="sorted"), usedforsecurity=False
    ).hexdigest()
    pod = from_object(Pod, dict(document))
    meta = pod.metadata
    meta.name = f"{meta.name}-{node_name}"
    meta.namespace = meta.namespace or "default"
    meta.uid = meta.uid or digest
    meta.annotations = {**meta.annotations, CONFIG_SOURCE: "file", CONFIG_HASH: digest}
    meta.generation = 1
    spec = pod.spec
    spec.nodeName = node_name
    spec.restartPolicy = spec.restartPolicy or "Always"
    spec.dnsPolicy = spec.dnsPolicy or "ClusterFirst"
    if spec.terminationGracePeriodSeconds is None:
        spec.terminationGracePeriodSeconds = 30
    # Nothing but the manifest decides whether a static pod runs here.
    spec.tolerations = [*spec.tolerations, Toleration(operator="Exists", effect="NoExecute")]
    for container in (*spec.initContainers, *spec.containers):
        if not container.imagePullPolicy:
            latest = ":" not in container.image.rpartition("/")[2] or container.image.endswith(
                ":latest"
            )
            container.imagePullPolicy = "Always" if latest else "IfNotPresent"
    pod.status.phase = "Pending"
    return pod


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


class ManifestDirectory:
    """Watches the manifest directory."""

    def __init__(
        self, options: NodeOptions, agent: NodeAgent, api: PodApi, pods: Informer[Pod]
    ) -> None:
        assert options.manifest_directory is not None
        self._directory: Path = options.manifest_directory
        self._node_name = options.node_name
        self._agent, self._api, self._pods = agent, api, pods
        self._running: dict[str, Pod] = {}

    async def load(self) -> None:
        """Reads the directory and tells the agent of every pod that is new or gone."""
        wanted = await asyncio.to_thread(self._read)
        for uid in self._running.keys() - wanted.keys():
            self._agent.pod_gone(self._running[uid])
        for uid in wanted.keys() - self._running.keys():
            self._agent.pod_present(wanted[uid])
        self._running = wanted

    async def run(self) -> None:
        """Runs until cancelled."""
        while True:
            await self.load()
            try:
                await self._mirror()
            except ApiError as error:
                log.warning("mirror pods: %s", error)
            await asyncio.sleep(POLL_SECONDS)

    def _read(self) -> dict[str, Pod]:
        import yaml

        result = {}
        for path in sorted(self._directory.iterdir()) if self._directory.is_dir() else ():
            if path.name.startswith(".") or path.suffix not in (".yaml", ".yml", ".json"):
                continue
            try:
                document = yaml.safe_load(path.read_text())
                if isinstance(document, dict) and document.get("kind") == "Pod":
                    pod = static_pod(document, self._node_name)
                    result[pod.metadata.uid] = pod
            except (OSError, yaml.YAMLError, msgspec.ValidationError) as error:
                log.warning("manifest %s: %s", path, error)
        return result

    async def _mirror(self) -> None:
        """Makes the mirrors match: one for each static pod, none for others."""
        node = self._agent.node
        mirrors = {pod_key(pod): pod for pod in self._pods.cache.list() if is_mirror(pod)}
        by_name = {pod_key(pod): pod for pod in self._running.values()}
        for key, mirror in mirrors.items():
            static = by_name.get(key)
            expected = static.metadata.annotations[CONFIG_HASH] if static is not None else ""
            if mirror.metadata.annotations[CONFIG_MIRROR] != expected:
                meta = mirror.metadata
                await self._api.delete(meta.namespace, meta.name, meta.uid, 0)
        if node is None:
            return
        for key, static in by_name.items():
            current = mirrors.get(key)
            if current is None:
                try:
                    await self._api.create(mirror_of(static, node.metadata.uid))
                except ApiError as error:
                    if not error.is_already_exists:
                        raise
                continue
            worker = self._agent.find(static.metadata.namespace, static.metadata.name)
            if worker is not None:
                worker.writer.seen(current)
