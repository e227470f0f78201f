"""A small operator: every Website becomes a Deployment and a Service.

kubectl apply -f crd.yaml && kopf run --all-namespaces operator.py
"""

from __future__ import annotations

import os
from typing import Any

import kopf
from kubernetes import client, config


@kopf.on.login()
def login(**arguments: Any) -> kopf.ConnectionInfo | None:
    return kopf.login_with_kubeconfig(**arguments) or kopf.login_with_service_account(**arguments)


@kopf.on.startup()
def connect(**_: Any) -> None:
    if file := os.environ.get("KUBECONFIG"):
        config.load_kube_config(file)
    else:
        config.load_incluster_config()


def deployment(name: str, spec: kopf.Spec) -> dict[str, Any]:
    labels = {"website": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": spec["replicas"],
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "web", "image": spec["image"]}]},
            },
        },
    }


@kopf.on.create("websites")
def create(name: str, namespace: str, spec: kopf.Spec, **_: Any) -> dict[str, Any]:
    wanted = deployment(name, spec)
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"website": name}, "ports": [{"port": 80}]},
    }
    # Both go with the Website: the cluster's garbage collector sees to it.
    kopf.adopt([wanted, service])
    client.AppsV1Api().create_namespaced_deployment(namespace, wanted)
    made = client.CoreV1Api().create_namespaced_service(namespace, service)
    return {"address": made.spec.cluster_ip}


@kopf.on.update("websites", field="spec")
def update(name: str, namespace: str, spec: kopf.Spec, **_: Any) -> None:
    client.AppsV1Api().patch_namespaced_deployment(name, namespace, deployment(name, spec))


@kopf.on.event("apps", "v1", "deployments", labels={"website": kopf.PRESENT})
def count(labels: kopf.Labels, namespace: str, status: kopf.Status, **_: Any) -> None:
    """Say in the Website how many of its pods are ready."""
    body = {"status": {"replicas": status.get("readyReplicas", 0)}}
    try:
        client.CustomObjectsApi().patch_namespaced_custom_object_status(
            "example.com", "v1", namespace, "websites", labels["website"], body
        )
    except client.ApiException as error:
        # The Website has been deleted, and the Deployment goes as well.
        if error.status != 404:
            raise
