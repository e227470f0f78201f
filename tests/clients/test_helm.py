"""Helm itself (version 4, as the library that its Python package carries): the life of a release.

The chart has what charts have: a CRD, a hook that must finish first, a workload with its Service
and its settings, and a test pod. Helm waits for all of it by watching.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python as helm
import pytest

from navarch.testing import Cluster

CHART = {
    "Chart.yaml": """
apiVersion: v2
name: shop
version: 1.2.3
appVersion: "7"
""",
    "values.yaml": """
replicas: 2
greeting: hello
""",
    "crds/orders.yaml": """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: orders.shop.example.com}
spec:
  group: shop.example.com
  scope: Namespaced
  names: {plural: orders, kind: Order}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {
      type: object, properties: {spec: {type: object, properties: {amount: {type: integer}}}}}}}
""",
    "templates/hook.yaml": """
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .Release.Name }}-migrate
  annotations: {helm.sh/hook: "pre-install,pre-upgrade",
    helm.sh/hook-delete-policy: "before-hook-creation,hook-succeeded"}
spec:
  template:
    metadata: {annotations: {FINISHING}}
    spec:
      restartPolicy: Never
      containers: [{name: migrate, image: registry.example/migrate}]
""",
    "templates/shop.yaml": """
apiVersion: v1
kind: ConfigMap
metadata: {name: {{ .Release.Name }}}
data: {greeting: {{ .Values.greeting | quote }}, version: {{ .Chart.AppVersion | quote }}}
---
apiVersion: v1
kind: Service
metadata: {name: {{ .Release.Name }}}
spec: {selector: {app: {{ .Release.Name }}}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: {{ .Release.Name }}, labels: {app: {{ .Release.Name }}}}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: {{ .Release.Name }}}}
  template:
    metadata: {labels: {app: {{ .Release.Name }}}}
    spec:
      containers:
      - name: shop
        image: registry.example/shop
        ports: [{name: http, containerPort: 8080}]
        env: [{name: GREETING, value: {{ .Values.greeting | quote }}}]
---
apiVersion: shop.example.com/v1
kind: Order
metadata: {name: first}
spec: {amount: 3}
{{- if .Capabilities.APIVersions.Has "policy/v1" }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: {{ .Release.Name }}}
spec: {minAvailable: 1, selector: {matchLabels: {app: {{ .Release.Name }}}}}
{{- end }}
""",
    "templates/tests/check.yaml": """
apiVersion: v1
kind: Pod
metadata:
  name: {{ .Release.Name }}-check
  annotations: {helm.sh/hook: test, FINISHING}
spec: {restartPolicy: Never, containers: [{name: check, image: registry.example/check}]}
""",
}
FINISHING = 'simulated.navarch.dev/run-seconds: "0"'


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    for name, text in CHART.items():
        target = tmp_path / "shop" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = text.replace("FINISHING", FINISHING)
        target.write_text(text.lstrip())
    return tmp_path / "shop"


@pytest.fixture
def config(cluster: Cluster, namespace: str) -> Iterator[helm.Config]:
    with helm.Config(kubeconfig_path=cluster.kubeconfig, namespace=namespace) as config:
        yield config


def test_the_life_of_a_release(
    cluster: Cluster, namespace: str, config: helm.Config, chart: Path
) -> None:
    def the(what: str) -> Any:
        return cluster.get(what, namespace=namespace)

    config.check_reachable()
    installed = config.install(chart, "web", namespace=namespace, wait="watcher", timeout=60)
    assert installed["status"] == "deployed"
    assert the("deployment/web")["status"]["readyReplicas"] == 2
    assert the("configmap/web")["data"]["greeting"] == "hello"
    assert the("orders.shop.example.com/first")["spec"] == {"amount": 3}
    assert the("pdb/web")["spec"]["minAvailable"] == 1

    values = {"replicas": 3, "greeting": "good day"}
    config.upgrade(chart, "web", values, namespace=namespace, wait="watcher", timeout=60)
    assert the("deployment/web")["status"]["readyReplicas"] == 3
    assert the("configmap/web")["data"]["greeting"] == "good day"
    config.test("web", timeout=60)

    config.rollback("web", wait="watcher", timeout=60)
    assert the("configmap/web")["data"]["greeting"] == "hello"
    assert [each["status"] for each in config.history("web")] == [
        "superseded",
        "superseded",
        "deployed",
    ]
    assert [each["name"] for each in config.list()] == ["web"]

    config.uninstall("web", wait="watcher", timeout=60)
    assert config.list() == []
    assert the("configmap/web") is None
    cluster.wait_gone("deployment/web", namespace=namespace)


def test_a_dry_run_on_the_server_finds_what_is_wrong(
    cluster: Cluster, namespace: str, config: helm.Config, chart: Path
) -> None:
    config.install(chart, "dry", namespace=namespace, dry_run="server")
    assert cluster.get("deployment/dry", namespace=namespace) is None
    with pytest.raises(helm.HelmError, match="replicas"):
        config.install(chart, "bad", {"replicas": "many"}, namespace=namespace)
    assert cluster.get("deployment/bad", namespace=namespace) is None
