"""Plain words for times, counts, exit codes and events."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from navarch.api.times import parse_time
from navarch.api.types.core_v1 import Event

EXIT_CODES = {
    0: "ended well",
    1: "the program reports a failure of its own",
    2: "the program reports wrong usage or a failure of its own",
    126: "the command is there but cannot be executed",
    127: "command not found",
    128: "wrong exit status, or the container could not be started",
    255: "the program reports a failure of its own, or its status was out of range",
}
SIGNALS = {
    signal.SIGKILL: "killed",
    signal.SIGTERM: "asked to end",
    signal.SIGSEGV: "invalid memory access",
    signal.SIGABRT: "gave up by itself",
    signal.SIGBUS: "invalid memory access",
    signal.SIGILL: "an instruction this CPU does not know: an image for other machines?",
    signal.SIGINT: "interrupted",
    signal.SIGPIPE: "wrote where nobody reads",
}


def exit_code(code: int) -> str:
    """What an exit code says, by the habits of shells: above 128 it is a signal."""
    if code in EXIT_CODES:
        return EXIT_CODES[code]
    number = code - 128
    if 0 < number < 65:
        try:
            name = signal.Signals(number)
        except ValueError:
            return f"signal {number}"
        meaning = SIGNALS.get(name)
        return f"{name.name}, {meaning}" if meaning else name.name
    return "the program reports a failure of its own"


def duration(seconds: float) -> str:
    """`40 s`, `3 min`, `5 h`, `2 d`: one unit, as far as it matters."""
    seconds = max(0.0, seconds)
    for size, unit, limit in ((1, "s", 120), (60, "min", 7200), (3600, "h", 172800)):
        if seconds < limit:
            return f"{round(seconds / size)} {unit}"
    return f"{round(seconds / 86400)} d"


def moment(text: str | None) -> datetime | None:
    return parse_time(text) if text else None


def ago(text: str | None, now: datetime) -> str:
    """`3 min ago`; empty for no time."""
    then = moment(text)
    return f"{duration((now - then).total_seconds())} ago" if then else ""


def since(text: str | None, now: datetime) -> str:
    then = moment(text)
    return f"for {duration((now - then).total_seconds())}" if then else "for an unknown time"


def counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def listed(names: Sequence[str], total: int = 0) -> str:
    """`a, b and 3 more`."""
    more = (total or len(names)) - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class Happening:
    """Events of one kind about one thing, as one."""

    type: str
    reason: str
    message: str
    """Of the last of them."""
    count: int
    first: datetime
    last: datetime
    part: str = ""
    """The part of the object that is meant, such as a container."""

    @property
    def is_warning(self) -> bool:
        return self.type == "Warning"


def condensed(events: Iterable[Event]) -> list[Happening]:
    """Events in the order of time; what repeats itself is counted, and told once, as of its last
    time."""
    found: dict[tuple[str, str, str], list[Happening]] = {}
    for event in events:
        path = event.involvedObject.fieldPath
        inside = re.search(r"\{(.+)\}", path)
        one = _happening(event, inside[1] if inside else "")
        found.setdefault((event.type, event.reason, one.part + _kind_of(event)), []).append(one)
    result = []
    for group in found.values():
        last = max(group, key=lambda each: each.last)
        result.append(
            Happening(
                last.type,
                last.reason,
                last.message,
                sum(each.count for each in group),
                min(each.first for each in group),
                last.last,
                last.part,
            )
        )
    return sorted(result, key=lambda each: (each.last, each.first))


def _kind_of(event: Event) -> str:
    """Which probe is unhealthy makes a difference, and what of several things has failed."""
    return event.message.partition(" ")[0] if event.reason in ("Unhealthy", "Failed") else ""


def _happening(event: Event, part: str) -> Happening:
    series = event.series
    count = (series.count if series else 0) or event.count or 1
    made = event.firstTimestamp or event.eventTime or event.metadata.creationTimestamp
    last = (series.lastObservedTime if series else None) or event.lastTimestamp or made
    first_at = moment(made) or datetime.fromtimestamp(0, UTC)
    last_at = moment(last) or first_at
    return Happening(event.type, event.reason, event.message, count, first_at, last_at, part)


def latest(happenings: Iterable[Happening], *reasons: str, part: str = "") -> Happening | None:
    """The last that happened for one of these reasons, to one part if it is named."""
    found = [e for e in happenings if e.reason in reasons and (not part or e.part in (part, ""))]
    return found[-1] if found else None


POD_HANDLE = re.compile(r"(?: in pod | pod=)\S+_\S+\([0-9a-f-]{36}\)")
"""A kubelet's name for a pod: whoever asks about the pod knows it."""


def shortened(text: str, limit: int = 200) -> str:
    """One line. Of a long one the middle goes: errors end with what really happened."""
    text = POD_HANDLE.sub("", " ".join(text.split()))
    if len(text) <= limit:
        return text
    return f"{text[: limit // 3]} … {text[-(limit - limit // 3 - 3) :]}"
