"""Label and field selectors: parsing, matching, printing, with upstream's error texts.

Syntax: `a=b,c!=d,e in (f,g),h notin (i),j,!k` for labels (also `==`, and `>`/`<` on integers);
`metadata.name=x,status.phase!=Running` for fields, where a backslash escapes `,`, `=` and itself.
Sources: apimachinery `pkg/labels/selector.go`, `pkg/fields/selector.go`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from navarch.api import names


class SelectorError(ValueError):
    """The selector cannot be read; the message is upstream's. The API answers 400 with it."""


class Operator(Enum):
    IN = "in"
    NOT_IN = "notin"
    EQUALS = "="
    DOUBLE_EQUALS = "=="
    NOT_EQUALS = "!="
    GREATER = "gt"
    LESS = "lt"
    EXISTS = "exists"
    DOES_NOT_EXIST = "!"


_SYMBOLS = {Operator.GREATER: ">", Operator.LESS: "<"}
_POSITIVE = frozenset({Operator.IN, Operator.EQUALS, Operator.DOUBLE_EQUALS})
_NEGATIVE = frozenset({Operator.NOT_IN, Operator.NOT_EQUALS})
_INTEGER = re.compile(r"[+-]?\d{1,19}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one label."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        operator = self.operator
        if operator in _POSITIVE:
            return value is not None and value in self.values
        if operator in _NEGATIVE:
            return value is None or value not in self.values
        if operator is Operator.EXISTS:
            return value is not None
        if operator is Operator.DOES_NOT_EXIST:
            return value is None
        if value is None or not _INTEGER.fullmatch(value):
            return False
        bound = int(self.values[0])
        return int(value) > bound if operator is Operator.GREATER else int(value) < bound

    def __str__(self) -> str:
        if self.operator is Operator.EXISTS:
            return self.key
        if self.operator is Operator.DOES_NOT_EXIST:
            return f"!{self.key}"
        values = ",".join(sorted(self.values))
        if self.operator in (Operator.IN, Operator.NOT_IN):
            return f"{self.key} {self.operator.value} ({values})"
        return f"{self.key}{_SYMBOLS.get(self.operator, self.operator.value)}{values}"


def _problem(path: str, value: object, text: str) -> str:
    return f"{path}: Invalid value: {json.dumps(value, ensure_ascii=False)}: {text}"


def requirement(key: str, operator: Operator, values: Sequence[str]) -> Requirement:
    """A checked requirement; raises `SelectorError` listing everything that is wrong with it."""
    problems = []
    if bad := names.qualified_name(key):
        problems.append(_problem("key", key, "; ".join(bad)))
    listed = list(values)
    if operator in (Operator.IN, Operator.NOT_IN):
        if not values:
            text = "for 'in', 'notin' operators, values set can't be empty"
            problems.append(_problem("values", listed, text))
    elif operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST):
        if values:
            text = "values set must be empty for exists and does not exist"
            problems.append(_problem("values", listed, text))
    elif operator in (Operator.GREATER, Operator.LESS):
        if len(values) != 1:
            text = "for 'Gt', 'Lt' operators, exactly one value is required"
            problems.append(_problem("values", listed, text))
        text = "for 'Gt', 'Lt' operators, the value must be an integer"
        problems.extend(
            _problem(f"values[{index}]", value, text)
            for index, value in enumerate(values)
            if not _INTEGER.fullmatch(value)
        )
    elif len(values) != 1:
        text = "exact-match compatibility requires one single value"
        problems.append(_problem("values", listed, text))
    for index, value in enumerate(values):
        if bad := names.label_value(value):
            problems.append(_problem(f"values[{index}][{key}]", value, "; ".join(bad)))
    if problems:
        raise SelectorError(problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]")
    return Requirement(key, operator, tuple(values))


@dataclass(frozen=True, slots=True)
class LabelSelector:
    """All requirements must hold. `nothing` matches no object at all (a selector left out)."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False
    _hash: int = field(default=0, init=False, repr=False, compare=False)

    def __hash__(self) -> int:
        # Selectors are keys again and again: work it out once.
        if not self._hash:
            object.__setattr__(self, "_hash", hash((self.requirements, self.nothing)) or 1)
        return self._hash

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        if self.nothing:
            return False
        given = labels or {}
        return all(item.matches(given) for item in self.requirements)

    @property
    def empty(self) -> bool:
        """Whether everything matches."""
        return not self.requirements and not self.nothing

    def exact(self, key: str) -> str | None:
        """The only value the selector allows for a label, if it pins one."""
        for item in self.requirements:
            if item.key == key:
                pinned = item.operator in _POSITIVE and len(item.values) == 1
                return item.values[0] if pinned else None
        return None

    def __str__(self) -> str:
        return ",".join(str(item) for item in self.requirements)


EVERYTHING = LabelSelector()
NOTHING = LabelSelector(nothing=True)

# Operators lex greedily, as far as the characters still spell one.
_TOKEN = re.compile(
    r"(?P<space>[ \t\r\n]+)|(?P<operator>==|!=|[=!(),<>])|(?P<word>[^ \t\r\n=!(),<>]+)"
)
_OPERATORS = {
    "in": Operator.IN,
    "notin": Operator.NOT_IN,
    "=": Operator.EQUALS,
    "==": Operator.DOUBLE_EQUALS,
    "!=": Operator.NOT_EQUALS,
    ">": Operator.GREATER,
    "<": Operator.LESS,
}
_SPECIAL = frozenset("=!(),<>") | {"==", "!=", ""}


class _Parser:
    """Recursive descent over the tokens; the token "" is the end."""

    def __init__(self, text: str) -> None:
        self.tokens = [
            match.group() for match in _TOKEN.finditer(text) if match.lastgroup != "space"
        ]
        self.position = 0

    @property
    def current(self) -> str:
        return self.tokens[self.position] if self.position < len(self.tokens) else ""

    def take(self) -> str:
        token = self.current
        self.position += 1
        return token

    def parse(self) -> Iterator[Requirement]:
        while self.current:
            if self.current != "!" and self.current in _SPECIAL:
                raise SelectorError(
                    f"found '{self.current}', expected: !, identifier, or 'end of string'"
                )
            try:
                yield self.requirement()
            except SelectorError as error:
                raise SelectorError(f"unable to parse requirement: {error}") from None
            separator = self.take()
            if separator not in (",", ""):
                raise SelectorError(f"found '{separator}', expected: ',' or 'end of string'")
            if separator and self.current != "!" and self.current in _SPECIAL:
                raise SelectorError(f"found '{self.current}', expected: identifier after ','")

    def requirement(self) -> Requirement:
        negated = self.current == "!"
        if negated:
            self.take()
        key = self.take()
        if key in _SPECIAL:
            raise SelectorError(f"found '{key}', expected: identifier")
        if bad := names.qualified_name(key):
            raise SelectorError(_problem("<nil>", key, "; ".join(bad)))
        if negated:
            return requirement(key, Operator.DOES_NOT_EXIST, ())
        if self.current in ("", ","):
            return requirement(key, Operator.EXISTS, ())
        token = self.take()
        operator = _OPERATORS.get(token)
        if operator is None:
            raise SelectorError(f"found '{token}', expected: in, notin, =, ==, !=, gt, lt")
        if operator in (Operator.IN, Operator.NOT_IN):
            return requirement(key, operator, self.values())
        return requirement(key, operator, (self.exact_value(),))

    def exact_value(self) -> str:
        if self.current in ("", ","):
            return ""
        value = self.take()
        if value in _SPECIAL:
            raise SelectorError(f"found '{value}', expected: identifier")
        return value

    def values(self) -> tuple[str, ...]:
        """The values in parentheses, sorted and single; an empty place is the empty value."""
        opening = self.take()
        if opening != "(":
            raise SelectorError(f"found '{opening}' expected: '('")
        if self.current not in (",", ")") and self.current in _SPECIAL:
            raise SelectorError(f"found '{self.current}', expected: ',', ')' or identifier")
        found: set[str] = set()
        value = ""
        while True:
            token = self.take()
            if token in (",", ")"):
                found.add(value)
                value = ""
                if token == ")":
                    return tuple(sorted(found))
            elif token in _SPECIAL:
                raise SelectorError(f"found '{token}', expected: ',', or identifier")
            elif value:
                raise SelectorError(f"found '{token}', expected: ',' or ')'")
            else:
                value = token


def parse_label_selector(text: str) -> LabelSelector:
    """A `labelSelector` parameter; raises `SelectorError`. An empty text selects everything."""
    found = sorted(_Parser(text).parse(), key=lambda item: item.key)
    return LabelSelector(tuple(found)) if found else EVERYTHING


class _SelectorObject(Protocol):
    @property
    def matchLabels(self) -> Mapping[str, str]: ...

    @property
    def matchExpressions(self) -> Sequence[Any]: ...


_OBJECT_OPERATORS = {
    "In": Operator.IN,
    "NotIn": Operator.NOT_IN,
    "Exists": Operator.EXISTS,
    "DoesNotExist": Operator.DOES_NOT_EXIST,
}


def label_selector_from_object(obj: Mapping[str, Any] | _SelectorObject | None) -> LabelSelector:
    """The selector in a manifest (`spec.selector`), plain or typed. None selects nothing, an empty
    one everything; raises `SelectorError`."""
    if obj is None:
        return NOTHING
    if isinstance(obj, Mapping):
        labels = obj.get("matchLabels") or {}
        expressions = [
            (item.get("key", ""), item.get("operator", ""), item.get("values") or ())
            for item in obj.get("matchExpressions") or ()
        ]
    else:
        labels = obj.matchLabels
        expressions = [(item.key, item.operator, item.values) for item in obj.matchExpressions]
    found = [requirement(key, Operator.EQUALS, (value,)) for key, value in labels.items()]
    for key, name, values in expressions:
        operator = _OBJECT_OPERATORS.get(name)
        if operator is None:
            raise SelectorError(f'"{name}" is not a valid label selector operator')
        found.append(requirement(key, operator, values))
    if not found:
        return EVERYTHING
    return LabelSelector(tuple(sorted(found, key=lambda item: item.key)))


def label_selector_from_map(labels: Mapping[str, str] | None) -> LabelSelector:
    """A plain map of labels, all of which must match (a Service's or ReplicationController's).

    Not checked, as upstream does not: an empty map selects everything, callers treat it apart.
    """
    return LabelSelector(
        tuple(
            Requirement(key, Operator.EQUALS, (value,))
            for key, value in sorted((labels or {}).items())
        )
    )


@dataclass(frozen=True, slots=True)
class FieldRequirement:
    field: str
    value: str
    negated: bool = False

    def __str__(self) -> str:
        return f"{self.field}{'!=' if self.negated else '='}{escape_field_value(self.value)}"


@dataclass(frozen=True, slots=True)
class FieldSelector:
    """All requirements must hold; a field that is not there counts as empty."""

    requirements: tuple[FieldRequirement, ...] = ()

    def matches(self, fields: Mapping[str, str]) -> bool:
        return all(
            (fields.get(item.field, "") == item.value) != item.negated for item in self.requirements
        )

    @property
    def empty(self) -> bool:
        return not self.requirements

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields asked for, to be checked against those the kind offers."""
        return tuple(item.field for item in self.requirements)

    def exact(self, field: str) -> str | None:
        """The value the selector pins a field to, if any (`metadata.name=x` is a single get)."""
        for item in self.requirements:
            if item.field == field and not item.negated:
                return item.value
        return None

    def __str__(self) -> str:
        return ",".join(str(item) for item in self.requirements)


_ESCAPED = re.compile(r"\\(.?)|([,=])", re.DOTALL)
_TERM = re.compile(r"(?:[^\\,]|\\.|\\$)*", re.DOTALL)
_FIELD_OPERATOR = re.compile("!=|==|=")


def escape_field_value(value: str) -> str:
    """A value as it must be written in a field selector."""
    return re.sub(r"([\\,=])", r"\\\1", value)


def _unescape(match: re.Match[str]) -> str:
    escaped, bare = match.groups()
    if bare is not None:
        raise SelectorError(f"invalid field selector: unescaped character in value: {ord(bare)}")
    if escaped not in ("\\", ",", "="):
        raise SelectorError(f"invalid field selector: invalid escape sequence: \\{escaped}")
    return str(escaped)


def parse_field_selector(text: str) -> FieldSelector:
    """A `fieldSelector` parameter; raises `SelectorError`. A bare operator asks for nothing."""
    found = []
    for term in sorted(match.group() for match in _TERM.finditer(text)):
        if not term:
            continue
        operator = _FIELD_OPERATOR.search(term)
        if operator is None:
            raise SelectorError(f"invalid selector: '{text}'; can't understand '{term}'")
        field = term[: operator.start()]
        value = _ESCAPED.sub(_unescape, term[operator.end() :])
        if field or value:
            found.append(FieldRequirement(field, value, operator.group() == "!="))
    return FieldSelector(tuple(found))
