"""Query parameters of the verbs, checked as upstream checks them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from navarch.api.errors import (
    ApiError,
    FieldError,
    bad_request,
    forbidden_field,
    invalid,
    invalid_object,
    not_supported,
    too_long,
)
from navarch.api.times import parse_duration as go_duration
from navarch.apiserver.http.call import Call

_INT64 = 2**63 - 1


def parse_integer(text: str) -> int:
    """A 64-bit integer parameter. Raises 400 in the words of Go's strconv."""
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (digits.isascii() and digits.isdigit()):
        raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    value = int(text) if len(digits) < 25 else _INT64 + 1
    if not -_INT64 - 1 <= value <= _INT64:
        raise bad_request(f'strconv.ParseInt: parsing "{text}": value out of range')
    return value


def query_integer(values: list[str] | None) -> int:
    """A number out of a query that nobody has checked yet; 0 for what is none."""
    text = values[0] if values else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def parse_duration(text: str) -> float:
    """A Go duration (`1m30s`) in seconds. Raises 400."""
    try:
        return go_duration(text)
    except ValueError as error:
        raise bad_request("invalid timeout specified in the request URL") from error


def integer(call: Call, name: str) -> int | None:
    text = call.parameter(name)
    return parse_integer(text) if text else None


def options_error(kind: str, errors: Sequence[FieldError]) -> ApiError:
    """422 on an options object, which has no name."""
    return invalid_object(kind, "meta.k8s.io", "", errors)


def parse_revision(text: str, prefix: str = "") -> int:
    """A resourceVersion parameter; "" is 0. Raises 400."""
    if not text:
        return 0
    is_number = text.isascii() and text.isdigit()
    if not is_number or len(text) > 19:
        why = "value out of range" if is_number else "invalid syntax"
        raise bad_request(
            f'{prefix}resourceVersion: Invalid value: "{text}": strconv.ParseUint: parsing '
            f'"{text}": {why}'
        )
    return int(text)


@dataclass(frozen=True, slots=True)
class ListOptions:
    """What a list, watch or deletecollection asks for. `revision` is None when unset."""

    label_selector: str = ""
    field_selector: str = ""
    revision: int | None = None
    match: str = ""
    limit: int = 0
    continue_token: str = ""
    timeout_seconds: int | None = None
    allow_bookmarks: bool = False
    send_initial_events: bool | None = None


PLAIN_LIST = ListOptions()


def list_options(call: Call, is_watch: bool) -> ListOptions:
    """The options of a list or watch. Raises 400, 422."""
    if not call.target.query:
        return PLAIN_LIST
    timeout = integer(call, "timeoutSeconds")
    limit = integer(call, "limit") or 0
    text = call.parameter("resourceVersion")
    initial = call.flag("sendInitialEvents") if "sendInitialEvents" in call.target.query else None
    options = ListOptions(
        label_selector=call.parameter("labelSelector"),
        field_selector=call.parameter("fieldSelector"),
        revision=None,
        match=call.parameter("resourceVersionMatch"),
        limit=max(limit, 0),
        continue_token=call.parameter("continue"),
        timeout_seconds=timeout,
        allow_bookmarks=call.flag("allowWatchBookmarks"),
        send_initial_events=initial,
    )
    errors = _watch_errors(options) if is_watch else _list_errors(options, text)
    if errors:
        raise options_error("ListOptions", errors)
    if not text:
        return options
    from dataclasses import replace

    prefix = "" if is_watch else "invalid resource version: "
    return replace(options, revision=parse_revision(text, prefix))


_MATCHES = ("NotOlderThan", "Exact", "")


def _list_errors(options: ListOptions, revision: str) -> list[FieldError]:
    errors = []
    if options.send_initial_events is not None:
        errors.append(
            forbidden_field("sendInitialEvents", "sendInitialEvents is forbidden for list")
        )
    match = options.match
    if not match:
        return errors
    where = "resourceVersionMatch"
    if options.continue_token:
        errors.append(
            forbidden_field(where, "resourceVersionMatch is forbidden when continue is provided")
        )
    if not revision:
        errors.append(
            forbidden_field(
                where, "resourceVersionMatch is forbidden unless resourceVersion is provided"
            )
        )
    if match not in _MATCHES:
        errors.append(not_supported(where, match, ["Exact", "NotOlderThan", ""]))
    if match == "Exact" and revision == "0":
        errors.append(
            forbidden_field(
                where, 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
            )
        )
    return errors


def _watch_errors(options: ListOptions) -> list[FieldError]:
    errors = []
    match = options.match
    where = "resourceVersionMatch"
    if options.send_initial_events is not None:
        if match != "NotOlderThan":
            errors.append(
                forbidden_field(
                    where, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
                )
            )
    elif match:
        errors.append(
            forbidden_field(
                where,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            )
        )
    if match not in ("", "NotOlderThan"):
        errors.append(not_supported(where, match, ["NotOlderThan"]))
    if options.continue_token:
        errors.append(
            forbidden_field(where, "resourceVersionMatch is forbidden when continue is provided")
        )
    return errors


class WriteOptions(msgspec.Struct, frozen=True, gc=False):
    """What create, update and patch share."""

    dry_run: bool
    field_manager: str
    field_validation: str
    """Ignore, Warn or Strict."""
    force: bool = False


def write_options(call: Call, kind: str) -> WriteOptions:
    """The options of a write; `kind` is CreateOptions, UpdateOptions, PatchOptions. Raises 422."""
    query = call.target.query
    if not query:
        return WriteOptions(False, call.field_manager, "Warn")
    errors = []
    dry_run = query.get("dryRun", [])
    if dry_run not in ([], ["All"]):
        errors.append(not_supported("dryRun", dry_run[0], ["All"]))
    manager = call.parameter("fieldManager")
    if len(manager.encode()) > 128:
        errors.append(too_long("fieldManager", 128))
    if not manager.isprintable():
        errors.append(invalid("fieldManager", manager, "should only contain printable characters"))
    validation = call.parameter("fieldValidation") or "Warn"
    if validation not in ("Ignore", "Warn", "Strict"):
        errors.append(not_supported("fieldValidation", validation, ["Ignore", "Strict", "Warn"]))
    if errors:
        raise options_error(kind, errors)
    return WriteOptions(bool(dry_run), call.field_manager, validation, call.flag("force"))
