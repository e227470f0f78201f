"""How long work tells what it is doing. The command line shows it, tests record it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives one line per step, in the words of minikube."""

    def step(self, text: str) -> None:
        """A new step has begun; the one before is done."""
        ...

    def note(self, text: str) -> None:
        """Something to know, in passing."""
        ...
