"""The formats that strings of custom resources can have (`format` in a schema).

Names are those of upstream's OpenAPI library; dashes in them do not count. Any other format is
documentation and checks nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from datetime import date

from navarch.api import names, regex
from navarch.api.times import TimeError, parse_time

Check = Callable[[str], bool]

_HEX = "[0-9a-fA-F]"
_HOSTNAME = (
    r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)|"
    r"([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}"
    r"([a-zA-Z\p{L}]){2,63})$"
)
_BYTE = r"(0|[1-9]\d?|1\d\d?|2[0-4]\d|25[0-5])"
_CARD = re.compile(
    r"4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}|"
    r"3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35\d{3})\d{11}",
    re.ASCII,
)
_GO_DURATION = re.compile(r"[+-]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+)", re.ASCII)
_WORDY_DURATION = re.compile(r"\d+\s*([A-Za-zµ]+)", re.ASCII)
DURATION_UNITS: tuple[tuple[tuple[str, ...], str, int], ...] = (
    (("ns",), "nano", 1),
    (("us", "µs"), "micro", 10**3),
    (("ms",), "milli", 10**6),
    (("s",), "sec", 10**9),
    (("m",), "min", 60 * 10**9),
    (("h", "hr"), "hour", 3600 * 10**9),
    (("d",), "day", 86_400 * 10**9),
    (("w", "wk"), "week", 604_800 * 10**9),
)
"""Short names of a unit, what its long names start with, and its nanoseconds."""


def unit_nanoseconds(unit: str) -> int:
    """Of a unit in words (`days`); 0 if there is no such unit."""
    unit = unit.lower()
    for short, long, nanoseconds in DURATION_UNITS:
        if unit in short or unit.startswith(long):
            return nanoseconds
    return 0


def is_duration(text: str) -> bool:
    """Go's durations (`1h30m`), or numbers with units in words (`2 days`)."""
    if _GO_DURATION.fullmatch(text):
        return True
    return any(unit_nanoseconds(unit) for unit in _WORDY_DURATION.findall(text))


def is_date(text: str) -> bool:
    return len(text) == 10 and _parses(date.fromisoformat)(text)


def is_uri(text: str) -> bool:
    """An absolute URI or an absolute path."""
    from navarch.api.cel.library.go_url import UrlError, check_request_uri  # late: it needs CEL

    try:
        check_request_uri(text)
    except UrlError:
        return False
    return True


def _is_hostname(text: str) -> bool:
    labels = text.split(".")
    return (
        regex.search(_HOSTNAME, text)
        and len(text.encode()) <= 255
        and all(1 <= len(label.encode()) <= 63 for label in labels)
    )


def _is_isbn10(text: str) -> bool:
    digits = re.sub(r"[\s-]", "", text)
    if not re.fullmatch(r"[0-9]{9}[0-9X]", digits):
        return False
    values = [10 if each == "X" else int(each) for each in digits]
    return sum((index + 1) * value for index, value in enumerate(values)) % 11 == 0


def _is_isbn13(text: str) -> bool:
    digits = re.sub(r"[\s-]", "", text)
    if not re.fullmatch(r"[0-9]{13}", digits):
        return False
    return sum(int(each) * (1 + 2 * (index % 2)) for index, each in enumerate(digits)) % 10 == 0


def _is_card(text: str) -> bool:
    """A card number with its check digit (Luhn); what is no digit does not count."""
    digits = re.sub(r"[^0-9]+", "", text)
    if not _CARD.fullmatch(digits):
        return False
    doubled = [int(each) * (1 + index % 2) for index, each in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def _is_mac(text: str) -> bool:
    """48 or 64 bits, or the 160 of InfiniBand: bytes behind `:` or `-`, or pairs behind `.`."""
    for mark, size in ((":", 2), ("-", 2), (".", 4)):
        parts = text.split(mark)
        if all(re.fullmatch(f"{_HEX}{{{size}}}", part) for part in parts):
            return len(parts) * size in (12, 16, 40)
    return False


def _parses(parse: Callable[[str], object]) -> Check:
    def check(value: str) -> bool:
        try:
            parse(value)
        except (ValueError, TimeError):
            return False
        return True

    return check


def _matches(pattern: str) -> Check:
    compiled = re.compile(pattern, re.ASCII)
    return lambda value: compiled.fullmatch(value) is not None


def _network(text: str) -> object:
    return ipaddress.ip_network(text, strict=False)


def _uuid(version: str, variant: str = _HEX) -> Check:
    return _matches(
        f"{_HEX}{{8}}-?{_HEX}{{4}}-?{version}{_HEX}{{3}}-?{variant}{_HEX}{{3}}-?{_HEX}{{12}}"
    )


_ZEROS = re.compile(r"(?<![\d])0+(?=\d)")  # upstream reads `01` as one, not as octal
is_uuid = _uuid(_HEX)
is_base64 = _matches(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
is_time = _parses(lambda text: parse_time(text.upper()))

FORMATS: Mapping[str, Check] = {
    "bsonobjectid": _matches(f"{_HEX}{{24}}"),
    "byte": lambda text: bool(text) and is_base64(text),
    "cidr": lambda text: "/" in text and _parses(_network)(text),
    "creditcard": _is_card,
    "date": is_date,
    "datetime": is_time,
    "duration": is_duration,
    "email": _matches(r"[^@\s]+@[^@\s]+|[^@<>]*<[^@\s]+@[^@\s]+>"),
    "hexcolor": _matches(f"#?({_HEX}{{3}}|{_HEX}{{6}})"),
    "hostname": _is_hostname,
    "ipv4": _parses(lambda text: ipaddress.IPv4Address(_ZEROS.sub("", text))),
    "ipv6": _parses(ipaddress.IPv6Address),
    "isbn": lambda text: _is_isbn10(text) or _is_isbn13(text),
    "isbn10": _is_isbn10,
    "isbn13": _is_isbn13,
    "k8slongname": lambda text: not names.dns1123_subdomain(text),
    "k8sshortname": lambda text: not names.dns1123_label(text),
    "mac": _is_mac,
    "rgbcolor": _matches(rf"rgb\(\s*{_BYTE}\s*,\s*{_BYTE}\s*,\s*{_BYTE}\s*\)"),
    "ssn": _matches(r"\d{3}[- ]\d{2}[- ]\d{4}"),
    "uri": is_uri,
    "uuid": is_uuid,
    "uuid3": _uuid("3"),
    "uuid4": _uuid("4", "[89abAB]"),
    "uuid5": _uuid("5", "[89abAB]"),
}


def is_format(name: str) -> bool:
    """Whether a name is that of a format."""
    return name == "password" or name.replace("-", "") in FORMATS


def has_format(text: str, name: str) -> bool:
    """Whether a text has the format of this name; unknown ones every text has."""
    check = FORMATS.get(name.replace("-", ""))
    return check is None or check(text)
