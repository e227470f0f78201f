"""YAML request bodies as plain JSON data, safely: bounded depth, bounded aliases, YAML 1.1 scalars.

Built straight from libyaml's event stream with a stack of its own: PyYAML's composer recurses in C
and a deeply nested body would crash the process. Scalars resolve as in Go's yaml.v2 (what kubectl
users know): `yes`/`on`/`y` are booleans, `0777` is octal, but timestamps and `1:30` stay strings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.cyaml import CParser  # type: ignore[attr-defined]

MAX_DEPTH = 1000
MAX_ALIASED = 100_000
"""How many values aliases may repeat in one document."""
MAX_VALUES = 500_000
"""How many values a document may hold: no manifest comes near, and each costs time."""
MAX_DUPLICATES = 100


class YamlError(ValueError):
    """The document cannot be read."""


@dataclass
class YamlDocument:
    value: Any
    duplicates: list[str] = field(default_factory=list)
    """`line 7: key "a" already set in map`, in order; the last value stands."""


_WORDS: dict[str, Any] = {"": None, "~": None}
for _names, _value in (
    (("null",), None),
    (("y", "yes", "on", "true"), True),
    (("n", "no", "off", "false"), False),
):
    for _name in _names:
        _WORDS |= {_name: _value, _name.capitalize(): _value, _name.upper(): _value}

_NUMBER_START = frozenset("+-.0123456789")
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)", re.ASCII)
_RADIX = re.compile(r"[-+]?0(?:[xX][0-9a-fA-F_]+|[oO]?[0-7_]+|[bB][01_]+)", re.ASCII)
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")


def _plain(text: str) -> Any:
    """The value of a scalar written without quotes."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in _NUMBER_START or len(text) > 400:
        return text
    if _DECIMAL.fullmatch(text):
        return int(text.replace("_", ""))
    if _RADIX.fullmatch(text):
        return _radix(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return float(text)
    if _SPECIAL_FLOAT.fullmatch(text):
        raise YamlError(f"json: unsupported value: {text}")
    return text


def _radix(text: str) -> int | str:
    digits = text.lstrip("+-").lower()
    sign = -1 if text.startswith("-") else 1
    try:
        if digits[1] in "xb":
            return sign * int(digits, 0)
        return sign * int(digits.lstrip("0o") or "0", 8)
    except ValueError:
        return text


_CORE = "tag:yaml.org,2002:"


def _scalar(event: Any) -> Any:
    tag, text = event.tag, event.value
    if tag is None or tag == "!":
        # implicit[0]: plain style, so the text decides what it is.
        return _plain(text) if event.implicit[0] and tag is None else text
    name = tag.removeprefix(_CORE)
    if name in ("str", "binary"):
        return text
    value: Any = _plain(text)
    wanted: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (int, float),
        "bool": (bool,),
        "null": (type(None),),
    }
    if name in wanted and isinstance(value, wanted[name]):
        return float(text) if name == "float" else value
    if name in wanted:
        raise YamlError(f"yaml: cannot decode !!str `{text}` as a !!{name}")
    return value


def _key_text(key: Any) -> str:
    """A mapping key as JSON's only kind of key."""
    if isinstance(key, str):
        return key
    if isinstance(key, bool):
        return "true" if key else "false"
    if isinstance(key, int | float):
        return str(key)
    raise YamlError(f"Unsupported map key of type: {type(key).__name__}")


_NO_KEY = object()


class _Frame:
    """One open collection."""

    __slots__ = ("anchor", "key", "merges", "value")

    def __init__(self, value: dict[str, Any] | list[Any], anchor: str | None) -> None:
        self.value = value
        self.anchor = anchor
        self.key: Any = _NO_KEY
        self.merges: list[dict[str, Any]] = []


class _Builder:
    """Turns events into values; every method handles one event."""

    def __init__(self) -> None:
        self.document = YamlDocument(None)
        self.stack: list[_Frame] = []
        self.anchors: dict[str, Any] = {}
        self.aliased = 0
        self.values = 0

    def open(self, value: dict[str, Any] | list[Any], anchor: str | None) -> None:
        if len(self.stack) >= MAX_DEPTH:
            raise YamlError("yaml: exceeded max depth")
        self.stack.append(_Frame(value, anchor))

    def close(self, event: Any) -> None:
        frame = self.stack.pop()
        if frame.merges and isinstance(frame.value, dict):
            for merged in frame.merges:
                for key, value in merged.items():
                    frame.value.setdefault(key, value)
        if frame.anchor:
            self.anchors[frame.anchor] = frame.value
        self.add(frame.value, event)

    def alias(self, event: Any) -> None:
        if event.anchor not in self.anchors:
            text = "value contains itself" if self._is_open(event.anchor) else ""
            raise YamlError(
                f"yaml: anchor '{event.anchor}' {text}"
                if text
                else f"yaml: unknown anchor '{event.anchor}' referenced"
            )
        self.add(self.copy(self.anchors[event.anchor]), event)

    def _is_open(self, anchor: str) -> bool:
        return any(frame.anchor == anchor for frame in self.stack)

    def copy(self, value: Any) -> Any:
        """A copy of its own for every alias, within bounds."""
        self.aliased += 1
        if self.aliased > MAX_ALIASED:
            raise YamlError("yaml: document contains excessive aliasing")
        if isinstance(value, dict):
            return {key: self.copy(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.copy(item) for item in value]
        return value

    def add(self, value: Any, event: Any) -> None:
        """Put a finished value where it belongs."""
        self.values += 1
        if self.values > MAX_VALUES:
            raise YamlError(f"yaml: document holds more than {MAX_VALUES} values")
        if not self.stack:
            self.document.value = value
            return
        frame = self.stack[-1]
        if isinstance(frame.value, list):
            frame.value.append(value)
        elif frame.key is _NO_KEY:
            frame.key = _key_text(value)
            if frame.key in frame.value and len(self.document.duplicates) < MAX_DUPLICATES:
                line = event.start_mark.line + 1
                self.document.duplicates.append(
                    f'line {line}: key "{frame.key}" already set in map'
                )
        else:
            key, frame.key = frame.key, _NO_KEY
            if key == "<<" and isinstance(value, dict | list):
                self.merge(frame, value)
            else:
                frame.value[key] = value

    @staticmethod
    def merge(frame: _Frame, value: dict[str, Any] | list[Any]) -> None:
        sources = [value] if isinstance(value, dict) else value
        if not all(isinstance(source, dict) for source in sources):
            raise YamlError("yaml: map merge requires map or sequence of maps as the value")
        frame.merges.extend(sources)

    def feed(self, event: Any) -> None:
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event)
            if event.anchor:
                self.anchors[event.anchor] = value
            self.add(value, event)
        elif isinstance(event, yaml.MappingStartEvent):
            self.open({}, event.anchor)
        elif isinstance(event, yaml.SequenceStartEvent):
            self.open([], event.anchor)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self.close(event)
        elif isinstance(event, yaml.AliasEvent):
            self.alias(event)


def parse_yaml(data: bytes) -> YamlDocument:
    """The first document of a YAML text; raises `YamlError`."""
    parser = CParser(data)
    builder = _Builder()
    try:
        while True:
            event = parser.get_event()
            if event is None or isinstance(event, yaml.DocumentEndEvent):
                return builder.document
            builder.feed(event)
    except yaml.YAMLError as error:
        raise YamlError(_complaint(error)) from None
    except RecursionError:
        raise YamlError("yaml: exceeded max depth") from None
    finally:
        parser.dispose()


def _complaint(error: yaml.YAMLError) -> str:
    """libyaml's complaint in the form of Go's, which is a port of it."""
    problem = getattr(error, "problem", None) or str(error)
    mark = getattr(error, "problem_mark", None)
    return f"yaml: line {mark.line + 1}: {problem}" if mark else f"yaml: {problem}"
