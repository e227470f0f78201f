"""Shuffle sharding and the order of turns."""

from __future__ import annotations

from collections import Counter

import pytest

from navarch.apiserver.flowcontrol.queues import FairQueues, deal, hash_of


@pytest.mark.parametrize(("queues", "hand"), [(64, 6), (128, 6), (16, 4), (1, 1), (3, 8)])
def test_a_hand_has_different_queues(queues: int, hand: int) -> None:
    for name in range(200):
        found = deal(hash_of("schema", str(name)), queues, hand)
        assert len(set(found)) == len(found) == min(hand, queues)
        assert all(0 <= each < queues for each in found)


def test_all_queues_are_dealt_alike() -> None:
    counts: Counter[int] = Counter()
    for name in range(4000):
        counts.update(deal(hash_of("s", str(name)), 16, 4))
    assert min(counts.values()) > 850
    assert max(counts.values()) < 1150


def order(queues: FairQueues[str]) -> list[str]:
    return [item for item, _ in queues.drain()]


def test_a_flood_does_not_hold_up_a_trickle() -> None:
    queues: FairQueues[str] = FairQueues(4, 50)
    for number in range(10):
        queues.add((0,), f"flood {number}", 1)
    queues.add((1,), "quiet 0", 1)
    queues.add((1,), "quiet 1", 1)
    assert order(queues)[:5] == ["flood 0", "quiet 0", "flood 1", "quiet 1", "flood 2"]


def test_wide_requests_have_fewer_turns() -> None:
    queues: FairQueues[str] = FairQueues(2, 50)
    for number in range(3):
        queues.add((0,), f"wide {number}", 10)
    for number in range(12):
        queues.add((1,), f"narrow {number}", 1)
    found = order(queues)
    assert found.index("wide 1") == 11
    assert found[-2:] == ["narrow 11", "wide 2"] or found[-1] == "wide 2"


def test_nobody_saves_up_turns() -> None:
    """A queue that was empty for long starts at the present."""
    queues: FairQueues[str] = FairQueues(2, 50)
    for number in range(20):
        queues.add((0,), f"old {number}", 1)
        queues.take()
    for number in range(3):
        queues.add((0,), f"old {number}", 1)
        queues.add((1,), f"new {number}", 1)
    assert order(queues)[:4] != ["new 0", "new 1", "new 2", "old 0"]


def test_the_least_loaded_queue_of_the_hand_and_its_limit() -> None:
    queues: FairQueues[str] = FairQueues(3, 2)
    places = [queues.add((0, 2), str(number), 1) for number in range(5)]
    assert places == [0, 2, 0, 2, -1]
    assert queues.add((1,), "another flow", 1) == 1
    assert (queues.waiting, queues.waiting_seats) == (5, 5)


def test_who_gives_up_is_taken_out() -> None:
    queues: FairQueues[str] = FairQueues(1, 9)
    for name in ("a", "b"):
        queues.add((0,), name, 3)
    assert queues.remove(0, "a")
    assert not queues.remove(0, "a")
    assert queues.peek() == ("b", 3)
    assert (queues.waiting, queues.waiting_seats) == (1, 3)
