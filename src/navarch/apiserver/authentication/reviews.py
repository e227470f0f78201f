"""The review kinds of authentication.k8s.io: whose token is this, and who am I?"""

from __future__ import annotations

from navarch.api.errors import bad_request
from navarch.apiserver.authentication.tokens import TokenError
from navarch.apiserver.authentication.union import TokenUnion
from navarch.apiserver.contracts import Object, UserInfo


async def token_review(review: Object, tokens: TokenUnion) -> Object:
    """A TokenReview with its answer. A bad token is an answer, not an error."""
    spec = review.get("spec") or {}
    if not spec.get("token"):
        raise bad_request("token is required for TokenReview in authentication")
    status: Object
    try:
        verified = await tokens.verify(spec["token"], spec.get("audiences") or ())
    except TokenError as error:
        status = {"user": {}, "error": str(error)}
    else:
        status = {
            "authenticated": True,
            "user": verified.user.to_object(),
            "audiences": list(verified.audiences),
        }
    return {**review, "metadata": review.get("metadata") or {}, "status": status}


def self_subject_review(review: Object, user: UserInfo) -> Object:
    """A SelfSubjectReview: who the API server takes the caller for (impersonation included)."""
    metadata = review.get("metadata") or {}
    return {**review, "metadata": metadata, "status": {"userInfo": user.to_object()}}
