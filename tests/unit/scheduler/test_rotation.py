"""Which nodes are looked at, in which order, and which of the best is taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from navarch.scheduler.rotation import Rotation, best_of, nodes_wanted

from .conftest import ZONE

BETA = "failure-domain.beta.kubernetes.io/zone"


@pytest.mark.parametrize(
    ("nodes", "percentage", "wanted"),
    [
        (0, 0, 0),
        (99, 10, 99),
        (100, 0, 100),
        (250, 0, 120),
        (1000, 0, 420),
        (5000, 0, 500),
        (6000, 0, 300),
        (20000, 0, 1000),
        (1000, 70, 700),
        (1000, 1, 100),
        (1000, 100, 1000),
    ],
)
def test_how_many_are_wanted(nodes: int, percentage: int, wanted: int) -> None:
    assert nodes_wanted(nodes, percentage) == wanted


def rotation(*zones: str) -> Rotation:
    """Slots 0 and on, in these zones."""
    made = Rotation()
    for slot, zone in enumerate(zones):
        made.put(slot, {ZONE: zone} if zone else {})
    return made


def every(made: Rotation) -> list[int]:
    return [int(slot) for slot in made.next_feasible(np.ones(1000, np.bool_), None)]


def test_zones_take_turns() -> None:
    made = rotation("a", "a", "a", "b", "c", "c")
    assert every(made) == [0, 3, 4, 1, 5, 2]
    made.put(0, {ZONE: "c", BETA: "b"})
    assert every(made) == [1, 3, 4, 2, 0, 5]
    made.remove(3)
    made.remove(0)
    assert every(made) == [1, 4, 2, 5]
    made.put(3, {ZONE: "b", "other": "x"})
    made.put(1, {ZONE: "a", "other": "x"})
    assert every(made) == [1, 4, 3, 2, 5]


def test_the_next_round_begins_where_the_last_one_stopped() -> None:
    made = rotation(*[""] * 250)
    feasible = np.ones(250, np.bool_)
    feasible[10:20] = False
    first = made.next_feasible(feasible, None)
    assert first.tolist() == [*range(10), *range(20, 130)]
    assert made.start == 130
    assert made.next_feasible(feasible, None).tolist() == [*range(130, 250)]
    assert made.start == 0
    # All that are feasible are fewer than are wanted: the round ends where it began.
    made.start = 7
    feasible[50:] = False
    assert made.next_feasible(feasible, None).tolist() == [7, 8, 9, *range(20, 50), *range(7)]
    assert made.start == 7


def test_a_pod_that_names_its_nodes() -> None:
    made = rotation(*[""] * 250)
    among = np.zeros(250, np.bool_)
    among[[3, 70]] = True
    made.start = 1
    assert made.order(among).tolist() == [70, 3]
    assert made.order()[:2].tolist() == [1, 2]
    made.start = 0
    assert made.next_feasible(np.ones(250, np.bool_), among).tolist() == [3, 70]
    assert made.start == 2
    assert made.next_feasible(~among, among).tolist() == []
    assert made.start == 4
    assert made.next_feasible(among, ~among & among).tolist() == []


@dataclass
class Entry:
    """As in upstream's heap: of two, the one with the higher score is the lesser."""

    place: int
    score: int

    def __lt__(self, other: Entry) -> bool:
        return self.score > other.score


@given(st.lists(st.integers(0, 3), min_size=1, max_size=70))
def test_of_equals_the_one_on_top_of_a_heap(totals: list[int]) -> None:
    heap = [Entry(place, score) for place, score in enumerate(totals)]
    # Like Go's `heap.Init`, told out: Python's sifts to the bottom first.
    for start in range(len(heap) // 2 - 1, -1, -1):
        place = start
        while (child := 2 * place + 1) < len(heap):
            if child + 1 < len(heap) and heap[child + 1] < heap[child]:
                child += 1
            if not heap[child] < heap[place]:
                break
            heap[place], heap[child] = heap[child], heap[place]
            place = child
    assert best_of(np.array(totals)) == heap[0].place
