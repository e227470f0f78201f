"""kubectl against a cluster with real containers: everything that needs a node behind the API."""

from __future__ import annotations

import base64
import io
import os
import pty
import re
import select
import shutil
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.machine import SHELL_IMAGE, Machine, a_cluster, pod

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="real nodes need root"),
    pytest.mark.skipif(shutil.which("containerd") is None, reason="run: navarch setup"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="run: navarch setup"),
]

NAME = "kubectl"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with a_cluster(NAME) as found:
        yield found


def run(machine: Machine, name: str, command: str, **spec: Any) -> None:
    """A pod that runs a line of shell, and is ready."""
    machine.kubectl("apply", "-f", "-", feed=pod(name, command, **spec))
    machine.kubectl("wait", "--for=condition=Ready", f"pod/{name}", "--timeout=120s")


FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


def test_run_get_describe_and_events(machine: Machine) -> None:
    machine.kubectl(
        "run", "hello", f"--image={SHELL_IMAGE}", "--image-pull-policy=Never", "--restart=Never",
        "--labels=app=hello", "--env=NAME=world", "--", "sh", "-c", "echo hello $NAME",
    )  # fmt: skip
    machine.kubectl(
        "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/hello", "--timeout=120s"
    )
    assert machine.kubectl("logs", "hello") == "hello world\n"
    table = machine.kubectl("get", "pod", "hello")
    assert re.search(r"hello +0/1 +Completed +0 ", table), table
    wide = machine.kubectl("get", "pod", "hello", "-o", "wide")
    assert NAME in wide and "NOMINATED NODE" in wide
    described = machine.kubectl("describe", "pod", "hello")
    for reason in ("Scheduled", "Pulled", "Created", "Started"):
        assert re.search(rf"Normal +{reason} ", described), described
    events = machine.kubectl("get", "events", "--field-selector=involvedObject.name=hello")
    assert "Successfully assigned default/hello to kubectl" in events
    assert "Container started" in events or "Started container" in events
    machine.kubectl("delete", "pod", "hello")
    assert "NotFound" in machine_error(machine, "get", "pod", "hello")


def machine_error(machine: Machine, *words: str) -> str:
    result = subprocess.run(
        ["kubectl", *words], env=machine.environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode, result.stdout
    return result.stderr


def test_the_kubelet_is_at_its_usual_place(machine: Machine) -> None:
    """Drivers and device plug-ins are made for that place, and mount there for other pods."""
    root, marker = "/var/lib/kubelet", "plugins/navarch-test"
    command = (
        f"mkdir -p /kubelet/{marker} && mount -t tmpfs none /kubelet/{marker} && "
        f"ls /kubelet /kubelet/pods; {FOREVER}"
    )
    container = {
        "name": "main",
        "image": SHELL_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", command],
        "securityContext": {"privileged": True},
        "volumeMounts": [
            {"name": "kubelet", "mountPath": "/kubelet", "mountPropagation": "Bidirectional"}
        ],
    }
    volume = {"name": "kubelet", "hostPath": {"path": root, "type": "Directory"}}
    run(machine, "driver", "", containers=[container], volumes=[volume])
    listed = machine.kubectl("logs", "driver").split()
    uid = machine.kubectl("get", "pod", "driver", "-o", "jsonpath={.metadata.uid}")
    assert {"plugins", "plugins_registry", "device-plugins", uid} <= set(listed)
    reader = {**container, "command": ["sh", "-c", f"grep {marker} /proc/mounts; {FOREVER}"]}
    run(machine, "other", "", containers=[reader], volumes=[volume])
    assert marker in machine.kubectl("logs", "other")
    machine.kubectl("exec", "driver", "--", "umount", f"/kubelet/{marker}")
    machine.kubectl("delete", "pod", "driver", "other", "--now")


def test_top(machine: Machine) -> None:
    run(machine, "idle", "exec sleep 1000000")
    head, *rows = machine.kubectl("top", "pod", "--containers").splitlines()
    assert head.split() == ["POD", "NAME", "CPU(cores)", "MEMORY(bytes)"]
    assert ["idle", "main"] in [row.split()[:2] for row in rows]
    assert NAME in machine.kubectl("top", "node")
    assert "WINDOW" in machine.kubectl("get", "nodes.metrics.k8s.io")
    machine.kubectl("delete", "pod", "idle", "--now")


@pytest.mark.conformance("Kubectl logs logs should be able to retrieve and filter logs")
def test_logs(machine: Machine) -> None:
    command = "for i in 1 2 3 4 5; do echo line $i; done; exec sleep 1000000"
    run(machine, "talker", command)
    assert machine.kubectl("logs", "talker", "main") == "".join(f"line {i}\n" for i in range(1, 6))
    assert machine.kubectl("logs", "talker", "--tail=2") == "line 4\nline 5\n"
    stamped = machine.kubectl("logs", "talker", "--timestamps", "--tail=1")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z line 5\n", stamped), stamped
    deadline = time.monotonic() + 60
    while machine.kubectl("logs", "talker", "--since=1s"):
        assert time.monotonic() < deadline
    assert machine.kubectl("logs", "talker", "--since=24h").count("\n") == 5
    assert machine.kubectl("logs", "talker", "--limit-bytes=1") == "l"
    assert machine.kubectl("logs", "talker", "--limit-bytes=4") == "line"
    assert machine.kubectl("logs", "-l", "app=talker", "--prefix", "--tail=1").startswith("[pod/")
    assert "container nothing is not valid" in machine_error(
        machine, "logs", "talker", "-c", "nothing"
    )


def test_logs_follow_to_the_end_and_all_containers(machine: Machine) -> None:
    manifest: dict[str, Any] = {
        "containers": [
            {
                "name": name,
                "image": SHELL_IMAGE,
                "imagePullPolicy": "Never",
                "command": ["sh", "-c", f"for i in 1 2 3; do echo {name} $i; sleep 0.3; done"],
            }
            for name in ("one", "two")
        ],
        "restartPolicy": "Never",
    }
    machine.kubectl("apply", "-f", "-", feed=pod("pair", "", **manifest))
    machine.kubectl("wait", "--for=condition=PodReadyToStartContainers", "pod/pair")
    machine.kubectl("wait", "--for=jsonpath={.status.startTime}", "pod/pair")
    wait_for_start(machine, "pair")
    followed = machine.kubectl("logs", "-f", "pair", "--all-containers")
    assert sorted(followed.splitlines()) == sorted(
        f"{name} {i}" for name in ("one", "two") for i in (1, 2, 3)
    )


def wait_for_start(machine: Machine, name: str) -> None:
    """Both containers have started, whatever they do since."""
    for number in (0, 1):
        machine.kubectl(
            "wait", f"--for=jsonpath={{.status.containerStatuses[{number}].containerID}}",
            f"pod/{name}", "--timeout=120s",
        )  # fmt: skip


def test_previous_logs_and_crash_loop(machine: Machine) -> None:
    machine.kubectl("apply", "-f", "-", feed=pod("crash", "echo attempt; exit 3"))
    machine.kubectl(
        "wait", "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}"
        "=CrashLoopBackOff", "pod/crash", "--timeout=120s",
    )  # fmt: skip
    assert machine.kubectl("logs", "crash", "--previous") == "attempt\n"
    assert "CrashLoopBackOff" in machine.kubectl("get", "pod", "crash")
    described = machine.kubectl("describe", "pod", "crash")
    assert re.search(r"Last State: +Terminated\n +Reason: +Error\n +Exit Code: +3", described)
    assert "Back-off restarting failed container" in described
    machine.kubectl("delete", "pod", "crash", "--now")


def test_exec(machine: Machine) -> None:
    run(machine, "shell", FOREVER)
    assert machine.kubectl("exec", "shell", "--", "echo", "out") == "out\n"
    big = "x" * 300_000
    assert machine.kubectl("exec", "-i", "shell", "--", "cat", feed=big) == big
    failed = subprocess.run(
        ["kubectl", "exec", "shell", "--", "sh", "-c", "echo bad >&2; exit 7"],
        env=machine.environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert failed.returncode == 7
    assert failed.stderr.startswith("bad\n")
    assert "executable file not found" in machine_error(machine, "exec", "shell", "--", "nothing")


def on_terminal(machine: Machine, words: list[str], keys: bytes, until: bytes) -> bytes:
    """Run kubectl on a terminal, type, and read until a text appears."""
    main, other = pty.openpty()
    process = subprocess.Popen(
        ["kubectl", *words], env=machine.environment(), stdin=other, stdout=other, stderr=other
    )
    os.close(other)
    seen = b""
    typed = False
    try:
        deadline = time.monotonic() + 60
        while until not in seen:
            assert time.monotonic() < deadline, seen
            if not select.select([main], [], [], 1.0)[0]:
                continue
            seen += os.read(main, 65536)
            if not typed:
                os.write(main, keys)
                typed = True
        return seen
    finally:
        process.terminate()
        process.wait(60)
        os.close(main)


def test_exec_and_attach_on_a_terminal(machine: Machine) -> None:
    run(machine, "terminal", FOREVER)
    seen = on_terminal(
        machine, ["exec", "-it", "terminal", "--", "sh"], b"tty; echo 6*7=$((6*7))\n", b"6*7=42"
    )
    assert b"/dev/pts" in seen
    container = {
        "name": "main",
        "image": SHELL_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", "echo ready; cat; sleep 1000000"],
        "stdin": True,
        "tty": True,
    }
    run(machine, "attached", "", containers=[container])
    seen = on_terminal(machine, ["attach", "-it", "attached"], b"echoed text\n", b"echoed text")
    assert b"echoed text" in seen


def test_copy(machine: Machine, tmp_path: Path) -> None:
    run(machine, "files", FOREVER)
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    content = os.urandom(200_000)
    (folder / "deep" / "file").write_bytes(content)
    machine.kubectl("cp", str(folder), "files:/tmp/folder")
    assert machine.kubectl("exec", "files", "--", "ls", "/tmp/folder/deep") == "file\n"
    machine.kubectl("cp", "files:/tmp/folder/deep/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == content


# Whoever holds the pod decides what its `tar` says.
LIES = {
    "upwards": [("data", tarfile.DIRTYPE, ""), ("data/../../victim", tarfile.REGTYPE, "")],
    "absolute": [("{outside}/victim", tarfile.REGTYPE, "")],
    "through-link": [
        ("data", tarfile.DIRTYPE, ""),
        ("data/way", tarfile.SYMTYPE, "{outside}"),
        ("data/way/victim", tarfile.REGTYPE, ""),
    ],
    "file-as-link": [
        ("data/victim", tarfile.SYMTYPE, "{outside}/victim"),
        ("data/victim", tarfile.REGTYPE, ""),
    ],
    "hard-link": [
        ("data/victim", tarfile.LNKTYPE, "{outside}/victim"),
        ("data/victim", tarfile.REGTYPE, ""),
    ],
}


def test_copy_from_a_pod_that_lies(machine: Machine, tmp_path: Path) -> None:
    """CVE-2019-1002101, CVE-2019-11249: nothing is written outside of the target, and nothing of
    the own machine is read into it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    script = "rm /bin/tar; printf '#!/bin/sh\\ncat /lie.tar\\n' > /bin/tar; chmod +x /bin/tar"
    run(machine, "liar", f"{script}; {FOREVER}")
    for name, entries in LIES.items():
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for path, kind, link in entries:
                entry = tarfile.TarInfo(path.format(outside=outside))
                entry.type, entry.linkname = kind, link.format(outside=outside)
                entry.size = 11 if kind == tarfile.REGTYPE else 0
                archive.addfile(entry, io.BytesIO(b"overwritten"))
        text = base64.b64encode(packed.getvalue()).decode()
        machine.kubectl("exec", "liar", "--", "sh", "-c", f"echo {text} | base64 -d > /lie.tar")
        target = tmp_path / "in" / name
        target.mkdir(parents=True)
        machine.kubectl("cp", "liar:/data", str(target), expect=None)
        assert sorted(os.listdir(tmp_path)) == ["in", "outside"], name
        assert set(os.listdir(target.parent)) <= LIES.keys(), name
        assert os.listdir(outside) == ["victim"], name
        assert (outside / "victim").read_text() == "untouched", name


def serving(name: str, text: str, **container: object) -> dict[str, object]:
    """A container that answers HTTP with a text."""
    script = f"mkdir /www && echo {text} > /www/index.html && exec httpd -f -p 8080 -h /www"
    return {
        "name": name,
        "image": SHELL_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
        **container,
    }


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        text: str = response.read().decode()
    return text


def test_port_forward_and_api_proxy(machine: Machine) -> None:
    run(machine, "web", "", containers=[serving("main", "forwarded")])
    with subprocess.Popen(
        ["kubectl", "port-forward", "pod/web", ":8080"],
        env=machine.environment(), stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            port = re.search(r"127\.0\.0\.1:(\d+)", line)
            assert port, line
            for _ in range(3):
                assert fetch(f"http://127.0.0.1:{port[1]}/") == "forwarded\n"
        finally:
            process.terminate()
            process.wait(60)
    raw = machine.kubectl("get", "--raw", "/api/v1/namespaces/default/pods/web:8080/proxy/")
    assert raw == "forwarded\n"


@pytest.mark.conformance(
    "Services should be able to create a functioning NodePort service",
)
def test_deployment_from_create_to_undo(machine: Machine) -> None:
    """create, expose, scale, set image and env, rollout in all its forms, and a Service that
    answers all the time."""
    spec = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "shop"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "shop"}},
            "template": {
                "metadata": {"labels": {"app": "shop"}},
                "spec": {
                    "containers": [serving("main", "$VERSION", env=[version("one")])],
                    "terminationGracePeriodSeconds": 1,
                },
            },
        },
    }
    import json

    machine.kubectl("apply", "-f", "-", feed=json.dumps(spec))
    assert "successfully rolled out" in machine.kubectl("rollout", "status", "deploy/shop")
    machine.kubectl(
        "expose", "deploy", "shop", "--port=80", "--target-port=http", "--type=NodePort"
    )
    service = machine.get("service", "shop")
    address = machine.navarch("ip", "-p", NAME).strip()
    urls = [
        f"http://{service['spec']['clusterIP']}/",
        f"http://{address}:{service['spec']['ports'][0]['nodePort']}/",
    ]
    eventually_serves(urls, "one\n")
    run(machine, "asker", FOREVER)
    inside = machine.kubectl(
        "exec", "asker", "--", "wget", "-q", "-O", "-", "http://shop.default.svc.cluster.local/"
    )
    assert inside == "one\n"
    machine.kubectl("scale", "deploy/shop", "--replicas=3")
    machine.kubectl("rollout", "status", "deploy/shop")
    assert machine.get("deploy", "shop")["status"]["availableReplicas"] == 3
    machine.kubectl("set", "env", "deploy/shop", "VERSION=two")
    machine.kubectl("rollout", "status", "deploy/shop")
    eventually_serves(urls, "two\n")
    history = machine.kubectl("rollout", "history", "deploy/shop")
    assert re.search(r"^1 .*\n2 ", history, re.MULTILINE), history
    machine.kubectl("rollout", "undo", "deploy/shop")
    machine.kubectl("rollout", "status", "deploy/shop")
    eventually_serves(urls, "one\n")
    before = {pod["metadata"]["uid"] for pod in machine.get("pods", "-l", "app=shop")["items"]}
    machine.kubectl("rollout", "restart", "deploy/shop")
    machine.kubectl("rollout", "status", "deploy/shop")
    alive = [
        pod["metadata"]["uid"]
        for pod in machine.get("pods", "-l", "app=shop")["items"]
        if "deletionTimestamp" not in pod["metadata"]
    ]
    assert len(alive) == 3 and not before & set(alive)
    machine.kubectl("set", "image", "deploy/shop", "main=navarch.local/nothing:1")
    text = machine_error(machine, "rollout", "status", "deploy/shop", "--timeout=4s")
    assert "timed out" in text
    deadline = time.monotonic() + 60
    while "ErrImageNeverPull" not in machine.kubectl("get", "pods", "-l", "app=shop"):
        assert time.monotonic() < deadline
    eventually_serves(urls, "one\n")
    machine.kubectl("rollout", "undo", "deploy/shop")
    machine.kubectl("rollout", "status", "deploy/shop")
    everything = machine.kubectl("get", "all")
    for line in ("pod/shop-", "service/shop", "deployment.apps/shop", "replicaset.apps/shop-"):
        assert line in everything
    machine.kubectl("delete", "deploy,service", "shop")
    machine.kubectl("wait", "--for=delete", "pod", "-l", "app=shop", "--timeout=120s")


def version(text: str) -> dict[str, str]:
    return {"name": "VERSION", "value": text}


def eventually_serves(urls: list[str], expected: str) -> None:
    deadline = time.monotonic() + 60
    while {fetch(url) for url in urls for _ in range(5)} != {expected}:
        assert time.monotonic() < deadline, [fetch(url) for url in urls]


@pytest.mark.conformance(
    "DNS should provide DNS for pods for Hostname",
    "DNS should provide DNS for pods for Subdomain",
)
def test_headless_service_and_hostnames(machine: Machine) -> None:
    import json

    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "db"},
        "spec": {"clusterIP": "None", "selector": {"app": "db-0"}, "ports": [{"port": 5432}]},
    }
    machine.kubectl("apply", "-f", "-", feed=json.dumps(service))
    run(machine, "db-0", FOREVER, hostname="db-0", subdomain="db")
    address = machine.get("pod", "db-0")["status"]["podIP"]
    run(machine, "resolver", FOREVER)
    for name in ("db.default.svc.cluster.local", "db-0.db.default.svc.cluster.local"):
        machine.kubectl(
            "exec", "resolver", "--", "sh", "-c",
            f"for i in $(seq 100); do nslookup {name} | grep -q 'Address: {address}' && exit 0; "
            "sleep 0.1; done; exit 1",
        )  # fmt: skip
    assert "db-0.db.default.svc.cluster.local" in machine.kubectl(
        "exec", "db-0", "--", "hostname", "-f"
    )


def test_refused_addresses(machine: Machine) -> None:
    """What nobody serves is refused at once, and does not leave the node."""
    run(machine, "prober", FOREVER)
    service = machine.get("service", "kubernetes")["spec"]["clusterIP"]
    unused = service.rsplit(".", 1)[0] + ".250"
    began = time.monotonic()
    text = machine_error(machine, "exec", "prober", "--", "nc", "-w", "60", unused, "80")
    assert "refused" in text, text
    assert time.monotonic() - began < 30


KNOCK = (
    "nc -w {} $KUBERNETES_SERVICE_HOST 443 </dev/null >/dev/null 2>&1 && echo open || echo closed"
)


def test_a_walled_pod_is_so_from_its_first_moment(machine: Machine) -> None:
    """Its very first packet meets the policies, also when the node's agent is being replaced."""
    documents = [
        "{kind: Namespace, apiVersion: v1, metadata: {name: walled}}",
        *(
            "{kind: NetworkPolicy, apiVersion: networking.k8s.io/v1, "
            f"metadata: {{namespace: walled, name: {name}}}, spec: {spec}}}"
            for name, spec in (
                ("wall", "{podSelector: {}, policyTypes: [Ingress, Egress]}"),
                ("gate", "{podSelector: {matchLabels: {pass: given}}, egress: [{}]}"),
            )
        ),
    ]
    machine.kubectl("apply", "-f", "-", feed="---\n" + "\n---\n".join(documents))

    def knock(name: str, namespace: str, seconds: int = 1) -> str:
        shell = f"while :; do {KNOCK.format(seconds)}; sleep 0.1; done"
        machine.kubectl("-n", namespace, "apply", "-f", "-", feed=pod(name, shell))
        machine.kubectl(
            "-n", namespace, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=120s"
        )
        deadline = time.monotonic() + 60
        while not (lines := machine.kubectl("-n", namespace, "logs", name).split()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return lines[0]

    assert knock("free", "default", 20) == "open"
    assert knock("walled", "walled") == "closed"
    machine.kill(NAME, [f"node-{NAME}"])
    assert knock("meanwhile", "walled") == "closed"
    machine.kubectl("-n", "walled", "label", "pod", "walled", "pass=given")
    deadline = time.monotonic() + 60
    while "open" not in machine.kubectl("-n", "walled", "logs", "--tail=2", "walled"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "open" not in machine.kubectl("-n", "walled", "logs", "meanwhile")
    machine.kubectl("delete", "namespace", "walled", "--wait=false")
