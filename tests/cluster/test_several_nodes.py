"""Three real nodes: their pods reach each other, by routes and through tunnels; nodes are cut off,
switched off, deleted and added while the others go on."""

from __future__ import annotations

import json
import socket
import subprocess
from functools import partial
from pathlib import Path

import pytest
from tests.cluster.machine import SHELL_IMAGE
from tests.cluster.three_nodes import NAME, PORT, WHOLE, Trio, eventually, marks, three_nodes

from navarch.cluster import images, topology
from navarch.cluster.namespaces import Pins

__all__ = ["three_nodes"]
pytestmark = marks

LAST = f"{NAME}-m03"
MEANWHILE = "navarch.local/meanwhile:1"
PLENTY = 400 << 20
FLOOD = """
import socket, sys, time
host, port, plenty, seconds = sys.argv[1], *map(float, sys.argv[2:])
total, begin = 0, time.monotonic()
with socket.create_connection((host, int(port)), 5) as tcp:
    tcp.settimeout(0.2)
    tcp.sendall(b"4000000000\\n")
    while total < plenty and time.monotonic() - begin < seconds:
        try:
            total += tcp.send(bytes(1 << 20))
        except TimeoutError:
            pass
print(total, time.monotonic() - begin)
"""


def is_ready(trio: Trio, node: str) -> bool:
    conditions = trio.machine.get("node", node)["status"]["conditions"]
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def mac(trio: Trio) -> str:
    """Of the first node's tunnel end."""
    link = trio.inside(NAME, "ip", "-o", "link", "show", topology.TUNNEL)
    return link.partition("link/ether ")[2].split()[0]


def node_has(trio: Trio, *words: str) -> bool:
    output = trio.inside(NAME, *words, expect=None)
    return bool(output.strip()) and "does not exist" not in output


@pytest.mark.conformance(
    "Networking Granular Checks: Pods should function for intra-pod communication: "
    "http [NodeConformance]",
    "Networking Granular Checks: Pods should function for intra-pod communication: "
    "udp [NodeConformance]",
)
def test_every_pod_reaches_every_pod_as_itself(three_nodes: Trio) -> None:
    assert three_nodes.matrix() == {}


def test_services_names_and_node_ports_on_every_node(three_nodes: Trio) -> None:
    trio = three_nodes
    address = trio.expose()
    nodes = trio.profile.node_names()
    for name in nodes:
        eventually(partial(trio.is_served, name, address), name, 20)
        # The node's agent and its name server answer, on every node.
        answer = trio.machine.kubectl(
            "exec", name, "--", "nslookup", "echo.default.svc.cluster.local"
        )
        assert address in answer
        trio.machine.kubectl("logs", name)
        assert answers(trio.profile.node_address(name), 30700), name


def test_tunnels_carry_everything_and_are_repaired(three_nodes: Trio) -> None:
    """Wrapped packets are larger than the link, also those of pods that were there before."""
    trio = three_nodes
    trio.machine.navarch("start", "-p", NAME, "--pod-network", "vxlan")
    device = ("ip", "-o", "link", "show", topology.TUNNEL)
    others = trio.profile.node_names()[1:]
    route = ("ip", "route", "show", "proto", "77", "dev", topology.TUNNEL)
    eventually(lambda: len(trio.inside(NAME, *route).splitlines()) == len(others), "tunnels")
    eventually(lambda: trio.matrix() == {}, "the matrix", 20)
    assert "mtu 1450" in trio.inside(NAME, *device)
    before = mac(trio)
    # A stranger takes away the device, then a route.
    trio.inside(NAME, "ip", "link", "del", topology.TUNNEL)
    eventually(lambda: len(trio.inside(NAME, *route, expect=None).splitlines()) == 2, "device", 10)
    assert mac(trio) == before
    target = trio.inside(NAME, *route).split()[0]
    trio.inside(NAME, "ip", "route", "del", target)
    eventually(lambda: target in trio.inside(NAME, *route), "route", 10)
    assert trio.matrix() == {}
    entries = trio.inside(NAME, "bridge", "fdb", "show", "dev", topology.TUNNEL).splitlines()
    assert len([line for line in entries if "dst" in line]) == 2
    # New pods know the size of what fits.
    trio.add_pod("late", others[0])
    mtu = subprocess.run(
        ["nsenter", "-t", str(trio.pid("late")), "-n", "ip", "-o", "link", "show", "eth0"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "mtu 1450" in mtu
    assert trio.matrix() == {}
    trio.machine.navarch("start", "-p", NAME, "--pod-network", "auto")
    eventually(lambda: not node_has(trio, *device), "no tunnel where all are on one link", 20)
    assert trio.matrix() == {}


def test_bandwidth_annotations_limit_a_pod(three_nodes: Trio) -> None:
    """After the first burst (some 190 MB, upstream's choice) no more comes than is allowed."""
    trio = three_nodes
    limits = {f"kubernetes.io/{way}-bandwidth": "8M" for way in ("ingress", "egress")}
    address = trio.add_pod("limited", NAME, annotations=limits)
    assert trio.inside(NAME, "tc", "qdisc", "show").count("tbf") == 2

    def flood(target: str, seconds: float) -> tuple[int, float]:
        """Bytes that were taken, and seconds that it took."""
        client = trio.enter(LAST, FLOOD, target, str(PORT), str(PLENTY), str(seconds))
        sent, took = client.communicate(timeout=90)[0].split()
        return int(sent), float(took)

    sent, took = flood(trio.pods[NAME], 60)
    assert sent >= PLENTY, took
    limited, _ = flood(address, took + 1)
    assert limited < 300 << 20, took


def answers(address: str, port: int = PORT) -> bool:
    """Whether an echo server can be reached from the host."""
    try:
        with socket.create_connection((address, port), 2) as tcp:
            tcp.settimeout(2)
            tcp.sendall(b"3\nabc")
            return tcp.makefile("rb").readlines()[1:] == [b"3\n"]
    except OSError:
        return False


def test_a_node_that_is_cut_off_and_comes_back(three_nodes: Trio) -> None:
    """It is the first one, by which the host reaches Services: another takes its place."""
    trio = three_nodes
    machine = trio.machine
    service = trio.expose()
    machine.hasten_loss(NAME)
    toleration = {
        "key": "node.kubernetes.io/unreachable",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": 1,
    }
    manifest = json.loads(machine.kubectl("get", "pod", NAME, "-o", "json"))
    manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "tolerant"},
        "spec": {
            "nodeName": NAME,
            "tolerations": [toleration],
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "main",
                    "image": manifest["spec"]["containers"][0]["image"],
                    "imagePullPolicy": "Never",
                    "command": ["sleep", "1000000"],
                }
            ],
        },
    }
    machine.kubectl("apply", "-f", "-", feed=json.dumps(manifest))
    machine.kubectl("wait", "--for=condition=Ready", "pod/tolerant", "--timeout=120s")
    wire = f"{trio.profile.bridge}n1"
    subprocess.run(["ip", "link", "set", wire, "down"], check=True)
    try:
        eventually(lambda: not is_ready(trio, NAME), "not ready", 60)
        eventually(
            lambda: machine.get("pod", "tolerant")["metadata"].get("deletionTimestamp"),
            "evicted",
            30,
        )
        taints = machine.get("node", NAME)["spec"]["taints"]
        assert {taint["key"] for taint in taints} >= {"node.kubernetes.io/unreachable"}
        # The others do not notice.
        pods = [trio.pods[name] for name in (LAST, f"{NAME}-m02")]
        assert all(heard[1:] == WHOLE for heard in trio.ask(LAST, pods).values())
        eventually(lambda: answers(service), "a Service, asked from the host", 30)
    finally:
        subprocess.run(["ip", "link", "set", wire, "up"], check=True)
    eventually(lambda: is_ready(trio, NAME), "ready again", 60)
    eventually(lambda: not machine.get("node", NAME)["spec"].get("taints"), "no taints", 30)
    gone = ("get", "pod", "tolerant", "--ignore-not-found", "-o", "name")
    eventually(lambda: not machine.kubectl(*gone), "the evicted pod is gone", 30)
    eventually(lambda: trio.matrix() == {}, "all pods reach each other again", 30)


def test_nodes_are_stopped_deleted_and_added(three_nodes: Trio) -> None:
    """Any node may go, not only the last; the others keep their addresses and their pods."""
    trio = three_nodes
    machine = trio.machine
    gone = f"{NAME}-m02"
    directory = machine.paths(NAME).node(gone)
    machine.remember_namespaces(NAME)
    machine.navarch("node", "stop", "-p", NAME, gone)
    assert directory.is_dir()
    assert not machine.pid(NAME, f"node-{gone}")
    machine.navarch("image", "tag", "-p", NAME, SHELL_IMAGE, MEANWHILE)
    machine.navarch("node", "start", "-p", NAME, gone)
    assert is_ready(trio, gone)
    assert MEANWHILE in images.digests(Pins(machine.paths(NAME).pins, gone))
    machine.navarch("node", "delete", "-p", NAME, gone)
    assert not directory.exists()
    assert [node["metadata"]["name"] for node in machine.get("nodes")["items"]] == [NAME, LAST]
    assert not Path("/sys/class/net", f"{trio.profile.bridge}n2").exists()
    assert not list(machine.paths(NAME).pins.glob(f"{gone}.*"))
    machine.navarch("node", "add", "-p", NAME)
    names = trio.profile.node_names()
    assert names == (NAME, LAST, f"{NAME}-m04")
    assert is_ready(trio, names[-1])
    assert names[-1] in machine.navarch("node", "list", "-p", NAME)
    for name in [name for name in trio.pods if name not in (NAME, LAST)]:
        del trio.pods[name]
    # It has the images of the others: the pod's is pulled from nowhere.
    trio.add_pod(names[-1], names[-1])
    assert trio.matrix() == {}
    output = machine.navarch("node", "delete", "-p", NAME, *names, expect=1)
    assert "last real node" in output
