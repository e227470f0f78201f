"""What containers are said to use and to print.

Nobody can measure it, and there is no kubelet to ask: the API server answers `kubectl top` and
autoscalers from the pods' annotations `simulated.navarch.dev/cpu` and `/memory` (and
`<container>.simulated.navarch.dev/...`), and `kubectl logs` from `/logs`. Those that come from
flags or from rules of a file are written to the pods along with their status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from navarch.api.types.core_v1 import Pod

from .timetable import PREFIX, Timetable

NAMES = ("cpu", "memory", "logs")


def are_told(default: Timetable, rules: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the settings for all pods, or those of any rule, say something of use."""
    given = [{name: getattr(default, name) for name in (*NAMES, "containers")}]
    return any(_says(settings) for settings in (*given, *rules))


def _says(settings: Mapping[str, Any]) -> bool:
    containers = (settings.get("containers") or {}).values()
    return any(each.get(name) for each in (settings, *containers) for name in NAMES)


def annotations_for(pod: Pod, timetable: Timetable) -> dict[str, str]:
    """What the pod has still to be told by."""
    found = {f"{PREFIX}/{name}": str(getattr(timetable, name)) for name in NAMES}
    for container, settings in timetable.containers.items():
        for name in NAMES:
            found[f"{container}.{PREFIX}/{name}"] = str(settings.get(name, ""))
    known = pod.metadata.annotations
    return {key: value for key, value in found.items() if value and key not in known}
