"""What of a request's warnings is shown."""

from __future__ import annotations

from collections.abc import Iterator

from navarch.apiserver.warnings import ROOM, SHORT, Warnings


def of(*texts: str) -> list[str]:
    warnings = Warnings()
    warnings.take(texts)
    return [each.removeprefix('299 - "').removesuffix('"') for each in warnings.headers()]


def test_each_is_said_once_and_in_order() -> None:
    assert of("b", "a", "b") == ["b", "a"]


def test_one_line_in_quotes() -> None:
    warnings = Warnings()
    warnings.add('a "b"\r\nX: \\')
    assert warnings.headers() == ['299 - "a \\"b\\"  X: \\\\"']


def test_what_fits_is_whole() -> None:
    texts = ["a" * (ROOM - 1), "b"]
    assert of(*texts) == texts


def test_what_does_not_fit_is_shortened() -> None:
    assert of("a" * ROOM, "b") == ["a" * SHORT, "b"]
    texts = [f"{number:05}" * 100 for number in range(40)]
    assert of(*texts) == [each[:SHORT] for each in texts[: ROOM // SHORT]]


def test_nobody_looks_for_more_than_there_is_room_for() -> None:
    asked = []

    def endless() -> Iterator[str]:
        number = 0
        while True:
            asked.append(number)
            yield f"warning {number}"
            number += 1

    warnings = Warnings()
    warnings.take(endless())
    assert warnings.is_full and len(asked) < ROOM
