"""Label and field selectors: syntax, matching, printing, complaints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from navarch.api.selectors import (
    EVERYTHING,
    NOTHING,
    SelectorError,
    escape_field_value,
    label_selector_from_map,
    label_selector_from_object,
    parse_field_selector,
    parse_label_selector,
)
from navarch.api.types.meta_v1 import LabelSelector, LabelSelectorRequirement

LABELS = {"app": "web", "tier": "front", "n": "5", "empty": ""}


@pytest.mark.parametrize(
    ("text", "matches", "printed"),
    [
        ("", True, ""),
        ("app=web", True, "app=web"),
        ("app==web", True, "app==web"),
        ("app!=web", False, "app!=web"),
        ("other!=web", True, "other!=web"),
        ("app", True, "app"),
        ("!app", False, "!app"),
        ("!other", True, "!other"),
        ("app in (api, web)", True, "app in (api,web)"),
        ("app notin (api,web)", False, "app notin (api,web)"),
        ("other notin (x)", True, "other notin (x)"),
        ("tier=front,app=web", True, "app=web,tier=front"),
        ("app=web,tier=back", False, "app=web,tier=back"),
        ("n>4", True, "n>4"),
        ("n<5", False, "n<5"),
        ("app>4", False, "app>4"),
        ("other>4", False, "other>4"),
        ("empty=", True, "empty="),
        ("empty in ()", True, "empty in ()"),
        ("app in (web,,x)", True, "app in (,web,x)"),
        ("app=in", False, "app=in"),
        ("in=x", False, "in=x"),
        ("  app = web ", True, "app=web"),
        ("example.com/x=y", False, "example.com/x=y"),
    ],
)
def test_labels(text: str, matches: bool, printed: str) -> None:
    selector = parse_label_selector(text)
    assert selector.matches(LABELS) is matches
    assert str(selector) == printed
    assert parse_label_selector(printed) == selector


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a===b", "unable to parse requirement: found '=', expected: identifier"),
        ("a in (", "unable to parse requirement: found '', expected: ',', ')' or identifier"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a,,b", "found ',', expected: identifier after ','"),
        ("a=b,", "found '', expected: identifier after ','"),
        (",a", "found ',', expected: !, identifier, or 'end of string'"),
        ("a=b c", "found 'c', expected: ',' or 'end of string'"),
        ("a in (b c)", "unable to parse requirement: found 'c', expected: ',' or ')'"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        (
            "a>b",
            'unable to parse requirement: values[0]: Invalid value: "b": '
            "for 'Gt', 'Lt' operators, the value must be an integer",
        ),
    ],
)
def test_label_syntax_errors(text: str, message: str) -> None:
    with pytest.raises(SelectorError) as error:
        parse_label_selector(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("-a=b", 'unable to parse requirement: <nil>: Invalid value: "-a": name part must'),
        ("a=-b", 'unable to parse requirement: values[0][a]: Invalid value: "-b": a valid label'),
    ],
)
def test_labels_must_be_valid(text: str, start: str) -> None:
    with pytest.raises(SelectorError) as error:
        parse_label_selector(text)
    assert str(error.value).startswith(start)


def test_selector_objects() -> None:
    plain = label_selector_from_object(
        {
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["front"]},
                {"key": "gone", "operator": "DoesNotExist"},
            ],
        }
    )
    typed = label_selector_from_object(
        LabelSelector(
            matchLabels={"app": "web"},
            matchExpressions=[
                LabelSelectorRequirement(key="tier", operator="In", values=["front"]),
                LabelSelectorRequirement(key="gone", operator="DoesNotExist"),
            ],
        )
    )
    assert plain == typed
    assert str(plain) == "app=web,!gone,tier in (front)"
    assert plain.matches(LABELS)
    assert plain.exact("app") == "web"
    assert plain.exact("tier") == "front"
    assert plain.exact("gone") is None


def test_no_selector_selects_nothing_and_an_empty_one_everything() -> None:
    assert label_selector_from_object(None) is NOTHING
    assert label_selector_from_object({}) is EVERYTHING
    assert not NOTHING.matches({})
    assert EVERYTHING.matches(None)
    assert EVERYTHING.empty
    assert not NOTHING.empty
    assert label_selector_from_map({"a": "b"}).matches({"a": "b", "c": "d"})


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ({"key": "a", "operator": "Is"}, '"Is" is not a valid label selector operator'),
        (
            {"key": "a", "operator": "In"},
            "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
        ),
        (
            {"key": "a", "operator": "Exists", "values": ["x"]},
            'values: Invalid value: ["x"]: values set must be empty for exists and does not exist',
        ),
    ],
)
def test_bad_selector_objects(expression: dict[str, object], message: str) -> None:
    with pytest.raises(SelectorError) as error:
        label_selector_from_object({"matchExpressions": [expression]})
    assert str(error.value) == message


FIELDS = {"metadata.name": "x", "status.phase": "Running", "odd": "a,b=c\\d"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("metadata.name=x", True),
        ("metadata.name==x", True),
        ("metadata.name!=x", False),
        ("status.phase!=Pending,metadata.name=x", True),
        ("spec.nodeName=", True),
        ("spec.nodeName!=", False),
        (r"odd=a\,b\=c\\d", True),
        ("==", True),
        (",,", True),
    ],
)
def test_fields(text: str, matches: bool) -> None:
    assert parse_field_selector(text).matches(FIELDS) is matches


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("abc", "invalid selector: 'abc'; can't understand 'abc'"),
        ("a=b=c", "invalid field selector: unescaped character in value: 61"),
        (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
        ("a=\\", "invalid field selector: invalid escape sequence: \\"),
    ],
)
def test_field_syntax_errors(text: str, message: str) -> None:
    with pytest.raises(SelectorError) as error:
        parse_field_selector(text)
    assert str(error.value) == message


def test_field_selectors_tell_what_they_pin() -> None:
    selector = parse_field_selector("spec.nodeName=n1,status.phase!=Failed")
    assert selector.fields == ("spec.nodeName", "status.phase")
    assert selector.exact("spec.nodeName") == "n1"
    assert selector.exact("status.phase") is None
    assert str(selector) == "spec.nodeName=n1,status.phase!=Failed"
    assert parse_field_selector("").empty


@given(st.text())
def test_any_field_value_survives_escaping(value: str) -> None:
    selector = parse_field_selector(f"f={escape_field_value(value)}")
    assert selector.matches({"f": value})
    assert selector.exact("f") == value
