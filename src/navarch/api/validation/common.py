"""What the rules of all kinds share.

Checks append to the list of errors they are handed, so that a valid object (the common case) costs
no lists of its own.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from navarch.api import names
from navarch.api.errors import FieldError, forbidden_field, invalid, not_supported, required
from navarch.api.quantity import Quantity, QuantityError, parse_quantity

Object = dict[str, Any]
Errors = list[FieldError]

IMMUTABLE = "field is immutable"
NOT_NEGATIVE = "must be greater than or equal to 0"
NOT_INTEGER = "must be an integer"
PROTOCOLS = ("SCTP", "TCP", "UDP")
MAX_INT32 = 2**31 - 1

# Names, keys and values come in a few forms again and again; what is right once stays right.
dns1123_label = lru_cache(4096)(lambda value: tuple(names.dns1123_label(value)))
dns1123_subdomain = lru_cache(4096)(lambda value: tuple(names.dns1123_subdomain(value)))
qualified_name = lru_cache(4096)(lambda value: tuple(names.qualified_name(value)))
label_value = lru_cache(4096)(lambda value: tuple(names.label_value(value)))


def check(errors: Errors, path: str, value: Any, problems: Iterable[str]) -> None:
    """One error for each problem with a value."""
    for problem in problems:
        errors.append(invalid(path, value, problem))


def check_label_name(errors: Errors, path: str, value: str) -> None:
    check(errors, path, value, qualified_name(value))


def check_choice(errors: Errors, path: str, value: Any, choices: Sequence[str]) -> None:
    """A value out of a few, which must be set."""
    if not value:
        errors.append(required(path))
    elif value not in choices:
        errors.append(not_supported(path, value, choices))


def check_optional_choice(errors: Errors, path: str, value: Any, choices: Sequence[str]) -> None:
    if value is not None and value not in choices:
        errors.append(not_supported(path, value, choices))


def check_not_negative(errors: Errors, path: str, value: Any) -> None:
    if value is not None and value < 0:
        errors.append(invalid(path, value, NOT_NEGATIVE))


def check_port(errors: Errors, path: str, value: Any) -> None:
    check(errors, path, value or 0, names.port_number(value or 0))


def check_port_or_name(errors: Errors, path: str, value: Any) -> None:
    if isinstance(value, str):
        check(errors, path, value, names.port_name(value))
    else:
        check_port(errors, path, value)


def check_immutable(errors: Errors, path: str, new: Any, old: Any) -> None:
    if new != old:
        errors.append(invalid(path, new, IMMUTABLE))


def check_labels(errors: Errors, path: str, labels: Mapping[str, str] | None) -> None:
    for key, value in (labels or {}).items():
        check(errors, path, key, qualified_name(key))
        check(errors, path, value, label_value(value or ""))


def check_name(
    errors: Errors, path: str, value: Any, rule: Callable[[str], Iterable[str]], detail: str = ""
) -> None:
    """A reference by name, which must be set."""
    if not value:
        errors.append(required(path, detail))
    else:
        check(errors, path, value, rule(value))


def quantity(text: Any) -> Quantity | None:
    """The quantity, or None for what the decoder would not have let pass."""
    try:
        return parse_quantity(str(text))
    except QuantityError:
        return None


def check_quantity_not_negative(errors: Errors, path: str, text: Any) -> None:
    value = quantity(text)
    if value is None or value.sign() < 0:
        errors.append(invalid(path, text, NOT_NEGATIVE))


def parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text) if "%" not in text else None
    except ValueError:
        return None


_BAD_ADDRESS = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
_BAD_CIDR = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
_OCTET_ZEROS = re.compile(r"(?<![0-9a-fA-F])0+(?=[0-9])")


def sloppy_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address as old parsers read it: leading zeros in the parts of IPv4 mean nothing."""
    return parse_address(_OCTET_ZEROS.sub("", text) if "." in text else text)


def is_mapped(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether this is an IPv4 address in IPv6's clothes."""
    return address.version == 6 and address.ipv4_mapped is not None


def address_problem(text: str) -> str:
    """What is wrong with an IP address as older fields take it; leading zeros, which tools read
    differently, are refused for new values (KEP-4858)."""
    address = parse_address(text or "")
    if address is None:
        return "must not have leading 0s" if sloppy_address(text or "") else _BAD_ADDRESS
    return "must not be an IPv4-mapped IPv6 address" if is_mapped(address) else ""


def cidr_problem(text: str) -> str:
    """What is wrong with a range of addresses."""
    address, slash, length = (text or "").partition("/")
    parsed = sloppy_address(address) if slash else None
    if parsed is None or not (length.isascii() and length.isdigit()):
        return _BAD_CIDR
    if int(length) > parsed.max_prefixlen:
        return _BAD_CIDR
    if parse_address(address) is None or (length != "0" and length.startswith("0")):
        return "must not have leading 0s in IP or prefix length"
    if is_mapped(parsed):
        return "must not have an IPv4-mapped IPv6 address"
    if ipaddress.ip_network(text, strict=False).network_address != parsed:
        return "must not have bits set beyond the prefix length"
    return ""


def check_address(errors: Errors, path: str, text: str) -> None:
    problem = address_problem(text)
    if problem:
        errors.append(invalid(path, text, problem))


def check_cidr(errors: Errors, path: str, text: str) -> None:
    problem = cidr_problem(text)
    if problem:
        errors.append(invalid(path, text, problem))


def canonical_problem(text: str, *, is_range: bool = False) -> str:
    """What is wrong with an address or range of a newer field, which takes one form alone."""
    problem = cidr_problem(text) if is_range else address_problem(text)
    if not problem:
        canonical = str(ipaddress.ip_network(text) if is_range else ipaddress.ip_address(text))
        if canonical != text:
            return f'must be in canonical form ("{canonical}")'
    return problem


def address_warnings(path: str, text: str) -> list[str]:
    """What to tell about an address that is valid in an older field, but not as it should be."""
    address = parse_address(text)
    if address is None or is_mapped(address):
        known = sloppy_address(text)
        known = known if known is None else getattr(known, "ipv4_mapped", None) or known
        return [f'{path}: non-standard IP address "{text}" is invalid: use "{known}"'] * (
            known is not None
        )
    if str(address) != text:
        told = f'IPv6 address "{text}" should be in RFC 5952 canonical format ("{address}")'
        return [f"{path}: {told}"]
    return []


def cidr_warnings(path: str, text: str) -> list[str]:
    """The same for a range. What the rules refuse today may be stored since before."""
    if cidr_problem(text):
        return []
    canonical = str(ipaddress.ip_network(text))
    if canonical == text:
        return []
    told = f'IPv6 CIDR value "{text}" should be in RFC 5952 canonical format ("{canonical}")'
    return [f"{path}: {told}"]


def check_endpoint_address(errors: Errors, path: str, text: str) -> None:
    """An address traffic may be sent to: not the node's own and not a link's."""
    address = sloppy_address(text or "")
    # The kernel takes `::ffff:127.0.0.1` for what it wraps (RFC 4291, section 2.5.5.2).
    address = getattr(address, "ipv4_mapped", None) or address
    if address is None:
        errors.append(invalid(path, text, "must be a valid IP address"))
    elif address.is_unspecified:
        errors.append(invalid(path, text, f"may not be unspecified ({text})"))
    elif address.is_loopback:
        detail = "may not be in the loopback range (127.0.0.0/8, ::1/128)"
        errors.append(invalid(path, text, detail))
    elif address.is_link_local:
        detail = "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
        errors.append(invalid(path, text, detail))
    elif address.is_multicast and str(address).startswith(("224.0.0.", "ff02:")):
        detail = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        errors.append(invalid(path, text, detail))


def check_label_selector(errors: Errors, path: str, selector: Object | None) -> None:
    """A LabelSelector object."""
    if selector is None:
        return
    check_labels(errors, f"{path}.matchLabels", selector.get("matchLabels"))
    for index, expression in enumerate(selector.get("matchExpressions") or ()):
        here = f"{path}.matchExpressions[{index}]"
        operator, values = expression.get("operator"), expression.get("values") or ()
        if operator in ("In", "NotIn"):
            if not values:
                detail = "must be specified when `operator` is 'In' or 'NotIn'"
                errors.append(required(f"{here}.values", detail))
        elif operator in ("Exists", "DoesNotExist"):
            if values:
                detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"
                errors.append(forbidden_field(f"{here}.values", detail))
        else:
            errors.append(
                invalid(f"{here}.operator", operator or "", "not a valid selector operator")
            )
        check_label_name(errors, f"{here}.key", expression.get("key") or "")
        for position, value in enumerate(values):
            check(errors, f"{here}.values[{position}]", value, label_value(value))


def selects_everything(selector: Object) -> bool:
    return not selector.get("matchLabels") and not selector.get("matchExpressions")


def selector_matches(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector object selects these labels."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions") or ():
        key, operator = expression.get("key"), expression.get("operator")
        values = expression.get("values") or ()
        present = key in labels
        if operator == "In" and (not present or labels[key] not in values):
            return False
        if operator == "NotIn" and present and labels[key] in values:
            return False
        if (operator == "Exists" and not present) or (operator == "DoesNotExist" and present):
            return False
    return True


def check_int_or_percent(errors: Errors, path: str, value: Any) -> None:
    """A non-negative number or a percentage."""
    if isinstance(value, str):
        check(errors, path, value, names.percent(value))
    else:
        check_not_negative(errors, path, value)


def check_not_more_than_all(errors: Errors, path: str, value: Any) -> None:
    if (
        isinstance(value, str)
        and value.endswith("%")
        and value[:-1].isdigit()
        and int(value[:-1][:9]) > 100
    ):
        errors.append(invalid(path, value, "must not be greater than 100%"))


def relative_amount(value: Any) -> int:
    """The number of an int-or-percent, whatever its unit; 0 for nothing."""
    if isinstance(value, str):
        number = value.removesuffix("%")
        return int(number[:9]) if number.isdigit() else 0
    return int(value or 0)


def invalid_state(path: str, detail: str) -> FieldError:
    """A value breaks a rule and is not worth printing."""
    return FieldError("FieldValueInvalid", path, f"Invalid value: {detail}")


def check_status_counts(
    errors: Errors, status: Object, fields: Sequence[str], most: Sequence[str] = ()
) -> None:
    """Counters of a replica status: not negative, and those in `most` not above `replicas`."""
    for field in fields:
        check_not_negative(errors, f"status.{field}", status.get(field))
    replicas = status.get("replicas") or 0
    for field in most:
        if (status.get(field) or 0) > replicas:
            detail = "cannot be greater than status.replicas"
            errors.append(invalid(f"status.{field}", status[field], detail))
    available, ready = status.get("availableReplicas") or 0, status.get("readyReplicas") or 0
    if "availableReplicas" in most and available > ready:
        detail = "cannot be greater than readyReplicas"
        errors.append(invalid("status.availableReplicas", available, detail))
