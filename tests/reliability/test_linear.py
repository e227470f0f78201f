"""The judge of histories: it accepts what one register can have answered, and nothing else."""

from __future__ import annotations

import itertools
import random

import pytest
from bench.reliability.linear import NEVER, Kind, Operation, is_linearizable


def read(called: float, returned: float, value: str | None) -> Operation:
    return Operation(Kind.READ, called, returned, value)


def swap(
    called: float, returned: float, expected: str | None, value: str | None, ok: bool = True
) -> Operation:
    return Operation(Kind.SWAP, called, returned, value, expected, ok)


def delete(called: float, returned: float, ok: bool = True) -> Operation:
    return Operation(Kind.DELETE, called, returned, succeeded=ok)


RIGHT = {
    "nothing": [],
    "one after the other": [swap(0, 1, None, "a"), read(2, 3, "a"), swap(4, 5, "a", "b")],
    "read during a write, before it": [
        swap(0, 1, None, "a"),
        swap(2, 9, "a", "b"),
        read(3, 4, "a"),
    ],
    "read during a write, after it": [swap(0, 1, None, "a"), swap(2, 9, "a", "b"), read(3, 4, "b")],
    "lost answer that happened": [swap(0, NEVER, None, "a"), read(2, 3, "a")],
    "lost answer that did not happen": [swap(0, NEVER, None, "a"), read(2, 3, None)],
    "lost answer that happened late": [
        swap(0, NEVER, None, "a"),
        read(2, 3, None),
        read(4, 5, "a"),
    ],
    "of two swaps one wins": [
        swap(0, 1, None, "a"),
        swap(2, 5, "a", "b", ok=False),
        swap(2, 5, "a", "c"),
    ],
    "deleted and made again": [
        swap(0, 1, None, "a"),
        delete(2, 3),
        delete(4, 5, ok=False),
        swap(6, 7, None, "b"),
    ],
}
WRONG = {
    "acknowledged write lost": [swap(0, 1, None, "a"), read(2, 3, None)],
    "deletion undone": [swap(0, 1, None, "a"), delete(2, 3), read(4, 5, "a")],
    "stale read": [swap(0, 1, None, "a"), swap(2, 3, "a", "b"), read(4, 5, "a")],
    "reads go backwards during a write": [
        swap(0, 1, None, "a"),
        swap(2, 9, "a", "b"),
        read(3, 4, "b"),
        read(5, 6, "a"),
    ],
    "two swaps from one value": [
        swap(0, 1, None, "a"),
        swap(2, 5, "a", "b"),
        swap(2, 5, "a", "c"),
    ],
    "conflict without a rival": [swap(0, 1, None, "a"), swap(2, 3, "a", "b", ok=False)],
    "lost answer seen and gone again": [
        swap(0, NEVER, None, "a"),
        read(2, 3, "a"),
        read(4, 5, None),
    ],
    "seen before it was asked for": [read(0, 1, "a"), swap(2, NEVER, None, "a")],
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_histories(name: str) -> None:
    assert is_linearizable(RIGHT[name])


@pytest.mark.parametrize("name", WRONG)
def test_wrong_histories(name: str) -> None:
    assert not is_linearizable(WRONG[name])


def random_history(chance: random.Random) -> list[Operation]:
    """Five operations of a real register, the answers of one perhaps falsified."""
    state: str | None = None
    history = []
    for at in range(5):
        kind = chance.choice([Kind.READ, Kind.SWAP, Kind.DELETE])
        moment = at + 0.5
        called, returned = moment - chance.random() * 2, moment + chance.random() * 2
        expected, value = chance.choice([None, "a", "b"]), chance.choice([None, "a", "b"])
        if kind is Kind.READ:
            value = state
        operation = Operation(kind, called, returned, value, expected)
        fits, after = operation.applied(state)
        if not fits:
            operation = Operation(kind, called, returned, value, expected, succeeded=False)
        elif chance.random() < 0.2:
            operation = Operation(kind, called, NEVER, value, expected)
        history.append(operation)
        state = after if fits else state
    if chance.random() < 0.5:
        at = chance.randrange(5)
        was = history[at]
        history[at] = Operation(
            was.kind, was.called, was.returned, was.value, was.expected, not was.succeeded
        )
    return history


def by_trying_all(history: list[Operation]) -> bool:
    """Every subset of the lost answers, in every order."""
    lost = [each for each in history if not each.is_known]
    known = [each for each in history if each.is_known]
    for count in range(len(lost) + 1):
        for happened in itertools.combinations(lost, count):
            for order in itertools.permutations([*known, *happened]):
                if explains(order):
                    return True
    return False


def explains(order: tuple[Operation, ...]) -> bool:
    for first, second in itertools.combinations(order, 2):
        if second.returned < first.called:
            return False
    state: str | None = None
    for each in order:
        fits, state = each.applied(state)
        if not fits:
            return False
    return True


def test_as_trying_all_orders_does() -> None:
    chance = random.Random(3)
    verdicts = []
    for _ in range(400):
        history = random_history(chance)
        verdicts.append(is_linearizable(history))
        assert verdicts[-1] is by_trying_all(history), history
    assert 40 < sum(verdicts) < 360


def test_long_histories_are_judged_quickly() -> None:
    """Eight clients, three hundred operations, some answers lost."""
    chance = random.Random(4)
    history, state = [], None
    for at in range(300):
        value = f"v{at}"
        lost = chance.random() < 0.02
        returned = NEVER if lost else at + chance.random() * 8
        history.append(swap(at - chance.random() * 8, returned, state, value))
        state = value
    assert is_linearizable(history)
    history.append(read(400, 401, "v298"))
    assert not is_linearizable(history)
