"""Parts of volumes whose names are made of variables (subPathExpr)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.cluster.node.conftest import Cluster, eventually, pod, shell
from tests.cluster.node.test_pod_life import FOREVER, is_ready, reason_of
from tests.cluster.node.test_pod_surroundings import ended_well

pytestmark = pytest.mark.cluster

EXPANSION = "Variable Expansion should"
WORK = [{"name": "work", "emptyDir": {}}]


def reader(expression: str, script: str, **variables: str | dict[str, Any]) -> dict[str, Any]:
    """A container that has a part of the volume at /part and all of it at /whole."""
    env = [
        {"name": name, "value": value} if isinstance(value, str) else {"name": name, **value}
        for name, value in variables.items()
    ]
    part = {"name": "work", "mountPath": "/part", "subPathExpr": expression}
    mounts = [part, {"name": "work", "mountPath": "/whole"}]
    return shell("main", script, env=env, volumeMounts=mounts)


@pytest.mark.conformance(
    f"{EXPANSION} allow substituting values in a volume subpath",
    f"{EXPANSION} fail substituting values in a volume subpath with backticks",
    f"{EXPANSION} fail substituting values in a volume subpath with absolute path",
    f"{EXPANSION} succeed in writing subpaths in container",
    f"{EXPANSION} verify that a failing subpath expansion can be modified during the lifecycle of "
    "a container [Slow]",
)
async def test_parts_named_by_variables(cluster: Cluster) -> None:
    annotation = {"valueFrom": {"fieldRef": {"fieldPath": "metadata.annotations['part']"}}}
    script = f"touch /whole/mypath/foo/log && test -f /part/log && {FOREVER}"
    nested = reader("$(ANNOTATION)/$(NAME)", script, NAME="foo", ANNOTATION=annotation)
    named = pod("named", nested, volumes=WORK)
    named["metadata"]["annotations"] = {"part": "mypath"}
    late = pod("late", nested, volumes=WORK)
    late["metadata"]["annotations"] = {"other": "mypath"}
    valid = reader("$(NAME)", "test -d /whole/valid; echo $?", NAME="valid")
    refused = {"dots": "..", "absolute": "/tmp", "through": "a/../../.."}
    await asyncio.gather(
        cluster.create(pod("valid", valid, restartPolicy="Never", volumes=WORK)),
        cluster.create(named),
        cluster.create(late),
        *(
            cluster.create(pod(name, reader("$(NAME)", "true", NAME=value), volumes=WORK))
            for name, value in refused.items()
        ),
    )
    assert await cluster.logs(await cluster.wait("valid", ended_well), "main") == "0"
    for name in refused:
        await cluster.wait(name, lambda each: reason_of(each) == "CreateContainerConfigError")
    await cluster.wait("late", lambda each: reason_of(each) == "CreateContainerConfigError")
    pods = cluster.client.dynamic("", "v1", "pods")
    await cluster.wait("named", is_ready)
    await pods.patch("named", "default", {"metadata": {"annotations": {"part": "other"}}})
    await pods.patch("late", "default", {"metadata": {"annotations": {"part": "mypath"}}})
    await cluster.wait("late", is_ready)
    still = await cluster.get("named")
    assert is_ready(still) and still.status.containerStatuses[0].restartCount == 0
    for name in ("named", "late", *refused):
        await cluster.delete(name)

    async def is_clean() -> bool:  # what was named otherwise meanwhile, and what never began
        return not await cluster.runtime.pods() and not list(
            (cluster.options.root_directory / "pods").iterdir()
        )

    await cluster.delete("valid")
    await eventually(is_clean)
