"""Regular expressions of CEL: RE2, so that no pattern can take more than linear time.

Python's own `re` backtracks, and patterns come from whoever may write an object.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import re2

from navarch.api.cel.errors import EvaluationError

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 4 << 20


@lru_cache(maxsize=512)
def compile_regex(pattern: str) -> Any:
    """A compiled pattern with re's methods. Raises EvaluationError."""
    try:
        return re2.compile(pattern, _OPTIONS)
    except re2.error as error:
        reason = error.args[0] if error.args else ""
        text = reason.decode() if isinstance(reason, bytes) else str(reason)
        raise EvaluationError(f"error parsing regexp: {text}") from None


def matches(text: str, pattern: str) -> bool:
    return compile_regex(pattern).search(text) is not None
