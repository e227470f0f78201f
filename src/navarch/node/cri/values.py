"""What the node agent knows of a runtime's sandboxes, containers and images: plain frozen values.

The configurations that go *to* the runtime are the interface's own messages (`runtime_pb2`); what
comes *from* it is turned into these records at once, so that plans, statuses and tests compare
values. All times are nanoseconds since the epoch, 0 for "not yet", as in the interface.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

# The labels and annotations by which pods and containers are found again after a restart of the
# agent. They are upstream's, so that its tools (crictl, log collectors) understand them.
POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
POD_UID = "io.kubernetes.pod.uid"
CONTAINER_NAME = "io.kubernetes.container.name"
CONTAINER_HASH = "io.kubernetes.container.hash"
RESTART_COUNT = "io.kubernetes.container.restartCount"
TERMINATION_PATH = "io.kubernetes.container.terminationMessagePath"
TERMINATION_POLICY = "io.kubernetes.container.terminationMessagePolicy"
IMAGE_VOLUMES = "navarch.dev/image-volumes"
"""An annotation of ours: by volume, the id of the image that a container has mounted."""
POD_TERMINATION_GRACE = "io.kubernetes.pod.terminationGracePeriod"


class ContainerState(Enum):
    """A container's life in the runtime; the values are the interface's numbers."""

    CREATED = 0
    RUNNING = 1
    EXITED = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class LinuxUser:
    """The identity a container's first process was started with."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerRecord:
    """One container instance; a restart makes a new one with `attempt` one higher."""

    id: str
    name: str
    attempt: int
    sandbox_id: str
    state: ContainerState
    created_at: int = 0
    started_at: int = 0
    finished_at: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image: str = ""
    image_ref: str = ""
    log_path: str = ""
    user: LinuxUser | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def running(self) -> bool:
        return self.state is ContainerState.RUNNING

    @property
    def exited(self) -> bool:
        """Over, also when the runtime has lost track of it (which counts as a failed exit)."""
        return self.state in (ContainerState.EXITED, ContainerState.UNKNOWN)


@dataclass(frozen=True, slots=True)
class SandboxRecord:
    """One sandbox: the namespaces, the network and the pause process of a pod."""

    id: str
    name: str
    namespace: str
    uid: str
    attempt: int
    ready: bool
    created_at: int = 0
    ips: tuple[str, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    handler: str = ""


@dataclass(frozen=True, slots=True)
class PodState:
    """Everything the runtime holds for one pod, newest first."""

    uid: str
    name: str = ""
    namespace: str = ""
    sandboxes: tuple[SandboxRecord, ...] = ()
    containers: tuple[ContainerRecord, ...] = ()

    @property
    def sandbox(self) -> SandboxRecord | None:
        """The newest sandbox, alive or not."""
        return self.sandboxes[0] if self.sandboxes else None

    def latest(self) -> dict[str, ContainerRecord]:
        """The newest instance of each container by name."""
        result: dict[str, ContainerRecord] = {}
        for container in self.containers:
            result.setdefault(container.name, container)
        return result

    def previous(self) -> dict[str, ContainerRecord]:
        """The instance before the newest of each container, where it still exists."""
        seen: set[str] = set()
        result: dict[str, ContainerRecord] = {}
        for container in self.containers:
            if container.name in seen:
                result.setdefault(container.name, container)
            seen.add(container.name)
        return result

    @property
    def ids(self) -> list[str]:
        """The ids of all containers and sandboxes."""
        return [each.id for each in self.containers] + [each.id for each in self.sandboxes]


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image the runtime has."""

    id: str
    tags: tuple[str, ...] = ()
    digests: tuple[str, ...] = ()
    size: int = 0
    uid: int | None = None
    username: str = ""
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a registry is shown when an image is pulled."""

    username: str = ""
    password: str = ""
    auth: str = ""
    server: str = ""
    identity_token: str = ""
    registry_token: str = ""


@dataclass(frozen=True, slots=True)
class ExecResult:
    """How a command in a container ended."""

    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""


@dataclass(frozen=True, slots=True)
class RuntimeHandler:
    """A way to run containers that a RuntimeClass may ask for (`""` is the default one)."""

    name: str
    recursive_read_only: bool = False
    user_namespaces: bool = False


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """Who the runtime is, whether it and its network are ready, and what it can do."""

    name: str
    version: str
    ready: bool = True
    network_ready: bool = True
    message: str = ""
    network_message: str = ""
    handlers: tuple[RuntimeHandler, ...] = ()
    """Empty for a runtime that is too old to tell."""
    has_features: bool = False
    """Whether the runtime tells of features at all."""
    supplemental_groups_policy: bool = False

    def handler(self, name: str) -> RuntimeHandler:
        """What is known of a handler; one that nobody knows of can do nothing special."""
        return next((each for each in self.handlers if each.name == name), RuntimeHandler(name))


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """Resource use of a running container at one moment."""

    id: str
    name: str
    pod_uid: str
    memory_working_set: int = 0
    memory_usage: int = 0
    filesystem_bytes: int = 0
    filesystem_inodes: int = 0


@dataclass(frozen=True, slots=True)
class ExecStream:
    """A wish to run a command in a container with its streams passed through."""

    container_id: str
    command: Sequence[str]
    tty: bool = False
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True


@dataclass(frozen=True, slots=True)
class AttachStream:
    """A wish to attach to the streams of a container's first process."""

    container_id: str
    tty: bool = False
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True


@dataclass(frozen=True, slots=True)
class PortForwardStream:
    """A wish to reach ports inside a pod's network."""

    sandbox_id: str
    ports: Sequence[int] = ()


StreamRequest = ExecStream | AttachStream | PortForwardStream


class RuntimeFailure(Exception):
    """The runtime refused or failed; `message` is its own text, for events and statuses."""

    def __init__(self, message: str, *, code: str = "", details: Any = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.details = details

    @property
    def words(self) -> str:
        """What the runtime said, without gRPC's code before it."""
        return self.details if isinstance(self.details, str) else self.message

    @property
    def is_not_found(self) -> bool:
        return self.code == "NOT_FOUND"

    @property
    def is_timeout(self) -> bool:
        return self.code == "DEADLINE_EXCEEDED"
