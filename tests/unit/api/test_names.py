"""The shapes of names, keys and values, and upstream's words for what is wrong."""

from __future__ import annotations

import random

import pytest

from navarch.api import names

LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and "
    "must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used "
    "for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or "
    "'.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used "
    r"for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or "
    "'12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
KEY = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for "
    "validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)

GOOD: list[tuple[names.Validator, list[str]]] = [
    (names.dns1123_label, ["a", "1", "a-b", "a" * 63]),
    (names.dns1123_subdomain, ["a", "a.b", "1.2-3.c", "a" * 253]),
    (names.dns1123_subdomain_with_underscore, ["_a.b_c"]),
    (names.dns1035_label, ["a", "a1-b"]),
    (names.wildcard_subdomain, ["*.a", "*.a.b"]),
    (names.qualified_name, ["a", "A.b_c-d", "example.com/A", "1"]),
    (names.label_value, ["", "a", "A_b.c-1", "x" * 63]),
    (names.path_segment_name, ["a:b", "system:node", "A b", "..."]),
    (names.environment_name, ["A", "1x", "a b", "my.env"]),
    (names.config_map_key, ["a", ".a", "A_b-c.d"]),
    (names.port_name, ["http", "p1", "1p"]),
    (names.c_identifier, ["a", "_b1"]),
    (names.percent, ["0%", "250%"]),
    (names.http_header_name, ["X-Name"]),
    (names.fully_qualified_name, ["a.b.c"]),
    (names.domain_prefixed_path, ["acme.io/foo", "acme.io/foo/~bar"]),
]


@pytest.mark.parametrize(
    ("rule", "value"), [(rule, value) for rule, values in GOOD for value in values]
)
def test_good(rule: names.Validator, value: str) -> None:
    assert rule(value) == []


@pytest.mark.parametrize(
    ("rule", "value", "problems"),
    [
        (names.dns1123_label, "A", [LABEL]),
        (names.dns1123_label, "", [LABEL]),
        (names.dns1123_label, "a\n", [LABEL]),
        (names.dns1123_label, "a.b", ["must not contain dots"]),
        (names.dns1123_label, "a" * 64, ["must be no more than 63 characters"]),
        (names.dns1123_label, "-" * 64, ["must be no more than 63 characters", LABEL]),
        (names.dns1123_subdomain, "a..b", [SUBDOMAIN]),
        (names.dns1123_subdomain, "a_b", [SUBDOMAIN]),
        (names.dns1123_subdomain, "..", [SUBDOMAIN]),
        (names.dns1123_subdomain, "a" * 254, ["must be no more than 253 characters"]),
        (names.label_value, "-a", [VALUE]),
        (names.label_value, "ä", [VALUE]),
        (names.label_value, "a" * 64, ["must be no more than 63 bytes"]),
        (names.qualified_name, "", ["name part must be non-empty", f"name part {KEY}"]),
        (names.qualified_name, "/a", ["prefix part must be non-empty"]),
        (names.qualified_name, "A/b", [f"prefix part {SUBDOMAIN}"]),
        (names.qualified_name, "a" * 64, ["name part must be no more than 63 bytes"]),
        (
            names.qualified_name,
            "a/b/c",
            [
                f"a valid label key {KEY} with an optional DNS subdomain prefix and '/' "
                "(e.g. 'example.com/MyName')"
            ],
        ),
        (names.path_segment_name, "..", ["may not be '..'"]),
        (names.path_segment_name, "a/b%c", ["may not contain '/'", "may not contain '%'"]),
        (names.environment_name, "", ["environment variable name must be non-empty"]),
        (
            names.environment_name,
            "a=b",
            [
                "a valid environment variable name must consist only of printable ASCII characters "
                "other than '='"
            ],
        ),
        (names.config_map_key, "..", ["must not be '..'"]),
        (names.config_map_key, "..x", ["must not start with '..'"]),
        (names.port_name, "1", ["must contain at least one letter (a-z)"]),
        (names.port_name, "a--b", ["must not contain consecutive hyphens"]),
        (names.port_name, "-a", ["must not begin or end with a hyphen"]),
        (
            names.port_name,
            "A" * 16,
            [
                "must be no more than 15 characters",
                "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "must contain at least one letter (a-z)",
            ],
        ),
        (
            names.fully_qualified_name,
            "a.b",
            ["should be a domain with at least three segments separated by dots"],
        ),
        (
            names.domain_prefixed_path,
            "foo",
            ['must be a domain-prefixed path (such as "acme.io/foo")'],
        ),
    ],
)
def test_bad(rule: names.Validator, value: str, problems: list[str]) -> None:
    assert rule(value) == problems


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (names.dns1035_label, "1a"),
        (names.wildcard_subdomain, "*.*.a"),
        (names.wildcard_subdomain, "a.b"),
        (names.c_identifier, "1a"),
        (names.percent, "x%"),
        (names.http_header_name, "a b"),
        (names.domain_prefixed_path, "acme.io/foo bar"),
    ],
)
def test_also_bad(rule: names.Validator, value: str) -> None:
    assert len(rule(value)) == 1


@pytest.mark.parametrize(("port", "good"), [(0, False), (1, True), (65535, True), (65536, False)])
def test_ports(port: int, good: bool) -> None:
    assert (names.port_number(port) == []) is good


def test_ids() -> None:
    assert names.user_or_group_id(0) == []
    assert names.user_or_group_id(2**31) == ["must be between 0 and 2147483647, inclusive"]


def test_a_prefix_may_end_in_a_dash() -> None:
    assert names.as_prefix(names.dns1123_label)("web-") == []
    assert names.as_prefix(names.dns1123_label)("-") == [LABEL]
    assert names.dns1123_label("web-") == [LABEL]


def test_generated_names_fit_a_label() -> None:
    source = random.Random(1)
    name = names.generate_name("x" * 70, source)
    assert len(name) == 63
    assert names.dns1123_label(name) == []
    assert set(names.random_suffix(source, 1000)) == set(names.GENERATED_ALPHABET)
