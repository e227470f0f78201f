"""A cluster whose scheduler the user configures: two profiles, an extender, and its figures."""

from __future__ import annotations

import json
import shutil
import ssl
import tempfile
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.cluster.machine import Machine

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

NAME = "configured"
CONFIGURATION = """
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: default-scheduler
- schedulerName: packing
  pluginConfig:
  - name: NodeResourcesFit
    args: {scoringStrategy: {type: MostAllocated, resources: [{name: cpu, weight: 1}]}}
  plugins:
    score: {disabled: [{name: "*"}], enabled: [{name: NodeResourcesFit}]}
extenders:
- urlPrefix: http://127.0.0.1:%d/
  filterVerb: filter
  nodeCacheCapable: true
"""
PODS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: %(name)s}
spec:
  replicas: 3
  selector: {matchLabels: {app: %(name)s}}
  template:
    metadata: {labels: {app: %(name)s}}
    spec:
      schedulerName: %(scheduler)s
      containers: [{name: c, image: none, resources: {requests: {cpu: 100m}}}]
---
"""


class Extender(BaseHTTPRequestHandler):
    """Lets no pod onto the first node."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kept = [name for name in asked["NodeNames"] if name != "sim-0"]
        answer = {"nodenames": kept, "failedNodes": {"sim-0": "the extender says no"}}
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        """Nothing is said."""


@pytest.fixture
def extender() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Extender) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def machine() -> Iterator[Machine]:
    home = Path(tempfile.mkdtemp(prefix="nvsched-", dir="/tmp"))
    found = Machine(home / "home", home / "kubeconfig")
    try:
        yield found
    finally:
        found.navarch("delete", "--all", expect=None)
        shutil.rmtree(home)


def told(machine: Machine, port: int, path: str) -> str:
    """As an administrator is told."""
    pki = machine.paths(NAME).pki
    context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / "admin.crt", pki / "admin.key")
    url = f"https://{machine.profile(NAME).control_address}:{port}/{path}"
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:
        return str(answer.read().decode())


def nodes_of(machine: Machine, app: str) -> Counter[str]:
    pods = machine.get("pods", "-l", f"app={app}")["items"]
    return Counter(each["spec"]["nodeName"] for each in pods)


def test_profiles_an_extender_and_figures(machine: Machine, extender: int) -> None:
    file = machine.home.parent / "scheduler.yaml"
    file.write_text(CONFIGURATION % extender)
    machine.navarch("start", "-p", NAME, "--simulated", "4", "--scheduler-config", str(file))
    for name, scheduler in (("spread", "default-scheduler"), ("packed", "packing")):
        machine.kubectl("apply", "-f", "-", feed=PODS % {"name": name, "scheduler": scheduler})
        machine.kubectl("rollout", "status", f"deployment/{name}", "--timeout=120s")
    assert nodes_of(machine, "spread") == {"sim-1": 1, "sim-2": 1, "sim-3": 1}
    assert [*nodes_of(machine, "packed").values()] == [3]

    for port in (10257, 10259):
        assert "[+]informer-sync ok" in told(machine, port, "readyz?verbose")
    figures = told(machine, 10259, "metrics")
    assert 'scheduler_schedule_attempts_total{profile="packing",result="scheduled"} 3.0' in figures
    shown = json.loads(told(machine, 10259, "configz"))["kubescheduler.config.k8s.io"]
    assert [each["schedulerName"] for each in shown["profiles"]] == ["default-scheduler", "packing"]

    # Without the extender's say the node that it kept free is as good as any.
    machine.navarch("start", "-p", NAME, "--scheduler-config", "off")
    machine.kubectl("scale", "deployment/spread", "--replicas=4")
    machine.kubectl("rollout", "status", "deployment/spread", "--timeout=120s")
    assert nodes_of(machine, "spread")["sim-0"] == 1
