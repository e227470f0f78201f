"""Numbers in text from outside, as Go reads them."""

from __future__ import annotations

LARGEST = 2**63 - 1


def natural(text: str) -> int | None:
    """The number that a text of digits stands for, at most `LARGEST`; None for any other text.

    `str.isdigit` says yes to superscripts, of which `int` makes no numbers, `int` takes the digits
    of all scripts, which Go does not, and refuses texts of more than a few thousand digits. So what
    a client may have written goes through this."""
    if not (text.isascii() and text.isdigit()):
        return None
    digits = text.lstrip("0") or "0"
    return LARGEST if len(digits) > 19 else min(int(digits), LARGEST)
