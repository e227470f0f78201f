"""A machine joins a cluster that runs on another one, is lost and comes back, and leaves it again.

The other machine is a network namespace that the test makes, with a link to this one, a home and
a container runtime of its own. The tests are one story, in the order of the file.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.cluster.machine import SHELL_IMAGE, Machine, pod
from tests.cluster.three_nodes import Trio, eventually, marks
from tests.images.busybox import build_busybox

from navarch.cluster import namespaces, processes, topology
from navarch.cluster.profile import Paths, Profile

pytestmark = marks

NAME, PLACE, WIRE = "trio", "navarch-test-far", "navtest-far0"
HERE, THERE = "172.30.251.1", "172.30.251.2"
OTHER = "far"


class Far:
    """The other machine."""

    def __init__(self, home: Path) -> None:
        self.home = home
        ip = ["ip", "-n", PLACE]
        for command in (
            ["ip", "netns", "add", PLACE],
            ["ip", "link", "add", WIRE, "type", "veth", "peer", "name", "up0", "netns", PLACE],
            ["ip", "address", "add", f"{HERE}/30", "dev", WIRE],
            ["ip", "link", "set", WIRE, "up"],
            [*ip, "link", "set", "lo", "up"],
            [*ip, "address", "add", f"{THERE}/30", "dev", "up0"],
            [*ip, "link", "set", "up0", "up"],
            [*ip, "route", "add", "default", "via", HERE],
        ):
            subprocess.run(command, check=True)

    def run(self, *command: str, check: bool = True, home: Path | None = None) -> str:
        # Not `ip netns exec`, which comes with mounts of its own that nobody else sees.
        inside = ["nsenter", f"--net=/run/netns/{PLACE}", *command]
        environment = {
            **os.environ,
            "NAVARCH_HOME": str(home or self.home),
            "KUBECONFIG": "/nowhere",
        }
        done = subprocess.run(inside, env=environment, capture_output=True, text=True, check=False)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def navarch(self, *words: str, check: bool = True, home: Path | None = None) -> str:
        return self.run(sys.executable, "-m", "navarch.cli.main", *words, check=check, home=home)

    @property
    def paths(self) -> Paths:
        return Paths(self.home / OTHER)

    def remove(self) -> None:
        self.navarch("delete", "-p", OTHER, check=False)
        subprocess.run(["ip", "link", "del", WIRE], check=False)
        subprocess.run(["ip", "netns", "del", PLACE], check=False)


@pytest.fixture(scope="module")
def joined() -> Iterator[tuple[Trio, Far]]:
    home = Path(tempfile.mkdtemp(prefix="navarch-test-"))
    machine = Machine(home / "home", home / "kubeconfig")
    far, trio = Far(home / "far"), Trio(machine)
    archive = str(build_busybox(home / "shell.tar", SHELL_IMAGE))
    try:
        machine.navarch("start", "-p", NAME, "--nodes", "1", "--listen-address", HERE)
        command = machine.navarch("token", "create", "-p", NAME).split()
        assert command[:3] == ["navarch", "join", f"{HERE}:{trio.profile.api_port}"]
        far.navarch(*command[1:], "-p", OTHER, "--node-name", OTHER)
        told = machine.navarch("image", "load", "-p", NAME, archive)
        assert f"Not on other machines: load it there, too ({OTHER})" in told
        assert "Not on" not in far.navarch("image", "load", "-p", OTHER, archive)
        for node in (NAME, OTHER):
            trio.add_pod(node, node)
        yield trio, far
    finally:
        trio.close()
        far.remove()
        machine.navarch("delete", "--all", expect=None)
        shutil.rmtree(home, ignore_errors=True)


def test_pods_reach_each_other_through_the_tunnel(joined: tuple[Trio, Far]) -> None:
    """In whole, and each as itself, though there is a router in between."""
    trio, far = joined
    assert f"dev {topology.TUNNEL}" in far.run("ip", "route")
    eventually(lambda: trio.matrix() == {}, "the matrix", 20)
    addresses = trio.machine.get("node", OTHER)["status"]["addresses"]
    assert {"type": "InternalIP", "address": THERE} in addresses


def test_the_joined_node_is_a_node_like_any(joined: tuple[Trio, Far]) -> None:
    """Logs, exec, names, Services and the API server, from there as from here."""
    trio, far = joined
    kubectl = trio.machine.kubectl
    assert OTHER in trio.machine.navarch("node", "list", "-p", NAME)
    assert "kubelet: Running" in far.navarch("status", "-p", OTHER)
    kubectl("logs", OTHER)
    lookup = kubectl("exec", OTHER, "--", "nslookup", "kubernetes.default.svc.cluster.local")
    assert trio.profile.kubernetes_service_addresses[0] in lookup
    address = trio.expose()
    for name in (NAME, OTHER):
        eventually(partial(trio.is_served, name, address), name, 20)
    unknown = trio.profile.service_cidr.replace("0.0/16", "77.77")
    nobody = trio.profile.pod_cidr.replace("0.0/16", "77.77")
    for target in (unknown, nobody):
        said = far.run("busybox", "wget", "-T", "3", "-O", "-", f"http://{target}/", check=False)
        assert "timed out" not in said, said


def ready(pod: dict[str, Any]) -> bool:
    conditions = pod["status"].get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def near_its_end(pair: Path, pki: Path) -> bytes:
    """The same certificate, of which little is left."""
    now = datetime.now(UTC)
    old = x509.load_pem_x509_certificate(pair.read_bytes())
    key = serialization.load_pem_private_key(pair.read_bytes(), None)
    signer = serialization.load_pem_private_key((pki / "ca.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=99))
        .not_valid_after(now + timedelta(days=1))
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    made = builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    return made + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def serial(pair: Path) -> int:
    return x509.load_pem_x509_certificate(pair.read_bytes()).serial_number


def test_certificates_are_renewed_while_pods_run(joined: tuple[Trio, Far]) -> None:
    """All three: the kubelet's own, the one it serves with, and that of the proxy."""
    trio, far = joined
    before = trio.machine.get("pod", OTHER)["status"]["containerStatuses"]
    pki = far.paths.node(OTHER) / "pki"
    pairs = [pki / f"{name}.pem" for name in ("kubelet", "kubelet-serving", "proxy")]
    for pair in pairs:
        pair.write_bytes(near_its_end(pair, trio.machine.paths(NAME).pki))
    serials = [serial(pair) for pair in pairs]
    process = processes.read_pid_file(far.paths.run / f"node-{OTHER}.pid")
    assert process is not None
    os.kill(process.pid, 9)
    eventually(
        lambda: all(now != old for now, old in zip(map(serial, pairs), serials, strict=True)),
        "new certificates",
    )
    replaced = processes.read_pid_file(far.paths.run / f"node-{OTHER}.pid")
    eventually(lambda: trio.machine.kubectl("logs", OTHER, expect=None) is not None, "logs", 20)
    trio.machine.kubectl("exec", OTHER, "--", "true")
    assert trio.machine.get("pod", OTHER)["status"]["containerStatuses"] == before
    # Nothing was started anew for it.
    assert processes.read_pid_file(far.paths.run / f"node-{OTHER}.pid") == replaced


def test_who_has_no_right_does_not_join(joined: tuple[Trio, Far]) -> None:
    trio, far = joined
    port, machine = trio.profile.api_port, trio.machine
    words = machine.navarch("token", "create", "-p", NAME, "--ttl", "1h").split()
    token, digest = words[4], words[6]
    assert token in machine.navarch("token", "list", "-p", NAME)
    home = far.home.with_name("thief")

    def refused(token: str, digest: str, home: Path | None = home) -> str:
        words = ("--token", token, "--discovery-token-ca-cert-hash", digest, "-p", "thief")
        return far.navarch("join", f"{HERE}:{port}", *words, check=False, home=home)

    assert "not what was given" in refused(token, "sha256:" + 64 * "0")
    # Nor does a machine join twice, whether it knows of the other node or not.
    assert "a kubelet listens at" in refused(token, digest)
    assert "this machine is the node far of the cluster" in refused(token, digest, None)
    machine.navarch("token", "delete", "-p", NAME, token)
    assert token not in machine.navarch("token", "list", "-p", NAME)
    eventually(
        lambda: "does not know this token" in refused(token, digest),
        "the token is of no use any more",
        30,
    )
    assert not home.exists()
    assert not (far.home / "thief").exists()


def test_what_runs_on_the_machine_is_started_again(joined: tuple[Trio, Far]) -> None:
    """The supervisor by its guardian, the guardian and the agent by the supervisor; pods go on."""
    trio, far = joined
    run, name = far.paths.run, f"node-{OTHER}"
    before = trio.machine.get("pod", OTHER)["status"]["containerStatuses"]

    def killed(process: str) -> None:
        old = processes.read_pid_file(run / f"{process}.pid")
        assert old is not None
        os.kill(old.pid, 9)
        eventually(
            lambda: processes.read_pid_file(run / f"{process}.pid") not in (None, old), process, 20
        )

    for process in ("guardian", "supervisor", name):
        killed(process)
    eventually(lambda: trio.machine.kubectl("logs", OTHER, expect=None) is not None, "logs", 20)
    assert trio.machine.get("pod", OTHER)["status"]["containerStatuses"] == before


def deployment(name: str, replicas: int = 1) -> str:
    """Pods that would rather be on the other machine, and do not wait for it once it is lost."""
    spec = json.loads(pod(name, "sleep 1000000"))["spec"]
    here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [OTHER]}
    term = {"weight": 100, "preference": {"matchExpressions": [here]}}
    spec["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term]}}
    lost = {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute", "operator": "Exists"}
    spec["tolerations"] = [lost | {"tolerationSeconds": 1}]
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": spec}
    body = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    metadata = {"name": name, "labels": labels}
    kind = {"apiVersion": "apps/v1", "kind": "Deployment"}
    return json.dumps({**kind, "metadata": metadata, "spec": body})


def condition(trio: Trio) -> str:
    found = trio.machine.get("node", OTHER)["status"]["conditions"]
    return str(next(each["status"] for each in found if each["type"] == "Ready"))


def test_a_machine_that_is_lost_comes_back(joined: tuple[Trio, Far]) -> None:
    """Its agent killed and its network cut: not ready, its pods evicted. Back: ready, and the pods
    that nobody there could end are gone."""
    trio, far = joined
    machine = trio.machine
    machine.hasten_loss(NAME)
    machine.kubectl("apply", "-f", "-", feed=deployment("moving"))
    machine.kubectl("rollout", "status", "deployment/moving", "--timeout=120s")
    agent = processes.read_pid_file(far.paths.run / f"node-{OTHER}.pid")
    assert agent is not None
    subprocess.run(["ip", "link", "set", WIRE, "down"], check=True)
    try:
        os.kill(agent.pid, 9)
        eventually(lambda: condition(trio) == "Unknown", "not ready", 40)
        eventually(lambda: runs_on(trio, NAME), "the pod is started elsewhere", 40)
    finally:
        subprocess.run(["ip", "link", "set", WIRE, "up"], check=True)
    eventually(lambda: condition(trio) == "True", "ready again", 40)
    eventually(lambda: len(moving(trio)) == 1, "the evicted pod is gone", 30)
    eventually(lambda: not machine.get("node", OTHER)["spec"].get("taints"), "no taints", 30)
    eventually(lambda: trio.matrix() == {}, "the pods reach each other again", 30)


def moving(trio: Trio) -> list[dict[str, Any]]:
    return list(trio.machine.get("pods", "-l", "app=moving")["items"])


def runs_on(trio: Trio, node: str) -> bool:
    return any(
        each["spec"].get("nodeName") == node and each["status"]["phase"] == "Running"
        for each in moving(trio)
    )


def test_leaving_takes_everything_along(joined: tuple[Trio, Far]) -> None:
    trio, far = joined
    trio.close()
    machine = trio.machine
    group = Machine(far.home, far.home).cgroup(Profile(OTHER))
    assert processes.cgroup_directories(group)
    # Of these a budget keeps one, until another runs elsewhere.
    machine.kubectl("delete", "pod", "--wait=false", *trio.pods)
    machine.kubectl("delete", "deployment", "moving", "--wait=false")
    machine.kubectl("apply", "-f", "-", feed=deployment("kept", 2))
    words = ("--selector=app=kept", "--min-available=1")
    machine.kubectl("create", "poddisruptionbudget", "kept", *words)
    machine.kubectl("rollout", "status", "deployment/kept", "--timeout=120s")
    said = far.navarch("leave", "-p", OTHER)
    assert "navarch node delete far" in said
    assert "is deleted" not in said
    pods = machine.get("pods", "-l", "app=kept")["items"]
    assert {each["spec"]["nodeName"] for each in pods if ready(each)} == {NAME}
    assert not far.home.exists()
    assert processes.cgroup_directories(group) == []
    assert [line for line in namespaces.mount_points() if str(far.home) in line] == []
    assert condition(trio) == "False"
    eventually(lambda: "veth" not in far.run("ip", "link"), "no pod's link", 20)
    routes = sorted(line.split()[0] for line in far.run("ip", "route").splitlines())
    assert routes == ["172.30.251.0/30", "default"]
    tables = far.run("nft", "list", "tables").splitlines()
    assert [line for line in tables if "nat" not in line.split()] == []
    assert topology.TUNNEL not in far.run("ip", "link")
    trio.machine.navarch("node", "delete", "-p", NAME, OTHER, "--force")
    names = [node["metadata"]["name"] for node in trio.machine.get("nodes")["items"]]
    assert names == [NAME]
    eventually(
        lambda: topology.TUNNEL not in trio.inside(NAME, "ip", "link"), "the tunnel is gone", 20
    )
