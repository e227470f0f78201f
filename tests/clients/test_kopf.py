"""kopf: an operator at work, as its documentation describes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kopf import OperatorRegistry
from kopf.testing import KopfRunner

from navarch.testing import Cluster, KubectlError

OPERATORS = Path(__file__).parent / "operators"
FINALIZER = "kopf.zalando.org/KopfFinalizerMarker"
PEERING = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: clusterkopfpeerings.kopf.dev}
spec:
  scope: Cluster
  group: kopf.dev
  names: {kind: ClusterKopfPeering, plural: clusterkopfpeerings, singular: clusterkopfpeering}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties: {status: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
apiVersion: kopf.dev/v1
kind: ClusterKopfPeering
metadata: {name: widgets}
"""


@contextmanager
def running(*arguments: str, operator: str = "widgets") -> Iterator[KopfRunner]:
    """With handlers of its own: kopf would add them to those of operators that ran before."""
    command = ["run", *arguments, str(OPERATORS / f"{operator}.py")]
    with KopfRunner(command, registry=OperatorRegistry(), timeout=60, reraise=True) as runner:
        yield runner
    assert runner.exit_code == 0, runner.output


@pytest.fixture
def operator(cluster: Cluster, namespace: str) -> Iterator[KopfRunner]:
    with running("--standalone", "--namespace", namespace) as runner:
        yield runner


def widget(namespace: str, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": "w", "namespace": namespace, "labels": labels or {}},
        "spec": spec,
    }


def status(obj: dict[str, Any]) -> dict[str, Any]:
    return dict(obj.get("status", {}))


def has_ticked(times: int) -> Callable[[dict[str, Any]], bool]:
    return lambda obj: status(obj).get("ticks", 0) >= times


def handled(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda obj: name in status(obj)


def test_create_update_delete(cluster: Cluster, namespace: str, operator: KopfRunner) -> None:
    cluster.apply(widget(namespace, size=3, color="red"))
    made = cluster.wait_for("widget/w", until=handled("created"), namespace=namespace)
    assert (status(made)["created"], status(made)["size"]) == ({"color": "red"}, 3)
    # Deletion is handled, so the object has to be held until it was.
    assert made["metadata"]["finalizers"] == [FINALIZER]
    cluster.apply(widget(namespace, size=3, color="blue"))
    cluster.wait_for(
        "widget/w",
        until=lambda obj: status(obj).get("repainted/spec.color") == "red to blue",
        namespace=namespace,
    )
    cluster.delete("widget/w", namespace=namespace)


def test_retries(cluster: Cluster, namespace: str, operator: KopfRunner) -> None:
    cluster.apply(widget(namespace, {"trouble": "yes"}))
    made = cluster.wait_for("widget/w", until=handled("troubled"), namespace=namespace)
    assert status(made)["troubled"] == "after 2 retries"
    cluster.delete("widget/w", namespace=namespace)


def test_timers_daemons_and_events(cluster: Cluster, namespace: str) -> None:
    """For longer than the server lets a watch go on, and with a connection that breaks."""
    with running("--standalone", "--namespace", namespace) as operator:
        cluster.apply(widget(namespace, {"timer": "yes", "daemon": "yes"}))
        cluster.wait_for("widget/w", until=has_ticked(3), namespace=namespace)
        cluster.cut_connections()
        cluster.wait_for("widget/w", until=has_ticked(12), namespace=namespace)
        events = cluster.events("widget/w", namespace=namespace)
        assert "Made" in [event["reason"] for event in events]
        cluster.delete("widget/w", namespace=namespace)
    assert "the daemon has begun" in operator.output
    assert "the daemon has ended" in operator.output


def test_what_was_missed_is_made_up_for(cluster: Cluster, namespace: str) -> None:
    arguments = ("--standalone", "--namespace", namespace)
    with running(*arguments):
        cluster.apply(widget(namespace, color="red"))
        cluster.wait_for("widget/w", until=handled("created"), namespace=namespace)
    cluster.apply(widget(namespace, color="green"))
    cluster.kubectl("delete", "widget", "w", "--wait=false", "-n", namespace)
    assert cluster.get("widget/w", namespace=namespace), "nobody has handled the deletion"
    with running(*arguments) as operator:
        cluster.wait_gone("widget/w", namespace=namespace)
    assert "w was cleaned up" in operator.output


def test_only_one_peer_acts(cluster: Cluster, namespace: str) -> None:
    cluster.apply(PEERING)
    with running("--peering=widgets", "--priority=100", "-A") as first:
        cluster.wait_for("clusterkopfpeering/widgets", until=status)
        cluster.apply(widget(namespace, color="red"))
        cluster.wait_for("widget/w", until=handled("created"), namespace=namespace)
        with running("--peering=widgets", "--priority=10", "-A") as lesser:
            cluster.wait_for("clusterkopfpeering/widgets", until=lambda obj: len(status(obj)) == 2)
            cluster.apply(widget(namespace, color="blue"))
            cluster.wait_for(
                "widget/w",
                until=handled("repainted/spec.color"),
                namespace=namespace,
            )
            cluster.delete("widget/w", namespace=namespace)
    # What both wrote is mixed in what the two of them are said to have written.
    written = first.output + lesser.output
    assert written.count("w was cleaned up") == 1
    assert written.count("Handler 'repainted/spec.color' succeeded") == 1
    found = cluster.get("clusterkopfpeering/widgets")
    assert found is not None and not any(status(found).values())


def test_indices(cluster: Cluster, namespace: str) -> None:
    with running("--standalone", "--namespace", namespace) as operator:
        cluster.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "c", "namespace": namespace, "labels": {"indexed": "yes"}},
                "data": {"a": "1"},
            }
        )
        cluster.apply(widget(namespace))
        cluster.wait_for("widget/w", until=handled("created"), namespace=namespace)
        cluster.delete("widget/w", namespace=namespace)
    assert "c [{'a': '1'}]" in operator.output


def test_admission(cluster: Cluster, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = cluster.serving_certificate("127.0.0.1")
    monkeypatch.setenv("WEBHOOK_CERTIFICATE", str(certificate))
    monkeypatch.setenv("WEBHOOK_KEY", str(key))
    monkeypatch.setenv("WEBHOOK_CA", str(cluster.ca))
    with running("--standalone", "-n", namespace, operator="admission"):
        cluster.wait_for("validatingwebhookconfiguration/kopf.example.com", until=_has_hooks)
        cluster.wait_for("mutatingwebhookconfiguration/kopf.example.com", until=_has_hooks)
        with pytest.raises(KubectlError, match="beige is not a color"):
            cluster.kubectl("apply", "-f", "-", stdin=_yaml(widget(namespace, color="beige")))
        cluster.kubectl("apply", "-f", "-", stdin=_yaml(widget(namespace, color="brown")))
        made = cluster.get("widget/w", namespace=namespace)
        assert made is not None and made["spec"] == {"color": "brown", "size": 7}
        cluster.delete("widget/w", namespace=namespace)
    cluster.delete("validatingwebhookconfiguration/kopf.example.com")
    cluster.delete("mutatingwebhookconfiguration/kopf.example.com")


def _has_hooks(configuration: dict[str, Any]) -> bool:
    return bool(configuration.get("webhooks"))


def _yaml(obj: dict[str, Any]) -> str:
    return json.dumps(obj)
