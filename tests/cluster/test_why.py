"""`navarch why` on a real node: the usual faults of a night, each told in its first line."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.machine import SHELL_IMAGE, Machine, pod
from tests.images.busybox import build_busybox

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="real nodes need root"),
    pytest.mark.skipif(shutil.which("containerd") is None, reason="run: navarch setup"),
]

NAME = "why"
PROBE = {"exec": {"command": ["sh", "-c", "echo the cache is cold; exit 1"]}, "periodSeconds": 1}


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    home = Path(tempfile.mkdtemp(prefix="nvwhy-", dir="/tmp"))
    found = Machine(home / "home", home / "kubeconfig")
    archive = build_busybox(home / "shell.tar", SHELL_IMAGE)
    try:
        found.navarch("start", "-p", NAME)
        found.navarch("image", "load", "-p", NAME, str(archive))
        yield found
    finally:
        found.navarch("delete", "--all", expect=None)
        shutil.rmtree(home, ignore_errors=True)


def container(**further: object) -> dict[str, object]:
    main = json.loads(pod("", "echo serving; sleep 100000"))["spec"]["containers"][0]
    return {**main, **further}


def wait(machine: Machine, name: str, path: str, value: str) -> None:
    machine.kubectl("wait", f"pod/{name}", f"--for=jsonpath={path}={value}", "--timeout=120s")


def test_the_first_line_says_it(machine: Machine) -> None:
    reason = "{.status.containerStatuses[0].state.waiting.reason}"
    pods = {
        "image": pod("image", "", containers=[container(image="registry.example/app:9",
                                                        imagePullPolicy="IfNotPresent")]),
        "crash": pod("crash", "echo starting; echo cannot open /etc/app.conf; exit 3"),
        "probe": pod("probe", "", containers=[container(readinessProbe=PROBE)]),
        "config": pod("config", "", containers=[
            container(envFrom=[{"configMapRef": {"name": "settings"}}])]),
        "cpu": pod("cpu", "", containers=[
            container(resources={"requests": {"cpu": "1000"}})]),
        "fine": pod("fine", "sleep 100000"),
    }  # fmt: skip
    machine.kubectl("apply", "-f", "-", feed="\n".join(pods.values()))
    wait(machine, "image", reason, "ImagePullBackOff")
    wait(machine, "crash", reason, "CrashLoopBackOff")
    wait(machine, "config", reason, "CreateContainerConfigError")
    wait(machine, "probe", "{.status.phase}", "Running")
    machine.kubectl("wait", "pod/fine", "--for=condition=Ready", "--timeout=120s")
    machine.kubectl("wait", "pod/cpu", "--for=condition=PodScheduled=False", "--timeout=120s")

    def told(name: str) -> str:
        text = machine.navarch("why", "-p", NAME, name)
        assert len(text.splitlines()) < 45
        return " ".join(text.split())

    assert "its image registry.example/app:9 cannot be pulled (" in told("image")
    crash = told("crash")
    assert crash.startswith("pod crash is not running: container main ended with exit code 3")
    assert "its last words: cannot open /etc/app.conf" in crash
    assert "lines: starting cannot open /etc/app.conf" in crash
    assert "runs but is not ready: the readiness probe of container main" in told("probe")
    assert 'container main cannot be started: configmap "settings" not found' in told("config")
    assert "the only node cannot take it: cpu asks 1000, more than these have in all" in told("cpu")
    assert told("fine").startswith(f"pod fine runs on {NAME} and is ready")


def test_owners_other_clusters_and_what_is_not_there(machine: Machine) -> None:
    machine.kubectl("create", "deployment", "web", f"--image={SHELL_IMAGE}", "--replicas=0")
    machine.kubectl("rollout", "status", "deployment/web", "--timeout=120s")
    # By the user's own kubeconfig, as with any cluster.
    config = ["--kubeconfig", str(machine.kubeconfig)]
    text = machine.navarch("why", *config, "deployment/web", "-o", "json")
    report = json.loads(text)
    assert report["verdict"] == "Deployment web has no pods: it asks for 0 replicas"
    text = machine.navarch("why", *config, "-n", "kube-system", "web", expect=1)
    assert "pod web is not in namespace kube-system" in text
    text = machine.navarch("why", *config, "web", expect=1)
    assert "Perhaps deployment/web is meant" in text
    assert "kubeconfig" in machine.navarch("why", "--kubeconfig", "/nix", "web", expect=1)
