"""What conformant clusters do with containers: replication controllers under kubectl, an
application of several tiers, tokens of service accounts in the file systems of pods, commands, logs
and debuggers of running pods, classes of runtimes, and pods that leave nodes with taints."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import takewhile
from typing import Any

import pytest
import websocket
from tests.cluster.machine import SHELL_IMAGE, Machine, a_cluster, pod
from tests.cluster.workloads import (
    Object,
    create,
    eventually,
    gone,
    ready,
    service,
    serving,
    shell,
    workload,
)
from tests.images.busybox import build_busybox

from navarch.node.images.oci import ImageConfig

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="real nodes need root"),
    pytest.mark.skipif(shutil.which("containerd") is None, reason="run: navarch setup"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="run: navarch setup"),
]

NAME = "conformance"
OTHER_IMAGE = "navarch.local/test-shell:2"
CLIENT = "Kubectl client "
FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with a_cluster(NAME) as found:
        other = ImageConfig(cmd=["sh"], env={"OTHER": "yes"})
        archive = build_busybox(tmp_path_factory.mktemp("images") / "o.tar", OTHER_IMAGE, other)
        found.navarch("image", "load", "-p", NAME, str(archive))
        yield found


@pytest.mark.conformance(
    CLIENT + "Update Demo should create and stop a replication controller",
    CLIENT + "Update Demo should scale a replication controller",
)
def test_a_replication_controller_is_scaled_and_stopped(machine: Machine) -> None:
    create(machine, workload("ReplicationController", "nautilus", 2, serving("shell")))

    def validate(count: int) -> set[str]:
        found = ready(machine, "nautilus", count)
        for each in found:
            (status,) = each["status"]["containerStatuses"]
            assert status["image"].endswith(SHELL_IMAGE.rpartition("/")[2])
            assert "running" in status["state"]
            path = f"/api/v1/namespaces/default/pods/{each['metadata']['name']}:8080/proxy/"
            assert machine.kubectl("get", "--raw", path) == "shell\n"
        return {each["metadata"]["uid"] for each in found}

    both = validate(2)
    machine.kubectl("scale", "rc", "nautilus", "--replicas=1", "--timeout=1m")
    (one,) = validate(1)
    assert one in both
    machine.kubectl("scale", "rc", "nautilus", "--replicas=2", "--timeout=1m")
    assert one in validate(2)
    machine.kubectl("delete", "rc", "nautilus")
    gone(machine, "nautilus")


@pytest.fixture(scope="module")
def primary(machine: Machine) -> Object:
    """The one pod of a controller, behind a Service."""
    create(
        machine,
        workload("ReplicationController", "primary", 1, serving("primary")),
        service("primary", 6379),
    )
    (found,) = ready(machine, "primary", 1)
    return found


def has(text: str, *patterns: str) -> None:
    for pattern in patterns:
        assert re.search(pattern, text, re.MULTILINE), f"{pattern}:\n{text}"


@pytest.mark.conformance(
    CLIENT + "Kubectl describe should check if kubectl describe prints relevant information for rc "
    "and pods"
)
def test_describe(machine: Machine, primary: Object) -> None:
    labels = (r"^Labels: +app=primary$", r"^ +role=main$")
    has(
        machine.kubectl("describe", "pod", primary["metadata"]["name"]),
        "^Name: +primary-",
        "^Namespace: +default$",
        rf"^Node: +{NAME}/[\d.]+$",
        *labels,
        "^Annotations: ",
        "^Status: +Running$",
        r"^IP: +10\.",
        "^Controlled By: +ReplicationController/primary$",
        f"^ +Image: +{SHELL_IMAGE}$",
        "^ +State: +Running$",
        "^QoS Class: +BestEffort$",
    )
    has(
        machine.kubectl("describe", "rc", "primary"),
        "^Name: +primary$",
        "^Namespace: +default$",
        "^Selector: +app=primary,role=main$",
        *labels,
        "^Annotations: ",
        "^Replicas: +1 current / 1 desired$",
        "^Pods Status: +1 Running / 0 Waiting / 0 Succeeded / 0 Failed$",
        "^Pod Template:$",
        f"^ +Image: +{SHELL_IMAGE}$",
        "^Events:",
        "SuccessfulCreate",
    )
    has(
        machine.kubectl("describe", "service", "primary"),
        "^Name: +primary$",
        "^Namespace: +default$",
        *labels,
        "^Annotations: ",
        "^Selector: +app=primary,role=main$",
        "^Type: +ClusterIP$",
        r"^IP: +10\.",
        "^Port: +<unset> +6379/TCP$",
        f"^Endpoints: +{primary['status']['podIP']}:8080$",
        "^Session Affinity: +None$",
    )
    has(
        machine.kubectl("describe", "node", NAME),
        f"^Name: +{NAME}$",
        "^Labels: ",
        "^Annotations: ",
        "^CreationTimestamp: ",
        "^Conditions:$",
        "^ +Type +Status +LastHeartbeatTime +LastTransitionTime +Reason +Message$",
        "^ +Ready +True ",
        "^Addresses:$",
        "^Capacity:$",
        "^ +Kernel Version: +[0-9]",
        "^ +OS Image: +[A-Z]",
        "^ +Container Runtime Version: +containerd://",
        r"^ +Kubelet Version: +v1\.36\.",
        r"^Non-terminated Pods: +\([1-9]",
    )
    has(
        machine.kubectl("describe", "namespace", "default"),
        "^Name: +default$",
        "^Labels: ",
        "^Annotations: ",
        "^Status: +Active$",
    )


@pytest.mark.conformance(CLIENT + "Kubectl expose should create services for rc")
def test_expose(machine: Machine, primary: Object) -> None:
    for kind, name, other, port in (
        ("rc", "primary", "rm2", 1234),
        ("service", "rm2", "rm3", 2345),
    ):
        machine.kubectl(
            "expose", kind, name, f"--name={other}", f"--port={port}", "--target-port=8080"
        )
        (only,) = machine.get("service", other)["spec"]["ports"]
        assert (only["port"], only["targetPort"]) == (port, 8080)
        eventually(partial(endpoints, machine, other), f"endpoints of {other}")
        assert endpoints(machine, other) == [(primary["metadata"]["uid"], 8080)]
        path = f"/api/v1/namespaces/default/services/{other}:{port}/proxy/"
        assert machine.kubectl("get", "--raw", path) == "primary\n"
    machine.kubectl("delete", "service", "rm2", "rm3")


def endpoints(machine: Machine, name: str) -> list[tuple[str, int]]:
    """Pods and ports behind a Service."""
    slices = machine.get("endpointslices", "-l", f"kubernetes.io/service-name={name}")["items"]
    return [
        (endpoint["targetRef"]["uid"], port["port"])
        for each in slices
        for endpoint in each.get("endpoints") or ()
        for port in each["ports"]
    ]


@pytest.mark.conformance(CLIENT + "Kubectl patch should add annotations for pods in rc")
def test_patch_all_pods(machine: Machine, primary: Object) -> None:
    name = primary["metadata"]["name"]
    machine.kubectl("patch", "pod", name, "-p", '{"metadata":{"annotations":{"x":"y"}}}')
    (after,) = ready(machine, "primary", 1)
    assert after["metadata"]["annotations"]["x"] == "y"
    assert after["metadata"]["uid"] == primary["metadata"]["uid"]


@pytest.mark.conformance(
    CLIENT + "Kubectl run pod should create a pod from an image when restart is Never",
    CLIENT + "Kubectl replace should update a single-container pod's image",
)
def test_run_and_replace(machine: Machine) -> None:
    run = ["run", f"--image={SHELL_IMAGE}", "--image-pull-policy=Never", "--labels=run=replaced"]
    machine.kubectl(*run, "once", "--restart=Never", "--", "true")
    once = machine.get("pod", "once")["spec"]
    assert [each["image"] for each in once["containers"]] == [SHELL_IMAGE]
    assert once["restartPolicy"] == "Never"
    machine.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/once")

    machine.kubectl(*run, "replaced", "--", "sh", "-c", FOREVER)
    machine.kubectl("wait", "--for=condition=Ready", "pod/replaced", "--timeout=120s")
    before = machine.get("pod", "replaced")
    text = json.dumps(before)
    changed = text.replace(f'"image": "{SHELL_IMAGE}"', f'"image": "{OTHER_IMAGE}"', 1)
    assert changed != text
    machine.kubectl("replace", "-f", "-", feed=changed)

    def runs_other() -> bool:
        (status,) = machine.get("pod", "replaced")["status"]["containerStatuses"]
        return bool(status["image"] == OTHER_IMAGE and status["ready"])

    eventually(runs_other, "a container of the other image")
    assert machine.kubectl("exec", "replaced", "--", "sh", "-c", "echo $OTHER") == "yes\n"
    after = machine.get("pod", "replaced")
    assert [each["image"] for each in after["spec"]["containers"]] == [OTHER_IMAGE]
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    for volatile in ("resourceVersion", "uid"):
        after["metadata"].pop(volatile)
    after["spec"].pop("nodeName")
    machine.kubectl("replace", "--force", "-f", "-", feed=json.dumps(after))
    again = machine.get("pod", "replaced")["metadata"]
    assert again["uid"] != before["metadata"]["uid"]
    machine.kubectl("delete", "pod", "-l", "run=replaced", "--now")


BOOK = r"""#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
ask() { wget -q -O - "http://$1/cgi-bin/book?$2"; }
value=${QUERY_STRING#*=}
case $ROLE-${QUERY_STRING%%=*} in
  frontend-set) ask primary-book "$QUERY_STRING" ;;
  frontend-get) ask replica-book get ;;
  primary-join) echo "$value" >> /tmp/replicas; cat /tmp/entries ;;
  primary-set)
    echo "$value" >> /tmp/entries
    for each in $(cat /tmp/replicas); do ask "$each:8080" "$QUERY_STRING"; done
    echo Updated ;;
  replica-set) echo "$value" >> /tmp/entries ;;
  replica-get) cat /tmp/entries ;;
esac
"""
"""A guestbook: what is written reaches the primary, which hands it on to the replicas that joined,
and these are read."""

JOIN = (
    'until wget -q -O /tmp/entries "http://primary-book/cgi-bin/book?join=$IP"; do sleep 0.1; done'
)


@pytest.mark.conformance(
    CLIENT + "Guestbook application should create and stop a working application"
)
def test_an_application_of_three_tiers(machine: Machine) -> None:
    book = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "book"}}
    tiers = {"primary": 1, "replica": 2, "frontend": 2}
    parts: list[Object] = [{**book, "data": {"book": BOOK}}]
    for role, count in tiers.items():
        before = JOIN if role == "replica" else ": > /tmp/entries > /tmp/replicas"
        address = {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
        spec = shell(
            f"{before}; exec httpd -f -p 8080 -h /www",
            env=[{"name": "ROLE", "value": role}, address],
            volumeMounts=[{"name": "book", "mountPath": "/www/cgi-bin"}],
        )
        spec["volumes"] = [{"name": "book", "configMap": {"name": "book", "defaultMode": 0o755}}]
        parts += [workload("Deployment", f"{role}-book", count, spec), service(f"{role}-book")]
    create(machine, *parts)
    for role, count in tiers.items():
        ready(machine, f"{role}-book", count)

    def request(query: str, target: str = "services/frontend-book:80") -> str:
        path = f"/api/v1/namespaces/default/{target}/proxy/cgi-bin/book?{query}"
        return machine.kubectl("get", "--raw", path)

    assert request("get") == ""
    assert request("set=TestEntry") == "Updated\n"
    assert request("get") == "TestEntry\n"
    for each in ready(machine, "replica-book", 2):
        assert request("get", f"pods/{each['metadata']['name']}:8080") == "TestEntry\n"
    names = [f"{role}-book" for role in tiers]
    machine.kubectl("delete", "deployments,services", *names)
    machine.kubectl("delete", "configmap", "book")
    gone(machine, *names)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            kind,
            marks=pytest.mark.conformance(
                f"{kind} should serve a basic image on each replica with a public image"
            ),
        )
        for kind in ("ReplicationController", "ReplicaSet")
    ],
)
def test_each_replica_serves(machine: Machine, kind: str) -> None:
    """Asked one by one through the API, each pod tells its name."""
    name = f"serve-{kind.lower()}"
    script = "mkdir /www && hostname > /www/index.html && exec httpd -f -p 8080 -h /www"
    create(machine, workload(kind, name, 2, shell(script)))
    try:
        for each in ready(machine, name, 2):
            own = each["metadata"]["name"]
            path = f"/api/v1/namespaces/default/pods/{own}:8080/proxy/"
            assert machine.kubectl("get", "--raw", path).strip() == own
    finally:
        machine.kubectl("delete", kind, name, "--wait=false")
        gone(machine, name)


@pytest.mark.conformance("ServiceAccounts should mount an API token into pods")
def test_what_is_mounted_for_a_service_account(machine: Machine) -> None:
    machine.kubectl("create", "serviceaccount", "mount-test")
    manifest = pod("account", FOREVER, serviceAccountName="mount-test")
    machine.kubectl("apply", "-f", "-", feed=manifest)
    machine.kubectl("wait", "--for=condition=Ready", "pod/account", "--timeout=120s")

    def mounted(name: str) -> str:
        path = f"/var/run/secrets/kubernetes.io/serviceaccount/{name}"
        return machine.kubectl("exec", "account", "--", "cat", path)

    assert mounted("ca.crt") == machine.get("configmap", "kube-root-ca.crt")["data"]["ca.crt"]
    assert mounted("namespace") == "default"
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": mounted("token")},
    }
    made = machine.kubectl("create", "-f", "-", "-o", "json", feed=json.dumps(review))
    status = json.loads(made)["status"]
    assert status["authenticated"] and not status.get("error")
    user = status["user"]
    assert user["username"] == "system:serviceaccount:default:mount-test"
    assert {
        "system:authenticated",
        "system:serviceaccounts",
        "system:serviceaccounts:default",
    } <= set(user["groups"])
    found, node = machine.get("pod", "account"), machine.get("node", NAME)
    extra = {key.rpartition("/")[2]: value for key, value in user["extra"].items()}
    (credential,) = extra.pop("credential-id")
    assert credential.startswith("JTI=")
    assert extra == {
        "pod-name": ["account"],
        "pod-uid": [found["metadata"]["uid"]],
        "node-name": [NAME],
        "node-uid": [node["metadata"]["uid"]],
    }
    machine.kubectl("delete", "pod", "account", "--now")


@pytest.mark.conformance("ServiceAccounts should mount projected service account token")
def test_a_projected_token(machine: Machine) -> None:
    token = {"path": "token", "expirationSeconds": 3600, "audience": "somebody"}
    container = {
        "name": "main",
        "image": SHELL_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["cat", "/test-volume/token"],
        "volumeMounts": [{"name": "v", "mountPath": "/test-volume", "readOnly": True}],
    }
    volume = {"name": "v", "projected": {"sources": [{"serviceAccountToken": token}]}}
    manifest = pod("reader", "", containers=[container], volumes=[volume], restartPolicy="Never")
    machine.kubectl("apply", "-f", "-", feed=manifest)
    machine.kubectl(
        "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/reader", "--timeout=120s"
    )
    text = machine.kubectl("logs", "reader")
    assert re.fullmatch(r"[\w=-]+\.[\w=-]+\.[\w=-]+", text)
    part = text.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    assert claims["sub"] == "system:serviceaccount:default:default"
    assert claims["aud"] == ["somebody"]
    assert claims["exp"] - claims["iat"] == 3600
    assert claims["kubernetes.io"]["pod"]["name"] == "reader"
    machine.kubectl("delete", "pod", "reader", "--now")


EPHEMERAL = "Ephemeral Containers [NodeConformance]"


@pytest.mark.conformance(
    "Pods should support remote command execution over websockets [NodeConformance]",
    "Pods should support retrieving logs from the container over websockets [NodeConformance]",
    "Kubelet when scheduling a busybox command in a pod should print the output to logs "
    "[NodeConformance]",
    f"{EPHEMERAL} will start an ephemeral container in an existing pod",
    f"{EPHEMERAL} should update the ephemeral containers in an existing pod",
)
def test_what_is_asked_of_a_running_pod(machine: Machine) -> None:
    """Also in the oldest protocol: a byte for the channel, no word of how the command ended."""
    manifest = pod("remote", f"echo container is alive; {FOREVER}")
    machine.kubectl("apply", "-f", "-", feed=manifest)
    machine.kubectl("wait", "--for=condition=Ready", "pod/remote", "--timeout=120s")
    path = "/api/v1/namespaces/default/pods/remote"
    command = "command=echo&command=remote%20execution%20test"
    query = f"stdout=1&stderr=1&container=main&{command}"
    said = messages(machine, f"{path}/exec?{query}", "channel.k8s.io")
    assert {each[0] for each in said if len(each) > 1} == {1}
    assert b"".join(each[1:] for each in said) == b"remote execution test\n"
    logs = messages(machine, f"{path}/log?container=main", "binary.k8s.io")
    assert b"".join(logs) == b"container is alive\n"
    assert machine.kubectl("logs", "remote", "--since=1h") == "container is alive\n"
    for number in (1, 2):
        name = f"debugger-{number}"
        machine.kubectl(
            "debug", "remote", "-it", "--attach=false", f"--image={SHELL_IMAGE}", "-c", name,
            "--image-pull-policy=Never", "--", "sh", "-c", "while :; do echo polo; sleep 1; done",
        )  # fmt: skip
        running = f"{{.status.ephemeralContainerStatuses[{number - 1}].state.running.startedAt}}"
        machine.kubectl("wait", f"--for=jsonpath={running}", "pod/remote", "--timeout=120s")
        assert machine.kubectl("exec", "remote", "-c", name, "--", "echo", "marco") == "marco\n"
        eventually(partial(machine.kubectl, "logs", "remote", "-c", name), "a word")
        assert machine.kubectl("logs", "remote", "-c", name).startswith("polo")
        found = json.loads(machine.kubectl("get", "--raw", f"{path}/ephemeralcontainers"))
        assert len(found["spec"]["ephemeralContainers"]) == number
        assert found["metadata"]["generation"] == number + 1
    machine.kubectl("delete", "pod", "remote", "--now")


def messages(machine: Machine, path: str, protocol: str) -> list[bytes]:
    """All that comes over a websocket of the API server."""
    view = json.loads(machine.kubectl("config", "view", "--raw", "--minify", "-o", "json"))
    cluster, user = view["clusters"][0]["cluster"], view["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    tls = ssl.create_default_context(cadata=authority)
    with tempfile.NamedTemporaryFile() as pair:
        for part in ("certificate", "key"):
            pair.write(base64.b64decode(user[f"client-{part}-data"]))
        pair.flush()
        tls.load_cert_chain(pair.name)
    url = cluster["server"].replace("https:", "wss:", 1) + path
    socket = websocket.create_connection(
        url, timeout=60, subprotocols=[protocol], sslopt={"context": tls}
    )
    with contextlib.ExitStack() as stack:
        stack.callback(socket.shutdown)  # which closes it, whatever has been said
        assert socket.getsubprotocol() == protocol
        frames = iter(socket.recv_data, None)
        binary = takewhile(lambda frame: frame[0] != websocket.ABNF.OPCODE_CLOSE, frames)
        return [data for kind, data in binary if kind == websocket.ABNF.OPCODE_BINARY]


def runtime_class(name: str, **fields: Any) -> Object:
    metadata = {"name": name}
    return {
        "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": metadata,
        "handler": "runc", **fields,
    }  # fmt: skip


@pytest.mark.conformance(
    "RuntimeClass should reject a Pod requesting a deleted RuntimeClass [NodeConformance]",
    "RuntimeClass should reject a Pod requesting a non-existent RuntimeClass [NodeConformance]",
    "RuntimeClass should schedule a Pod requesting a RuntimeClass without PodOverhead "
    "[NodeConformance]",
    "RuntimeClass should schedule a Pod requesting a RuntimeClass and initialize its Overhead "
    "[NodeConformance]",
)
def test_classes_of_runtimes(machine: Machine) -> None:
    fixed = {"cpu": "10m", "memory": "1Mi"}
    create(
        machine,
        runtime_class("plain"),
        runtime_class("heavy", overhead={"podFixed": fixed}),
        runtime_class("deleted"),
    )
    machine.kubectl("delete", "runtimeclass", "deleted")
    for name in ("deleted", "missing"):
        refused = subprocess.run(
            ["kubectl", "create", "-f", "-"], env=machine.environment(), check=False,
            input=pod("refused", "true", runtimeClassName=name), capture_output=True, text=True,
        )  # fmt: skip
        assert refused.returncode == 1
        assert refused.stderr.startswith("Error from server (Forbidden): ")
        assert refused.stderr.endswith(f'pod rejected: RuntimeClass "{name}" not found\n')
    for name in ("plain", "heavy"):
        manifest = pod(f"class-{name}", FOREVER, runtimeClassName=name)
        machine.kubectl("apply", "-f", "-", feed=manifest)
    for name, overhead in (("plain", None), ("heavy", fixed)):
        machine.kubectl("wait", "--for=condition=Ready", f"pod/class-{name}", "--timeout=120s")
        spec = machine.get("pod", f"class-{name}")["spec"]
        assert (spec.get("overhead"), spec["nodeName"]) == (overhead, NAME)
    machine.kubectl("delete", "pods", "class-plain", "class-heavy", "--now")
    machine.kubectl("delete", "runtimeclasses", "plain", "heavy")


@pytest.mark.conformance(
    "NoExecuteTaintManager Single Pod [Serial] removing taint cancels eviction [Disruptive]",
    "NoExecuteTaintManager Multiple Pods [Serial] evicts pods with minTolerationSeconds "
    "[Disruptive]",
)
def test_pods_leave_a_node_with_a_taint(machine: Machine) -> None:
    """Each as late as it may. Other pods of this cluster leave as well: this test is the last."""
    seconds = {"soon": 6, "later": 8, "long": 3600}
    for name, number in seconds.items():
        toleration = {"key": "evict", "value": "yes", "effect": "NoExecute"}
        manifest = pod(name, FOREVER, tolerations=[{**toleration, "tolerationSeconds": number}])
        machine.kubectl("apply", "-f", "-", feed=manifest)
    names = [f"pod/{name}" for name in seconds]
    machine.kubectl("wait", "--for=condition=Ready", *names, "--timeout=120s")

    def left() -> set[str]:
        found = machine.get("pods", "-l", f"app in ({','.join(seconds)})")["items"]
        return {each["metadata"]["name"] for each in found
                if "deletionTimestamp" not in each["metadata"]}  # fmt: skip

    begun = time.monotonic()
    machine.kubectl("taint", "node", NAME, "evict=yes:NoExecute")
    machine.kubectl("taint", "node", NAME, "evict-")
    while time.monotonic() < begun + seconds["soon"] + 1:
        assert left() == {*seconds}, "the taint is gone, and so is what it would have done"
        time.sleep(0.3)
    begun = time.monotonic()
    machine.kubectl("taint", "node", NAME, "evict=yes:NoExecute")
    for name, others in (("soon", {"later", "long"}), ("later", {"long"})):
        eventually(lambda name=name: name not in left(), f"the end of {name}")  # type: ignore[misc]
        assert time.monotonic() - begun >= seconds[name] - 0.1
        assert others - left() <= {"later"}
    machine.kubectl("taint", "node", NAME, "evict-")
    machine.kubectl("delete", "pod", "long", "--now")
