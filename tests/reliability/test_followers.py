"""The judge of watches: what a selector is told, and every way to tell it wrong."""

from __future__ import annotations

import random

import pytest
from bench.reliability.followers import (
    ADDED,
    DELETED,
    EVENT,
    MODIFIED,
    Follower,
    Happened,
    Truth,
    code,
)
from bench.reliability.linear import NEVER, Kind, Operation
from bench.reliability.registers import Register

LOG = {
    11: Happened("x", "1", "a"),
    12: Happened("y", "2", "b"),
    13: Happened("x", "3", "b"),
    14: Happened("y", "4", "a"),
    15: Happened("x", None, ""),
    16: Happened("y", "5", "a"),
}


@pytest.mark.parametrize(
    ("selector", "codes"),
    [
        (
            "",
            [
                code(11, ADDED),
                code(12, ADDED),
                code(13, MODIFIED),
                code(14, MODIFIED),
                code(15, DELETED),
                code(16, MODIFIED),
            ],
        ),
        ("part=a", [code(11, ADDED), code(13, DELETED), code(14, ADDED), code(16, MODIFIED)]),
        ("part in (b,c)", [code(12, ADDED), code(13, ADDED), code(14, DELETED), code(15, DELETED)]),
    ],
)
def test_what_a_selector_is_told(selector: str, codes: list[int]) -> None:
    assert Truth(10, LOG).expected(selector) == codes


def line(kind: str, revision: int, part: str = "a") -> bytes:
    obj = f'"metadata":{{"resourceVersion":"{revision}","name":"x","namespace":"n"'
    labels = f',"labels":{{"part":"{part}"}}}},"data":{{"value":"{revision}"}}'
    return f'{{"type":"{kind}","object":{{{obj}{labels}}}}}'.encode()


RIGHT = [line("ADDED", 11), line("MODIFIED", 12), line("BOOKMARK", 12), line("DELETED", 14)]


@pytest.mark.parametrize(
    ("lines", "broken"),
    [
        (RIGHT, []),
        ([RIGHT[0], RIGHT[3]], ["missing"]),
        ([*RIGHT[:2], RIGHT[1], RIGHT[3]], ["repeated", "wrong"]),
        ([RIGHT[1], RIGHT[0], RIGHT[3]], ["disordered", "wrong"]),
        ([*RIGHT[:2], line("MODIFIED", 13), RIGHT[3]], ["wrong"]),
        ([line("BOOKMARK", 12), *RIGHT], ["wrong"]),
        ([*RIGHT, line("BOOKMARK", 13)], ["wrong"]),
        ([line("MODIFIED", 11), *RIGHT[1:]], ["missing", "wrong"]),
    ],
)
def test_judgement(lines: list[bytes], broken: list[str]) -> None:
    happened = {11: Happened("x", "11", "a"), 12: Happened("x", "12", "a")}
    truth = Truth(10, {**happened, 14: Happened("x", None, "")})
    expected = truth.expected("part=a")
    follower = Follower(truth, "n", "part=a", random.Random(1))
    follower.begin(10)
    for each in lines:
        follower.take(EVENT.decode(each))
    verdict = follower.judge(expected)
    names = ("missing", "repeated", "disordered", "wrong")
    assert [name for name in names if getattr(verdict, name)] == broken


def test_what_nobody_saw_who_sees_everything_is_believed() -> None:
    truth = Truth(10, {11: Happened("x", "11", "a")})
    every, some = (Follower(truth, "n", each, random.Random(1)) for each in ("", "part=a"))
    every.begin(10)
    every.begin(15)
    some.begin(10)
    for each in (line("ADDED", 11), line("DELETED", 12), line("ADDED", 16), line("DELETED", 17)):
        some.take(EVENT.decode(each))
    every.take(EVENT.decode(line("ADDED", 18)))
    truth.believe(every.has_seen)
    assert truth.log[12] == Happened("x", None, "") and 17 not in truth.log
    verdict = some.judge(truth.expected("part=a"))
    assert (verdict.wrong, verdict.missing) == (1, 0)


def test_contradictions_are_noticed() -> None:
    truth = Truth(10)
    truth.add(11, Happened("x", "1", "a"))
    truth.add(11, Happened("x", "1", "a"))
    assert truth.contradictions == 0
    truth.add(11, Happened("x", "2", "a"))
    assert truth.contradictions == 1


def test_lost_writes_are_noticed() -> None:
    register = Register("x")
    register.acknowledged(Operation(Kind.SWAP, 0, 1, "v1"), 5)
    assert not register.is_lost("v1")
    assert register.is_lost(None)
    register.lost(Operation(Kind.SWAP, 2, NEVER, "v2", "v1"))
    assert not register.is_lost("v2")
    assert register.is_right()
    register.read(3, 4, None)
    assert not register.is_right()
