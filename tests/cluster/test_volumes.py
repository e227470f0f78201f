"""Data that outlives its pods: a StatefulSet on two nodes with the default class `standard`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.machine import SHELL_IMAGE, Machine, a_cluster

from navarch.cluster import processes

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="real nodes need root"),
    pytest.mark.skipif(shutil.which("containerd") is None, reason="run: navarch setup"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="run: navarch setup"),
]

NAME = "vols"
APART = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "db"}}}
WRITE = "echo $HOSTNAME >> /data/log; ln -sfn /etc /data/link; sleep 1000000"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with a_cluster(NAME, "--nodes", "2") as found:
        yield found


def stateful_set() -> str:
    """Two pods that write as an ordinary user, each on its own node."""
    container = {
        "name": "main",
        "image": SHELL_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", WRITE],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    spec: dict[str, Any] = {
        "serviceName": "db",
        "replicas": 2,
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": {"app": "db"}},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
        "template": {
            "metadata": {"labels": {"app": "db"}},
            "spec": {
                "containers": [container],
                "terminationGracePeriodSeconds": 0,
                "securityContext": {"runAsUser": 1000},
                "affinity": {
                    "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [APART]}
                },
            },
        },
        "volumeClaimTemplates": [
            {
                "metadata": {"name": "data"},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}},
                },
            }
        ],
    }
    kind = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}}
    return json.dumps({**kind, "spec": spec})


def eventually(condition: Callable[[], object], what: str) -> None:
    assert processes.wait_until(lambda: bool(condition()), 60, 0.1), what


def rolled_out(machine: Machine) -> None:
    machine.kubectl("rollout", "status", "statefulset/db", "--timeout=120s")


def directories(machine: Machine) -> dict[str, Path]:
    """What volumes there are on disk, by their names."""
    found = machine.paths(NAME).root.glob("nodes/*/kubelet/local-volumes/pvc-*")
    return {path.name: path for path in found}


def written(machine: Machine, claim: str) -> list[str]:
    """What the pods have written to a claim's volume."""
    volume = machine.get("pvc", claim)["spec"]["volumeName"]
    return (directories(machine)[volume] / "log").read_text().split()


def test_there_is_a_default_class(machine: Machine) -> None:
    (found,) = machine.get("storageclass")["items"]
    assert found["metadata"]["name"] == "standard"
    assert found["volumeBindingMode"] == "WaitForFirstConsumer"
    default = "storageclass.kubernetes.io/is-default-class"
    assert found["metadata"]["annotations"][default] == "true"
    # What the user makes of it stays, also when the cluster is started again.
    machine.kubectl("annotate", "storageclass", "standard", f"{default}=false", "--overwrite")
    machine.navarch("start", "-p", NAME, "--nodes", "2")
    (found,) = machine.get("storageclass")["items"]
    assert found["metadata"]["annotations"][default] == "false"
    machine.kubectl("annotate", "storageclass", "standard", f"{default}=true", "--overwrite")


def test_the_data_of_a_stateful_set(machine: Machine) -> None:
    machine.kubectl("apply", "-f", "-", feed=stateful_set())
    rolled_out(machine)
    claims = machine.get("pvc")["items"]
    assert [each["status"]["phase"] for each in claims] == ["Bound", "Bound"]
    assert len(directories(machine)) == 2
    assert len({path.parent for path in directories(machine).values()}) == 2
    eventually(lambda: written(machine, "data-db-0") == ["db-0"], "the pod's first line")
    # A pod whose volume is on a node that takes no pods waits for it.
    node = machine.get("pod", "db-0")["spec"]["nodeName"]
    machine.kubectl("cordon", node)
    machine.kubectl("delete", "pod", "db-0")

    def refusal() -> str:
        found = machine.kubectl("get", "pod", "db-0", "-o", "json", expect=None)
        conditions = json.loads(found or "{}").get("status", {}).get("conditions", [])
        return " ".join(each.get("message", "") for each in conditions)

    eventually(
        lambda: "1 node(s) didn't match PersistentVolume's node affinity" in refusal(),
        "the reason for which the pod waits",
    )
    machine.kubectl("uncordon", node)
    rolled_out(machine)
    assert machine.get("pod", "db-0")["spec"]["nodeName"] == node
    eventually(lambda: written(machine, "data-db-0") == ["db-0"] * 2, "old data and new")
    # Nor does a restart of everything lose any.
    machine.navarch("stop", "-p", NAME)
    machine.navarch("start", "-p", NAME)
    eventually(lambda: written(machine, "data-db-0") == ["db-0"] * 3, "a line after the restart")
    # A claim that grows keeps its data, and one that goes takes it along, but nothing else.
    more = {"spec": {"resources": {"requests": {"storage": "2Gi"}}}}
    machine.kubectl("patch", "pvc", "data-db-0", "-p", json.dumps(more))
    eventually(
        lambda: machine.get("pvc", "data-db-0")["status"]["capacity"] == {"storage": "2Gi"},
        "the larger claim",
    )
    kept = machine.get("pvc", "data-db-0")["spec"]["volumeName"]
    machine.kubectl("scale", "statefulset", "db", "--replicas=1")
    eventually(lambda: [*directories(machine)] == [kept], "the end of the second volume")
    machine.kubectl("delete", "statefulset", "db")
    eventually(lambda: not directories(machine), "the end of the first volume")
    eventually(lambda: not machine.get("pv")["items"], "the end of its object")
    assert Path("/etc/passwd").is_file()
