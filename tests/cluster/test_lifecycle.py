"""A cluster's life on a real machine: started, stopped, killed in parts, deleted completely."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cluster.machine import SHELL_IMAGE, Machine, a_cluster, pod
from tests.pace import slowness

from navarch.cluster import kernel, namespaces, processes
from navarch.cluster.namespaces import Pins
from navarch.cluster.readiness import resolves

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="real nodes need root"),
    pytest.mark.skipif(shutil.which("containerd") is None, reason="run: navarch setup"),
]

NAME = "life"
COUNT = "echo started >> /data/starts; while :; do date +%s; sleep 0.2; done"
DATA = [{"name": "data", "emptyDir": {}}]


def eventually(condition: Callable[[], object], what: str, timeout: float = 60.0) -> None:
    assert processes.wait_until(lambda: bool(condition()), timeout, 0.1), what


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with a_cluster(NAME) as found:
        yield found


def running_pod(machine: Machine, name: str, command: str = "sleep 1000000") -> str:
    """Run a pod and wait for it; returns its container's ID."""
    machine.kubectl("apply", "-f", "-", feed=pod(name, command, node=NAME))
    machine.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=120s")
    return container(machine, name)


def container(machine: Machine, name: str) -> str:
    return str(machine.get("pod", name)["status"]["containerStatuses"][0]["containerID"])


def served_by(port: int) -> str:
    """The certificate that is served on a port of the loopback interface."""
    try:
        return ssl.get_server_certificate(("127.0.0.1", port))
    except OSError:
        return ""


def test_the_cluster_is_usable_when_start_returns(machine: Machine) -> None:
    assert "Configured" in machine.navarch("status", "-p", NAME)
    nodes = machine.get("nodes")["items"]
    assert [node["metadata"]["name"] for node in nodes] == [NAME]
    profile = machine.profile(NAME)
    assert resolves(profile.dns_address, "kubernetes.default.svc.cluster.local")
    machine.kubectl("get", "serviceaccount", "default")
    with socket.create_connection((profile.kubernetes_service_addresses[0], 443), 5):
        pass  # the host reaches Services


def test_status_is_quick(machine: Machine) -> None:
    """Measured in processor time, since other tests may keep the machine busy; and the best of a
    few, since they share its caches as well: on one machine it is 0.32 to 0.6 s."""

    def spent() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        machine.navarch("status", "-p", NAME)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(spent() for _ in range(4)) < 0.7 * slowness()


def test_nobody_listens_to_the_world(machine: Machine) -> None:
    """Neither on the host nor in a node does anything of ours listen on every address, but what
    Kubernetes defines so."""
    profile = machine.profile(NAME)
    listening = subprocess.run(["ss", "-Hltn"], capture_output=True, text=True, check=True).stdout
    addresses = [line.split()[3] for line in listening.splitlines()]
    ours = [entry for entry in addresses if entry.endswith(f":{profile.api_port}")]
    assert sorted(ours) == sorted(
        f"{address}:{profile.api_port}" for address in ("127.0.0.1", profile.host_address)
    )
    for key in [*machine.paths(NAME).root.rglob("*.key"), machine.paths(NAME).pki]:
        assert key.stat().st_mode & 0o077 == 0, key


def test_a_node_sees_neither_keys_nor_store(machine: Machine) -> None:
    paths = machine.paths(NAME)
    seen = machine.navarch("ssh", "-p", NAME, "--", "find", str(machine.home), "-maxdepth", "3")
    assert str(paths.node(NAME)) in seen
    assert str(paths.pki) not in seen
    assert str(paths.store) not in seen


def test_what_is_for_nobody_does_not_leave(machine: Machine) -> None:
    """Unknown Services and pods are refused at once, from the host as from a node."""
    profile = machine.profile(NAME)
    unknown = [
        profile.service_cidr.replace("0.0/16", "77.77"),
        profile.pod_cidr.replace("0.0/16", "77.77"),
    ]
    for address in unknown:
        begin = time.monotonic()
        with pytest.raises(OSError), socket.create_connection((address, 80), 30):
            pass
        assert time.monotonic() - begin < 25, address
        command = ["ssh", "-p", NAME, "--", "busybox", "nc", "-w", "60", address, "80"]
        begin = time.monotonic()
        machine.navarch(*command, expect=None)
        assert time.monotonic() - begin < 25, address


@pytest.mark.parametrize(
    "victim",
    ["apiserver", "controllers", f"node-{NAME}", f"containerd-{NAME}", "supervisor", "everything"],
)
def test_killed_processes_come_back_and_containers_do_not_notice(
    machine: Machine, victim: str
) -> None:
    before = running_pod(machine, "steady")
    names = [victim] if victim != "everything" else list(machine.pids(NAME))
    machine.kill(NAME, names)
    if victim == "everything":
        machine.navarch("start", "-p", NAME)
    eventually(lambda: all(machine.pid(NAME, name) for name in names), f"{names} is back")
    machine.navarch("start", "-p", NAME)
    assert container(machine, "steady") == before
    status = machine.get("pod", "steady")["status"]["containerStatuses"][0]
    assert (status["restartCount"], status["ready"]) == (0, True)
    # The cluster does not only look alive: it works.
    name = f"after-{victim.partition('-')[0]}"
    running_pod(machine, name)
    machine.kubectl("delete", "pod", name, "--timeout=120s")


def test_starting_a_running_cluster_restarts_nothing(machine: Machine) -> None:
    before = machine.pids(NAME)
    machine.navarch("start", "-p", NAME)
    assert machine.pids(NAME) == before


def test_certificates_are_renewed_while_everything_runs(machine: Machine) -> None:
    before = running_pod(machine, "unmoved")
    paths = machine.paths(NAME)
    index_file = paths.pki / "index.json"
    index = json.loads(index_file.read_bytes())
    due = ["pki/apiserver", "pki/admin", f"nodes/{NAME}/pki/kubelet-serving"]
    for path in due:
        index[path]["not_after"] = "2020-01-01T00:00:00+00:00"
    index_file.write_text(json.dumps(index))
    old = {path: (paths.root / f"{path}.crt").read_bytes() for path in due}
    pids = machine.pids(NAME)
    subprocess.run(
        [sys.executable, "-m", "navarch.cluster.renew", NAME],
        env=machine.environment(),
        check=True,
    )
    for path in due:
        assert (paths.root / f"{path}.crt").read_bytes() != old[path], path
    changed = ("apiserver", f"node-{NAME}")
    eventually(
        lambda: all(machine.pid(NAME, name) not in (0, pids[name]) for name in changed),
        "processes that listen have taken up their certificates",
    )
    kept = (f"containerd-{NAME}", "controllers", "supervisor")
    assert all(machine.pid(NAME, name) == pids[name] for name in kept)
    profile = machine.profile(NAME)
    renewed = (paths.pki / "apiserver.crt").read_text()
    eventually(lambda: served_by(profile.api_port).strip() == renewed.strip(), "it is served")
    eventually(lambda: "ok" in machine.kubectl("get", "--raw", "/readyz", expect=None), "ready")
    assert container(machine, "unmoved") == before


def test_images_are_built_upon_those_that_were_loaded(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        f'FROM {SHELL_IMAGE}\nCOPY word /word\nRUN cat /word > /said\nCMD ["sleep", "100000"]\n'
    )
    (tmp_path / "word").write_text("built\n")
    machine.navarch("image", "build", "-p", NAME, "-t", "built:1", str(tmp_path))
    listed = machine.navarch("image", "ls", "-p", NAME).split()
    assert "docker.io/library/built:1" in listed
    manifest = json.loads(pod("built", "cat /said; sleep 100000", node=NAME))
    manifest["spec"]["containers"][0]["image"] = "built:1"
    machine.kubectl("apply", "-f", "-", feed=json.dumps(manifest))
    machine.kubectl("wait", "--for=condition=Ready", "pod/built", "--timeout=120s")
    assert machine.kubectl("logs", "built") == "built\n"
    machine.kubectl("delete", "pod", "built", "--timeout=120s")
    machine.navarch("image", "rm", "-p", NAME, "built:1")
    assert "docker.io/library/built:1" not in machine.navarch("image", "ls", "-p", NAME).split()


def test_a_root_file_system_becomes_an_image(machine: Machine, tmp_path: Path) -> None:
    busybox = shutil.which("busybox")
    assert busybox is not None
    archive = tmp_path / "root.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(busybox, "bin/busybox")
    words = ("image", "load", "-p", NAME, str(archive))
    assert "--name" in machine.navarch(*words, expect=1)
    machine.navarch(*words, "--name", "root:1")
    assert "there already" in machine.navarch(*words, "--name", "root:1")
    assert "docker.io/library/root:1" in machine.navarch("image", "ls", "-p", NAME).split()


def test_host_ports_are_open_on_the_node_and_closed_with_the_pod(machine: Machine) -> None:
    serve = "mkdir /w; echo hello > /w/index.html; httpd -f -p 8080 -h /w"
    manifest = json.loads(pod("ported", serve, node=NAME))
    manifest["spec"]["containers"][0]["ports"] = [{"containerPort": 8080, "hostPort": 8099}]
    machine.kubectl("apply", "-f", "-", feed=json.dumps(manifest))
    machine.kubectl("wait", "--for=condition=Ready", "pod/ported", "--timeout=120s")
    address = machine.profile(NAME).node_address(NAME)
    eventually(lambda: answer(address, 8099).endswith("hello\n"), "the host port answers")
    inside = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 5 127.0.0.1 8099"
    assert "hello" in machine.navarch("ssh", "-p", NAME, "--", "sh", "-c", inside)
    machine.kubectl("delete", "pod", "ported", "--timeout=120s")
    with pytest.raises(OSError):
        fetch(address, 8099)


def answer(address: str, port: int) -> str:
    """What is answered; nothing as long as nobody listens yet."""
    try:
        return fetch(address, port)
    except OSError:
        return ""


def fetch(address: str, port: int) -> str:
    with socket.create_connection((address, port), 5) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(4096), b"")).decode()


def test_logs_and_addresses(machine: Machine) -> None:
    text = machine.navarch("logs", "-p", NAME, "-n", "2")
    for name in ("apiserver", "controllers", "supervisor", f"node-{NAME}", f"containerd-{NAME}"):
        assert f"==> {name} <==" in text
    assert machine.navarch("ip", "-p", NAME).strip() == machine.profile(NAME).node_address(NAME)
    assert machine.navarch("ssh", "-p", NAME, "echo $(hostname)").strip() == NAME
    assert "server: https://127.0.0.1" in machine.navarch("kubeconfig", "-p", NAME)
    assert "apiserver" in machine.navarch("logs", "-p", NAME, "--file", "etcd", expect=1)


def test_a_workload_survives_stop_and_start(machine: Machine) -> None:
    machine.kubectl(
        "apply", "-f", "-", feed=pod("kept", "sleep 1000000", node=NAME, restartPolicy="Always")
    )
    machine.kubectl("wait", "--for=condition=Ready", "pod/kept", "--timeout=120s")
    machine.kubectl("create", "configmap", "note", "--from-literal=key=value")
    uid = machine.get("pod", "kept")["metadata"]["uid"]
    profile = machine.profile(NAME)

    machine.remember_namespaces(NAME)
    machine.navarch("stop", "-p", NAME)
    assert machine.pids(NAME) == {}
    left = [line for line in machine.traces(profile) if not line.startswith("file ")]
    assert left == []
    assert "host: Stopped" in machine.navarch("status", "-p", NAME, expect=7)

    machine.navarch("start", "-p", NAME)
    machine.kubectl("wait", "--for=condition=Ready", "pod/kept", "--timeout=120s")
    found = machine.get("pod", "kept")
    assert found["metadata"]["uid"] == uid
    assert found["status"]["containerStatuses"][0]["restartCount"] >= 1
    assert machine.get("configmap", "note")["data"] == {"key": "value"}
    machine.kubectl("delete", "pod", "kept", "--timeout=120s")


def test_a_reboot_is_healed(machine: Machine) -> None:
    """After a reboot no process, namespace, link or control group is left, but files that speak of
    them are."""
    running_pod(machine, "rebooted")
    profile, paths = machine.profile(NAME), machine.paths(NAME)
    pins = Pins(paths.pins, NAME)
    pids = [machine.pid(NAME, "supervisor"), *machine.pids(NAME).values()]
    inside = namespaces.processes_inside(pins)
    grouped = processes.cgroup_processes(machine.cgroup(profile))
    for pid in {*pids, *inside, *grouped}:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    processes.wait_gone({*pids, *inside, *grouped}, 10)
    for kind in namespaces.KINDS:
        kernel.umount(pins.file(kind), kernel.MNT_DETACH)
    kernel.umount(paths.pins, kernel.MNT_DETACH)
    subprocess.run(["ip", "link", "del", profile.bridge], check=True)
    subprocess.run(["nft", "delete", "table", "ip", profile.bridge], check=True)
    processes.remove_cgroup(machine.cgroup(profile))
    assert list(paths.run.glob("*.pid"))

    machine.navarch("start", "-p", NAME)
    machine.kubectl("wait", "--for=condition=Ready", "pod/rebooted", "--timeout=120s")
    running_pod(machine, "afterwards")


def test_profiles_live_side_by_side(machine: Machine) -> None:
    machine.navarch("start", "-p", "other", "--nodes", "2")
    other = machine.profile("other")
    try:
        assert machine.kubectl("config", "current-context").strip() == "other"
        assert len(machine.get("nodes")["items"]) == 2
        machine.navarch("profile", "use", NAME)
        assert len(machine.get("nodes")["items"]) == 1
        assert "other" in machine.navarch("profile", "list")
        machine.navarch("image", "load", "-p", "other", str(machine.home.parent / "shell.tar"))
        machine.navarch("profile", "use", "other")
        _pods_on_two_nodes_talk(machine)
        machine.navarch("start", "-p", "other", "--nodes", "1")
        assert [node["metadata"]["name"] for node in machine.get("nodes")["items"]] == ["other"]
        assert not list(machine.paths("other").pins.glob("other-m02.*"))
    finally:
        machine.navarch("profile", "use", NAME)
        machine.remember_namespaces("other")
        machine.navarch("delete", "-p", "other")
    assert machine.traces(other) == []
    assert "Running" in machine.navarch("status", "-p", NAME)


def _pods_on_two_nodes_talk(machine: Machine) -> None:
    serve = "mkdir /w; echo hello > /w/index.html; httpd -f -p 8080 -h /w"
    machine.kubectl("apply", "-f", "-", feed=pod("server", serve, node="other"))
    machine.kubectl("apply", "-f", "-", feed=pod("asker", "sleep 1000000", node="other-m02"))
    for name in ("server", "asker"):
        machine.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=120s")
    address = machine.get("pod", "server")["status"]["podIP"]
    ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 8080"
    assert "hello" in machine.kubectl("exec", "asker", "--", "sh", "-c", ask)


def test_the_api_alone_and_simulated_nodes(machine: Machine) -> None:
    machine.navarch("start", "-p", "api", "--nodes", "0", "--keep-context")
    try:
        status = machine.navarch("status", "-p", "api")
        assert "kubelet" not in status
        assert machine.kubectl("--context", "api", "get", "namespace", "default")
        machine.navarch("start", "-p", "api", "--simulated", "3", "--keep-context")
        found = machine.kubectl("--context", "api", "get", "nodes", "-o", "name").split()
        assert len(found) == 3
    finally:
        machine.navarch("delete", "-p", "api")


def test_delete_leaves_nothing(machine: Machine) -> None:
    """The last test of this cluster: with pods running, it goes without a trace."""
    running_pod(machine, "last")
    profile = machine.profile(NAME)
    assert machine.traces(profile)
    machine.remember_namespaces(NAME)
    machine.navarch("delete", "-p", NAME)
    assert machine.traces(profile) == []
    assert not machine.kubeconfig.exists()
    assert not machine.home.exists()
