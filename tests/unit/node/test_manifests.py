"""Static pods."""

from __future__ import annotations

from pathlib import Path

from tests.unit.node.fakes import Stage, stage

from navarch.node.manifests import mirror_of, static_pod
from navarch.node.podspec import CONFIG_HASH, CONFIG_MIRROR, is_critical, is_mirror, is_static

DOCUMENT = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "static"},
    "spec": {"containers": [{"name": "main", "image": "busybox:1.36"}]},
}


def test_a_manifest_becomes_a_pod_of_this_node() -> None:
    pod = static_pod(DOCUMENT, "node-1")
    assert (pod.metadata.name, pod.metadata.namespace) == ("static-node-1", "default")
    assert pod.metadata.uid == pod.metadata.annotations[CONFIG_HASH]
    assert is_static(pod) and is_critical(pod) and not is_mirror(pod)
    assert pod.spec.containers[0].imagePullPolicy == "IfNotPresent"
    changed = {**DOCUMENT, "spec": {"containers": [{"name": "main", "image": "busybox:2"}]}}
    assert static_pod(changed, "node-1").metadata.uid != pod.metadata.uid
    assert static_pod(DOCUMENT, "node-2").metadata.uid != pod.metadata.uid


def test_its_mirror_shows_it() -> None:
    pod = static_pod(DOCUMENT, "node-1")
    mirror = mirror_of(pod, "node-uid")
    assert is_mirror(mirror)
    assert mirror.metadata.annotations[CONFIG_MIRROR] == pod.metadata.uid
    assert mirror.metadata.uid == ""
    assert mirror.metadata.ownerReferences[0].uid == "node-uid"
    assert CONFIG_MIRROR not in pod.metadata.annotations


async def test_it_runs_without_the_api_and_tells_its_mirror(tmp_path: Path) -> None:
    async with stage(tmp_path) as node:
        pod = static_pod(DOCUMENT, "node-1")
        node.agent.pod_present(pod)
        await node.rest()
        assert str(node.runtime).endswith("main#0 running")
        assert node.api.statuses == []
        await show_mirror(node)
        assert node.api.pods["static-node-1"].status.phase == "Running"
        node.agent.pod_gone(pod)
        await node.rest()
        assert str(node.runtime) == ""


async def show_mirror(node: Stage) -> None:
    worker = node.agent.find("default", "static-node-1")
    assert worker is not None
    mirror = mirror_of(worker.pod, "node-uid")
    mirror.metadata.uid = "mirror-uid"
    node.api.put(mirror)
    worker.writer.seen(mirror)
    await node.rest()
