"""How long things take on a simulated node, and how they end.

The same settings can be given for all pods (flags), for some (rules of a configuration file) and
for one pod or container (annotations); the narrower one counts. What KWOK says with a graph of
stages is a row of settings here, because a pod's life has one shape: it waits, starts, becomes
ready, runs, ends, perhaps comes again, and stops when it is deleted.

A span `1s-3s` is drawn evenly, and a chance is drawn as well, from the pod's uid and what is drawn
for: nothing has to be remembered, and a new process draws the same.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from navarch.api.component_config import ConfigurationError
from navarch.api.quantity import parse_quantity
from navarch.api.times import parse_duration

PREFIX = "simulated.navarch.dev"
"""Of all annotations; `<container>.simulated.navarch.dev/...` is about one container."""
RUN_SECONDS = f"{PREFIX}/run-seconds"
"""Annotation: how long the pod's containers run before they end by themselves."""
EXIT_CODE = f"{PREFIX}/exit-code"
"""Annotation: what they end with."""


class TimetableError(ConfigurationError):
    """A setting that is not known or has no such value; the message names it."""


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds, somewhere from `low` to `high`."""

    low: float = 0.0
    high: float = 0.0

    def at(self, fraction: float) -> float:
        return self.low + (self.high - self.low) * fraction


ZERO = Span()
_SPAN = re.compile(r"([0-9.]+[a-zµ0-9.]*)(?:-([0-9.]+[a-zµ0-9.]*))?", re.ASCII)


def parse_span(value: object) -> Span:
    """`2`, `1.5s`, `2m30s`, or one of these to another: `1s-3s`."""
    if isinstance(value, Span):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        low = high = float(value)
    else:
        match = _SPAN.fullmatch(str(value))
        if match is None:
            raise ValueError(f"{value!r} is no duration such as 2, 1.5s or 1s-3s")
        low = _seconds(match[1])
        high = low if match[2] is None else _seconds(match[2])
    if not 0 <= low <= high or math.isinf(high):
        raise ValueError(f"{value!r} is no duration: it ends before it begins")
    return Span(low, high)


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return parse_duration(text)
    except ValueError:
        raise ValueError(f"{text!r} is no duration such as 2, 1.5s or 2m30s") from None


def _integer(value: object) -> int:
    number = int(str(value))
    if not 0 <= number <= 255:
        raise ValueError(f"{value!r} is no exit code from 0 to 255")
    return number


def _chance(value: object) -> float:
    number = float(str(value))
    if not 0 <= number <= 1:
        raise ValueError(f"{value!r} is no chance from 0 to 1")
    return number


def _backoff(value: object) -> float:
    seconds = parse_span(value).high
    if seconds < 1:
        raise ValueError(f"{value!r}: a back-off takes a second at least")
    return seconds


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _quantity(value: object) -> str:
    return str(parse_quantity(str(value)))


@dataclass(frozen=True, slots=True)
class Timetable:
    """The life of a pod, or of one of its containers."""

    start: Span = ZERO
    """From the pod's arrival until its containers start (for one container: after those before)."""
    ready: Span = ZERO
    """From a container's start until it is ready."""
    run: Span | None = None
    """How long containers run before they end by themselves; None: until they are deleted."""
    stop: Span = ZERO
    """From a pod's deletion until its containers have stopped; never more than its grace period."""
    exit_code: int = 0
    stop_exit_code: int | None = None
    """What containers end with that were told to stop in time. None: as one that does not handle
    the signal, 143."""
    failure_chance: float = 0.0
    """How likely a run ends with `failure_code` instead."""
    failure_code: int = 1
    reason: str = ""
    """Of a container's end with another code than 0, such as OOMKilled."""
    message: str = ""
    waiting: str = ""
    """A reason for which containers do not start, such as ImagePullBackOff."""
    waiting_for: Span | None = None
    """So long; None: for ever."""
    unready_every: Span | None = None
    """A container that has been ready so long is not for `unready_for`, again and again."""
    unready_for: Span = Span(5.0, 5.0)
    backoff: float = 10.0
    """Before the second restart; it doubles with each further one up to `backoff_limit`."""
    backoff_limit: float = 300.0
    reject: str = ""
    """The node refuses the pod for this reason."""
    reject_chance: float = 1.0
    reject_message: str = "the timetable says so"
    logs: str = ""
    """What `kubectl logs` prints."""
    cpu: str = ""
    memory: str = ""
    """What each container is said to use."""
    run_only_finite: bool = False
    """`run` comes from the settings for all pods, and means those that do not restart always."""
    containers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of single containers, over those of the pod."""

    def of(self, container: str, *, is_init: bool = False) -> Timetable:
        """The settings of one container. The pod's start is over when containers' begin, and what
        its init containers do is for nothing but settings of their own to say."""
        own = self.containers.get(container, {})
        if is_init:
            kept = Timetable(backoff=self.backoff, backoff_limit=self.backoff_limit)
            return replace(kept, run=own.get("run", ZERO), **_without(own, "run"))
        if not own and self.start == ZERO:
            return self
        limits = {"run_only_finite": False} if "run" in own else {}
        return replace(self, **{"start": ZERO, **limits, **own})


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


SETTINGS: Mapping[str, Callable[[object], Any]] = {
    "start": parse_span,
    "ready": parse_span,
    "run": parse_span,
    "stop": parse_span,
    "exit_code": _integer,
    "stop_exit_code": _integer,
    "failure_chance": _chance,
    "failure_code": _integer,
    "reason": _text,
    "message": _text,
    "waiting": _text,
    "waiting_for": parse_span,
    "unready_every": parse_span,
    "unready_for": parse_span,
    "backoff": _backoff,
    "backoff_limit": _backoff,
    "reject": _text,
    "reject_chance": _chance,
    "reject_message": _text,
    "logs": _text,
    "cpu": _quantity,
    "memory": _quantity,
}
"""How each setting is read, by its name here. In files it is written `exitCode`, in annotations
and flags `exit-code`."""
_ALIASES = {"run_seconds": "run"}


def parse_setting(written: str, value: object) -> tuple[str, Any]:
    """A setting's name here and its value."""
    name = re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", written).replace("-", "_")
    name = _ALIASES.get(name, name)
    read = SETTINGS.get(name)
    if read is None:
        raise TimetableError(f"{written}: there is no such setting")
    try:
        return name, read(value)
    except ValueError as error:
        raise TimetableError(f"{written}: {error}") from error


def from_annotations(annotations: Mapping[str, str]) -> dict[str, Any]:
    """The settings in a pod's annotations. Raises TimetableError."""
    own = tuple(sorted((key, value) for key, value in annotations.items() if is_setting(key)))
    return _from_annotations(own) if own else {}


def is_setting(annotation: str) -> bool:
    return f"{PREFIX}/" in annotation


@lru_cache(maxsize=10_000)
def _from_annotations(annotations: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    containers: dict[str, dict[str, Any]] = {}
    for key, value in annotations:
        domain, _, written = key.partition("/")
        container = domain.removesuffix(PREFIX).rstrip(".")
        try:
            name, parsed = parse_setting(written, value)
        except TimetableError as error:
            raise TimetableError(f"{domain}/{error}") from error
        (containers.setdefault(container, {}) if container else found)[name] = parsed
    if containers:
        found["containers"] = containers
    return found


def merged(timetable: Timetable, settings: Mapping[str, Any]) -> Timetable:
    """The timetable with these settings over its own."""
    if not settings:
        return timetable
    containers = dict(timetable.containers)
    for name, own in settings.get("containers", {}).items():
        containers[name] = {**containers.get(name, {}), **own}
    limits = {"run_only_finite": False} if "run" in settings else {}
    return replace(timetable, **{**settings, **limits, "containers": containers})


def fraction(*purpose: object) -> float:
    """A number from 0 to 1 that is the same for the same purpose."""
    return zlib.crc32("/".join(map(str, purpose)).encode()) / 2**32
