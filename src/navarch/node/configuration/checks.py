"""What makes a KubeletConfiguration unusable, in upstream's words (`apis/config/validation`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from operator import attrgetter

from navarch.api.names import label_value, qualified_name
from navarch.api.quantity import QuantityError, parse_quantity
from navarch.api.times import format_duration, parse_duration

from ..settings import parse_cpu_set
from .gates import gate_problems, is_enabled
from .types import KubeletConfiguration

NUMBERS: Mapping[str, tuple[int, int | None]] = {
    "eventBurst (--event-burst)": (0, None),
    "eventRecordQPS (--event-qps)": (0, None),
    "healthzPort (--healthz-port)": (1, 65535),  # or 0, for none
    "imageGCHighThresholdPercent (--image-gc-high-threshold)": (0, 100),
    "imageGCLowThresholdPercent (--image-gc-low-threshold)": (0, 100),
    "iptablesDropBit (--iptables-drop-bit)": (0, 31),
    "iptablesMasqueradeBit (--iptables-masquerade-bit)": (0, 31),
    "kubeAPIBurst (--kube-api-burst)": (0, None),
    "kubeAPIQPS (--kube-api-qps)": (0, None),
    "nodeStatusMaxImages (--node-status-max-images)": (-1, None),
    "maxOpenFiles (--max-open-files)": (0, None),
    "maxPods (--max-pods)": (0, None),
    "oomScoreAdj (--oom-score-adj)": (-1000, 1000),
    "podsPerCore (--pods-per-core)": (0, None),
    "port (--port)": (1, 65535),
    "readOnlyPort (--read-only-port)": (0, 65535),
    "registryBurst (--registry-burst)": (0, None),
    "registryPullQPS (--registry-qps)": (0, None),
    "maxParallelImagePulls": (1, None),
}
"""The least and the most that a field may be."""
AT_LEAST = {
    -1: "must be -1 or greater",
    0: "must not be a negative number",
    1: "must be a positive number",
}

CHOICES = {
    "topologyManagerPolicy (--topology-manager-policy)": (
        ("none", "best-effort", "restricted", "single-numa-node"),
        '"{value}" must be one of: ["none" "best-effort" "restricted" "single-numa-node"]',
    ),
    "topologyManagerScope (--topology-manager-scope)": (
        ("container", "pod"),
        '"{value}" must be one of: "container", or "pod"',
    ),
    "memorySwap.swapBehavior": (
        ("", "NoSwap", "LimitedSwap"),
        '"{value}" must be one of: "", "LimitedSwap" or "NoSwap"',
    ),
}

OPTIONS = {
    "hairpinMode (--hairpin-mode)": ("none", "hairpin-veth", "promiscuous-bridge"),
    "imagePullCredentialsVerificationPolicy": (
        "NeverVerify",
        "NeverVerifyPreloadedImages",
        "NeverVerifyAllowlistedImages",
        "AlwaysVerify",
    ),
    "memoryReservationPolicy": ("None", "TieredReservation"),
}

_CIPHER_VERSIONS = ("", "VersionTLS10", "VersionTLS11", "VersionTLS12", "VersionTLS13")


def problems(found: KubeletConfiguration) -> Iterator[str]:
    """All of them, in upstream's order as far as it can matter."""
    yield from gate_problems(found.featureGates)
    for text in _all(found):
        yield f"invalid configuration: {text}"
    yield from _unusable(found)


def _all(found: KubeletConfiguration) -> Iterator[str]:
    if found.nodeLeaseDurationSeconds <= 0:
        yield "nodeLeaseDurationSeconds must be greater than 0"
    if found.systemCgroups and not found.cgroupRoot:
        yield (
            "systemCgroups (--system-cgroups) was specified and cgroupRoot (--cgroup-root) was "
            "not specified"
        )
    for label, (least, most) in NUMBERS.items():
        value = attrgetter(label.partition(" ")[0])(found)
        if value is None or (value == 0 and label.startswith("healthzPort")):
            continue
        if value < least or (most is not None and value > most):
            text = f"must be between {least} and {most}, inclusive" if most else AT_LEAST[least]
            yield f"{label} {value} {text}"
    if not 0.001 <= found.cpuCFSQuotaPeriod <= 1:
        yield (
            f"cpuCFSQuotaPeriod (--cpu-cfs-quota-period) "
            f"{format_duration(found.cpuCFSQuotaPeriod)} must be between 1ms and 1sec, inclusive"
        )
    yield from _images(found)
    if found.runOnce:
        yield "runOnce (--runOnce) true, Runonce mode has been deprecated and should not be set"
    yield from _taints(found)
    for label, (allowed, text) in CHOICES.items():
        value = attrgetter(label.partition(" ")[0])(found)
        if value not in allowed:
            yield f"{label} {text.format(value=value)}"
    yield from _shutdown(found)
    yield from _enforcement(found)
    for label, allowed in OPTIONS.items():
        value = attrgetter(label.partition(" ")[0])(found)
        if value not in allowed:
            *first, last = (f'"{each}"' for each in allowed)
            yield (
                f'option "{value}" specified for {label}. Valid options are '
                f"{', '.join(first)} or {last}"
            )
    yield from _logs(found)
    yield from _resources(found)


def _images(found: KubeletConfiguration) -> Iterator[str]:
    low, high = found.imageGCLowThresholdPercent, found.imageGCHighThresholdPercent
    if low >= high:
        yield (
            f"imageGCLowThresholdPercent (--image-gc-low-threshold) {low} must be less than "
            f"imageGCHighThresholdPercent (--image-gc-high-threshold) {high}"
        )
    least, most = found.imageMinimumGCAge, found.imageMaximumGCAge
    for name, age in (("imageMinimumGCAge", least), ("imageMaximumGCAge", most)):
        if age < 0:
            yield f"{name} {format_duration(age)} must not be negative"
    if 0 < most <= least:
        yield (
            f"imageMaximumGCAge {format_duration(most)} must be greater than imageMinimumGCAge "
            f"{format_duration(least)}"
        )
    if found.serializeImagePulls and (found.maxParallelImagePulls or 0) > 1:
        yield (
            "maxParallelImagePulls cannot be larger than 1 unless SerializeImagePulls "
            "(--serialize-image-pulls) is set to false"
        )
    allowlisted = found.imagePullCredentialsVerificationPolicy == "NeverVerifyAllowlistedImages"
    if found.preloadedImagesVerificationAllowlist and not allowlisted:
        yield (
            "can't set `preloadedImagesVerificationAllowlist` if "
            '`imagePullCredentialsVertificationPolicy` is not "NeverVerifyAllowlistedImages"'
        )


def _taints(found: KubeletConfiguration) -> Iterator[str]:
    for taint in found.registerWithTaints:
        wrong = qualified_name(taint.key) or (taint.value and label_value(taint.value))
        if wrong or taint.effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
            yield f"invalid taint: {{{taint.key} {taint.value} {taint.effect} <nil>}}"
        if taint.timeAdded:
            yield "taint.TimeAdded is not nil"


def _shutdown(found: KubeletConfiguration) -> Iterator[str]:
    whole, critical = found.shutdownGracePeriod, found.shutdownGracePeriodCriticalPods
    if is_enabled("GracefulNodeShutdown", found.featureGates):
        if critical > whole:
            yield (
                f"shutdownGracePeriodCriticalPods {format_duration(critical)} must be <= "
                f"shutdownGracePeriod {format_duration(whole)}"
            )
        for name, period in (
            ("shutdownGracePeriod", whole),
            ("shutdownGracePeriodCriticalPods", critical),
        ):
            if period < 0 or 0 < period < 1:
                yield f"{name} {format_duration(period)} must be either zero or otherwise >= 1 sec"
    elif whole > 0 or critical > 0:
        yield (
            "specifying shutdownGracePeriod or shutdownGracePeriodCriticalPods requires feature "
            "gate GracefulNodeShutdown"
        )
    if not found.shutdownGracePeriodByPodPriority:
        return
    if not is_enabled("GracefulNodeShutdownBasedOnPodPriority", found.featureGates):
        yield (
            "Specifying shutdownGracePeriodByPodPriority requires feature gate "
            "GracefulNodeShutdownBasedOnPodPriority"
        )
    elif whole > 0 or critical > 0:
        yield (
            "Cannot specify both shutdownGracePeriodByPodPriority and shutdownGracePeriod at the "
            "same time"
        )


_ENFORCEABLE = {
    "pods": "",
    "system-reserved": "systemReservedCgroup (--system-reserved-cgroup)",
    "system-reserved-compressible": "systemReservedCgroup (--system-reserved-cgroup)",
    "kube-reserved": "kubeReservedCgroup (--kube-reserved-cgroup)",
    "kube-reserved-compressible": "kubeReservedCgroup (--kube-reserved-cgroup)",
    "none": "",
}
_ENFORCEMENT = "enforceNodeAllocatable (--enforce-node-allocatable)"


def _enforcement(found: KubeletConfiguration) -> Iterator[str]:
    chosen = found.enforceNodeAllocatable
    for name in ("system-reserved", "kube-reserved"):
        if name in chosen and f"{name}-compressible" in chosen:
            yield (
                f'both "{name}" and "{name}-compressible" cannot be specified together in '
                f"{_ENFORCEMENT}"
            )
    for index, value in enumerate(chosen):
        if value in chosen[:index]:
            yield f'duplicated enforcements "{value}" in {_ENFORCEMENT}'
            continue
        if value not in _ENFORCEABLE:
            *first, last = (f'"{each}"' for each in _ENFORCEABLE)
            yield (
                f'option "{value}" specified for {_ENFORCEMENT}. Valid options are '
                f"{', '.join(first)} or {last}"
            )
            continue
        if value == "none":
            if len(chosen) > 1:
                yield (
                    f"{_ENFORCEMENT} may not contain additional enforcements when "
                    '"none" is specified'
                )
            continue
        needed = _ENFORCEABLE[value]
        if needed and not getattr(found, needed.partition(" ")[0]):
            name = value.removesuffix("-compressible")
            yield (
                f'{needed} must be specified when "{name}" or "{name}-compressible" included in '
                f"{_ENFORCEMENT}"
            )
        if not found.cgroupsPerQOS:
            yield (
                f'cgroupsPerQOS (--cgroups-per-qos) must be set to true when "{value}" contained '
                f"in {_ENFORCEMENT}"
            )


def _logs(found: KubeletConfiguration) -> Iterator[str]:
    if found.enableSystemLogQuery and not found.enableSystemLogHandler:
        yield "enableSystemLogHandler is required for enableSystemLogQuery"
    if found.containerLogMaxWorkers < 1:
        yield "containerLogMaxWorkers must be greater than or equal to 1"
    if found.containerLogMonitorInterval < 3:
        yield (
            "containerLogMonitorInterval must be a positive time duration greater than or equal "
            "to 3s"
        )
    if found.containerLogMaxFiles <= 1:
        yield "containerLogMaxFiles must be greater than 1"
    directory = found.podLogsDir
    if not directory.startswith("/"):
        yield f'pod logs path "{directory}" must be absolute path'
    parts = directory.split("/")[1:]
    if any(part in ("", ".", "..") for part in parts) and directory != "/":
        yield f'pod logs path "{directory}" must be normalized'
    if not directory.isascii():
        yield f'pod logs path "{directory}" mut contains ASCII characters only'


def _resources(found: KubeletConfiguration) -> Iterator[str]:
    if found.reservedSystemCPUs and (found.systemReservedCgroup or found.kubeReservedCgroup):
        yield (
            "can't use reservedSystemCPUs (--reserved-cpus) with systemReservedCgroup "
            "(--system-reserved-cgroup) or kubeReservedCgroup (--kube-reserved-cgroup)"
        )
    try:
        parse_cpu_set(found.reservedSystemCPUs)
    except ValueError as error:
        yield (
            "unable to parse reservedSystemCPUs (--reserved-cpus) "
            f"{found.reservedSystemCPUs}, error: {error}"
        )
    if not 0 < found.memoryThrottlingFactor <= 1:
        yield (
            f"memoryThrottlingFactor {found.memoryThrottlingFactor:g} must be greater than 0 and "
            "less than or equal to 1.0"
        )
    tiered = found.memoryReservationPolicy == "TieredReservation"
    if tiered and not is_enabled("MemoryQoS", found.featureGates):
        yield (
            'memoryReservationPolicy "TieredReservation" requires MemoryQoS feature gate to be '
            "enabled"
        )
    period = found.crashLoopBackOff.maxContainerRestartPeriod
    if is_enabled("KubeletCrashLoopBackOffMax", found.featureGates):
        if period is None:
            yield (
                "FeatureGate KubeletCrashLoopBackOffMax is enabled, "
                "CrashLoopBackOff.MaxContainerRestartPeriod must be set"
            )
        elif not 1 <= period <= 300:
            yield (
                f"CrashLoopBackOff.MaxContainerRestartPeriod (got: {period:g} seconds) must be "
                "set between 1s and 300s"
            )
    seen = set()
    for reservation in found.reservedMemory:
        for name, text in reservation.limits.items():
            if name != "memory" and not name.startswith("hugepages-"):
                yield (
                    f'the limit type "{name}" for NUMA node {reservation.numaNode} is not '
                    "supported, only [memory hugepages-<HugePageSize>] is accepted"
                )
            if _quantity(text) == 0:
                yield (
                    f"reserved memory may not be zero for NUMA node {reservation.numaNode} and "
                    f'resource "{name}"'
                )
            if (reservation.numaNode, name) in seen:
                yield (
                    "the reserved memory has a duplicate value for NUMA node "
                    f'{reservation.numaNode} and resource "{name}"'
                )
            seen.add((reservation.numaNode, name))


SIGNALS = frozenset(
    f"{place}.{what}"
    for place in ("nodefs", "imagefs", "containerfs")
    for what in ("available", "inodesFree")
) | {"memory.available", "allocatableMemory.available", "pid.available"}
RESERVABLE = ("cpu", "memory", "ephemeral-storage", "pid")


def _unusable(found: KubeletConfiguration) -> Iterator[str]:
    """What upstream's kubelet finds out later, when it is about to start."""
    for kept in (found.systemReserved, found.kubeReserved):
        for name, text in kept.items():
            if name not in RESERVABLE and not name.startswith("hugepages-"):
                yield f'cannot reserve "{name}" resource'
            elif (value := _quantity(text)) is None:
                yield (
                    f'failed to parse quantity "{text}" for "{name}" resource: quantities must '
                    "match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                )
            elif value < 0:
                yield f'resource quantity for "{name}" cannot be negative: {text}'
    for kind, thresholds in (
        ("hard", found.evictionHard or {}),
        ("soft", found.evictionSoft),
        ("minimum reclaim", found.evictionMinimumReclaim),
    ):
        for signal, text in thresholds.items():
            if signal not in SIGNALS:
                yield f"unsupported eviction signal {signal}"
            elif text.endswith("%"):
                if not _is_percentage(text):
                    yield f"eviction percentage threshold {signal} must be >= 0%: {text}"
            elif (value := _quantity(text)) is None or value < 0 or (kind != "hard" and not value):
                yield f"eviction threshold {signal} must be positive: {text}"
    for signal in found.evictionSoft:
        if signal not in found.evictionSoftGracePeriod:
            yield f"grace period must be specified for the soft eviction threshold {signal}"
    for text in found.evictionSoftGracePeriod.values():
        try:
            if parse_duration(text) < 0:
                yield f"invalid eviction grace period specified: {text}, must be a positive value"
        except ValueError as error:
            yield str(error)
    if _quantity(found.containerLogMaxSize) is None or _quantity(found.containerLogMaxSize) == 0:
        yield (
            f'failed to parse container log max size "{found.containerLogMaxSize}": quantities '
            "must match the regular expression "
            "'^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        )
    if found.tlsMinVersion not in _CIPHER_VERSIONS:
        yield f'unknown tls version "{found.tlsMinVersion}"'
    if found.authorization.mode not in ("Webhook", "AlwaysAllow"):
        yield f"unknown authorization mode {found.authorization.mode}"
    if found.cgroupDriver not in ("cgroupfs", "systemd"):
        yield f"unrecognized cgroup driver {found.cgroupDriver}"


def _quantity(text: str) -> int | None:
    try:
        return parse_quantity(text).milli_value()
    except QuantityError:
        return None


def _is_percentage(text: str) -> bool:
    try:
        return 0 <= float(text[:-1]) <= 100
    except ValueError:
        return False
