"""Back-off and token buckets, as values that are told the time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field


@dataclass(slots=True)
class TokenBucket:
    """`rate` tokens a second, at most `burst` of them saved up."""

    rate: float
    burst: float
    _tokens: float = field(init=False)
    _at: float = 0.0

    def __post_init__(self) -> None:
        self._tokens = self.burst

    def _refill(self, now: float) -> None:
        self._tokens = min(self.burst, self._tokens + max(0.0, now - self._at) * self.rate)
        self._at = now

    def take(self, now: float) -> bool:
        """Take a token if there is one."""
        self._refill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def reserve(self, now: float) -> float:
        """Take a token from the future if there is none; the seconds until it is due."""
        self._refill(now)
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self.rate)


@dataclass(slots=True)
class Backoff:
    """Waiting times that double from `base` to `limit`, each stretched by up to `jitter` times
    itself so that clients that failed together do not come back together."""

    base: float
    limit: float
    jitter: float = 1.0
    rng: random.Random = field(default_factory=random.Random)
    failures: int = 0

    def next(self) -> float:
        delay = exponential(self.base, self.limit, self.failures)
        self.failures += 1
        return delay * (1.0 + self.jitter * self.rng.random())

    def reset(self) -> None:
        self.failures = 0


def exponential(base: float, limit: float, failures: int) -> float:
    """`base` doubled once per earlier failure, at most `limit`."""
    return min(limit, base * 2.0 ** min(failures, 64))
