"""AdmissionReview: the question that an admission webhook gets, and what its answer says.

Versions v1 and v1beta1 of `admission.k8s.io` differ in strictness alone: v1 answers must name the
request's uid and their own version, and must say `patchType` with a patch.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from navarch.api.errors import ApiError
from navarch.apiserver.admission.matching import Subject
from navarch.apiserver.contracts import AdmissionRequest
from navarch.apiserver.webhooks.client import CallFailed

Object = dict[str, Any]

KNOWN_VERSIONS = ("v1", "v1beta1")
GROUP = "admission.k8s.io"


class _Result(msgspec.Struct):
    """A `v1.Status` as far as it is passed on."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: Object | None = None


class Response(msgspec.Struct):
    """What a webhook answered."""

    uid: str = ""
    allowed: bool = False
    status: _Result | None = None
    patch: bytes | None = None
    patchType: str | None = None
    auditAnnotations: dict[str, str] | None = None
    warnings: list[str] | None = None


class _Review(msgspec.Struct):
    apiVersion: str = ""
    kind: str = ""
    response: Response | None = None


_decode = msgspec.json.Decoder(_Review).decode


@dataclass(frozen=True, slots=True)
class Shown:
    """The objects as a webhook gets them, encoded once for all that want this version."""

    obj: msgspec.Raw
    old: msgspec.Raw


def encode_shown(obj: Object | None) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(obj))


def review_version(accepted: Sequence[str]) -> str:
    """The first of a webhook's `admissionReviewVersions` that is spoken here."""
    for version in accepted:
        if version in KNOWN_VERSIONS:
            return version
    raise CallFailed(
        "could not create admission objects: webhook does not accept known AdmissionReview "
        "versions (v1, v1beta1)",
        400,
    )


def question(
    request: AdmissionRequest, subjects: tuple[Subject, Subject], shown: Shown, version: str
) -> tuple[str, Object]:
    """The uid and the review. `subjects` are the request as it was made and as the webhook's rule
    names it."""
    asked, seen = subjects
    uid = str(uuid.uuid4())
    body: Object = {"uid": uid, **_place("kind", "resource", seen)}
    if seen.subresource:
        body["subResource"] = seen.subresource
    body |= _place("requestKind", "requestResource", asked)
    if asked.subresource:
        body["requestSubResource"] = asked.subresource
    for field, value in (("name", asked.name), ("namespace", asked.namespace)):
        if value:
            body[field] = value
    body |= {
        "operation": asked.operation,
        "userInfo": request.user.to_object(),
        "object": shown.obj,
        "oldObject": shown.old,
        "dryRun": request.dry_run,
        "options": request.options or None,
    }
    return uid, {"kind": "AdmissionReview", "apiVersion": f"{GROUP}/{version}", "request": body}


def _place(kind_field: str, resource_field: str, subject: Subject) -> Object:
    group, version, kind = subject.kind
    return {
        kind_field: {"group": group, "version": version, "kind": kind},
        resource_field: {
            "group": subject.group,
            "version": subject.version,
            "resource": subject.resource,
        },
    }


def answer_of(content: bytes, uid: str, version: str, is_mutating: bool) -> Response:
    """The answer in a webhook's response body. Raises CallFailed when it is none."""
    try:
        review = _decode(content)
    except msgspec.ValidationError as error:
        raise CallFailed(f"failed to call webhook: json: cannot unmarshal: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CallFailed(
            f"failed to call webhook: couldn't get version/kind; json parse error: {error}"
        ) from None
    problem = _problem(review, uid, version, is_mutating)
    if problem:
        raise CallFailed(f"received invalid webhook response: {problem}")
    assert review.response is not None
    return review.response


def _problem(review: _Review, uid: str, version: str, is_mutating: bool) -> str:
    response = review.response
    if response is None:
        return "webhook response was absent"
    if version != "v1":
        if not is_mutating:
            response.patch = None
        elif response.patch:
            response.patchType = "JSONPatch"
        return ""
    if response.uid != uid:
        return f'expected response.uid="{uid}", got "{response.uid}"'
    if (review.apiVersion, review.kind) != (f"{GROUP}/v1", "AdmissionReview"):
        given = f"{review.apiVersion or '/'}, Kind={review.kind}"
        return f"expected webhook response of {GROUP}/v1, Kind=AdmissionReview, got {given}"
    if not is_mutating:
        if response.patch:
            return "validating webhook may not return response.patch"
        if response.patchType is not None:
            return "validating webhook may not return response.patchType"
    elif response.patch and response.patchType is None:
        return "webhook returned response.patch but not response.patchType"
    elif not response.patch and response.patchType is not None:
        return "webhook returned response.patchType but not response.patch"
    elif response.patchType == "":
        return 'webhook returned invalid response.patchType of ""'
    return ""


def rejection(name: str, result: _Result | None) -> ApiError:
    """The refusal of a webhook as the client gets it: its own status, and who says so."""
    result = result or _Result()
    denied = f'admission webhook "{name}" denied the request'
    why = result.message or result.reason
    message = f"{denied}: {why}" if why else f"{denied} without explanation"
    code = result.code if 400 <= result.code <= 999 else 400
    return ApiError(code, result.reason, message, result.details)


def decoded_patch(response: Response) -> list[Object]:
    """The operations of an answer's patch. Raises CallFailed."""
    if not response.patch:
        return []
    if response.patchType != "JSONPatch":
        raise CallFailed(f'unsupported patch type "{response.patchType}"')
    try:
        operations = msgspec.json.decode(response.patch, type=list[Object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CallFailed(f"received undecodable patch in webhook response: {error}") from None
    return operations
