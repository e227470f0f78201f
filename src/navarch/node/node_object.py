"""The Node object as the agent wants it: pure functions of facts, options and the object before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from types import MappingProxyType

from navarch import KUBERNETES_VERSION
from navarch.api.quantity import parse_quantity
from navarch.api.times import format_time
from navarch.api.types.core_v1 import (
    ContainerImage,
    DaemonEndpoint,
    Node,
    NodeAddress,
    NodeCondition,
    NodeDaemonEndpoints,
    NodeFeatures,
    NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures,
    NodeSpec,
    NodeStatus,
    NodeSwapStatus,
    NodeSystemInfo,
    Taint,
)
from navarch.api.types.meta_v1 import ObjectMeta

from .configuration.gates import is_enabled
from .cri.values import ImageRecord, RuntimeHandler, RuntimeInfo
from .machine import MachineFacts
from .resources import NodeResources
from .settings import NodeOptions

MAXIMUM_NAMES = 5
"""Of one image, in the status."""
DECLARABLE = (
    "ExtendWebSocketsToKubelet",
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
)
"""Features that are declared, by their gates, as far as this agent has them."""


@dataclass(frozen=True)
class NodeReport:
    """What the other parts of the agent say of the node at this moment."""

    pressures: frozenset[str] = frozenset()
    """The conditions eviction has found, such as `DiskPressure`."""
    problems: tuple[str, ...] = ()
    """Why the node is not ready, beside the runtime's reasons."""
    devices: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Devices of plug-ins by resource: how many there are, and how many of them are healthy."""


@dataclass(frozen=True)
class NodeFacts:
    """Everything the Node object tells of."""

    options: NodeOptions
    machine: MachineFacts
    runtime: RuntimeInfo | None
    """None: the runtime does not answer."""
    images: Sequence[ImageRecord]
    addresses: Sequence[str]
    report: NodeReport = NodeReport()


def capacity(options: NodeOptions, machine: MachineFacts) -> dict[str, str]:
    return {
        "cpu": options.cpu or str(machine.cpus),
        "memory": options.memory or f"{machine.memory_bytes // 1024}Ki",
        **(
            {"ephemeral-storage": f"{machine.disk_bytes // 1024}Ki"}
            if options.local_storage_capacity_isolation
            else {}
        ),
        "pods": str(pod_capacity(options, machine)),
        **{name: str(value) for name, value in machine.huge_pages.items()},
    }


def pod_capacity(options: NodeOptions, machine: MachineFacts) -> int:
    by_core = options.pods_per_core * machine.cpus
    return min(by_core, options.max_pods) if by_core else options.max_pods


def allocatable(
    options: NodeOptions,
    total: Mapping[str, str],
    devices: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """Capacity without what is reserved, what eviction keeps free, and pages set aside as huge."""
    numbers = {name: parse_quantity(text).milli_value() for name, text in total.items()}
    kept = reservations(options, total)
    free = {name: max(0, value - kept.get(name, 0)) for name, value in numbers.items()}
    huge = sum(value for name, value in numbers.items() if name.startswith("hugepages-"))
    free["memory"] = max(0, free["memory"] - huge)
    result = {name: _written(name, value, total[name]) for name, value in free.items()}
    return {**result, **devices}


def _written(name: str, milli: int, like: str) -> str:
    """A quantity in the unit of its capacity, as upstream writes it."""
    if milli % 1000:
        return f"{milli}m"
    if like.endswith("Ki") and name == "memory" and milli % 1_024_000 == 0:
        return f"{milli // 1_024_000}Ki"
    return str(milli // 1000)


EVICTION_SIGNALS = {"memory.available": "memory", "nodefs.available": "ephemeral-storage"}
"""What eviction keeps free of which resource; other signals are about no resource of the node."""


def reservations(options: NodeOptions, total: Mapping[str, str]) -> dict[str, int]:
    """Thousandths of each resource that pods cannot have."""
    result: dict[str, int] = {}
    for reserved in options.reserved:
        for name, text in reserved.items():
            result[name] = result.get(name, 0) + parse_quantity(text).milli_value()
    for signal, name in EVICTION_SIGNALS.items():
        threshold = options.eviction_hard.get(signal, "")
        if not threshold or name not in total:
            continue
        whole = parse_quantity(total[name]).value()
        if threshold.endswith("%"):
            part = int(whole * (float(threshold[:-1]) / 100)) * 1000
        else:
            part = parse_quantity(threshold).milli_value()
        result[name] = result.get(name, 0) + part
    return result


def check_reservations(options: NodeOptions, machine: MachineFacts) -> None:
    """Raises ValueError when more is kept back from pods than there is."""
    total = capacity(options, machine)
    kept = reservations(options, total)
    problems = [
        f'Resource "{name}" has a reservation of {_written(name, kept[name], text)} but capacity '
        f"of {text}. Expected capacity >= reservation."
        for name, text in total.items()
        if kept.get(name, 0) > parse_quantity(text).milli_value()
    ]
    if problems:
        raise ValueError(f"invalid Node Allocatable configuration. {' '.join(problems)}")


def node_addresses(text: str, default: Callable[[], str]) -> tuple[str, ...]:
    """The addresses that `--node-ip` means: one, one of each family, or what the machine finds out.
    Raises ValueError for anything else."""
    found = []
    for part in filter(None, (each.strip() for each in text.split(","))):
        try:
            address = ip_address(part)
        except ValueError:
            raise ValueError(f'bad --node-ip "{text}": not an IP address: {part}') from None
        if address.is_multicast:
            raise ValueError(f'bad --node-ip "{text}": nodeIP can\'t be a multicast address')
        found.append(address)
    if len(found) > 2 or (len(found) == 2 and found[0].version == found[1].version):
        raise ValueError(f'bad --node-ip "{text}": must contain one IPv4 and one IPv6 address')
    if not found or found[0].is_unspecified:
        return (default(),)
    return tuple(str(each) for each in found)


def condition_events(before: Sequence[NodeCondition], after: Sequence[NodeCondition]) -> list[str]:
    """The reasons of events for what has changed, in upstream's words (`NodeHasDiskPressure`)."""
    known = {each.type: each.status for each in before}
    result = []
    for each in after:
        if known.get(each.type) == each.status:
            continue
        if each.type == "Ready":
            result.append("NodeReady" if each.status == "True" else "NodeNotReady")
        elif each.type in _PRESSURE_TEXTS:
            result.append(each.reason.replace("Kubelet", "Node", 1))
    return result


def node_resources(options: NodeOptions, machine: MachineFacts) -> NodeResources:
    """The allocatable resources as numbers."""
    free = allocatable(options, capacity(options, machine))
    return NodeResources(
        cpu_millis=parse_quantity(free["cpu"]).milli_value(),
        memory_bytes=parse_quantity(free["memory"]).value(),
        ephemeral_bytes=parse_quantity(free.get("ephemeral-storage", "0")).value(),
        pods=int(free["pods"]),
    )


def own_labels(options: NodeOptions, machine: MachineFacts) -> dict[str, str]:
    return {
        "kubernetes.io/hostname": options.node_name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": machine.architecture,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": machine.architecture,
        **options.labels,
    }


def new_node(facts: NodeFacts, now: datetime) -> Node:
    """The object to register. It carries the not-ready taint until the node proves itself, which
    the node-lifecycle controller takes away."""
    options = facts.options
    not_ready = Taint(key="node.kubernetes.io/not-ready", effect="NoSchedule")
    node = Node(
        metadata=ObjectMeta(
            name=options.node_name,
            labels=own_labels(options, facts.machine),
            annotations={"volumes.kubernetes.io/controller-managed-attach-detach": "true"},
        ),
        spec=NodeSpec(taints=[*options.taints, not_ready], providerID=options.provider_id),
    )
    node.status = node_status(node, facts, now)
    return node


def node_status(node: Node, facts: NodeFacts, now: datetime) -> NodeStatus:
    """The status; extended resources and conditions of others stay as they are. What is not set
    here is not written: the lists of volumes have writers of their own."""
    options, machine = facts.options, facts.machine
    before = node.status
    full = capacity(options, machine)
    devices = facts.report.devices
    healthy = {name: str(count) for name, (_, count) in devices.items()}
    free = allocatable(options, full, healthy)
    full |= {name: str(count) for name, (count, _) in devices.items()}
    foreign = {
        name: value
        for name, value in before.capacity.items()
        if name not in full and not name.startswith("hugepages-")
    }
    runtime = facts.runtime
    known = before.nodeInfo.containerRuntimeVersion
    version = f"{runtime.name}://{runtime.version}" if runtime is not None else known
    return NodeStatus(
        capacity={**foreign, **full},
        allocatable={**foreign, **free},
        conditions=_conditions(before.conditions, facts, now),
        addresses=[
            *(NodeAddress(type="InternalIP", address=each) for each in facts.addresses),
            NodeAddress(type="Hostname", address=options.node_name),
        ],
        daemonEndpoints=NodeDaemonEndpoints(kubeletEndpoint=DaemonEndpoint(Port=options.port)),
        nodeInfo=NodeSystemInfo(
            machineID=machine.machine_id,
            systemUUID=machine.system_uuid,
            bootID=machine.boot_id,
            kernelVersion=machine.kernel,
            osImage=machine.os_image,
            containerRuntimeVersion=version,
            kubeletVersion=KUBERNETES_VERSION,
            operatingSystem="linux",
            architecture=machine.architecture,
            swap=NodeSwapStatus(capacity=machine.swap_bytes) if machine.swap_bytes else None,
        ),
        images=_images(facts.images, options.node_status_max_images),
        declaredFeatures=declared_features(options),
        runtimeHandlers=[_handler(each) for each in (runtime.handlers if runtime else ())],
        features=(
            NodeFeatures(supplementalGroupsPolicy=runtime.supplemental_groups_policy)
            if runtime is not None and runtime.has_features
            else None
        ),
    )


def _handler(handler: RuntimeHandler) -> NodeRuntimeHandler:
    return NodeRuntimeHandler(
        name=handler.name,
        features=NodeRuntimeHandlerFeatures(
            recursiveReadOnlyMounts=handler.recursive_read_only,
            userNamespaces=handler.user_namespaces,
        ),
    )


def declared_features(options: NodeOptions) -> list[str]:
    """What this node can do that older ones cannot (KEP-5328): the scheduler and the API server
    give pods that need it to nodes that say so."""
    gates = options.feature_gates
    if not is_enabled("NodeDeclaredFeatures", gates):
        return []
    return [each for each in DECLARABLE if is_enabled(each, gates)]


def _images(images: Sequence[ImageRecord], most: int) -> list[ContainerImage]:
    largest = sorted(images, key=lambda image: (-image.size, image.id))
    named = [each for each in largest if each.digests or each.tags]
    return [
        ContainerImage(names=[*image.digests, *image.tags][:MAXIMUM_NAMES], sizeBytes=image.size)
        for image in (named if most < 0 else named[:most])
    ]


def _conditions(
    before: Sequence[NodeCondition], facts: NodeFacts, now: datetime
) -> list[NodeCondition]:
    report = facts.report
    states = [_pressure_condition(kind, kind in report.pressures) for kind in _PRESSURE_TEXTS]
    states.append(_ready_condition(facts.runtime, report.problems))
    known = {condition.type: condition for condition in before}
    result = [condition for condition in before if condition.type not in OWN_CONDITIONS]
    moment = format_time(now)
    for state in states:
        old = known.get(state.type)
        unchanged = old is not None and old.status == state.status
        state.lastHeartbeatTime = moment
        state.lastTransitionTime = (
            old.lastTransitionTime if old is not None and unchanged else moment
        )
        result.append(state)
    return result


_PRESSURE_TEXTS = {
    "MemoryPressure": (
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ),
    "DiskPressure": (
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ),
    "PIDPressure": (
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ),
}


OWN_CONDITIONS = frozenset({*_PRESSURE_TEXTS, "Ready"})
"""The conditions that this agent writes; all others are somebody else's."""


def _pressure_condition(kind: str, low: bool) -> NodeCondition:
    reason, message = _PRESSURE_TEXTS[kind][0 if low else 1]
    return NodeCondition(
        type=kind, status="True" if low else "False", reason=reason, message=message
    )


def _ready_condition(runtime: RuntimeInfo | None, others: Sequence[str]) -> NodeCondition:
    problems = []
    if runtime is None:
        problems.append("container runtime is down")
    else:
        if not runtime.ready:
            problems.append(f"container runtime not ready: {runtime.message}")
        if not runtime.network_ready:
            problems.append(
                f"container runtime network not ready: NetworkReady=false "
                f"reason:{runtime.network_message}"
            )
    problems += others
    if problems:
        text = problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]"
        return NodeCondition(type="Ready", status="False", reason="KubeletNotReady", message=text)
    return NodeCondition(
        type="Ready",
        status="True",
        reason="KubeletReady",
        message="kubelet is posting ready status",
    )


def without_heartbeat(status: NodeStatus) -> list[object]:
    """What counts as a change of the status: everything but the time it was looked at."""
    conditions = [(each.type, each.status, each.reason, each.message) for each in status.conditions]
    return [
        status.capacity,
        status.allocatable,
        conditions,
        status.addresses,
        status.nodeInfo,
        status.images,
        status.runtimeHandlers,
        status.daemonEndpoints,
        status.declaredFeatures,
    ]


def merged_labels(present: Mapping[str, str], wanted: Mapping[str, str]) -> dict[str, str] | None:
    """The labels to set on an object that exists already; None if nothing is missing."""
    missing = {name: value for name, value in wanted.items() if present.get(name) != value}
    return missing or None
