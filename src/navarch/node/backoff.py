"""Growing waits between attempts: restarting crashed containers, pulling failing images. Pure.

The first attempt after a failure is made at once and only remembered; each one after that must wait
since the failure: 10 s, doubling to 300 s. Whoever has been well for ten minutes starts over.
(client-go `util/flowcontrol/backoff.go`, as the kubelet uses it.)
"""

from __future__ import annotations

from dataclasses import dataclass

INITIAL_SECONDS = 10.0
MAXIMUM_SECONDS = 300.0
RESET_SECONDS = 600.0
SKEW_SECONDS = 1.0
"""A failure that is further in the future than that: the clock has been set back since. Nobody
waits until it has caught up."""


@dataclass(frozen=True, slots=True)
class Wait:
    """How long to stay away after a failure, as decided at `updated` (seconds since the epoch)."""

    seconds: float
    updated: float


class BackoffTable:
    """One wait per key."""

    def __init__(self, maximum: float = MAXIMUM_SECONDS) -> None:
        self._initial, self._maximum = min(INITIAL_SECONDS, maximum), maximum
        self._waits: dict[str, Wait] = {}

    def remaining(self, key: str, failed_at: float, now: float) -> float:
        """Seconds still to wait after the failure at `failed_at`; 0 when an attempt is due."""
        wait = self._waits.get(key)
        if wait is None or now - wait.updated > RESET_SECONDS or failed_at > now + SKEW_SECONDS:
            return 0.0
        return max(0.0, failed_at + wait.seconds - now)

    def seconds(self, key: str) -> float:
        """The whole wait that is in force for the key."""
        wait = self._waits.get(key)
        return wait.seconds if wait is not None else 0.0

    def advance(self, key: str, failed_at: float, now: float) -> None:
        """An attempt is being made after the failure at `failed_at`: the next one waits longer."""
        wait = self._waits.get(key)
        if wait is None or failed_at - wait.updated > RESET_SECONDS:
            seconds = self._initial
        else:
            seconds = min(wait.seconds * 2, self._maximum)
        self._waits[key] = Wait(seconds, now)

    def forget(self, prefix: str) -> None:
        """Forgets every key that begins with `prefix`."""
        self._waits = {key: wait for key, wait in self._waits.items() if not key.startswith(prefix)}


def format_seconds(seconds: float) -> str:
    """A duration as Go prints it: `10s`, `2m40s`, `5m0s`."""
    whole = int(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
