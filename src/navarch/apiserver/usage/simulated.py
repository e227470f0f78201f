"""What pods on simulated nodes use: what their annotations say.

There is no kubelet to ask and nothing is used; but whoever tries an autoscaler on thousands of
simulated pods wants to say what it shall see. A pod that says nothing uses nothing. The amounts
are the whole pod's, and its containers share them evenly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from navarch.api.quantity import QuantityError, parse_quantity
from navarch.apiserver.connect.nodes import SIMULATED_RUNTIME
from navarch.apiserver.usage.samples import Usage

CPU = "simulated.navarch.dev/usage-cpu"
MEMORY = "simulated.navarch.dev/usage-memory"
WINDOW = 1.0

Object = dict[str, Any]


def is_simulated(node: Mapping[str, Any] | None) -> bool:
    info = ((node or {}).get("status") or {}).get("nodeInfo") or {}
    return str(info.get("containerRuntimeVersion") or "").startswith(SIMULATED_RUNTIME)


def pod_usage(pod: Object, now: float) -> Usage:
    annotations = pod["metadata"].get("annotations") or {}
    nanocores = _amount(annotations.get(CPU), 10**9)
    return Usage(now, WINDOW, nanocores, _amount(annotations.get(MEMORY), 1))


def container_usages(pod: Object, now: float) -> dict[str, Usage]:
    """By the containers' names."""
    whole = pod_usage(pod, now)
    containers = pod["spec"]["containers"]
    nanocores, memory = whole.nanocores // len(containers), whole.memory // len(containers)
    return {each["name"]: Usage(now, WINDOW, nanocores, memory) for each in containers}


def _amount(text: object, unit: int) -> int:
    """Nothing for what is no quantity: annotations are not validated."""
    try:
        return max(0, int((parse_quantity(str(text)) * unit).value())) if text else 0
    except QuantityError:
        return 0
