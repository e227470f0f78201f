"""What one pod's worker remembers between two looks, and what it reads out of the last status."""

from __future__ import annotations

from dataclasses import dataclass, field

from navarch.api.types.core_v1 import Pod, PodStatus, ResourceRequirements

from .cri.values import PodState
from .plan import Waiting
from .resize import Applied
from .resources import CgroupLimits
from .volumes.plugin import PreparedVolume


@dataclass
class WorkerMemory:
    """What one worker has learnt and nobody else knows; lost at a restart without harm."""

    pod: Pod
    state: PodState
    """What the runtime held of the pod when it was last looked at."""
    waiting: dict[str, Waiting] = field(default_factory=dict)
    retry_at: dict[str, float] = field(default_factory=dict)
    """When (monotonic) a container that could not be started is tried again."""
    hidden: set[str] = field(default_factory=set)
    messages: dict[str, str] = field(default_factory=dict)
    sandbox_failures: int = 0
    sandbox_retry_at: float = 0.0
    volume_failures: int = 0
    volume_retry_at: float = 0.0
    volumes: dict[str, PreparedVolume] | None = None
    volumes_at: float = 0.0
    finished: bool = False
    cleaned: bool = False
    failure: tuple[str, str] | None = None
    refused: bool = False
    """The node never took the pod in."""
    disruption: str = ""
    """What the condition DisruptionTarget is to say once the pod has failed."""
    grace: int | None = None
    """The seconds its containers get if not the pod's own grace period."""
    stopping_since: float | None = None
    held_off: dict[type, float] = field(default_factory=dict)
    """Until when (monotonic) no action of a kind is begun, after one has failed."""
    interrupted: frozenset[str] | None = None
    """Ids of containers that were found not started when the worker first looked."""
    resized: dict[str, Applied] = field(default_factory=dict)
    pod_resources: ResourceRequirements | None = None
    """What the pod as a whole was given, if it states that; None if that is not known."""
    hooked: set[str] = field(default_factory=set)
    """Ids of containers whose preStop hook has been begun."""
    limits: CgroupLimits | None = None
    """What the pod's cgroup was given; None if that is not known."""
    replaced: set[str] = field(default_factory=set)
    """Ids of containers that were stopped so that a new instance takes their place."""
    attempts: dict[str, int] = field(default_factory=dict)
    """The number after the highest that was seen of each container."""
    backed_off: set[str] = field(default_factory=set)
    """Ids of ended containers whose wait for the next instance has been told."""

    def next_attempts(self) -> dict[str, int]:
        """Which instance of each container comes next, if the runtime has none."""
        told = _next_attempts(self.pod.status)
        return {
            name: max(told.get(name, 0), self.attempts.get(name, 0))
            for name in told.keys() | self.attempts.keys()
        }


def _next_attempts(status: PodStatus) -> dict[str, int]:
    """As the API's status has it; one that never ran is made again."""
    result = {}
    for each in (*status.initContainerStatuses, *status.containerStatuses):
        ended = each.state.terminated
        if each.state.waiting is not None and each.lastState.terminated is not None:
            ended = each.lastState.terminated
            if ended.containerID != each.containerID:
                ended = None
        ran = each.state.running is not None or (ended is not None and bool(ended.startedAt))
        result[each.name] = each.restartCount + 1 if ran else each.restartCount
    return result
