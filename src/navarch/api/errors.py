"""The one error of the project: an API failure that renders as a Kubernetes Status.

Every layer raises `ApiError`; only the outermost layer (the HTTP front door, or a component's loop)
turns it into a response or a retry. Reasons, codes and message shapes follow upstream's
`apimachinery/pkg/api/errors` (API conventions, "Response Status Kind").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldError:
    """One complaint about one field of an object.

    `reason` is the cause's reason (`FieldValueInvalid`, `FieldValueRequired`, ...), `field` the
    path as in the manifest (`spec.containers[0].name`), `message` the text after the path.
    """

    reason: str
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def required(path: str, detail: str = "") -> FieldError:
    """A field that must be set is not."""
    return FieldError(
        "FieldValueRequired", path, f"Required value{': ' + detail if detail else ''}"
    )


def invalid(path: str, value: object, detail: str) -> FieldError:
    """A field's value breaks a rule; `detail` says which."""
    text = f"Invalid value: {render_value(value)}"
    return FieldError("FieldValueInvalid", path, f"{text}: {detail}" if detail else text)


def not_supported(path: str, value: object, supported: Sequence[str]) -> FieldError:
    """A field's value is not one of the enumerated ones."""
    choices = ", ".join(f'"{choice}"' for choice in supported)
    return FieldError(
        "FieldValueNotSupported",
        path,
        f"Unsupported value: {render_value(value)}: supported values: {choices}",
    )


def duplicate(path: str, value: object) -> FieldError:
    """A value that must be unique in its list stands there twice."""
    return FieldError("FieldValueDuplicate", path, f"Duplicate value: {render_value(value)}")


def forbidden_field(path: str, detail: str) -> FieldError:
    """A field may not be set, or not be changed, in this situation."""
    return FieldError("FieldValueForbidden", path, f"Forbidden: {detail}")


def too_long(path: str, limit: int) -> FieldError:
    """A value is longer than its limit in bytes."""
    unit = "byte" if limit == 1 else "bytes"
    return FieldError("FieldValueTooLong", path, f"Too long: may not be more than {limit} {unit}")


def too_many(path: str, actual: int, limit: int) -> FieldError:
    """A list holds more items than its limit."""
    items = "item" if limit == 1 else "items"
    return FieldError(
        "FieldValueTooMany", path, f"Too many: {actual}: must have at most {limit} {items}"
    )


def not_found_field(path: str, value: object) -> FieldError:
    """A field names something that does not exist."""
    return FieldError("FieldValueNotFound", path, f"Not found: {render_value(value)}")


class Verbatim(str):
    """What stands for a value in an error as it is."""

    __slots__ = ()


def render_value(value: object) -> str:
    """A value as upstream prints it in a field error: strings quoted, the rest as JSON."""
    if value is None:
        return "null"
    if isinstance(value, Verbatim):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    import json

    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    if not isinstance(value, str):
        # Go's encoder lets nothing out that a browser could take for HTML.
        text = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return text


@dataclass(eq=False, slots=True)
class ApiError(Exception):
    """An API failure: HTTP status code, machine-readable reason, message, details of the Status."""

    status: int
    reason: str
    message: str
    details: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def to_status(self) -> dict[str, Any]:
        """The error as a `v1.Status` object."""
        result: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            result["reason"] = self.reason
        if self.details is not None:
            result["details"] = self.details
        result["code"] = self.status
        return result

    @classmethod
    def from_status(cls, status: dict[str, Any]) -> ApiError:
        """The error that a `v1.Status` object tells of (what a client received)."""
        return cls(
            int(status.get("code") or 500),
            str(status.get("reason") or ""),
            str(status.get("message") or ""),
            status.get("details"),
        )

    @property
    def is_not_found(self) -> bool:
        return self.status == 404

    @property
    def is_conflict(self) -> bool:
        """A lost optimistic-locking race (not an `AlreadyExists`, which is 409 as well)."""
        return self.status == 409 and self.reason == "Conflict"

    @property
    def is_already_exists(self) -> bool:
        return self.status == 409 and self.reason == "AlreadyExists"

    @property
    def is_gone(self) -> bool:
        """The resourceVersion asked for is compacted (410 Gone or Expired)."""
        return self.status == 410


def missing(error: ApiError) -> bool:
    return error.is_not_found


def outdated(error: ApiError) -> bool:
    """What was meant is gone, or changed or made anew by now: whoever follows it will hear."""
    return error.is_not_found or error.is_conflict


@contextmanager
def ignoring(is_expected: Callable[[ApiError], bool]) -> Iterator[None]:
    """Goes on behind errors that are no failure here: `with ignoring(missing): ...`."""
    try:
        yield
    except ApiError as error:
        if not is_expected(error):
            raise


def go_quoted(text: str) -> str:
    """A text in quotes as Go's `%q` prints it: on one line, and never with control characters."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return f'"{"".join(map(_escaped, text))}"'


_ESCAPES = {"\a": "a", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t", "\v": "v"}
_ESCAPES |= {'"': '"', "\\": "\\"}


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return "\\" + _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def qualified_resource(resource: str, group: str) -> str:
    """`deployments.apps`, or just `pods` for the core group, as messages spell it."""
    return f"{resource}.{group}" if group else resource


def _object_details(resource: str, group: str, name: str) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if name:
        details["name"] = name
    if group:
        details["group"] = group
    if resource:
        details["kind"] = resource
    return details


def not_found(resource: str, group: str, name: str) -> ApiError:
    return ApiError(
        404,
        "NotFound",
        f"{qualified_resource(resource, group)} {go_quoted(name)} not found",
        _object_details(resource, group, name),
    )


def already_exists(resource: str, group: str, name: str) -> ApiError:
    return ApiError(
        409,
        "AlreadyExists",
        f"{qualified_resource(resource, group)} {go_quoted(name)} already exists",
        _object_details(resource, group, name),
    )


def conflict(resource: str, group: str, name: str, why: str) -> ApiError:
    return ApiError(
        409,
        "Conflict",
        f"Operation cannot be fulfilled on {qualified_resource(resource, group)} "
        f"{go_quoted(name)}: {why}",
        _object_details(resource, group, name),
    )


OBJECT_MODIFIED = (
    "the object has been modified; please apply your changes to the latest version and try again"
)


def forbidden(resource: str, group: str, name: str, why: str) -> ApiError:
    """403 for an object; without `resource` for a non-resource path (then `why` is the text)."""
    if not resource:
        return ApiError(403, "Forbidden", f"forbidden: {why}", {})
    named = f" {go_quoted(name)}" if name else ""
    return ApiError(
        403,
        "Forbidden",
        f"{qualified_resource(resource, group)}{named} is forbidden: {why}",
        _object_details(resource, group, name),
    )


def invalid_object(kind: str, group: str, name: str, errors: Sequence[FieldError]) -> ApiError:
    """422 with one cause per field error; several are joined in brackets as upstream does."""
    texts = list(dict.fromkeys(map(str, errors)))
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    details = _object_details(kind, group, name)
    details["causes"] = [
        {"reason": error.reason, "message": error.message, "field": error.field} for error in errors
    ]
    return ApiError(
        422,
        "Invalid",
        f"{qualified_resource(kind, group)} {go_quoted(name)} is invalid: {joined}",
        details,
    )


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def method_not_allowed() -> ApiError:
    return ApiError(
        405,
        "MethodNotAllowed",
        "the server does not allow this method on the requested resource",
        {},
    )


def gone(message: str) -> ApiError:
    return ApiError(410, "Expired", message)


def internal_error(message: str) -> ApiError:
    return ApiError(
        500,
        "InternalError",
        f"Internal error occurred: {message}",
        {"causes": [{"message": message}]},
    )


def service_unavailable(message: str) -> ApiError:
    return ApiError(503, "ServiceUnavailable", message)


def too_large(limit: int) -> ApiError:
    return ApiError(413, "RequestEntityTooLarge", f"Request entity too large: limit is {limit}")
