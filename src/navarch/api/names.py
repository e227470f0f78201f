"""What names, label keys, paths and the like must look like.

Every function takes a value and returns the problems with it as texts (upstream's, from
apimachinery `util/validation`), an empty list if there are none.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

Validator = Callable[[str], list[str]]

LABEL_LENGTH = 63
SUBDOMAIN_LENGTH = 253
LABEL_VALUE_LENGTH = 63

_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
_LABEL_UNDERSCORE = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SUBDOMAIN_UNDERSCORE = rf"{_LABEL_UNDERSCORE}(\.{_LABEL_UNDERSCORE})*"
_LABEL_1035 = "[a-z]([-a-z0-9]*[a-z0-9])?"
_WILDCARD = rf"\*\.{_SUBDOMAIN}"
_KEY = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE = f"({_KEY})?"
_CONFIG_KEY = "[-._a-zA-Z0-9]+"
_HTTP_PATH = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"

_KEY_RULE = (
    "must consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character"
)
_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character"
)


def max_length(limit: int) -> str:
    return f"must be no more than {limit} characters"


def max_bytes(limit: int) -> str:
    return f"must be no more than {limit} bytes"


def in_range(low: int, high: int) -> str:
    return f"must be between {low} and {high}, inclusive"


NOT_EMPTY = "must be non-empty"


def regex_problem(rule: str, pattern: str, *examples: str) -> str:
    """A rule's text with examples and the expression behind it."""
    if not examples:
        return f"{rule} (regex used for validation is '{pattern}')"
    shown = " or ".join(f"'{example}', " for example in examples)
    return f"{rule} (e.g. {shown}regex used for validation is '{pattern}')"


def _matches(pattern: str, value: str) -> bool:
    # Go's expressions know no `$` before a final newline: fullmatch, ASCII only.
    return re.fullmatch(pattern, value, re.ASCII) is not None


def _size(value: str) -> int:
    return len(value) if value.isascii() else len(value.encode(errors="surrogatepass"))


def dns1123_label(value: str) -> list[str]:
    """A lower-case DNS label (pod containers, namespaces)."""
    problems = [max_length(LABEL_LENGTH)] if _size(value) > LABEL_LENGTH else []
    if _matches(_LABEL, value):
        return problems
    if _matches(_SUBDOMAIN, value):
        return [*problems, "must not contain dots"]
    rule = (
        "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
        "and must start and end with an alphanumeric character"
    )
    return [*problems, regex_problem(rule, _LABEL, "my-name", "123-abc")]


def dns1123_subdomain(value: str) -> list[str]:
    """Labels joined by dots (most object names)."""
    return _subdomain(value, max_length)


def _subdomain(value: str, too_long: Callable[[int], str]) -> list[str]:
    problems = [too_long(SUBDOMAIN_LENGTH)] if _size(value) > SUBDOMAIN_LENGTH else []
    if not _matches(_SUBDOMAIN, value):
        problems.append(regex_problem(_SUBDOMAIN_RULE, _SUBDOMAIN, "example.com"))
    return problems


def dns1123_subdomain_with_underscore(value: str) -> list[str]:
    problems = [max_length(SUBDOMAIN_LENGTH)] if _size(value) > SUBDOMAIN_LENGTH else []
    if not _matches(_SUBDOMAIN_UNDERSCORE, value):
        rule = _SUBDOMAIN_RULE.replace("'-' or", "'_', '-' or")
        problems.append(regex_problem(rule, _SUBDOMAIN_UNDERSCORE, "example.com"))
    return problems


def dns1035_label(value: str) -> list[str]:
    """A DNS label that starts with a letter (port names of old, some service names)."""
    problems = [max_length(LABEL_LENGTH)] if _size(value) > LABEL_LENGTH else []
    if not _matches(_LABEL_1035, value):
        rule = (
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', "
            "start with an alphabetic character, and end with an alphanumeric character"
        )
        problems.append(regex_problem(rule, _LABEL_1035, "my-name", "abc-123"))
    return problems


def wildcard_subdomain(value: str) -> list[str]:
    """`*.example.com` (ingress hosts)."""
    problems = [max_length(SUBDOMAIN_LENGTH)] if _size(value) > SUBDOMAIN_LENGTH else []
    if not _matches(_WILDCARD, value):
        rule = (
            "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS "
            "subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and "
            "end with an alphanumeric character"
        )
        problems.append(regex_problem(rule, _WILDCARD, "*.example.com"))
    return problems


def qualified_name(value: str) -> list[str]:
    """A label key: a name with an optional DNS prefix, `example.com/MyName`."""
    prefix, slash, name = value.rpartition("/")
    key_problem = regex_problem(_KEY_RULE, _KEY, "MyName", "my.name", "123-abc")
    if "/" in prefix:
        return [
            f"a valid label key {key_problem} with an optional DNS subdomain prefix and '/' "
            "(e.g. 'example.com/MyName')"
        ]
    problems = []
    if slash and not prefix:
        problems.append(f"prefix part {NOT_EMPTY}")
    elif slash:
        problems.extend(f"prefix part {problem}" for problem in _subdomain(prefix, max_bytes))
    if not name:
        problems.append(f"name part {NOT_EMPTY}")
    elif _size(name) > LABEL_LENGTH:
        problems.append(f"name part {max_bytes(LABEL_LENGTH)}")
    if not _matches(_KEY, name):
        problems.append(f"name part {key_problem}")
    return problems


def label_value(value: str) -> list[str]:
    problems = [max_bytes(LABEL_VALUE_LENGTH)] if _size(value) > LABEL_VALUE_LENGTH else []
    if not _matches(_LABEL_VALUE, value):
        rule = (
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' "
            "or '.', and must start and end with an alphanumeric character"
        )
        problems.append(regex_problem(rule, _LABEL_VALUE, "MyValue", "my_value", "12345"))
    return problems


def path_segment_prefix(value: str) -> list[str]:
    """What may start a name that becomes one segment of a URL path."""
    return [f"may not contain '{bad}'" for bad in "/%" if bad in value]


def path_segment_name(value: str) -> list[str]:
    """A name that becomes one segment of a URL path, anything else goes (RBAC)."""
    if value in (".", ".."):
        return [f"may not be '{value}'"]
    return path_segment_prefix(value)


def environment_name(value: str) -> list[str]:
    """A name of an environment variable, as it may be written since v1.30: printable ASCII."""
    if not value:
        return [f"environment variable name {NOT_EMPTY}"]
    if value.isascii() and value.isprintable() and "=" not in value:
        return []
    return [
        "a valid environment variable name must consist only of printable ASCII characters "
        "other than '='"
    ]


def config_map_key(value: str) -> list[str]:
    """A key of a ConfigMap or Secret: it becomes a file name."""
    problems = [max_length(SUBDOMAIN_LENGTH)] if _size(value) > SUBDOMAIN_LENGTH else []
    if not _matches(_CONFIG_KEY, value):
        rule = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
        examples = ("key.name", "KEY_NAME", "key-name")
        problems.append(regex_problem(rule, _CONFIG_KEY, *examples))
    return problems + _parent_folder(value)


def _parent_folder(value: str) -> list[str]:
    if value in (".", ".."):
        return [f"must not be '{value}'"]
    return ["must not start with '..'"] if value.startswith("..") else []


def port_name(value: str) -> list[str]:
    """An IANA service name (container ports)."""
    problems = [max_length(15)] if _size(value) > 15 else []
    if not _matches("[-a-z0-9]+", value):
        problems.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", value):
        problems.append("must contain at least one letter (a-z)")
    if "--" in value:
        problems.append("must not contain consecutive hyphens")
    if value.startswith("-") or value.endswith("-"):
        problems.append("must not begin or end with a hyphen")
    return problems


def port_number(value: int) -> list[str]:
    return [] if 1 <= value <= 65535 else [in_range(1, 65535)]


def user_or_group_id(value: int) -> list[str]:
    return [] if 0 <= value <= 2**31 - 1 else [in_range(0, 2**31 - 1)]


def c_identifier(value: str) -> list[str]:
    pattern = "[A-Za-z_][A-Za-z0-9_]*"
    if _matches(pattern, value):
        return []
    rule = (
        "a valid C identifier must start with alphabetic character or '_', followed by a string of "
        "alphanumeric characters or '_'"
    )
    return [regex_problem(rule, pattern, "my_name", "MY_NAME", "MyName")]


def percent(value: str) -> list[str]:
    if _matches("[0-9]+%", value):
        return []
    rule = "a valid percent string must be a numeric string followed by an ending '%'"
    return [regex_problem(rule, "[0-9]+%", "1%", "93%")]


def http_header_name(value: str) -> list[str]:
    if _matches("[-A-Za-z0-9]+", value):
        return []
    rule = "a valid HTTP header must consist of alphanumeric characters or '-'"
    return [regex_problem(rule, "[-A-Za-z0-9]+", "X-Header-Name")]


def fully_qualified_name(value: str) -> list[str]:
    """At least three labels (signer names, custom resource names)."""
    if not value:
        return [NOT_EMPTY]
    problems = dns1123_subdomain(value)
    if not problems and value.count(".") < 2:
        return ["should be a domain with at least three segments separated by dots"]
    return problems


def domain_prefixed_path(value: str) -> list[str]:
    """`acme.io/foo`: a subdomain, then any HTTP path."""
    host, _, path = value.partition("/")
    if not host or not path:
        return ['must be a domain-prefixed path (such as "acme.io/foo")']
    problems = dns1123_subdomain(host)
    if not _matches(_HTTP_PATH, path):
        problems.append(regex_problem("Invalid path", _HTTP_PATH))
    return problems


def as_prefix(rule: Validator) -> Validator:
    """The rule for a generateName: what it would say of a name, a final dash forgiven."""

    def check(value: str) -> list[str]:
        return rule(value[:-1] + "a" if len(value) > 1 and value.endswith("-") else value)

    return check


GENERATED_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"
"""No vowels and nothing alike, so that no words and no misreadings arise."""
GENERATED_LENGTH = 5
MAX_GENERATED_BASE = LABEL_LENGTH - GENERATED_LENGTH


def random_suffix(source: random.Random, length: int = GENERATED_LENGTH) -> str:
    return "".join(source.choices(GENERATED_ALPHABET, k=length))


def as_uuid(bits: int) -> str:
    """128 random bits as a random UUID (RFC 9562, version 4)."""
    text = f"{bits:032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def generate_name(base: str, source: random.Random) -> str:
    """A name from a generateName: the base, cut to fit a label, and five random characters."""
    return base[:MAX_GENERATED_BASE] + random_suffix(source)
