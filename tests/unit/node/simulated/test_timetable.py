"""Settings of simulated pods, and addresses."""

from __future__ import annotations

import pytest

from navarch.node.simulated.addresses import Addresses, NodeAddresses
from navarch.node.simulated.timetable import (
    EXIT_CODE,
    PREFIX,
    RUN_SECONDS,
    Span,
    Timetable,
    TimetableError,
    fraction,
    from_annotations,
    merged,
    parse_setting,
    parse_span,
)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        (2, Span(2, 2)),
        ("0.5", Span(0.5, 0.5)),
        ("1m30s", Span(90, 90)),
        ("200ms", Span(0.2, 0.2)),
        ("1s-3s", Span(1, 3)),
        ("1-2.5", Span(1, 2.5)),
        ("500ms-1m", Span(0.5, 60)),
    ],
)
def test_spans(text: object, span: Span) -> None:
    assert parse_span(text) == span


@pytest.mark.parametrize("text", ["", "soon", "-1s", "3s-1s", "1s-", True, "1x", "inf"])
def test_what_is_no_span(text: object) -> None:
    with pytest.raises(ValueError, match="is no "):
        parse_span(text)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("exit-code", "x", "exit-code"),
        ("exitCode", 300, "300 is no exit code from 0 to 255"),
        ("failure-chance", "2", "'2' is no chance from 0 to 1"),
        ("speed", "2", "speed: there is no such setting"),
        ("backoff", "0", "a back-off takes a second at least"),
        ("cpu", "many", "cpu: "),
    ],
)
def test_what_is_no_setting(name: str, value: object, problem: str) -> None:
    with pytest.raises(TimetableError, match=problem):
        parse_setting(name, value)


def test_annotations() -> None:
    found = from_annotations(
        {
            RUN_SECONDS: "5",
            EXIT_CODE: "3",
            f"web.{PREFIX}/ready": "2s",
            "example.com/other": "x",
        }
    )
    plan = merged(Timetable(start=Span(1, 1)), found)
    assert (plan.start, plan.run, plan.exit_code) == (Span(1, 1), Span(5, 5), 3)
    assert (plan.of("web").ready, plan.of("log").ready) == (Span(2, 2), Span())
    with pytest.raises(TimetableError, match=f"web.{PREFIX}/nonsense: there is no such setting"):
        from_annotations({f"web.{PREFIX}/nonsense": "2s"})


def test_draws_are_even_and_the_same_again() -> None:
    drawn = [fraction("uid", number) for number in range(1000)]
    assert drawn == [fraction("uid", number) for number in range(1000)]
    assert 400 < sum(each < 0.5 for each in drawn) < 600
    assert all(0 <= each < 1 for each in drawn)


def test_addresses_are_used_again_but_never_twice() -> None:
    addresses = Addresses("10.1.0.0/29")
    assert addresses.of("old", "10.1.0.3") == "10.1.0.3"
    given = [addresses.of(f"p{number}", "") for number in range(5)]
    assert given == ["10.1.0.1", "10.1.0.2", "10.1.0.4", "10.1.0.5", "10.1.0.6"]
    assert addresses.of("p1", "") == "10.1.0.2"
    with pytest.raises(RuntimeError, match="no address is left"):
        addresses.of("more", "")
    addresses.release("p0")
    assert addresses.of("more", "") == "10.1.0.1"


def test_nodes_keep_their_addresses() -> None:
    addresses = NodeAddresses("198.18.0.0/15", 3)
    addresses.know("old", "198.18.0.5")
    addresses.know("real", "192.168.49.2")
    addresses.give(["a", "old", "b"])
    assert [addresses[name] for name in ("a", "old", "b")] == [
        *("198.18.0.4", "198.18.0.5", "198.18.0.6"),
    ]
    assert "real" not in addresses
    assert addresses.offset("a") == 3
