"""Simulated nodes from the command line: started, added, disturbed, deleted, and kept."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.machine import Machine

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "simulated"
RULES = """
apiVersion: navarch.dev/v1alpha1
kind: SimulatedNodes
nodes:
- {name: small, count: 3, capacity: {cpu: 2}, zones: [a, b]}
pods:
- match: {labels: {matchLabels: {app: stuck}}}
  waiting: ImagePullBackOff
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    home = Path(tempfile.mkdtemp(prefix="nvsim-", dir="/tmp"))
    found = Machine(home / "home", home / "kubeconfig")
    try:
        yield found
    finally:
        found.navarch("delete", "--all", expect=None)
        shutil.rmtree(home)


def nodes(machine: Machine) -> dict[str, Any]:
    return {each["metadata"]["name"]: each for each in machine.get("nodes")["items"]}


def listed(machine: Machine) -> list[str]:
    return [each["Name"] for each in json.loads(machine.navarch("node", "list", "-o", "json"))]


def test_from_start_to_stop(machine: Machine) -> None:
    config = machine.home.parent / "nodes.yaml"
    config.write_text(RULES)
    machine.navarch("start", "-p", NAME, "--simulated-config", str(config), "--simulated", "1")
    machine.navarch("profile", "use", NAME)
    assert sorted(nodes(machine)) == ["sim-0", "small-0", "small-1", "small-2"]
    machine.navarch("node", "add", "--simulated", "2", "--zones", "1", "--capacity", "cpu=1")
    there = ["sim-0", "sim-1", "sim-2", "small-0", "small-1", "small-2"]
    assert sorted(nodes(machine)) == sorted(listed(machine)) == there
    machine.kubectl("run", "ends", "--image=none", "--restart=Never",
                    "--annotations=simulated.navarch.dev/run=0")  # fmt: skip
    machine.kubectl("run", "stuck", "--image=none", "--labels=app=stuck")
    machine.kubectl("wait", "pod/ends", "--for=jsonpath={.status.phase}=Succeeded")
    reason = "jsonpath={.status.containerStatuses[0].state.waiting.reason}"
    machine.kubectl("wait", "pod/stuck", f"--for={reason}=ImagePullBackOff")

    machine.navarch("node", "fault", "kill", "--zone", "b")
    machine.navarch("node", "fault", "condition", "sim-0", "--set", "DiskPressure")
    machine.kubectl("wait", "node/sim-0", "--for=condition=DiskPressure")
    machine.navarch("node", "delete", "sim-1", "small-2")
    # Nodes that are told to be ill hold nobody up.
    machine.navarch("stop")
    machine.navarch("start")
    found = nodes(machine)
    assert sorted(found) == sorted(listed(machine)) == ["sim-0", "sim-2", "small-0", "small-1"]
    faults = {
        name: node["metadata"]["annotations"].get("simulated.navarch.dev/fault")
        for name, node in found.items()
    }
    assert {name for name, fault in faults.items() if fault == "dead"} == {"small-1"}
    machine.navarch("node", "fault", "restore", "--all")
    machine.kubectl("wait", "node", "--all", "--for=condition=Ready")
    machine.kubectl("wait", "node/sim-0", "--for=condition=DiskPressure=False")


def test_the_nodes_have_no_more_rights_than_they_need(machine: Machine) -> None:
    user = ("--as=navarch:simulated-nodes", "--as-group=system:nodes")
    for words, answer in (
        (("list", "pods", "-A"), "yes"),
        (("delete", "pods"), "yes"),
        (("list", "secrets", "-A"), "no"),
        (("create", "pods"), "no"),
        (("delete", "nodes"), "no"),
        (("patch", "leases.coordination.k8s.io", "-n", "kube-system"), "no"),
        (("patch", "leases.coordination.k8s.io", "-n", "kube-node-lease"), "yes"),
    ):
        said = machine.kubectl("auth", "can-i", *words, *user, expect=None)
        assert said.split()[-1] == answer, words


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("start", "--simulated", "1", "--capacity", "cpu=much"), "--capacity.cpu: 'much'"),
        (("start", "--zones", "2"), "Say how many: --simulated N"),
        (("start", "--simulated-config", "/nowhere.yaml"), "/nowhere.yaml"),
        (("node", "add", "--simulated", "1", "--taints", "a=b"), "'a=b' is no taint"),
        (("node", "add", "--simulated", "1", "--timetable", "speed=1"), "no such setting"),
        (("node", "delete", "sim-99"), "there is no simulated node sim-99"),
        (("node", "fault", "kill"), "which nodes?"),
        (("node", "fault", "hang", "sim-99"), "no simulated nodes: sim-99"),
        (("node", "fault", "condition", "sim-0", "--set", "Tired"), "is no condition of a node"),
    ],
)
def test_mistakes_are_named(machine: Machine, words: tuple[str, ...], problem: str) -> None:
    assert problem in machine.navarch(*words, expect=1)
