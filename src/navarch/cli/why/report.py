"""What is told: the verdict, what to do about it, and the chain of facts behind it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from navarch.cli.output import printable


class Tone(Enum):
    PLAIN = "plain"
    GOOD = "good"
    BAD = "bad"
    FAINT = "faint"


COLOURS = {Tone.GOOD: "32", Tone.BAD: "31", Tone.FAINT: "2"}
LEAST_WIDTH = 40


class State(Enum):
    """How a thing is, the worst first."""

    BROKEN = "broken"
    PENDING = "pending"
    TERMINATING = "terminating"
    NOT_READY = "not ready"
    FINISHED = "finished"
    RUNNING = "running"

    @property
    def rank(self) -> int:
        return [*State].index(self)

    @property
    def tone(self) -> Tone:
        good = self in (State.FINISHED, State.RUNNING)
        return Tone.GOOD if good else Tone.BAD


@dataclass(frozen=True, slots=True)
class Verdict:
    """The most important sentence."""

    state: State
    text: str
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    text: str
    tone: Tone = Tone.PLAIN
    depth: int = 0
    verbatim: bool = False
    """Somebody else's words, such as a log: cut at the edge, not wrapped."""


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Report:
    subject: str
    verdict: Verdict
    sections: tuple[Section, ...] = ()
    data: dict[str, Any] = field(default_factory=dict)
    """What machines may want to know besides."""

    def text(self, width: int, colour: bool) -> str:
        return "\n".join(_lines(self, max(width, LEAST_WIDTH), colour))

    def json(self) -> str:
        document = {
            "subject": self.subject,
            "state": self.verdict.state.value,
            "verdict": self.verdict.text,
            "remedies": list(self.verdict.remedies),
            "sections": [
                {"title": each.title, "lines": [line.text for line in each.lines]}
                for each in self.sections
            ],
            **self.data,
        }
        return json.dumps(document, indent=2, default=_plain)


def _plain(value: Any) -> Any:
    return asdict(value)


def _lines(report: Report, width: int, colour: bool) -> Iterator[str]:
    def painted(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour and code else text

    verdict = report.verdict
    for text in _wrapped(verdict.text, width, "", "  "):
        yield painted(text, f"1;{COLOURS[verdict.state.tone]}")
    for remedy in verdict.remedies:
        yield from _wrapped(remedy, width, "  → ", "    ")
    for section in report.sections:
        if not section.lines:
            continue
        yield ""
        yield painted(section.title, "1")
        for line in section.lines:
            code = COLOURS.get(line.tone, "")
            indent = "  " * (line.depth + 1)
            if line.verbatim:
                yield painted(_cut(indent + printable(line.text), width), code)
                continue
            for text in _wrapped(line.text, width, indent, indent + "  "):
                yield painted(text, code)


def _wrapped(text: str, width: int, first: str, further: str) -> list[str]:
    return textwrap.wrap(
        printable(" ".join(text.split())),
        width,
        initial_indent=first,
        subsequent_indent=further,
        break_on_hyphens=False,
    )


def _cut(text: str, width: int) -> str:
    text = text.expandtabs(4)
    return text if len(text) <= width else f"{text[: width - 1]}…"
