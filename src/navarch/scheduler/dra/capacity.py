"""Devices that several claims share: how much of a device's capacities a request takes.

A request may ask for less than all of a capacity. How much it then gets is the device's policy: a
default, values that are allowed, or a range with steps, to which it is rounded up. What asks for no
amount gets the default, or everything.
Source: KEP-5075; upstream's `structured/internal/incubating/consumable_capacity.go`.
"""

from __future__ import annotations

from collections.abc import Mapping

from navarch.api.quantity import Format, Quantity, parse_quantity
from navarch.api.types.resource_v1 import (
    CapacityRequestPolicy,
    CapacityRequestPolicyRange,
    CapacityRequirements,
    Device,
    DeviceCapacity,
)

Amounts = Mapping[str, Quantity]


def consumed(wanted: CapacityRequirements | None, device: Device) -> dict[str, Quantity]:
    """What a request takes of each capacity of a device."""
    requests = wanted.requests if wanted is not None else {}
    return {
        name: _consumed(requests.get(name), capacity) for name, capacity in device.capacity.items()
    }


def fits(wanted: CapacityRequirements | None, device: Device, taken: Amounts) -> bool:
    """Whether a device has as much left as a request takes, in amounts that its policy allows."""
    if wanted is not None and wanted.requests.keys() - device.capacity.keys():
        return False
    for name, amount in consumed(wanted, device).items():
        capacity = device.capacity[name]
        if capacity.requestPolicy is not None and not _allows(capacity.requestPolicy, amount):
            return False
        total = amount + taken[name] if name in taken else amount
        if total > parse_quantity(capacity.value):
            return False
    return True


def _consumed(wanted: str | None, capacity: DeviceCapacity) -> Quantity:
    policy = capacity.requestPolicy
    if wanted is None:
        default = policy.default if policy is not None else None
        return parse_quantity(capacity.value if default is None else default)
    amount = parse_quantity(wanted)
    if policy is None:
        return amount
    limits = policy.validRange
    if limits is not None and limits.min is not None:
        return _rounded(amount, limits)
    allowed = map(parse_quantity, policy.validValues)
    return next((each for each in allowed if amount <= each), amount)


def _rounded(amount: Quantity, limits: CapacityRequestPolicyRange) -> Quantity:
    lowest = parse_quantity(limits.min or "0")
    if amount < lowest:
        return lowest
    if limits.step is None:
        return amount
    step = parse_quantity(limits.step).value()
    more = amount.value() - lowest.value()
    return Quantity.of(lowest.value() + -(-more // step) * step, Format.BINARY)


def _allows(policy: CapacityRequestPolicy, amount: Quantity) -> bool:
    if policy.default is not None and amount == parse_quantity(policy.default):
        return True
    limits = policy.validRange
    if limits is not None:
        if limits.max is not None and amount > parse_quantity(limits.max):
            return False
        if limits.step is None:
            return True
        lowest = parse_quantity(limits.min or "0").value()
        return (amount.value() - lowest) % parse_quantity(limits.step).value() == 0
    values = policy.validValues
    return not values or any(amount == parse_quantity(each) for each in values)
