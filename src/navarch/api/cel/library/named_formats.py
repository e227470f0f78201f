"""Named formats: `format.dns1123Label().validate(s)` says what is wrong with a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from navarch.api import names
from navarch.api.cel.costs import REGEX, TRAVERSAL, CallEstimate, scaled
from navarch.api.cel.functions import CostNode, Library, call, method
from navarch.api.cel.library.go_url import UrlError, check_request_uri
from navarch.api.cel.types import STRING, list_of, opaque, optional_of
from navarch.api.cel.values import NONE, OpaqueValue, Optional
from navarch.api.schema import formats

FORMAT = opaque("kubernetes.NamedFormat")

Rule = Callable[[str], list[str]]
_UUID_SIZE, _TIME_SIZE, _URL_SIZE, _BASE64_SIZE = 70, 71, 1103, 84
MAX_REGEX_SIZE = 128


class FormatValue(OpaqueValue):
    """A format. `size` is about how long its regular expression is; costs are computed from it."""

    cel_type = FORMAT

    def __init__(self, name: str, rule: Rule, size: int) -> None:
        self.name = name
        self.rule = rule
        self.size = size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FormatValue) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


def _uri(text: str) -> list[str]:
    try:
        check_request_uri(text)
    except UrlError as error:
        return [str(error)]
    return []


def _unless(test: Callable[[str], bool], problem: str) -> Rule:
    return lambda text: [] if test(text) else [problem]


_LABEL, _SUBDOMAIN, _OLD_LABEL = names.dns1123_label, names.dns1123_subdomain, names.dns1035_label

FORMATS = {
    "dns1123Label": FormatValue("DNS1123Label", _LABEL, 30),
    "dns1123Subdomain": FormatValue("DNS1123Subdomain", _SUBDOMAIN, 60),
    "dns1035Label": FormatValue("DNS1035Label", _OLD_LABEL, 30),
    "qualifiedName": FormatValue("QualifiedName", names.qualified_name, 60),
    "dns1123LabelPrefix": FormatValue("DNS1123LabelPrefix", names.as_prefix(_LABEL), 30),
    "dns1123SubdomainPrefix": FormatValue(
        "DNS1123SubdomainPrefix", names.as_prefix(_SUBDOMAIN), 60
    ),
    "dns1035LabelPrefix": FormatValue("DNS1035LabelPrefix", names.as_prefix(_OLD_LABEL), 30),
    "labelValue": FormatValue("LabelValue", names.label_value, 40),
    "uri": FormatValue("URI", _uri, _URL_SIZE),
    "uuid": FormatValue(
        "uuid", _unless(formats.is_uuid, "does not match the UUID format"), _UUID_SIZE
    ),
    "byte": FormatValue("byte", _unless(formats.is_base64, "invalid base64"), _BASE64_SIZE),
    "date": FormatValue("date", _unless(formats.is_date, "invalid date"), _TIME_SIZE),
    "datetime": FormatValue("datetime", _unless(formats.is_time, "invalid datetime"), _TIME_SIZE),
}


def validate(format: FormatValue, text: str) -> Optional:
    problems = format.rule(text)
    return Optional(problems) if problems else NONE


def named(name: str) -> Optional:
    found = FORMATS.get(name)
    return NONE if found is None else Optional(found)


def _cost(arguments: Sequence[Any], result: Any) -> int:
    """As a match against the format's regular expression."""
    text = scaled(len(arguments[1]) + 1, TRAVERSAL)
    return text * scaled(arguments[0].size, REGEX)


def _estimate(nodes: Sequence[CostNode]) -> CallEstimate:
    return CallEstimate(nodes[1].size.scaled(TRAVERSAL).scaled(MAX_REGEX_SIZE * REGEX))


NAMED_FORMATS = Library(
    name="kubernetes.format",
    since=(1, 31),
    functions=(
        *(
            call(f"format.{name}", f"format.{name}", (), FORMAT, lambda value=value: value)
            for name, value in FORMATS.items()
        ),
        call("format.named", "format-named", (STRING,), optional_of(FORMAT), named),
        method(
            "validate",
            "format-validate",
            (FORMAT, STRING),
            optional_of(list_of(STRING)),
            validate,
            _cost,
            _estimate,
        ),
    ),
)
