"""What Python clients ask of real containers, in a cluster that the command `kind` made."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kr8s
import pytest
from kr8s.objects import Pod
from kubernetes import client, config, watch
from kubernetes.stream import stream
from tests.cluster.machine import SHELL_IMAGE, Machine, pod
from tests.images.busybox import build_busybox

from navarch.testing.kind import install

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="real nodes need root"),
    pytest.mark.skipif(shutil.which("containerd") is None, reason="run: navarch setup"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="run: navarch setup"),
    pytest.mark.filterwarnings(
        "ignore::pytest.PytestUnraisableExceptionWarning",
        "ignore::ResourceWarning",
        "ignore:Kubernetes version",
    ),
]

SERVE = "echo begun; trap 'exit 0' TERM; while :; do sleep 0.1; done"
CONFIG = """
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
nodes:
- role: control-plane
  labels: {disk: ssd}
"""


class KindMachine(Machine):
    def kind(self, *words: str, feed: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [install(self.home.parent / "bin"), *words],
            env={**self.environment(), "NAVARCH_KIND": "real"},
            input=feed,
            capture_output=True,
            text=True,
            timeout=400,
            check=True,
        )


@pytest.fixture(scope="module")
def machine() -> Iterator[KindMachine]:
    home = Path(tempfile.mkdtemp(prefix="navarch-test-"))
    found = KindMachine(home / "home", home / "kubeconfig")
    archive = build_busybox(home / "shell.tar", SHELL_IMAGE)
    try:
        found.kind("create", "cluster", "--name=clients", "--config=-", feed=CONFIG)
        found.kind("load", "image-archive", "--name=clients", str(archive))
        yield found
        found.kind("delete", "cluster", "--name=clients")
        assert not found.kubeconfig.exists()
        assert not list(found.home.glob("*"))
    finally:
        found.navarch("delete", "--all", expect=None)
        shutil.rmtree(home, ignore_errors=True)
        # Sockets that clients left open are found here, where that is no error.
        gc.collect()


@pytest.fixture
def running(machine: KindMachine) -> Iterator[str]:
    machine.kubectl("apply", "-f", "-", feed=pod("shell", SERVE))
    machine.kubectl("wait", "--for=condition=Ready", "pod/shell", "--timeout=120s")
    yield "shell"
    machine.kubectl("delete", "pod", "shell", "--grace-period=1")


@pytest.fixture
def core(machine: KindMachine) -> Iterator[Any]:
    settings = client.Configuration()
    config.load_kube_config(str(machine.kubeconfig), client_configuration=settings)
    with client.ApiClient(settings) as api:
        yield client.CoreV1Api(api)


def test_the_cluster_is_kinds(machine: KindMachine) -> None:
    assert machine.kubectl("config", "current-context").strip() == "kind-clients"
    assert machine.kind("get", "clusters").stdout == "clients\n"
    names = machine.kind("get", "nodes", "--name=clients").stdout.split()
    found = machine.kubectl("get", "nodes", "-l", "disk=ssd", "-o", "name").split()
    assert found == [f"node/{name}" for name in names]


def test_exec_and_logs_of_the_kubernetes_client(core: Any, running: str) -> None:
    call = core.connect_get_namespaced_pod_exec
    said = stream(
        call, running, "default", command=["sh", "-c", "echo out; echo err >&2"], stdout=True,
        stderr=True, stdin=False, tty=False,
    )  # fmt: skip
    assert sorted(said.split()) == ["err", "out"]
    session = stream(
        call, running, "default", command=["sh"], stdin=True, stdout=True, stderr=True,
        tty=False, _preload_content=False,
    )  # fmt: skip
    session.write_stdin("echo $((6 * 7)); exit 3\n")
    session.run_forever(timeout=30)
    assert session.read_stdout() == "42\n"
    assert session.returncode == 3
    session.close()
    assert core.read_namespaced_pod_log(running, "default") == "begun\n"
    for line in watch.Watch().stream(core.read_namespaced_pod_log, running, "default"):
        assert line == "begun"
        break


def test_exec_and_logs_of_kr8s(machine: KindMachine, running: str) -> None:
    found = Pod.get(running, api=kr8s.api(kubeconfig=str(machine.kubeconfig)))
    done = found.exec(["sh", "-c", "echo out; echo err >&2"])
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 0)
    failed = found.exec(["sh", "-c", "exit 4"], check=False)
    assert failed.returncode == 4
    assert list(found.logs()) == ["begun"]


def test_deletion_leaves_other_contexts_alone(machine: KindMachine) -> None:
    other = json.loads(machine.kubectl("config", "view", "-o", "json", "--raw"))
    assert [entry["name"] for entry in other["contexts"]] == ["kind-clients"]
