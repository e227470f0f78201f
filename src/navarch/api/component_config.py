"""What configuration files of components have in common (KubeletConfiguration and its like).

They are versioned objects in YAML, but no API serves them: unset fields and Go's zeros mean the
default unless upstream's field is a pointer, and durations are written as Go writes them. The words
for what is wrong are those of Go's decoder.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from navarch.api.times import parse_duration

S = TypeVar("S", bound=msgspec.Struct)


class ConfigurationError(ValueError):
    """A file cannot be used; the message says why, in upstream's words."""


class Duration(float):
    """Seconds, written as Go writes durations."""


def aggregated(problems: Iterable[object]) -> str:
    """Several errors as one, as Go's `Aggregate` prints them; empty if there are none."""
    texts = [*map(str, problems)]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]" if texts else ""


def unknown_fields(document: Mapping[str, Any], kind: type, path: str = "") -> Iterator[str]:
    """The paths of fields that a type does not have."""
    known = {each.name: each.type for each in msgspec.structs.fields(kind)}
    for name, value in document.items():
        if name not in known:
            yield f"{path}{name}"
            continue
        for inner in _structs(known[name]):
            if isinstance(value, dict):
                yield from unknown_fields(value, inner, f"{path}{name}.")
            elif isinstance(value, list):
                for index, each in enumerate(value):
                    if isinstance(each, dict):
                        yield from unknown_fields(each, inner, f"{path}{name}[{index}].")


def without_unset(
    document: Mapping[str, Any], kind: type, kept_zeros: Collection[str]
) -> dict[str, Any]:
    """Leaves out what is null, or the zero of a field that is no pointer (`kept_zeros` are those):
    both mean the default."""
    hints = {each.name: each.type for each in msgspec.structs.fields(kind)}
    result: dict[str, Any] = {}
    for name, value in document.items():
        hint = hints.get(name)
        is_zero = value == "" or (value == 0 and value is not False)
        is_zero |= hint is Duration and value in ("0", "0s")
        if value is None or hint is None or (is_zero and name not in kept_zeros):
            continue
        inner = _structs(hint)
        if inner and isinstance(value, dict):
            value = without_unset(value, inner[0], kept_zeros)
        elif inner and isinstance(value, list):
            value = [
                without_unset(each, inner[0], kept_zeros) if isinstance(each, dict) else each
                for each in value
            ]
        result[name] = value
    return result


def typed(document: Mapping[str, Any], kind: type[S], kept_zeros: Collection[str]) -> S:
    """A document as its type. Raises ConfigurationError in the words of Go's decoder."""
    given = without_unset(document, kind, kept_zeros)
    try:
        return msgspec.convert(given, kind, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise ConfigurationError(_in_words_of_go(str(error), kind.__name__)) from error


def _structs(hint: Any) -> list[type]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    return [found for each in getattr(hint, "__args__", ()) for found in _structs(each)]


def _decode(kind: type, value: Any) -> Any:
    if kind is not Duration:
        raise TypeError(f"{kind.__name__} is no type of a component's configuration")
    if not isinstance(value, str):
        raise ValueError(f"Expected `str`, got `{type(value).__name__}`")
    return Duration(parse_duration(value))


_GO_TYPES = {"str": "string", "int": "number", "float": "number", "bool": "bool"}
_GO_TYPES |= {"array": "array", "object": "object", "null": "null", "dict": "object"}
_GO_FIELDS = {"int": "int32", "str": "string", "array": "[]string", "object": "map[string]string"}
_MISMATCH = re.compile(r"Expected `([\w| ]+)`, got `(\w+)`(?: - at `\$\.?(.*)`)?")


def _in_words_of_go(text: str, kind: str) -> str:
    match = _MISMATCH.fullmatch(text)
    if match is None:
        return text.partition(" - at ")[0]
    wanted, given, path = match.groups()
    first = wanted.partition(" |")[0]
    field_path = re.sub(r"\[[^\]]*\]", "", path or "")
    return (
        f"json: cannot unmarshal {_GO_TYPES.get(given, given)} into Go struct field "
        f"{kind}.{field_path} of type {_GO_FIELDS.get(first, first)}"
    )
