"""examples/web from its images to its end, on a real cluster, and what else its pods rely on.

The tests up to the out-of-memory one are a story: each goes on where the one before it ended.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.cluster.machine import Machine

from navarch.cluster import processes

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="real nodes need root"),
    pytest.mark.skipif(shutil.which("containerd") is None, reason="run: navarch setup"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="run: navarch setup"),
]

NAME = "web"
EXAMPLE = Path(__file__).parents[2] / "examples" / "web"
BASE = "navarch.local/web-base:1"
PASSWORD = "open-sesame"


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    home = Path(tempfile.mkdtemp(prefix="navarch-test-"))
    found = Machine(home / "home", home / "kubeconfig")
    environment = {
        **found.environment(),
        "NAVARCH": f"{sys.executable} -m navarch.cli.main",
    }
    try:
        found.navarch("start", "-p", NAME)
        subprocess.run([EXAMPLE / "images.sh", "-p", NAME], env=environment, check=True)
        yield found
    finally:
        found.navarch("delete", "--all", expect=None)
        shutil.rmtree(home, ignore_errors=True)


def apply(machine: Machine, name: str) -> None:
    machine.kubectl("apply", "-f", str(EXAMPLE / "manifests" / f"{name}.yaml"))


def eventually(condition: Callable[[], object], what: str, timeout: float = 60.0) -> None:
    assert processes.wait_until(lambda: bool(condition()), timeout, 0.1), what


def wait_for(machine: Machine, what: str, *objects: str) -> None:
    machine.kubectl("wait", f"--for={what}", "--timeout=120s", *objects)


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        text: str = response.read().decode()
    return text


def pods(machine: Machine, app: str) -> list[Any]:
    """The pods of an application that are to stay."""
    found = machine.get("pods", "-l", f"app={app}")["items"]
    return [each for each in found if "deletionTimestamp" not in each["metadata"]]


def names(found: list[Any]) -> set[str]:
    return {each["metadata"]["name"] for each in found}


def container(pod: Any) -> Any:
    return pod["status"]["containerStatuses"][0]


def endpoints(machine: Machine, service: str) -> dict[str, Any]:
    """The conditions of a Service's endpoints, by pod."""
    slices = machine.get("endpointslices", "-l", f"kubernetes.io/service-name={service}")["items"]
    return {
        endpoint["targetRef"]["name"]: endpoint["conditions"]
        for each in slices
        for endpoint in each.get("endpoints") or []
    }


def events(machine: Machine, pod: str, reason: str) -> str:
    return machine.kubectl(
        "get", "events", f"--field-selector=involvedObject.name={pod},reason={reason}",
        "-o", "custom-columns=T:.type,M:.message", "--no-headers",
    )  # fmt: skip


def addresses(machine: Machine) -> list[str]:
    """The shop as pods of the cluster see it, and as the world does."""
    spec = machine.get("service", "shop")["spec"]
    node = machine.profile(NAME).node_address(NAME)
    return [f"http://{spec['clusterIP']}", f"http://{node}:{spec['ports'][0]['nodePort']}"]


class Traffic:
    """Requests without a pause; counts answers by version and keeps what went wrong."""

    def __init__(self, urls: list[str]) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._loop, args=(f"{url}/",)) for url in urls]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def has_answered(self, count: int) -> bool:
        return self.answers.total() >= count

    def _loop(self, url: str) -> None:
        while not self._stop.wait(0.02):
            try:
                text = fetch(url)
            except OSError as error:
                self.failures.append(str(error))
                continue
            found = re.fullmatch(r"version (\d), pod shop-\S+, visitor \S+\n", text)
            if found:
                self.answers[found[1]] += 1
            else:
                self.failures.append(text)


class Watched:
    """The shop's pods, followed by kubectl: what was the most there was, and the least ready."""

    def __init__(self, machine: Machine) -> None:
        self.most, self.least_ready = 0, 1_000
        self._known: dict[str, bool] = {}
        words = ["get", "pods", "-l", "app=shop", "-w", "--output-watch-events", "-o", "json"]
        self._count = len(pods(machine, "shop"))
        self._process = subprocess.Popen(
            ["kubectl", *words], env=machine.environment(), stdout=subprocess.PIPE, text=True
        )
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self

    def has_begun(self) -> bool:
        return len(self._known) == self._count

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._thread.join()
        self._process.wait()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                self._note(json.loads(line))

    def _note(self, event: Any) -> None:
        pod = event["object"]
        name = pod["metadata"]["name"]
        if event["type"] == "DELETED" or "deletionTimestamp" in pod["metadata"]:
            self._known.pop(name, None)
        else:
            self._known[name] = is_ready(pod)
        if self.has_begun() or self.most:
            self.most = max(self.most, len(self._known))
            self.least_ready = min(self.least_ready, sum(self._known.values()))


def is_ready(pod: Any) -> bool:
    return any(
        each["type"] == "Ready" and each["status"] == "True"
        for each in pod["status"].get("conditions", [])
    )


def test_a_replica_set_keeps_its_number(machine: Machine) -> None:
    apply(machine, "replicaset")
    wait_for(machine, "jsonpath={.status.readyReplicas}=3", "rs/pages")
    victim, *others = sorted(names(pods(machine, "pages")))
    machine.kubectl("delete", "pod", victim)
    wait_for(machine, "jsonpath={.status.readyReplicas}=3", "rs/pages")
    now = names(pods(machine, "pages"))
    assert len(now) == 3 and victim not in now and set(others) < now
    machine.kubectl("scale", "rs/pages", "--replicas=1")
    wait_for(machine, "jsonpath={.status.replicas}=1", "rs/pages")
    (left,) = names(pods(machine, "pages"))
    machine.kubectl("delete", "rs", "pages", "--cascade=orphan")
    assert names(pods(machine, "pages")) == {left}
    apply(machine, "replicaset")
    wait_for(machine, "jsonpath={.status.readyReplicas}=3", "rs/pages")
    assert left in names(pods(machine, "pages"))  # adopted
    machine.kubectl("delete", "rs", "pages")
    wait_for(machine, "delete", "pod", "-l", "app=pages")


def test_without_its_database_the_shop_crashes_again_and_again(machine: Machine) -> None:
    apply(machine, "shop")
    eventually(
        lambda: machine.kubectl("get", "pods", "-l", "app=shop").count("CrashLoopBackOff") == 3,
        "all three wait",
    )
    name = sorted(names(pods(machine, "shop")))[0]
    text = "shop: there is no password in /etc/database/password\n"
    assert machine.kubectl("logs", name, "--previous") == text
    assert machine.kubectl("logs", name) == text
    described = machine.kubectl("describe", "pod", name)
    assert re.search(r"State: +Waiting\n +Reason: +CrashLoopBackOff\n", described), described
    assert re.search(r"Last State: +Terminated\n +Reason: +Error\n +Exit Code: +1", described)
    assert re.search(
        rf"Warning +BackOff .* Back-off restarting failed container shop in pod {name}_default",
        described,
    ), described
    conditions = machine.get("deploy", "shop")["status"]["conditions"]
    assert {each["type"]: each["status"] for each in conditions}["Available"] == "False"
    assert not any(each["ready"] for each in endpoints(machine, "shop").values())
    for url in addresses(machine):
        with pytest.raises(urllib.error.URLError, match="refused"):
            fetch(url)


def test_a_patch_and_a_variable_cure_it(machine: Machine) -> None:
    machine.kubectl(
        "create", "secret", "generic", "database", f"--from-literal=password={PASSWORD}"
    )
    apply(machine, "database")
    machine.kubectl("rollout", "status", "deploy/database", "--timeout=120s")
    patch = EXAMPLE / "manifests" / "shop-password.yaml"
    machine.kubectl("patch", "deploy", "shop", "--patch-file", str(patch))
    complaint = "shop: the database at nowhere does not answer"
    logs = ("logs", "-l", "app=shop")  # which fails while one of the pods has none yet
    eventually(lambda: complaint in machine.kubectl(*logs, expect=None), "one step further")
    machine.kubectl("set", "env", "deploy/shop", "DATABASE=database")
    machine.kubectl("rollout", "status", "deploy/shop", "--timeout=120s")
    wait_for(machine, "jsonpath={.status.replicas}=3", "deploy/shop")
    for url in addresses(machine):
        eventually(partial(serves_customers, url), url)
    words = ["exec", "deploy/shop", "--", "sh", "-c"]
    secret = machine.kubectl(
        *words, "cat /etc/database/password; stat -L -c %a /etc/database/password"
    )
    assert secret == f"{PASSWORD}400\n"
    assert "tmpfs /etc/database tmpfs ro" in machine.kubectl(*words, "cat /proc/mounts")
    history = machine.kubectl("rollout", "history", "deploy/shop").split("\n")
    assert [line.split()[0] for line in history if line[:1].isdigit()] == ["1", "2", "3"]


def serves_customers(url: str) -> bool:
    return bool(re.fullmatch(r"version 1, pod shop-\S+, visitor \d+\n", fetch(url)))


def test_a_rolling_update_stays_within_its_bounds(machine: Machine) -> None:
    with Traffic(addresses(machine)) as traffic, Watched(machine) as watched:
        eventually(watched.has_begun, "the watch has begun")
        machine.kubectl("set", "image", "deploy/shop", "shop=navarch.local/web-shop:2")
        machine.kubectl("rollout", "status", "deploy/shop", "--timeout=120s")
        before = traffic.answers["2"]
        eventually(lambda: traffic.answers["2"] > before + 20, "the new version answers")
        listed = partial(machine.kubectl, "get", "pods", "-l", "app=shop", "--no-headers")
        eventually(lambda: listed().count("\n") == 3, "the old ones have ended")
    assert traffic.failures == []
    assert traffic.answers["1"]
    assert watched.most == 4  # 3 and maxSurge
    assert watched.least_ready == 2  # 3 less maxUnavailable
    images = {each["spec"]["containers"][0]["image"] for each in pods(machine, "shop")}
    assert images == {"navarch.local/web-shop:2"}


def test_a_shop_that_does_not_live_is_restarted(machine: Machine) -> None:
    victim, *others = pods(machine, "shop")
    name = victim["metadata"]["name"]
    machine.kubectl("exec", name, "--", "rm", "/www/alive")
    wait_for(machine, "jsonpath={.status.containerStatuses[0].restartCount}=1", f"pod/{name}")
    wait_for(machine, "condition=Ready", f"pod/{name}")
    now = container(machine.get("pod", name))
    assert now["containerID"] != container(victim)["containerID"]
    assert now["lastState"]["terminated"]["containerID"] == container(victim)["containerID"]
    text = "Warning   Liveness probe failed: HTTP probe failed with statuscode: 404"
    eventually(lambda: text in events(machine, name, "Unhealthy"), "told")
    text = "Normal   Container shop failed liveness probe, will be restarted"
    eventually(lambda: text in events(machine, name, "Killing"), "told")
    for other in others:
        found = container(machine.get("pod", other["metadata"]["name"]))
        assert found["containerID"] == container(other)["containerID"]


def test_a_shop_that_is_not_ready_gets_no_customers(machine: Machine) -> None:
    victim, *others = sorted(names(pods(machine, "shop")))
    machine.kubectl("exec", victim, "--", "mv", "/www/ready", "/www/soon")
    wait_for(machine, "condition=Ready=False", f"pod/{victim}")
    eventually(lambda: not endpoints(machine, "shop")[victim]["ready"], "it has left the Service")
    (url, _) = addresses(machine)
    eventually(lambda: victim not in "".join(fetch(url) for _ in range(20)), "traffic follows")
    seen = "".join(fetch(url) for _ in range(30))
    assert victim not in seen
    assert all(other in seen for other in others)
    machine.kubectl("exec", victim, "--", "mv", "/www/soon", "/www/ready")
    wait_for(machine, "condition=Ready", f"pod/{victim}")
    eventually(lambda: victim in fetch(url), "it serves again")


def test_too_much_memory_is_named(machine: Machine) -> None:
    apply(machine, "hungry")
    wait_for(
        machine,
        "jsonpath={.status.containerStatuses[0].lastState.terminated.reason}=OOMKilled",
        "pod/hungry",
    )
    described = machine.kubectl("describe", "pod", "hungry")
    assert re.search(r"Reason: +OOMKilled\n +Exit Code: +137\n", described), described
    assert re.search(r"Limits:\n +memory: +24Mi\n", described), described
    status = machine.kubectl("get", "pod", "hungry", "--no-headers").split()[2]
    assert status in ("OOMKilled", "CrashLoopBackOff", "Running")
    machine.kubectl("delete", "pod", "hungry", "--now")


def test_init_containers_variables_and_shared_directories(machine: Machine) -> None:
    apply(machine, "diary")
    wait_for(machine, "condition=Ready", "pod/diary")
    pod = machine.get("pod", "diary")
    reader = ["exec", "diary", "-c", "reader", "--", "cat"]
    eventually(
        lambda: "password" in machine.kubectl(*reader, "/desk/page"), "the writer has written"
    )
    address = pod["status"]["podIP"]
    assert machine.kubectl(*reader, "/desk/page").splitlines() == [
        "first",
        "second",
        f"good morning from diary at {address} on {NAME} with 32",
        f"the password is {PASSWORD}, and $(PASSWORD) is not",
    ]
    first, second = (each["state"]["terminated"] for each in pod["status"]["initContainerStatuses"])
    assert first["finishedAt"] <= second["startedAt"]
    for status in pod["status"]["containerStatuses"]:
        assert status["state"]["running"]["startedAt"] >= second["finishedAt"]
    assert machine.kubectl(*reader, "/about/motto") == "one thing\nafter another\n"
    assert machine.kubectl(*reader, "/about/labels") == 'app="diary"'
    assert machine.kubectl(*reader, "/about/mood") == "calm"
    refused = ["exec", "diary", "-c", "reader", "--", "touch", "/desk/mine"]
    machine.kubectl(*refused, expect=1)  # mounted read-only here
    machine.kubectl("delete", "pod", "diary")


def shell_pod(name: str, command: str, grace: int = 1, **fields: Any) -> str:
    """A pod of the example's base image, with more fields for its container."""
    main = {
        "name": "main",
        "image": BASE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", command],
        **fields,
    }
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"containers": [main], "terminationGracePeriodSeconds": grace},
        }
    )


FOREVER = "trap 'exit 0' TERM; while :; do sleep 0.1; done"


def test_a_slow_start_is_waited_for(machine: Machine) -> None:
    """Before the startup probe has passed nobody asks whether the container lives or is ready."""
    probe = {"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 20}
    manifest = shell_pod(
        "slow",
        FOREVER,
        startupProbe={**probe, "exec": {"command": ["test", "-e", "/up"]}, "failureThreshold": 60},
        livenessProbe={**probe, "exec": {"command": ["test", "-e", "/up"]}},
        readinessProbe={**probe, "exec": {"command": ["test", "-e", "/up"]}},
    )
    machine.kubectl("apply", "-f", "-", feed=manifest)
    unhealthy = "Warning   Startup probe failed: "
    eventually(lambda: unhealthy in events(machine, "slow", "Unhealthy"), "it has been asked")
    now = container(machine.get("pod", "slow"))
    assert (now["started"], now["ready"], now["restartCount"]) == (False, False, 0)
    assert "running" in now["state"]
    machine.kubectl("exec", "slow", "--", "touch", "/up")
    wait_for(machine, "condition=Ready", "pod/slow")
    now = container(machine.get("pod", "slow"))
    assert (now["started"], now["restartCount"]) == (True, 0)
    assert "Liveness" not in events(machine, "slow", "Unhealthy")
    machine.kubectl("delete", "pod", "slow", "--now")


def test_a_start_that_takes_too_long_is_ended(machine: Machine) -> None:
    probe = {"exec": {"command": ["false"]}, "periodSeconds": 1, "failureThreshold": 2}
    machine.kubectl("apply", "-f", "-", feed=shell_pod("stuck", FOREVER, startupProbe=probe))
    wait_for(machine, "jsonpath={.status.containerStatuses[0].restartCount}=1", "pod/stuck")
    text = "Normal   Container main failed startup probe, will be restarted"
    eventually(lambda: text in events(machine, "stuck", "Killing"), "told")
    machine.kubectl("delete", "pod", "stuck", "--now")


def test_a_pod_leaves_its_service_before_it_ends(machine: Machine) -> None:
    """First the endpoint goes, meanwhile the hook runs and the process still answers; only then
    comes the signal, and the process has time to end as it likes."""
    command = (
        "echo here > /www/index.html; httpd -f -p 8080 -h /www & "
        "trap 'echo signal; sleep 0.5; echo bye; exit 0' TERM; echo up; while :; do wait; done"
    )
    wait = "until [ -e /seen ]; do sleep 0.1; done"
    hook = {"exec": {"command": ["sh", "-c", f"echo hook > /proc/1/fd/1; {wait}"]}}
    probe = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    manifest = shell_pod("leaver", command, 120, lifecycle={"preStop": hook}, readinessProbe=probe)
    machine.kubectl("apply", "-f", "-", feed=manifest)
    machine.kubectl("expose", "pod", "leaver", "--port=80", "--target-port=8080")
    wait_for(machine, "condition=Ready", "pod/leaver")
    address = machine.get("pod", "leaver")["status"]["podIP"]
    service = f"http://{machine.get('service', 'leaver')['spec']['clusterIP']}/"
    eventually(lambda: reached(service), "the Service has it")
    with subprocess.Popen(
        ["kubectl", "logs", "-f", "leaver"],
        env=machine.environment(), stdout=subprocess.PIPE, text=True,
    ) as logs:  # fmt: skip
        machine.kubectl("delete", "pod", "leaver", "--wait=false")
        assert "Terminating" in machine.kubectl("get", "pod", "leaver")
        eventually(lambda: not endpoints(machine, "leaver")["leaver"]["ready"], "it has left")
        conditions = endpoints(machine, "leaver")["leaver"]
        assert (conditions["serving"], conditions["terminating"]) == (True, True)
        assert fetch(f"http://{address}:8080/") == "here\n"
        machine.kubectl("exec", "leaver", "--", "touch", "/seen")
        assert logs.stdout is not None
        assert logs.stdout.read() == "up\nhook\nsignal\nbye\n"
    wait_for(machine, "delete", "pod/leaver")
    eventually(lambda: not endpoints(machine, "leaver"), "nothing is left of it")
    assert not reached(service)
    machine.kubectl("delete", "service", "leaver")


def reached(url: str) -> bool:
    try:
        return bool(fetch(url))
    except OSError:
        return False


def test_a_pod_may_speak_to_the_api(machine: Machine) -> None:
    """With what every pod finds in its file system: a certificate, a token that is bound to it, and
    the rights of its service account."""
    machine.kubectl("apply", "-f", "-", feed=shell_pod("caller", FOREVER))
    wait_for(machine, "condition=Ready", "pod/caller")
    directory = "/var/run/secrets/kubernetes.io/serviceaccount"
    script = f"cat {directory}/ca.crt; echo; cat {directory}/namespace; echo; cat {directory}/token"
    script += "; echo; echo $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT"
    text = machine.kubectl("exec", "caller", "--", "sh", "-c", script).strip()
    certificate, _, rest = text.partition("-----END CERTIFICATE-----\n")
    namespace, token, server = rest.split()
    context = ssl.create_default_context(cadata=certificate + "-----END CERTIFICATE-----\n")

    def call(path: str) -> int:
        url = f"https://{server}{path}"
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert call("/version") == 200
    assert call(f"/api/v1/namespaces/{namespace}/pods") == 403
    machine.kubectl(
        "create", "rolebinding", "look", "--clusterrole=view", "--serviceaccount=default:default"
    )
    eventually(lambda: call(f"/api/v1/namespaces/{namespace}/pods") == 200, "it may look now")
    assert call(f"/api/v1/namespaces/{namespace}/secrets") == 403
    machine.kubectl("delete", "rolebinding", "look")
    machine.kubectl("delete", "pod", "caller", "--now")
    eventually(lambda: call("/version") == 401, "the token ends with its pod")


def test_customers_notice_no_process_that_dies(machine: Machine) -> None:
    machine.kubectl("rollout", "status", "deploy/shop", "--timeout=120s")
    before = {each["metadata"]["name"]: container(each) for each in pods(machine, "shop")}
    victims = ["apiserver", "controllers", f"node-{NAME}", f"containerd-{NAME}", "supervisor"]
    with Traffic(addresses(machine)) as traffic:
        for victim in victims:
            machine.kill(NAME, [victim])
            served = traffic.answers.total()
            if victim == "supervisor":
                machine.navarch("start", "-p", NAME)
            eventually(partial(machine.pid, NAME, victim), f"{victim} is back")
            eventually(partial(answers, machine), "the API answers")
            eventually(partial(traffic.has_answered, served + 50), "traffic goes on")
    assert traffic.failures == []
    after = {each["metadata"]["name"]: container(each) for each in pods(machine, "shop")}
    assert {name: each["containerID"] for name, each in after.items()} == {
        name: each["containerID"] for name, each in before.items()
    }
    assert [each["restartCount"] for each in after.values()] == [
        each["restartCount"] for each in before.values()
    ]


def test_a_rolling_update_goes_on_when_those_who_do_it_die(machine: Machine) -> None:
    victims = ["controllers", f"node-{NAME}"]
    with Traffic(addresses(machine)) as traffic:
        machine.kubectl("set", "env", "deploy/shop", "COLOUR=green")
        wait_for(machine, "jsonpath={.status.updatedReplicas}", "deploy/shop")
        machine.kill(NAME, victims)
        machine.kubectl("rollout", "status", "deploy/shop", "--timeout=120s")
        listed = partial(machine.kubectl, "get", "pods", "-l", "app=shop", "--no-headers")
        eventually(lambda: listed().count("\n") == 3, "the old ones have ended", 60)
    assert traffic.failures == []
    assert [container(each)["restartCount"] for each in pods(machine, "shop")] == [0, 0, 0]


def answers(machine: Machine) -> bool:
    return machine.kubectl("get", "--raw", "/readyz", expect=None) == "ok"
