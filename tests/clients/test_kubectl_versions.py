"""kubectl of several minors: each that is on the machine, besides the one on the PATH.

Some distributions keep several side by side (`kubectl.1.33` beside `kubectl`); NAVARCH_KUBECTLS
names more, separated by colons. Upstream supports a kubectl one minor older or newer than the
server; scripts live longer than that.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from navarch.testing import Cluster

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "registry.example/web:1"}]}
"""


def kubectls() -> list[Path]:
    found = [Path(name) for name in os.environ.get("NAVARCH_KUBECTLS", "").split(":") if name]
    if usual := shutil.which("kubectl"):
        found += [Path(usual), *sorted(Path(usual).resolve().parent.glob("kubectl.*"))]
    return found


class Kubectl:
    def __init__(self, program: Path, cluster: Cluster, namespace: str, manifest: Path) -> None:
        self.program, self.namespace, self.manifest = program, namespace, manifest
        self.environment = {**os.environ, **cluster.environ()}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, "-n", self.namespace, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def __call__(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout


@pytest.fixture(params=kubectls(), ids=lambda path: path.name)
def kubectl(
    request: pytest.FixtureRequest, cluster: Cluster, namespace: str, tmp_path: Path
) -> Kubectl:
    manifest = tmp_path / "web.yaml"
    manifest.write_text(DEPLOYMENT)
    return Kubectl(request.param, cluster, namespace, manifest)


def test_apply_diff_and_rollout(kubectl: Kubectl) -> None:
    file = str(kubectl.manifest)
    assert kubectl("apply", "-f", file) == "deployment.apps/web created\n"
    kubectl("rollout", "status", "deployment/web", "--timeout=120s")
    assert kubectl("apply", "-f", file) == "deployment.apps/web unchanged\n"
    assert kubectl("diff", "-f", file) == ""
    kubectl.manifest.write_text(DEPLOYMENT.replace("web:1", "web:2"))
    changed = kubectl.run("diff", "-f", file)
    assert changed.returncode == 1
    assert "+" in changed.stdout and "registry.example/web:2" in changed.stdout
    assert kubectl("apply", "-f", file) == "deployment.apps/web configured\n"
    kubectl("rollout", "status", "deployment/web", "--timeout=120s")
    assert len(kubectl("rollout", "history", "deployment/web").split("\n")) >= 4
    kubectl("rollout", "undo", "deployment/web")
    kubectl("rollout", "status", "deployment/web", "--timeout=120s")
    image = "jsonpath={.spec.template.spec.containers[0].image}"
    assert kubectl("get", "deployment", "web", "-o", image) == "registry.example/web:1"
    kubectl("scale", "deployment", "web", "--replicas=1")
    kubectl("wait", "deployment/web", "--for=jsonpath={.status.replicas}=1", "--timeout=120s")
    kubectl("set", "image", "deployment/web", "web=registry.example/web:3")
    kubectl("rollout", "restart", "deployment/web")
    kubectl("rollout", "status", "deployment/web", "--timeout=120s")
    kubectl("apply", "--server-side", "--force-conflicts", "-f", file)
    kubectl("delete", "-f", file, "--wait", "--timeout=120s")
    assert kubectl("get", "deployments", "-o", "name") == ""


def test_output_forms(kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "a", "--from-literal=k=v")
    kubectl("label", "configmap", "a", "tier=front")
    kubectl("annotate", "configmap", "a", "note=1")
    assert kubectl("get", "cm", "-l", "tier=front", "--no-headers").split()[:2] == ["a", "1"]
    assert "NAME" in kubectl("get", "nodes", "-o", "wide")
    columns = "custom-columns=NAME:.metadata.name,VALUE:.data.k"
    assert kubectl("get", "cm", "a", "-o", columns).split() == ["NAME", "VALUE", "a", "v"]
    assert json.loads(kubectl("get", "cm", "a", "-o", "json"))["data"] == {"k": "v"}
    assert "k: v" in kubectl("get", "cm", "a", "-o", "yaml")
    assert "Name:" in kubectl("describe", "configmap", "a")
    kubectl("patch", "cm", "a", "--type=json", '-p=[{"op":"add","path":"/data/x","value":"y"}]')
    assert kubectl("get", "cm", "a", "-o", "go-template={{.data.x}}") == "y"


def test_discovery_and_access(kubectl: Kubectl) -> None:
    resources = kubectl("api-resources", "--api-group=example.com").split()
    assert "widgets" in resources and "wd" in resources
    assert "apps/v1" in kubectl("api-versions").split()
    assert "replicas" in kubectl("explain", "deployment.spec")
    assert "size" in kubectl("explain", "widget.spec")
    assert kubectl("auth", "can-i", "create", "pods") == "yes\n"
    refused = kubectl.run("auth", "can-i", "create", "pods", "--as=nobody")
    assert (refused.returncode, refused.stdout) == (1, "no\n")
    version = json.loads(kubectl("version", "-o", "json"))
    assert version["serverVersion"]["minor"] == "36"


def test_custom_resources_and_pods(kubectl: Kubectl, cluster: Cluster) -> None:
    body = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}}
    cluster.apply({**body, "spec": {"size": 1}}, namespace=kubectl.namespace)
    assert kubectl("get", "wd", "-o", "name") == "widget.example.com/w\n"
    kubectl("scale", "widget", "w", "--replicas=4")
    assert kubectl("get", "widget", "w", "-o", "jsonpath={.spec.size}") == "4"
    kubectl("run", "p", "--image=registry.example/p")
    kubectl("wait", "pod/p", "--for=condition=Ready", "--timeout=120s")
    kubectl("expose", "pod", "p", "--port=80")
    kubectl("delete", "pod", "p", "--grace-period=1", "--timeout=120s")
    assert "Error from server (NotFound)" in kubectl.run("get", "pod", "p").stderr
    assert "Scheduled" in kubectl("get", "events", "--field-selector=involvedObject.name=p")
