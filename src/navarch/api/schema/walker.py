"""The compiled walk over a decoded object: checks, prunes and normalises it as Go's decoder would.

One `Walker` per struct type, compiled at first use from its facts and shared by all kinds. It works
in place on freshly decoded data and leaves it as Go would print it again: unknown fields and nulls
gone, empty values of `omitempty` fields gone, fields without `omitempty` present, quantities and
times in canonical form. Two differences are meant: absent lists and maps that are always printed
become `[]` and `{}` where Go prints null, and raw extensions stay as they came.

Paths are linked tuples `(parent, key)`, spelled out only for a problem. A wrong type raises
`TypeProblem` at once; unknown and repeated fields are collected in the `Walk`.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

from navarch.api.quantity import QuantityError, canonical
from navarch.api.schema.facts import FieldFacts, Shape, TypeFacts
from navarch.api.schema.json_body import Repeated
from navarch.api.times import TimeError, canonical_micro_time, canonical_time

Object = dict[str, Any]
Path = tuple[Any, Any] | None

MAX_PROBLEMS = 100
"""Upstream stops collecting there; so does this, for the sake of the response headers."""


class TypeProblem(ValueError):
    """A value of the wrong type; the message is that of Go's decoder."""


class _Mismatch(Exception):
    """A wrong type, on its way out through the structs around it: Go's complaint names the
    innermost and the fields that lead there, those of embedded structs included."""

    def __init__(self, value: Any, go_type: str) -> None:
        super().__init__()
        self.value = value
        self.go_type = go_type
        self.owner = ""
        self.fields: list[str] = []


class Walk:
    """What one walk has met."""

    __slots__ = ("problems",)

    def __init__(self) -> None:
        self.problems: list[str] = []

    def report(self, what: str, path: Path) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            problem = f'{what} field "{strict_path(path)}"'
            if problem not in self.problems:
                self.problems.append(problem)


Step = Callable[[Any, Path, Walk], Any]
"""Checks one value and returns what takes its place."""


def strict_path(path: Path) -> str:
    """`spec.containers[0].image`."""
    text = ""
    while path is not None:
        path, key = path
        text = (f"[{key}]" if isinstance(key, int) else f".{key}") + text
    return text.removeprefix(".")


def type_problem(value: Any, field: str, go_type: str) -> TypeProblem:
    """Go's complaint; `field` is the innermost struct around the value and the way to it."""
    if isinstance(value, bool):
        found = "bool"
    elif isinstance(value, int | float):
        found = f"number {value}" if go_type.startswith(("int", "float")) else "number"
    elif isinstance(value, str):
        found = "string"
    else:
        found = "array" if isinstance(value, list) else "object"
    where = f"Go struct field {field}" if field else "Go value"
    return TypeProblem(f"json: cannot unmarshal {found} into {where} of type {go_type}")


# Scalars: the class to expect, whether the value is used as it is, and the step for the rest.


def _wrong(go_type: str) -> Step:
    def step(value: Any, path: Path, walk: Walk) -> Any:
        raise _Mismatch(value, go_type)

    return step


def _integer(bits: int, go_type: str) -> Step:
    high = 2 ** (bits - 1)
    low = -high

    def step(value: Any, path: Path, walk: Walk) -> Any:
        if value.__class__ is int and low <= value < high:
            return value
        raise _Mismatch(value, go_type)

    return step


def _double(go_type: str) -> Step:
    def step(value: Any, path: Path, walk: Walk) -> Any:
        if value.__class__ is int or value.__class__ is float:
            return value
        raise _Mismatch(value, go_type)

    return step


def _quantity(value: Any, path: Path, walk: Walk) -> Any:
    if value.__class__ is not str:
        value = repr(value) if value.__class__ in (int, float) else "?"
    try:
        return canonical(value.strip())
    except QuantityError as error:
        raise TypeProblem(str(error)) from None


def _int_or_string(value: Any, path: Path, walk: Walk) -> Any:
    if value.__class__ is str or (value.__class__ is int and -(2**31) <= value < 2**31):
        return value
    raise _Mismatch(value, "int32")


def _time(value: Any, path: Path, walk: Walk) -> Any:
    return _canonical_time(value, canonical_time)


def _micro_time(value: Any, path: Path, walk: Walk) -> Any:
    return _canonical_time(value, canonical_micro_time)


def _canonical_time(value: Any, convert: Callable[[str], str]) -> str:
    if value.__class__ is not str:
        raise _Mismatch(value, "string")
    try:
        return convert(value)
    except TimeError as error:
        raise TypeProblem(str(error)) from None


def _bytes(go_type: str) -> Step:
    def step(value: Any, path: Path, walk: Walk) -> Any:
        if value.__class__ is not str:
            raise _Mismatch(value, go_type)
        try:
            raw = binascii.a2b_base64(value.replace("\n", "").replace("\r", ""), strict_mode=True)
        except (binascii.Error, ValueError):
            raise TypeProblem(f"illegal base64 data at input byte {_bad_byte(value)}") from None
        return base64.b64encode(raw).decode()

    return step


_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/\r\n")


def _bad_byte(text: str) -> int:
    """Where Go's decoder gives up: at a foreign character, behind the padding, or at the last
    group of four if that is not complete."""
    for index, character in enumerate(text):
        if character == "=" and index % 4 > 1:
            return index + 4 - index % 4
        if character not in _BASE64:
            return index
    return len(text) - len(text) % 4


def _scalar_step(facts: TypeFacts) -> tuple[type | None, Step | None]:
    """(class whose values pass as they are, step for all others); without a class all values take
    the step."""
    go_type = facts.go_type
    match facts.scalar:
        case "string":
            return str, _wrong(go_type)
        case "boolean":
            return bool, _wrong(go_type)
        case "int32":
            return None, _integer(32, go_type)
        case "int64":
            return None, _integer(64, go_type)
        case "double":
            return None, _double(go_type)
        case "bytes":
            return None, _bytes(go_type)
        case "quantity":
            return None, _quantity
        case "time":
            return None, _time
        case "micro-time":
            return None, _micro_time
        case _:
            return None, _int_or_string


_ZERO: dict[str, Any] = {
    "string": "",
    "boolean": False,
    "int32": 0,
    "int64": 0,
    "double": 0.0,
    "bytes": "",
    "quantity": "0",
    "int-or-string": 0,
    "time": None,
    "micro-time": None,
}
_GO_STRUCTS = frozenset({"quantity", "int-or-string", "time", "micro-time"})
"""Scalars that are structs in Go, which `omitempty` does not leave out."""


def _zero(facts: TypeFacts) -> Callable[[], Any]:
    """The value Go has where JSON has none."""
    if facts.shape is Shape.STRUCT:
        return walker_of(facts).empty
    if facts.shape is Shape.LIST:
        return list
    if facts.shape is Shape.MAP:
        return dict
    zero = _ZERO.get(facts.scalar)
    return lambda: zero


def _is_always_there(field: FieldFacts) -> bool:
    if field.pointer or field.omit_zero or field.type.shape is Shape.ANY:
        return False
    if field.type.shape is Shape.STRUCT or field.type.scalar in _GO_STRUCTS:
        return True
    return not field.omit_empty


def _is_dropped_when_empty(field: FieldFacts) -> bool:
    """Whether `omitempty` hides the empty value of the field."""
    if not field.omit_empty or field.type.shape in (Shape.STRUCT, Shape.ANY):
        return False
    if field.type.shape is Shape.SCALAR:
        return not field.pointer and field.type.scalar not in _GO_STRUCTS
    return True


SWITCHED_OFF = {
    "core_v1.PodSpec": ("schedulingGroup",),
    "core_v1.TypedObjectReference": ("namespace",),
    "resource_v1.DeviceAttribute": ("bools", "ints", "strings", "versions"),
    "storage_v1.CSIDriverSpec": ("preventPodSchedulingIfMissing",),
}
"""Fields of features that are off by default: known, and dropped without a word."""
KEPT_EMPTY = {"autoscaling_v2.HPAScalingRules": ("policies",)}
"""Empty lists that `omitempty` would hide but that are refused before anything is encoded."""


def _switched_off(expected: type | None, step: Step | None) -> Step:
    def walk(value: Any, path: Path, walk: Walk) -> Any:
        if value.__class__ is not expected and step is not None:
            step(value, path, walk)
        return None

    return walk


class Walker:
    """The walk over one struct type."""

    __slots__ = ("_always", "_fields", "_within", "go_type", "name")

    def __init__(self, facts: TypeFacts) -> None:
        self.go_type = facts.go_type
        self.name = facts.go_type.rpartition(".")[2]
        self._fields: dict[str, tuple[type | None, Step | None, bool]] = {}
        self._within: dict[str, str] = {}
        self._always: list[tuple[str, Callable[[], Any]]] = []

    def compile(self, facts: TypeFacts) -> None:
        """Apart from the constructor, because types may contain themselves."""
        for field in facts.fields.values():
            expected, step = _step(field.type)
            drops = _is_dropped_when_empty(field)
            if field.name in KEPT_EMPTY.get(facts.name, ()):
                drops = False
            elif field.name in SWITCHED_OFF.get(facts.name, ()):
                expected, step, drops = None, _switched_off(expected, step), True
            self._fields[field.name] = expected, step, drops
            if field.within:
                self._within[field.name] = field.within
            if _is_always_there(field):
                self._always.append((field.name, _zero(field.type)))

    def empty(self) -> Object:
        """The struct as Go prints it when nothing is set."""
        return {name: zero() for name, zero in self._always}

    def __call__(self, value: Any, path: Path, walk: Walk, is_part: bool = False) -> Object:
        """Check and normalise an object; a part of one is not filled up."""
        if value.__class__ is not dict:
            if not isinstance(value, dict):
                raise self._named(_Mismatch(value, self.go_type), path)
            return self._repeated(value, path, walk)
        fields = self._fields
        dropped = []
        key = ""
        try:
            for key, item in value.items():
                entry = fields.get(key)
                if entry is None:
                    walk.report("unknown", (path, key))
                elif item is not None:
                    expected, step, drops = entry
                    if item.__class__ is not expected and step is not None:
                        item = value[key] = step(item, (path, key), walk)
                    if item or not drops:
                        continue
                dropped.append(key)
        except _Mismatch as found:
            found.owner = found.owner or self.name
            found.fields += filter(None, (key, self._within.get(key)))
            raise self._named(found, path) from None
        for key in dropped:
            del value[key]
        if not is_part:
            for name, zero in self._always:
                if name not in value:
                    value[name] = zero()
        return value

    def _named(self, found: _Mismatch, path: Path) -> Exception:
        """The finding, on its way out until nothing is around it any more."""
        if path is not None:
            return found
        field = ".".join((found.owner, *reversed(found.fields))) if found.fields else ""
        return type_problem(found.value, field, found.go_type)

    def _repeated(self, value: Object, path: Path, walk: Walk) -> Object:
        """An object with repeated keys: problems come in the order of the text, the last wins."""
        result: Object = {}
        seen: set[str] = set()
        for key, item in value.pairs if isinstance(value, Repeated) else value.items():
            if key in seen and key in self._fields:
                walk.report("duplicate", (path, key))
            seen.add(key)
            part = self({key: item}, path, walk, is_part=True)
            result.pop(key, None)
            result.update(part)
        for name, zero in self._always:
            if name not in result:
                result[name] = zero()
        return result


def _list_step(facts: TypeFacts) -> Step:
    assert facts.item is not None
    expected, step = _step(facts.item)
    zero = _zero(facts.item)
    go_type = facts.go_type

    def walk_list(value: Any, path: Path, walk: Walk) -> Any:
        if value.__class__ is not list:
            raise _Mismatch(value, go_type)
        for index, item in enumerate(value):
            if item is None:
                value[index] = zero()
            elif item.__class__ is not expected and step is not None:
                value[index] = step(item, (path, index), walk)
        return value

    return walk_list


def _map_step(facts: TypeFacts) -> Step:
    assert facts.item is not None
    expected, step = _step(facts.item)
    zero = _zero(facts.item)
    go_type = facts.go_type

    def walk_map(value: Any, path: Path, walk: Walk) -> Any:
        if value.__class__ is not dict:
            if not isinstance(value, dict):
                raise _Mismatch(value, go_type)
            value = _merge_repeated(value, path, walk)
        for key, item in value.items():
            if item is None:
                value[key] = zero()
            elif item.__class__ is not expected and step is not None:
                value[key] = step(item, (path, key), walk)
        return value

    return walk_map


def _merge_repeated(value: Object, path: Path, walk: Walk) -> Object:
    seen: set[str] = set()
    for key, _ in value.pairs if isinstance(value, Repeated) else ():
        if key in seen:
            walk.report("duplicate", (path, key))
        seen.add(key)
    return dict(value)


def _schema_step(facts: TypeFacts) -> Step:
    """A field of a JSON schema that is a schema or something else: Go decodes the schema inside
    leniently, so its unknown fields go without a word."""
    assert facts.item is not None
    schema = walker_of(facts.item)

    def walk_schema(value: Any, path: Path, walk: Walk) -> Any:
        inner = Walk()
        if isinstance(value, dict):
            value = schema(value, path, inner)
        elif isinstance(value, list):
            value = [
                schema(item, path, inner) if isinstance(item, dict) else item for item in value
            ]
        return value

    return walk_schema


def _step(facts: TypeFacts) -> tuple[type | None, Step | None]:
    if facts.shape is Shape.SCALAR:
        return _scalar_step(facts)
    if facts.shape is Shape.STRUCT:
        return None, walker_of(facts)
    if facts.shape is Shape.LIST:
        return None, _list_step(facts)
    if facts.shape is Shape.MAP:
        return None, _map_step(facts)
    return None, _schema_step(facts) if facts.item is not None else None


_walkers: dict[str, Walker] = {}


def walker_of(facts: TypeFacts) -> Walker:
    """The walker of a struct type, compiled at first use."""
    walker = _walkers.get(facts.name)
    if walker is None:
        walker = _walkers[facts.name] = Walker(facts)
        walker.compile(facts)
    return walker
