"""Expectations hold a controller until its writes are seen, or five minutes are over."""

from __future__ import annotations

from navarch.client.clock import FakeClock
from navarch.client.expectations import TIMEOUT_SECONDS, Expectations


def test_creations_are_counted_down() -> None:
    expectations = Expectations(FakeClock())
    assert expectations.satisfied("rs")
    expectations.expect_creations("rs", 3)
    expectations.creation_observed("rs")
    expectations.creation_observed("other")
    assert not expectations.satisfied("rs")
    expectations.creation_failed("rs", 2)
    assert expectations.satisfied("rs")


def test_deletions_are_known_by_uid_so_seeing_one_twice_counts_once() -> None:
    expectations = Expectations(FakeClock())
    expectations.expect_deletions("rs", ["u1", "u2"])
    expectations.deletion_observed("rs", "u1")
    expectations.deletion_observed("rs", "u1")
    expectations.deletion_observed("rs", "stranger")
    assert not expectations.satisfied("rs")
    expectations.deletion_observed("rs", "u2")
    assert expectations.satisfied("rs")


async def test_they_expire_and_leave_nothing_behind_for_the_next_round() -> None:
    clock = FakeClock()
    expectations = Expectations(clock)
    expectations.expect_creations("rs", 5)
    await clock.advance(TIMEOUT_SECONDS)
    assert not expectations.satisfied("rs")
    await clock.advance(1.0)
    assert expectations.satisfied("rs")
    expectations.expect_creations("rs", 1)
    expectations.creation_observed("rs")
    assert expectations.satisfied("rs")


def test_surplus_observations_do_not_pay_for_later_creations() -> None:
    expectations = Expectations(FakeClock())
    expectations.expect_creations("rs", 1)
    for _ in range(3):
        expectations.creation_observed("rs")
    expectations.expect_creations("rs", 1)
    assert not expectations.satisfied("rs")
    expectations.forget("rs")
    assert expectations.satisfied("rs")
