"""The table of pods. STATUS is the one word that says most about the pod's containers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from navarch.apiserver.tables.table import Cells, Object, Table, columns
from navarch.apiserver.tables.text import (
    NONE,
    at,
    condition,
    is_true,
    name,
    number,
    since,
    some,
    word,
)

_ENDED = {"Succeeded": "The pod has completed successfully.", "Failed": "The pod failed."}


@dataclass(slots=True)
class Tally:
    """What is counted over a pod's containers."""

    ready: int = 0
    restarts: int = 0
    last_restart: str = ""

    def restarted(self, status: Object) -> None:
        """Add a container's restarts, and keep the latest time one ended before."""
        self.restarts += number(status, "restartCount")
        finished = word(status, "lastState", "terminated", "finishedAt")
        # Times are all written alike, so their texts order as they do.
        self.last_restart = max(self.last_restart, finished)


def _ended_word(terminated: Object) -> str:
    """Why a container ended: its reason, or the signal or code when there is none."""
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{number(terminated, 'exitCode')}"


def _init_word(status: Object, is_sidecar: bool) -> str | None:
    """What an init container says about the pod: None when it is through, "" when it runs."""
    state = status.get("state") or {}
    terminated = state.get("terminated")
    if terminated is not None and not terminated.get("exitCode"):
        return None
    if is_sidecar and status.get("started"):
        return None
    if terminated is not None:
        return _ended_word(terminated)
    waiting = word(state, "waiting", "reason")
    return waiting if waiting and waiting != "PodInitializing" else ""


class _Summary:
    """STATUS, and the counts, of one pod."""

    def __init__(self, pod: Object) -> None:
        self.pod = pod
        status = pod.get("status") or {}
        self.phase = word(status, "phase")
        self.reason = word(status, "reason", otherwise=self.phase)
        if condition(pod, "PodScheduled").get("reason") == "SchedulingGated":
            self.reason = "SchedulingGated"
        init_containers = at(pod, "spec", "initContainers") or []
        self.sidecars = {
            each.get("name") for each in init_containers if each.get("restartPolicy") == "Always"
        }
        self.total = len(at(pod, "spec", "containers") or ()) + len(self.sidecars)
        self.tally = Tally()
        sidecar_tally = Tally()
        is_initializing = self._initialize(
            status.get("initContainerStatuses") or [], len(init_containers), sidecar_tally
        )
        if not is_initializing or is_true(pod, "Initialized"):
            sidecar_tally.ready = self.tally.ready
            self.tally = sidecar_tally
            self._run(status.get("containerStatuses") or [])
        self._delete(word(status, "reason"))

    def _initialize(self, statuses: list[Object], total: int, sidecars: Tally) -> bool:
        """Walk the init containers up to the first that is not through."""
        for index, each in enumerate(statuses):
            is_sidecar = each.get("name") in self.sidecars
            self.tally.restarted(each)
            if is_sidecar:
                sidecars.restarted(each)
            found = _init_word(each, is_sidecar)
            if found is None:
                is_through = at(each, "state", "terminated") is not None
                if is_sidecar and not is_through and each.get("ready"):
                    self.tally.ready += 1
                continue
            self.reason = f"Init:{found}" if found else f"Init:{index}/{total}"
            return True
        return False

    def _run(self, statuses: list[Object]) -> None:
        """Walk the containers from the last to the first, so that the first has the last word."""
        is_running, failure = False, ""
        for each in reversed(statuses):
            self.tally.restarted(each)
            state = each.get("state") or {}
            terminated = state.get("terminated")
            waiting = word(state, "waiting", "reason")
            if waiting:
                self.reason = waiting
            elif terminated is not None:
                self.reason = _ended_word(terminated)
                if terminated.get("exitCode"):
                    failure = self.reason
            elif each.get("ready") and state.get("running") is not None:
                is_running = True
                self.tally.ready += 1
        if self.reason == "Completed":
            if is_running and is_true(self.pod, "Ready"):
                self.reason = "Running"
            elif failure:
                self.reason = failure
            elif is_running:
                self.reason = "NotReady"

    def _delete(self, status_reason: str) -> None:
        if not at(self.pod, "metadata", "deletionTimestamp"):
            return
        if status_reason == "NodeLost":
            self.reason = "Unknown"
        elif self.phase not in _ENDED:
            self.reason = "Terminating"


def _readiness_gates(pod: Object) -> str:
    gates = at(pod, "spec", "readinessGates") or []
    if not gates:
        return NONE
    passed = sum(is_true(pod, each.get("conditionType", "")) for each in gates)
    return f"{passed}/{len(gates)}"


def pod_cells(pod: Object, now: datetime) -> Cells:
    summary = _Summary(pod)
    tally = summary.tally
    restarts: Any = str(tally.restarts)
    if tally.restarts and tally.last_restart:
        restarts = f"{tally.restarts} ({since(tally.last_restart, now)} ago)"
    addresses = [each.get("ip", "") for each in at(pod, "status", "podIPs") or ()]
    return [
        name(pod),
        f"{tally.ready}/{summary.total}",
        summary.reason,
        restarts,
        since(at(pod, "metadata", "creationTimestamp"), now),
        some(addresses[:1], 1, empty=NONE),
        word(pod, "spec", "nodeName", otherwise=NONE),
        word(pod, "status", "nominatedNodeName", otherwise=NONE),
        _readiness_gates(pod),
    ]


def pod_conditions(pod: Object) -> list[Object]:
    """Rows of pods at their end say so, for clients that leave them out."""
    phase = word(pod, "status", "phase")
    if phase not in _ENDED:
        return []
    return [{"type": "Completed", "status": "True", "reason": phase, "message": _ENDED[phase]}]


PODS = Table(
    columns("Name|Ready|Status|Restarts|Age|IP*|Node*|Nominated Node*|Readiness Gates*"),
    pod_cells,
    pod_conditions,
)
