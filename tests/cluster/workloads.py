"""Applications as tests of whole clusters run them, and waiting until they are ready or gone."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from tests.cluster.machine import SHELL_IMAGE, Machine

from navarch.cluster import processes

Object = dict[str, Any]


def eventually(condition: Callable[[], object], what: str) -> None:
    assert processes.wait_until(lambda: bool(condition()), 60, 0.1), what


def create(machine: Machine, *objects: Object) -> None:
    made = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    machine.kubectl("create", "-f", "-", feed=json.dumps(made))


def workload(kind: str, name: str, replicas: int, spec: Object) -> Object:
    """A controller of pods that have its name as their label, and `role=main`."""
    labels = {"app": name, "role": "main"}
    is_old = kind == "ReplicationController"
    return {
        "apiVersion": "v1" if is_old else "apps/v1",
        "kind": kind,
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": labels if is_old else {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }


def shell(script: str, **container: Any) -> Object:
    """The containers of a pod that runs a script and is ready when it serves."""
    main = {
        "name": "main",
        "image": SHELL_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        **container,
    }
    return {"containers": [main], "terminationGracePeriodSeconds": 1}


def service(name: str, port: int = 80) -> Object:
    labels = {"app": name, "role": "main"}
    spec = {"selector": labels, "ports": [{"port": port, "targetPort": 8080}]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
    }


def serving(text: str) -> Object:
    script = f"mkdir /www && echo {text} > /www/index.html && exec httpd -f -p 8080 -h /www"
    return shell(script)


def ready(machine: Machine, app: str, count: int) -> list[Object]:
    """The application's pods, when as many as there shall be are ready and no other is left."""

    def pods() -> list[Object]:
        found: list[Object] = machine.get("pods", "-l", f"app={app}")["items"]
        return found

    def settled() -> bool:
        found = [each["status"].get("conditions") or () for each in pods()]
        states = [{c["type"]: c["status"] for c in conditions} for conditions in found]
        return [each.get("Ready") for each in states] == ["True"] * count

    eventually(settled, f"{count} pods of {app}")
    return pods()


def gone(machine: Machine, *names: str) -> None:
    selector = f"app in ({','.join(names)})"
    listed = partial(machine.kubectl, "get", "pods,services", "-l", selector, "-o", "name")
    eventually(lambda: not listed(), f"the end of {names}")
