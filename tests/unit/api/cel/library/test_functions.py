"""The functions Kubernetes adds to CEL; all answers are those of upstream's API server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from navarch.api.cel.errors import CelError, CompileError, ProgramError
from navarch.api.cel.library import NEW, base_environment
from navarch.api.cel.library.formatting import format_text

ENVIRONMENT = base_environment(NEW)

ANSWERS = json.loads(Path(__file__).with_name("answers.json").read_text())
"""An expression, and its value as `%s` formats it; `!` and the error when it runs, `?` and the
error when it is compiled."""


def answer(expression: str) -> str:
    try:
        program = ENVIRONMENT.compile(expression)
    except ProgramError as error:
        return f"? {error}"
    except CompileError as error:
        return f"? {error.issues[0].message}"
    try:
        return format_text("%s", [program.evaluate({}).value])
    except CelError as error:
        return f"! {error}"


@pytest.mark.parametrize(("expression", "expected"), ANSWERS)
def test_answers(expression: str, expected: str) -> None:
    assert answer(expression) == expected
