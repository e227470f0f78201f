"""Static pods with real containers: from manifests to mirrors and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.node.conftest import Cluster, eventually, pod, shell

from navarch.api.types.core_v1 import Pod

pytestmark = pytest.mark.cluster

FOREVER = "trap 'exit 0' TERM; while :; do sleep 1 & wait; done"
NAME = "static-node-1"


def write(directory: Path, manifest: dict[str, Any]) -> None:
    """At once, as tools that care do."""
    new = directory / ".new"
    new.write_text(json.dumps(manifest))
    new.rename(directory / "static.yaml")


def manifest(script: str, **spec: Any) -> dict[str, Any]:
    return pod("static", shell("main", script), **spec)


def is_running(each: Pod) -> bool:
    return each.status.phase == "Running"


async def test_from_manifest_to_mirror(cluster: Cluster, tmp_path: Path) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    write(directory, manifest(f"echo one; {FOREVER}"))
    await cluster.stop_agent()
    cluster.start_agent(manifest_directory=directory)
    first = await cluster.wait(NAME, is_running)
    annotations = first.metadata.annotations
    assert annotations["kubernetes.io/config.source"] == "file"
    assert annotations["kubernetes.io/config.mirror"] == annotations["kubernetes.io/config.hash"]
    assert first.metadata.ownerReferences[0].kind == "Node"

    # Deleting the mirror deletes nothing else, and it comes back.
    await cluster.delete(NAME)
    again = await cluster.wait(
        NAME, lambda each: is_running(each) and each.metadata.uid != first.metadata.uid
    )
    assert again.status.containerStatuses[0] == first.status.containerStatuses[0]

    # Another agent finds it running.
    await cluster.stop_agent()
    cluster.start_agent()
    await cluster.wait(NAME, is_running)
    assert await containers(cluster) == [("main", 0)]

    # A changed manifest is another pod; the one before it ends first.
    write(directory, manifest(f"echo two; {FOREVER}"))
    hash_of = "kubernetes.io/config.hash"
    second = await cluster.wait(
        NAME,
        lambda each: (
            is_running(each) and each.metadata.annotations[hash_of] != annotations[hash_of]
        ),
    )
    container = second.status.containerStatuses[0].containerID
    assert container != first.status.containerStatuses[0].containerID

    # What has done its work stays done.
    write(directory, manifest("exit 0", restartPolicy="Never"))
    await cluster.wait(NAME, lambda each: each.status.phase == "Succeeded")
    (directory / "static.yaml").unlink()
    await cluster.wait_gone(NAME)

    async def is_empty() -> bool:
        return not await cluster.runtime.pods()

    await eventually(is_empty)


async def containers(cluster: Cluster) -> list[tuple[str, int]]:
    states = await cluster.runtime.pods()
    return [(each.name, each.attempt) for state in states for each in state.containers]
