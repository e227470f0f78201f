"""Waiting for news of objects."""

from __future__ import annotations

from navarch.scheduler.news import News


async def test_who_waits_is_woken_by_each_and_forgotten_after() -> None:
    news = News()
    with news.of(["a/x", "a/y", "a/x"]) as woken, news.of(["a/y"]) as other:
        news.tell("a/z")
        assert not woken.is_set()
        news.tell("a/x")
        assert woken.is_set() and not other.is_set()
        woken.clear()
        news.tell("a/y")
        assert woken.is_set() and other.is_set()
    assert not news._waiting
