"""Eviction thresholds as they are configured: `memory.available<100Mi`, `nodefs.available<10%`.

The maps are `KubeletConfiguration`'s evictionHard, evictionSoft, evictionSoftGracePeriod and
evictionMinimumReclaim; rules and complaints are upstream's (`pkg/kubelet/eviction/helpers.go`).
Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace

from navarch.api.quantity import Format, Quantity, parse_quantity

from .settings import NodeOptions

MEMORY, DISK, PIDS = "MemoryPressure", "DiskPressure", "PIDPressure"
STORAGE, INODES = "ephemeral-storage", "inodes"

ALLOCATABLE_MEMORY = "allocatableMemory.available"
SIGNALS = {
    "memory.available": (MEMORY, "memory"),
    ALLOCATABLE_MEMORY: (MEMORY, "memory"),
    "nodefs.available": (DISK, STORAGE),
    "nodefs.inodesFree": (DISK, INODES),
    "imagefs.available": (DISK, STORAGE),
    "imagefs.inodesFree": (DISK, INODES),
    "containerfs.available": (DISK, STORAGE),
    "containerfs.inodesFree": (DISK, INODES),
    "pid.available": (PIDS, "pids"),
}
"""Each signal's node condition, and the resource that is short (as messages name it)."""


class InvalidThreshold(ValueError):
    """A threshold that cannot be meant; the text is upstream's."""


@dataclass(frozen=True, slots=True)
class Amount:
    """A quantity, or a part of the capacity."""

    quantity: Quantity | None = None
    fraction: float = 0.0

    def of(self, capacity: int) -> Quantity:
        if self.quantity is not None:
            return self.quantity
        return Quantity.of(int(capacity * self.fraction), Format.BINARY)


@dataclass(frozen=True, slots=True)
class Threshold:
    """Met when less than `value` of the signal is left, for as long as the grace period."""

    signal: str
    value: Amount
    grace: float = 0.0
    minimum_reclaim: Amount | None = None

    @property
    def is_hard(self) -> bool:
        return self.grace == 0.0

    @property
    def condition(self) -> str:
        return SIGNALS[self.signal][0]

    @property
    def resource(self) -> str:
        return SIGNALS[self.signal][1]


def parse_thresholds(options: NodeOptions) -> list[Threshold]:
    """All thresholds of a configuration; raises `InvalidThreshold`.

    Where the pods' own cgroup is limited (enforceNodeAllocatable), the hard threshold on the
    machine's memory counts for that limit as well.
    """
    periods = options.eviction_soft_grace_period
    for signal, seconds in periods.items():
        if seconds < 0:
            raise InvalidThreshold(
                f"invalid eviction grace period specified: {seconds:g}s, must be a positive value"
            )
        _known(signal)
    soft = []
    for each in _parse(options.eviction_soft):
        if each.signal not in periods:
            raise InvalidThreshold(
                f"grace period must be specified for the soft eviction threshold {each.signal}"
            )
        soft.append(replace(each, grace=periods[each.signal]))
    reclaims = {
        signal: _amount(_known(signal), text, "minimum reclaim")
        for signal, text in options.eviction_minimum_reclaim.items()
    }
    result = [
        replace(each, minimum_reclaim=reclaims.get(each.signal))
        for each in (*_parse(options.eviction_hard), *soft)
    ]
    if "pods" in options.enforce_node_allocatable:
        result += [
            replace(each, signal=ALLOCATABLE_MEMORY)
            for each in result
            if each.signal == "memory.available" and each.is_hard
        ]
    # The writable layers are on the images' file system, which has its own thresholds.
    return [each for each in result if not each.signal.startswith("containerfs.")]


def _parse(statements: Mapping[str, str]) -> list[Threshold]:
    return [
        Threshold(signal, _amount(_known(signal), text, "threshold"))
        for signal, text in statements.items()
        if text not in ("0%", "100%")  # upstream's way of switching one off
    ]


def _known(signal: str) -> str:
    if signal not in SIGNALS:
        raise InvalidThreshold(f"unsupported eviction signal {signal}")
    return signal


def _amount(signal: str, text: str, what: str) -> Amount:
    if text.endswith("%"):
        try:
            percent = float(text.rstrip("%"))
        except ValueError:
            raise InvalidThreshold(f"eviction percentage {what} {signal}: {text}") from None
        if percent < 0 or (percent == 0 and what != "threshold"):
            bound = ">= 0%" if what == "threshold" else "positive"
            raise InvalidThreshold(f"eviction percentage {what} {signal} must be {bound}: {text}")
        if percent > 100 and what == "threshold":
            raise InvalidThreshold(f"eviction percentage {what} {signal} must be <= 100%: {text}")
        # Single precision, as upstream has it: messages print the product.
        (fraction,) = struct.unpack("f", struct.pack("f", percent / 100))
        return Amount(fraction=fraction)
    try:
        quantity = parse_quantity(text)
    except ValueError as error:
        raise InvalidThreshold(str(error)) from None
    if quantity.sign() < 0 or (quantity.is_zero() and what == "threshold"):
        raise InvalidThreshold(f"eviction {what} {signal} must be positive: {text}")
    return Amount(quantity)
