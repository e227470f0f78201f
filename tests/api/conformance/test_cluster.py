"""What holds for every cluster: it tells its version, and pods have nodes to run on."""

from __future__ import annotations

import re

import pytest
from tests.api.conftest import Api

from navarch.testing import Cluster


@pytest.mark.conformance("server version should find the server version")
async def test_the_version(api: Api) -> None:
    version = (await api.get("/version")).ok()
    assert re.fullmatch("[1-9][0-9]*", version["major"])
    assert re.fullmatch("[0-9]+", version["minor"])
    prefix = f"v{version['major']}.{version['minor']}."
    assert version["gitVersion"].startswith(prefix)
    for field in ("gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"):
        assert version[field], field


@pytest.mark.conformance("Conformance Tests should have at least two untainted nodes")
def test_two_nodes_for_everybody() -> None:
    """Ready, without taints and not cordoned; and the scheduler does use both."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "spec": {
            "containers": [{"name": "c", "image": "registry.example/c:1"}],
            "topologySpreadConstraints": [
                {
                    "maxSkew": 1,
                    "topologyKey": "kubernetes.io/hostname",
                    "whenUnsatisfiable": "DoNotSchedule",
                    "labelSelector": {"matchLabels": {"app": "spread"}},
                }
            ],
        },
    }
    with Cluster(nodes=2) as cluster:
        nodes = [
            cluster.wait_for(f"node/{each['metadata']['name']}", condition="Ready")
            for each in cluster.find("nodes")
        ]
        free = {
            each["metadata"]["name"]
            for each in nodes
            if not each["spec"].get("taints") and not each["spec"].get("unschedulable")
        }
        assert len(free) == 2
        for name in ("a", "b"):
            cluster.apply({**pod, "metadata": {"name": name, "labels": {"app": "spread"}}})
        ran = [cluster.wait_for(f"pod/{name}", condition="Ready") for name in ("a", "b")]
        assert {each["spec"]["nodeName"] for each in ran} == free
