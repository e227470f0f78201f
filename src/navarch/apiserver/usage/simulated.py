"""What pods on simulated nodes use: what their annotations say.

There is no kubelet to ask and nothing is used; but whoever tries an autoscaler on thousands of
simulated pods wants to say what it shall see. `simulated.navarch.dev/cpu` and `/memory` are what
each container of a pod uses, `<container>.simulated.navarch.dev/cpu` what one of them does. A pod
that says nothing uses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from navarch.api.quantity import QuantityError, parse_quantity
from navarch.apiserver.connect.nodes import SIMULATED_RUNTIME
from navarch.apiserver.usage.samples import Usage

PREFIX = "simulated.navarch.dev"
WINDOW = 1.0

Object = dict[str, Any]


def is_simulated(node: Mapping[str, Any] | None) -> bool:
    info = ((node or {}).get("status") or {}).get("nodeInfo") or {}
    return str(info.get("containerRuntimeVersion") or "").startswith(SIMULATED_RUNTIME)


def is_silent(node: Mapping[str, Any] | None) -> bool:
    """Whether the node is made to be dead or hung: nobody would get figures out of such a one."""
    meta = (node or {}).get("metadata") or {}
    found = [(meta.get(where) or {}).get(f"{PREFIX}/fault") for where in ("annotations", "labels")]
    return (found[0] or found[1]) in ("dead", "hung")


def container_usages(pod: Object, now: float) -> dict[str, Usage]:
    """By the containers' names."""
    annotations = pod["metadata"].get("annotations") or {}
    result = {}
    for each in pod["spec"]["containers"]:
        own = f"{each['name']}.{PREFIX}"
        cpu, memory = (
            annotations.get(f"{own}/{what}") or annotations.get(f"{PREFIX}/{what}")
            for what in ("cpu", "memory")
        )
        result[each["name"]] = Usage(now, WINDOW, _amount(cpu, 10**9), _amount(memory, 1))
    return result


def total(usages: Iterable[Usage], now: float) -> Usage:
    """What all of them use together."""
    found = list(usages)
    nanocores = sum(each.nanocores for each in found)
    return Usage(now, WINDOW, nanocores, sum(each.memory for each in found))


def _amount(text: object, unit: int) -> int:
    """Nothing for what is no quantity: annotations are not validated."""
    try:
        return max(0, int((parse_quantity(str(text)) * unit).value())) if text else 0
    except QuantityError:
        return 0
