"""What the command line says and how: progress on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import sys
import time
from contextlib import AbstractContextManager
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """Text from a cluster or a log as it may be shown: control characters, which a terminal would
    obey, are written out."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


class Steps(AbstractContextManager["Steps"]):
    """Progress of a long command: the step under way with a spinner, then how long it took.
    Without a terminal each step is one line when it begins, as minikube does it."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._text = ""
        self._began = 0.0
        self._status: Any = None
        self._console: Any = None
        if not quiet and sys.stdout.isatty():
            from rich.console import Console

            self._console = Console(highlight=False)

    def step(self, text: str) -> None:
        self._finish("green", "✓")
        self._text, self._began = text, time.monotonic()
        if self._quiet:
            return
        if self._console is None:
            print(f"* {text} ...", flush=True)
            return
        self._status = self._console.status(f"{text} ...")
        self._status.start()

    def note(self, text: str) -> None:
        if self._quiet:
            return
        if self._console is None:
            print(f"  - {text}", flush=True)
        else:
            self._console.print(f"  {text}", markup=False)

    def done(self, text: str) -> None:
        """The last line of a command that went well."""
        self._finish("green", "✓")
        if self._quiet:
            return
        if self._console is None:
            print(f"* {text}", flush=True)
        else:
            self._console.print(f"[bold green]✓[/] {text}")

    def _finish(self, colour: str, mark: str) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
            seconds = time.monotonic() - self._began
            self._console.print(f"[{colour}]{mark}[/] {self._text} [dim]({seconds:.1f} s)[/]")
        self._text = ""

    def __exit__(self, kind: object, *exc: object) -> None:
        self._finish("red" if kind else "green", "✗" if kind else "✓")


def fail(message: str, advice: str = "") -> None:
    """Tell what went wrong and what to do next, on standard error."""
    red, plain = ("\x1b[31m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    print(f"{red}X {printable(message)}{plain}", file=sys.stderr)
    for line in advice.splitlines():
        print(f"  {printable(line)}", file=sys.stderr)
