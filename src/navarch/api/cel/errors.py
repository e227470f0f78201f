"""What can go wrong: an expression does not compile, fails while it runs, or costs too much."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Issue:
    """One complaint about one place of an expression. Lines and columns count from 1."""

    line: int
    column: int
    message: str
    source_line: str

    def __str__(self) -> str:
        """Upstream's rendering: place and message, the source line, a caret under the column."""
        text = f"ERROR: <input>:{self.line}:{self.column}: {self.message}"
        source = self.source_line.replace("\t", " ")
        if self.line < 0 or len(source) > 16384:
            return text
        dots = "".join(_caret(char, ".") for char in source[: self.column - 1])
        return f"{text}\n | {source}\n | {dots}{_caret(source[self.column - 1 : self.column], '^')}"


def _caret(char: str, mark: str) -> str:
    """A mark as wide as the character above it: full width under anything but ASCII."""
    return chr(ord(mark) + 0xFEE0) if char > "\x7f" else mark


class CelError(Exception):
    """Any failure of an expression; its text is what upstream would print."""


class CompileError(CelError):
    """The expression was refused before running. `str()` joins the issues by newlines."""

    def __init__(self, issues: list[Issue], omitted: int = 0) -> None:
        lines = [*map(str, issues)]
        if omitted:
            lines.append(f"{omitted} more errors were truncated")
        super().__init__("\n".join(lines))
        self.issues = issues


class ProgramError(CelError):
    """The expression is well typed, but a constant part of it fails: `int('x')`, a bad regex.

    Places that validate report it as `program instantiation failed: ...`.
    """


class EvaluationError(CelError):
    """The expression failed on this input; `&&`, `||`, `all` and `exists` may absorb it.

    `cost` is what the evaluation had cost by then, once it has left the program.
    """

    cost: int = 0


class NoSuchOverload(EvaluationError):
    """An operation met values it has no meaning for; validation rules report it differently."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(f"no such overload: {detail}" if detail else "no such overload")


class CostExceeded(CelError):
    """The expression was cancelled. Not an EvaluationError: nothing inside may absorb it.

    `cost` is what had been charged by then, for the budget that several expressions share.
    """

    def __init__(self, cost: int) -> None:
        super().__init__("operation cancelled: actual cost limit exceeded")
        self.cost = cost
