"""Regular expressions that users bring: RE2, as upstream's Go has it.

Whoever may define a custom resource or a policy writes patterns that the API server runs on other
people's values, so the engine must take time linear in the text. RE2 never backtracks; it has no
back references and no look-around. The texts of errors are Go's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import re2

_GO_TEXTS = {
    "bad repetition operator": "invalid nested repetition operator",
    "invalid named capture group": "invalid named capture",
    "invalid perl operator": "invalid or unsupported Perl syntax",
    "invalid repetition size": "invalid repeat count",
    "missing )": "missing closing )",
    "missing ]": "missing closing ]",
    "no argument for repetition operator": "missing argument to repetition operator",
    "pattern too large - compile failed": "expression too large",
    "trailing \\": "trailing backslash at end of expression",
}


class PatternError(ValueError):
    """The pattern is not understood; the message is the one of Go's `regexp`."""


def _options() -> Any:
    options = re2.Options()
    options.log_errors = False
    return options


@lru_cache(1024)
def compiled(pattern: str) -> Any:
    """The compiled pattern. Raises PatternError."""
    try:
        return re2.compile(pattern, _options())
    except re2.error as error:
        what, _, where = error.args[0].decode("utf-8", "replace").partition(": ")
        text = _GO_TEXTS.get(what, what)
        if what == "missing )":
            where = pattern
        at = "``" if what == "trailing \\" else f"`{where}`"
        raise PatternError(f"error parsing regexp: {text}: {at}") from None
    except UnicodeEncodeError:
        raise PatternError(f"error parsing regexp: invalid UTF-8: `{pattern!a}`") from None


def _text(text: str) -> str:
    """Lone surrogates, which JSON can hold and UTF-8 cannot, are replaced as Go replaces them."""
    return (
        text
        if text.isascii()
        else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def search(pattern: str, text: str) -> bool:
    """Whether the pattern matches somewhere in the text. Raises PatternError."""
    return compiled(pattern).search(_text(text)) is not None


def find(pattern: str, text: str) -> str:
    """The leftmost match, "" if there is none. Raises PatternError."""
    match = compiled(pattern).search(_text(text))
    return str(match.group()) if match is not None else ""


def find_all(pattern: str, text: str, limit: int = -1) -> list[str]:
    """All matches that do not overlap, at most `limit` of them unless that is negative. An empty
    match right behind another match does not count. Raises PatternError."""
    found: list[str] = []
    end = -1
    for match in compiled(pattern).finditer(_text(text)):
        if 0 <= limit <= len(found):
            break
        if match.end() != match.start() or match.start() != end:
            found.append(match.group())
        end = match.end()
    return found
