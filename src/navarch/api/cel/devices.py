"""The expressions that choose devices: the selectors of device classes and of claims.

`device` has the driver's name, attributes and capacities by domain and identifier, and whether it
may be allocated several times. A domain that a device does not have is an empty map rather than an
error, so that `has()` of one attribute is enough. What an expression may cost at most is estimated
when it is written; what it does cost is limited when it runs.
Source: KEP-4381; upstream's `dynamic-resource-allocation/cel`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from navarch.api.cel.costs import Estimate
from navarch.api.cel.environment import STORED, Environment, Program
from navarch.api.cel.errors import CelError, CompileError, ProgramError
from navarch.api.cel.functions import Version
from navarch.api.cel.library import base_environment
from navarch.api.cel.library.quantities import QUANTITY, QuantityValue
from navarch.api.cel.library.semvers import SEMVER, to_semver
from navarch.api.cel.macros import BINDINGS
from navarch.api.cel.types import BOOL, DYN, STRING, CelType, Kind, map_of, object_type
from navarch.api.quantity import parse_quantity
from navarch.api.resource_claims import SelectorProblem, qualified
from navarch.api.types.resource_v1 import Device, DeviceAttribute

COST_LIMIT = 1_000_000
MAX_BYTES = 10 * 1024
MAX_DOMAIN, MAX_IDENTIFIER, MAX_VALUE, MAX_NAMES = 63, 32, 64, 32
KEPT = 512

DEVICE = object_type(
    "kubernetes.DRADevice",
    {
        "driver": STRING,
        "allowMultipleAllocations": BOOL,
        "attributes": map_of(STRING, map_of(STRING, DYN)),
        "capacity": map_of(STRING, map_of(STRING, QUANTITY)),
    },
)


class _Domains(dict[str, dict[str, Any]]):
    """Names by domain; what is not there is empty."""

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(key, {})


@lru_cache(2)
def device_environment(version: Version = STORED) -> Environment:
    return base_environment(version).extend(
        variables={"device": DEVICE}, types=(DEVICE,), libraries=(BINDINGS,)
    )


@lru_cache(KEPT)
def compile_selector(text: str, version: Version = STORED) -> Program:
    """Raises SelectorProblem."""
    try:
        program = device_environment(version).compile(text)
    except ProgramError as error:
        raise SelectorProblem(f"program instantiation failed: {error}") from None
    except CompileError as error:
        raise SelectorProblem(f"compilation failed: {error}") from None
    if program.type.kind not in (Kind.BOOL, Kind.DYN):
        raise SelectorProblem(f"must evaluate to bool or the unknown type, not {program.type}")
    return program


def estimated_cost(program: Program) -> int:
    """The most that it can cost for any device."""
    return program.estimate(_size).max


def _size(path: tuple[str, ...], type_: CelType) -> Estimate | None:
    match path:
        case ("device", "driver"):
            return Estimate(0, MAX_DOMAIN)
        case ("device", "attributes" | "capacity", *inner):
            steps = len(inner)
            if path[-1] == "@keys":
                return Estimate(0, MAX_DOMAIN if steps == 1 else MAX_IDENTIFIER)
            return Estimate(0, MAX_NAMES if steps < 2 else MAX_VALUE)
    return None


def _value(attribute: DeviceAttribute) -> Any:
    if attribute.int is not None:
        return attribute.int
    if attribute.bool is not None:
        return attribute.bool
    if attribute.string is not None:
        return attribute.string
    if attribute.version is not None:
        return to_semver(attribute.version)
    raise SelectorProblem("unsupported attribute value")


def variables(driver: str, device: Device) -> Mapping[str, Any]:
    """What an expression sees of a device. Raises SelectorProblem."""
    attributes, capacity = _Domains(), _Domains()
    for name, attribute in device.attributes.items():
        domain, identifier = qualified(name, driver)
        try:
            value = _value(attribute)
        except (CelError, SelectorProblem) as problem:
            raise SelectorProblem(f"attribute {name}: {problem}") from None
        attributes.setdefault(domain, {})[identifier] = value
    for name, amount in device.capacity.items():
        domain, identifier = qualified(name, driver)
        found = QuantityValue(parse_quantity(amount.value))
        capacity.setdefault(domain, {})[identifier] = found
    return {
        "device": {
            "driver": driver,
            "allowMultipleAllocations": bool(device.allowMultipleAllocations),
            "attributes": attributes,
            "capacity": capacity,
        }
    }


def matches(program: Program, seen: Mapping[str, Any]) -> bool:
    """Whether a device, as `variables` shows it, is chosen. Raises SelectorProblem."""
    try:
        value = program.evaluate(seen, COST_LIMIT).value
    except CelError as error:
        raise SelectorProblem(str(error)) from None
    if type(value) is not bool:
        name = _type_name(value)
        problem = f"type conversion error from '{name}' to 'bool'"
        text = f"CEL result of type {name} could not be converted to bool"
        raise SelectorProblem(f"{text}: {problem}")
    return value


def _type_name(value: Any) -> str:
    names = {int: "int", str: "string", float: "double", list: "list", dict: "map"}
    return names.get(type(value)) or str(getattr(value, "cel_type", SEMVER).name)
