"""Empties a node before it goes, as `kubectl drain` does.

The node takes no more pods, and those on it are evicted, which asks their disruption budgets. A
budget that does not let a pod go is waited for a while; then the pod is deleted, since the node
goes in any case. Pods of DaemonSets and mirrors of static pods stay: they would come back at once.
Nobody ends the pods of a node that is not ready, so there is nothing to wait for.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from navarch.cluster import readiness
from navarch.cluster.api import Api, ApiUnavailableError

PATIENCE = 20.0
"""For budgets, in seconds."""
ENDING = 40.0
"""For pods to end, in seconds."""
INTERVAL = 0.2
MIRROR = "kubernetes.io/config.mirror"


def leaves(pod: dict[str, Any]) -> bool:
    """Whether a pod leaves a node that is emptied."""
    metadata = pod["metadata"]
    owners = metadata.get("ownerReferences") or []
    is_daemon = any(each["kind"] == "DaemonSet" and each.get("controller") for each in owners)
    return not is_daemon and MIRROR not in (metadata.get("annotations") or {})


def drain(api: Api, node: str, note: Callable[[str], None]) -> bool:
    """Empty a node as far as its pods end in time, and tell what did not go by itself. Returns
    whether the node took pods before. A node that is not there is empty."""
    path = f"/api/v1/nodes/{node}"
    if (found := api.find(path)) is None:
        return False
    took_pods = not (found.get("spec") or {}).get("unschedulable")
    if took_pods:
        api.merge(path, {"spec": {"unschedulable": True}})
    if not readiness.is_ready(found):
        note(f"{node} is not ready: its pods go with it")
        return took_pods
    force_at = time.monotonic() + PATIENCE
    give_up_at = time.monotonic() + ENDING
    kept: set[str] = set()
    while pods := _leaving(api, node):
        for pod in pods:
            if pod["metadata"].get("deletionTimestamp"):
                continue
            by_force = time.monotonic() > force_at
            if by_force and (name := _name(pod)) not in kept:
                kept.add(name)
                note(f"{name} is deleted: no disruption budget has let it go in {PATIENCE:g} s")
            _send_away(api, pod, by_force=by_force)
        if time.monotonic() > give_up_at:
            note(f"not ended in {ENDING:g} s: {', '.join(map(_name, pods))}")
            break
        time.sleep(INTERVAL)
    return took_pods


def _leaving(api: Api, node: str) -> list[dict[str, Any]]:
    listed = api.get(f"/api/v1/pods?fieldSelector=spec.nodeName%3D{node}")["items"]
    return [pod for pod in listed if leaves(pod)]


def _name(pod: dict[str, Any]) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"


def _send_away(api: Api, pod: dict[str, Any], *, by_force: bool) -> None:
    metadata = pod["metadata"]
    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
    try:
        if by_force:
            api.request("DELETE", path)
            return
        named = {"name": metadata["name"], "namespace": metadata["namespace"]}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": named}
        api.send("POST", f"{path}/eviction", eviction)
    except ApiUnavailableError as error:
        # 404: it has ended; 409: it is about to; 429: a budget says not yet.
        if error.status not in (404, 409, 429):
            raise
