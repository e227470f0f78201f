"""Finding devices for a pod's claims on one node.

Claim after claim, request after request, device after device: a depth-first search that takes the
first full solution, so drivers influence what is taken by the names of their pools, slices and
devices. A device qualifies if it is free (or shared, with enough left; or looked at by an
administrator), its class and the request select it, its taints are tolerated, the counters of its
pool suffice, and the claim's constraints hold. Of a request's alternatives the first that works
counts.

The search can take exponential time. It is given a number of steps, and what needs more is an error
of the attempt and not a statement about the node: the pod is tried again after a while.
Source: KEP-4381, KEP-4816, KEP-4815, KEP-5055, KEP-5075; upstream's
`structured/internal/incubating/allocator_incubating.go`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from navarch.api.quantity import Quantity
from navarch.api.resource_claims import MAX_RESULTS, DeviceId, SelectorProblem, tolerates
from navarch.api.types.resource_v1 import (
    DeviceClass,
    DeviceConstraint,
    DeviceSubRequest,
    ExactDeviceRequest,
    ResourceClaim,
)
from navarch.scheduler.dra import capacity
from navarch.scheduler.dra.pools import DeviceView, Pool

PREVENTING = ("NoSchedule", "NoExecute")


class AllocationProblem(Exception):
    """Something is wrong with a claim or a class: it is of no use to look at further nodes."""


class NoPool(Exception):
    """The node has no solution, and some of its pools are broken."""


@dataclass(slots=True)
class Steps:
    """How far a search may go."""

    left: int

    def take(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise OutOfSteps


class OutOfSteps(Exception):
    """The search takes too long."""


@dataclass(frozen=True, slots=True)
class InUse:
    """What claims that are allocated have."""

    devices: Mapping[DeviceId, int]
    """Devices that nobody else can have."""
    shared: Mapping[DeviceId, Mapping[str, Quantity]]
    """What is taken of the capacities of devices that are shared."""

    def has(self, device: DeviceId) -> bool:
        return device in self.devices or device in self.shared


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request, or one of its alternatives."""

    claim: int
    parent: str
    """The request, if this is one of its alternatives."""
    request: ExactDeviceRequest | DeviceSubRequest
    base: str
    device_class: DeviceClass
    devices: tuple[DeviceView, ...] | None = None
    """All that match, if all of them are wanted."""

    @property
    def name(self) -> str:
        """As in the result."""
        return f"{self.parent}/{self.base}" if self.parent else self.base

    @property
    def count(self) -> int:
        return self.request.count if self.devices is None else len(self.devices)

    @property
    def is_admin(self) -> bool:
        return bool(getattr(self.request, "adminAccess", None))


@dataclass(frozen=True, slots=True)
class Taken:
    """A device for a request."""

    wanted: Wanted
    device: DeviceView
    amounts: Mapping[str, Quantity] | None = None
    """What it takes of a shared device; None: all of it."""


@dataclass(slots=True)
class Constraint:
    """`matchAttribute` or `distinctAttribute` over devices of a claim."""

    rule: DeviceConstraint
    values: list[Any] = field(default_factory=list)

    def applies(self, wanted: Wanted) -> bool:
        names = self.rule.requests
        return not names or (wanted.parent or wanted.base) in names or wanted.name in names

    def add(self, wanted: Wanted, device: DeviceView) -> bool:
        """Whether it still holds with this device, which then counts."""
        if not self.applies(wanted):
            return True
        value = device.attribute(self.rule.matchAttribute or self.rule.distinctAttribute or "")
        if value is None:
            return False
        if self.rule.matchAttribute:
            if self.values and self.values[0] != value:
                return False
        elif value in self.values:
            return False
        self.values.append(value)
        return True

    def remove(self, wanted: Wanted) -> None:
        if self.applies(wanted):
            self.values.pop()


class Allocator:
    """Looks for devices of `pools` for `claims`. One is made for each node and used once."""

    def __init__(
        self,
        claims: Sequence[ResourceClaim],
        pools: Sequence[Pool],
        classes: Callable[[str], DeviceClass | None],
        in_use: InUse,
        steps: Steps,
    ) -> None:
        self._claims = claims
        self._pools = pools
        self._classes = classes
        self._in_use = in_use
        self._steps = steps
        self._usable = [
            (pool, device)
            for pool in pools
            if not (pool.is_incomplete or pool.is_invalid)
            for device in pool.devices
        ]
        self._pool_of = {device.id: pool for pool, device in self._usable}
        self._taken: list[Taken] = []
        self._holders: Counter[tuple[DeviceId, int]] = Counter()
        """How often a claim has a device that it does not share."""
        self._held: Counter[DeviceId] = Counter()
        self._amounts: dict[DeviceId, dict[str, Quantity]] = {}
        self._counters: dict[tuple[str, str], dict[tuple[str, str], Quantity]] = {}
        """What is left of the counters of a pool."""

    def solve(self) -> tuple[Taken, ...] | None:
        """The devices for all requests; None if the node does not have them. Raises
        AllocationProblem, NoPool, OutOfSteps."""
        self._requests = [*self._read()]
        self._constraints = [[*_constraints(claim)] for claim in self._claims]
        try:
            found = self._request(0)
        except RecursionError:
            raise OutOfSteps from None
        if found:
            return tuple(self._taken)
        if any(pool.is_invalid for pool in self._pools):
            raise NoPool("invalid resource pools were encountered")
        return None

    # What is asked for.

    def _read(self) -> Iterator[list[Wanted]]:
        """The alternatives of every request."""
        for number, claim in enumerate(self._claims):
            least = 0
            for request in claim.spec.devices.requests:
                name = request.name
                if request.exactly is not None:
                    options = [self._wanted(number, "", name, request.exactly)]
                else:
                    subs = request.firstAvailable
                    options = [self._wanted(number, name, each.name, each) for each in subs]
                least += min((each.count for each in options), default=0)
                yield options
            if least > MAX_RESULTS:
                raise AllocationProblem(
                    f"claim {_key(claim)}: number of requested devices {least} exceeds the claim "
                    f"limit of {MAX_RESULTS}"
                )

    def _wanted(
        self, number: int, parent: str, name: str, request: ExactDeviceRequest | DeviceSubRequest
    ) -> Wanted:
        where = f"claim {_key(self._claims[number])}, request {name}"
        class_name = request.deviceClassName
        device_class = self._classes(class_name)
        if device_class is None:
            problem = f'deviceclass.resource.k8s.io "{class_name}" not found'
            text = f"could not retrieve device class {class_name}: {problem}"
            raise AllocationProblem(f"{where}: {text}")
        wanted = Wanted(number, parent, request, name, device_class)
        if request.allocationMode != "All":
            if request.allocationMode != "ExactCount":
                raise AllocationProblem(f"{where}: unsupported count mode {request.allocationMode}")
            return wanted
        for pool in self._pools:
            state = "being updated" if pool.is_incomplete else "invalid" if pool.is_invalid else ""
            if state:
                text = f"asks for all devices, but resource pool {pool} is currently {state}"
                raise AllocationProblem(f"{where}: {text}")
        every = tuple(
            device
            for _, device in self._usable
            if self._selects(wanted, device)
            and capacity.fits(request.capacity, device.device, self._shared(device))
        )
        return Wanted(number, parent, request, name, device_class, every)

    def _selects(self, wanted: Wanted, device: DeviceView) -> bool:
        device_class = wanted.device_class
        for what, selectors in (
            (f"class {device_class.metadata.name}", device_class.spec.selectors),
            (f"claim {_key(self._claims[wanted.claim])}", wanted.request.selectors),
        ):
            for number, selector in enumerate(selectors):
                if selector.cel is None:
                    raise AllocationProblem(
                        f"{what}, selector #{number}: CEL expression empty (unsupported selector "
                        "type?)"
                    )
                try:
                    if not device.matches(selector.cel.expression):
                        return False
                except SelectorProblem as problem:
                    raise AllocationProblem(f"{what}: selector #{number}: {problem}") from None
        return True

    # The search. Each function answers whether everything from there on has been found.

    def _request(self, number: int) -> bool:
        if number == len(self._requests):
            return True
        return any(self._next(number, each, 0, 0) for each in self._requests[number])

    def _next(self, number: int, wanted: Wanted, index: int, start: int) -> bool:
        """The device with this index in the request, from that place in the pools on."""
        self._steps.take()
        if wanted.devices is not None and not wanted.devices:
            return False
        if index >= wanted.count:
            return self._request(number + 1)
        mine = sum(taken.wanted.claim == wanted.claim for taken in self._taken)
        if mine + wanted.count - index > MAX_RESULTS:
            return False
        if wanted.devices is not None:
            # There is no choice, so the first that cannot be had ends it.
            return self._try(number, wanted, index, wanted.devices[index], start)
        for place in range(start, len(self._usable)):
            device = self._usable[place][1]
            self._steps.take()
            if not self._is_free(wanted, device) or not self._selects(wanted, device):
                continue
            if not capacity.fits(wanted.request.capacity, device.device, self._shared(device)):
                continue
            if self._try(number, wanted, index, device, place + 1):
                return True
        return False

    def _try(self, number: int, wanted: Wanted, index: int, device: DeviceView, start: int) -> bool:
        if not self._is_free(wanted, device) or _is_tainted(wanted, device):
            return False
        is_shared = bool(device.device.allowMultipleAllocations)
        counted = not (is_shared and self._is_used(device)) and bool(device.consumes)
        if counted and not self._count(device):
            return False
        constraints = self._constraints[wanted.claim]
        for position, constraint in enumerate(constraints):
            if not constraint.add(wanted, device):
                for each in constraints[:position]:
                    each.remove(wanted)
                if counted:
                    self._uncount(device)
                if wanted.devices is not None:
                    claim, what = _key(self._claims[wanted.claim]), "/".join(device.id)
                    raise AllocationProblem(
                        f"claim {claim}, request {wanted.base}: cannot add device {what} because a "
                        "claim constraint would not be satisfied"
                    )
                return False
        amounts = self._take(wanted, device, is_shared)
        self._taken.append(Taken(wanted, device, amounts))
        if self._next(number, wanted, index + 1, start):
            return True
        self._taken.pop()
        self._give_back(wanted, device, amounts)
        for constraint in constraints:
            constraint.remove(wanted)
        if counted:
            self._uncount(device)
        return False

    # What is free, besides what has been taken on the way here.

    def _is_free(self, wanted: Wanted, device: DeviceView) -> bool:
        if wanted.is_admin:
            return not self._holders[device.id, wanted.claim]
        return device.id not in self._in_use.devices and not self._held[device.id]

    def _is_used(self, device: DeviceView) -> bool:
        return device.id in self._in_use.shared or device.id in self._amounts

    def _shared(self, device: DeviceView) -> Mapping[str, Quantity]:
        before = self._in_use.shared.get(device.id, {})
        now = self._amounts.get(device.id)
        return before if now is None else _sum(before, now)

    def _take(
        self, wanted: Wanted, device: DeviceView, is_shared: bool
    ) -> Mapping[str, Quantity] | None:
        if not is_shared:
            self._holders[device.id, wanted.claim] += 1
            self._held[device.id] += 1
            return None
        amounts = capacity.consumed(wanted.request.capacity, device.device)
        self._amounts[device.id] = _sum(self._amounts.get(device.id, {}), amounts)
        return amounts

    def _give_back(
        self, wanted: Wanted, device: DeviceView, amounts: Mapping[str, Quantity] | None
    ) -> None:
        if amounts is None:
            self._holders[device.id, wanted.claim] -= 1
            self._held[device.id] -= 1
            return
        if not any(taken.device is device for taken in self._taken):
            del self._amounts[device.id]
            return
        left = self._amounts[device.id]
        self._amounts[device.id] = {name: value - amounts[name] for name, value in left.items()}

    def _count(self, device: DeviceView) -> bool:
        """Take what the device needs of its pool's counters, if it is there."""
        left = self._left(self._pool_of[device.id])
        if any(left[set_, name] < amount for set_, name, amount in device.consumes):
            return False
        for set_, name, amount in device.consumes:
            left[set_, name] = left[set_, name] - amount
        return True

    def _uncount(self, device: DeviceView) -> None:
        left = self._left(self._pool_of[device.id])
        for set_, name, amount in device.consumes:
            left[set_, name] = left[set_, name] + amount

    def _left(self, pool: Pool) -> dict[tuple[str, str], Quantity]:
        known = self._counters.get(pool.id)
        if known is None:
            known = self._counters[pool.id] = {
                (set_, name): amount
                for set_, counters in pool.counters.items()
                for name, amount in counters.items()
            }
            for device in pool.all_devices:
                if self._in_use.has(device.id):
                    for set_, name, amount in device.consumes:
                        known[set_, name] = known[set_, name] - amount
        return known


def _sum(left: Mapping[str, Quantity], right: Mapping[str, Quantity]) -> dict[str, Quantity]:
    return {
        name: left[name] + right[name] if name in left and name in right else either
        for name, either in {**left, **right}.items()
    }


def _is_tainted(wanted: Wanted, device: DeviceView) -> bool:
    tolerations = wanted.request.tolerations
    return any(
        taint.effect in PREVENTING and not tolerates(tolerations, taint)
        for taint in device.device.taints
    )


def _constraints(claim: ResourceClaim) -> Iterator[Constraint]:
    for number, rule in enumerate(claim.spec.devices.constraints):
        if not (rule.matchAttribute or rule.distinctAttribute):
            raise AllocationProblem(
                f"claim {_key(claim)}, constraint #{number}: empty constraint (unsupported "
                "constraint type?)"
            )
        yield Constraint(rule)


def _key(claim: ResourceClaim) -> str:
    return f"{claim.metadata.namespace}/{claim.metadata.name}"
