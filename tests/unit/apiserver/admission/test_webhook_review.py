"""What answers of webhooks mean."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest

from navarch.apiserver.admission.webhook_review import (
    answer_of,
    decoded_patch,
    rejection,
    review_version,
)
from navarch.apiserver.webhooks.client import CallFailed

Object = dict[str, Any]
PATCH = base64.b64encode(b'[{"op":"remove","path":"/a"}]').decode()


def review(version: str = "v1", **response: Any) -> bytes:
    return json.dumps(
        {
            "apiVersion": f"admission.k8s.io/{version}",
            "kind": "AdmissionReview",
            "response": {"uid": "u", "allowed": True, **response},
        }
    ).encode()


@pytest.mark.parametrize(
    ("content", "mutating", "text"),
    [
        pytest.param(review(uid="x"), True, 'expected response.uid="u", got "x"', id="uid"),
        pytest.param(
            review("v1beta1"), True, "got admission.k8s.io/v1beta1, Kind=AdmissionReview", id="gvk"
        ),
        pytest.param(b"{}", True, "webhook response was absent", id="absent"),
        pytest.param(b"{", True, "json parse error", id="garbage"),
        pytest.param(
            b'{"response":{"status":{"details":' + b'{"a":' * 100_000,
            True,
            "json parse error",
            id="deep",
        ),
        pytest.param(b"\xff", True, "json parse error", id="no text"),
        pytest.param(review(warnings="x"), True, "json: cannot unmarshal", id="type"),
        pytest.param(
            review(patch="?", patchType="x"), True, "json: cannot unmarshal", id="no base64"
        ),
        pytest.param(review(patch=PATCH), True, "but not response.patchType", id="no type"),
        pytest.param(review(patchType="x"), True, "not response.patch", id="no patch"),
        pytest.param(review(patch=PATCH, patchType=""), True, "invalid response", id="empty"),
        pytest.param(review(patch=PATCH), False, "may not return response.patch", id="validating"),
        pytest.param(review(patchType="x"), False, "response.patchType", id="validating type"),
    ],
)
def test_bad_answers(content: bytes, mutating: bool, text: str) -> None:
    with pytest.raises(CallFailed, match=re.escape(text)):
        answer_of(content, "u", "v1", mutating)


def test_the_older_version_asks_for_less() -> None:
    response = answer_of(review("v1", uid="x", patch=PATCH), "u", "v1beta1", True)
    assert decoded_patch(response) == [{"op": "remove", "path": "/a"}]
    response = answer_of(review("v1", uid="x", patch=PATCH), "u", "v1beta1", False)
    assert decoded_patch(response) == []


def test_the_first_known_version_is_spoken() -> None:
    assert review_version(["v9", "v1beta1", "v1"]) == "v1beta1"
    with pytest.raises(CallFailed, match="does not accept known AdmissionReview versions"):
        review_version(["v9"])


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (None, 400, 'admission webhook "a" denied the request without explanation'),
        (
            {"message": "m", "reason": "r", "code": 409},
            409,
            'admission webhook "a" denied the request: m',
        ),
        ({"reason": "r", "code": 399}, 400, 'admission webhook "a" denied the request: r'),
        ({"code": 4000}, 400, 'admission webhook "a" denied the request without explanation'),
    ],
)
def test_rejections(status: Object | None, code: int, message: str) -> None:
    error = rejection("a", answer_of(review(status=status), "u", "v1", False).status)
    assert (error.status, error.message) == (code, message)
