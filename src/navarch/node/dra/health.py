"""Whether devices are well, as their drivers say. What a driver does not say again in time, or what
is left when its stream ends, is not known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

HEALTHY, UNHEALTHY, UNKNOWN = "Healthy", "Unhealthy", "Unknown"
DEFAULT_SECONDS = 30.0
MAX_MESSAGE = 1024

Place = tuple[str, str, str]
"""Driver, pool and device."""


@dataclass(frozen=True, slots=True)
class Health:
    state: str = UNKNOWN
    message: str = ""
    until: float = 0.0
    """By the monotonic clock."""


class HealthCache:
    def __init__(self) -> None:
        self._known: dict[Place, Health] = {}

    def get(self, place: Place, now: float) -> Health:
        known = self._known.get(place)
        return known if known is not None and now <= known.until else Health()

    def update(self, driver: str, told: Iterable[tuple[Place, Health]], now: float) -> set[Place]:
        """Takes in all that a driver says; returns what is different now."""
        new = dict(told)
        places = {each for each in self._known if each[0] == driver} | new.keys()
        changed = {
            each
            for each in places
            if _shown(self.get(each, now)) != _shown(new.get(each) or self.get(each, now))
        }
        self._known.update(new)
        return changed

    def forget(self, driver: str) -> set[Place]:
        """The driver says nothing any more."""
        gone = {each for each in self._known if each[0] == driver}
        for each in gone:
            del self._known[each]
        return gone


def shortened(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 3] + "..."


def _shown(health: Health) -> tuple[str, str]:
    return health.state, health.message
