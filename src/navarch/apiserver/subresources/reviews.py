"""Questions put to the server as objects: tokens, access reviews, and `componentstatuses`."""

from __future__ import annotations

from typing import Any

from aiohttp.web import Response, StreamResponse

from navarch.api.errors import bad_request, method_not_allowed, not_found
from navarch.api.kinds import Subresource
from navarch.apiserver.authentication import Authentication
from navarch.apiserver.authentication.reviews import self_subject_review, token_review
from navarch.apiserver.authorization import Authorization
from navarch.apiserver.authorization.reviews import (
    local_subject_access_review,
    question_of,
    self_subject_access_review,
    self_subject_rules_review,
    subject_access_review,
)
from navarch.apiserver.core import Core
from navarch.apiserver.http.app import App
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.respond import base_headers, respond_object, respond_text
from navarch.apiserver.http.transform import transform_unstored
from navarch.apiserver.registry.resource import Resource
from navarch.apiserver.subresources.bodies import read_kind
from navarch.apiserver.tables.render import TABLES

Object = dict[str, Any]

AUTHENTICATION = "authentication.k8s.io"
AUTHORIZATION = "authorization.k8s.io"


def _authentication(core: Core) -> Authentication:
    found = core.secured.authentication
    if found is None:
        raise bad_request("this server does no authentication of its own")
    return found


def _authorization(core: Core) -> Authorization:
    found = core.secured.authorization
    if found is None:
        raise bad_request("this server does no authorization of its own")
    return found


async def _answer(core: Core, call: Call, kind: str, review: Object) -> Object:
    if kind == "TokenReview":
        return await token_review(review, _authentication(core).tokens)
    if kind == "SelfSubjectReview":
        return self_subject_review(review, call.user)
    authorization = _authorization(core)
    if authorization.has_remotes and kind != "SelfSubjectRulesReview":
        user = call.user if kind == "SelfSubjectAccessReview" else None
        if (asked := question_of(review, user)) is not None:
            await authorization.prepare(asked)
    if kind == "SubjectAccessReview":
        return subject_access_review(review, authorization)
    if kind == "LocalSubjectAccessReview":
        return local_subject_access_review(review, call.info.namespace, authorization)
    if kind == "SelfSubjectAccessReview":
        return self_subject_access_review(review, call.user, authorization)
    return self_subject_rules_review(review, call.user, authorization)


_REVIEWS = {
    (AUTHENTICATION, "tokenreviews"): "TokenReview",
    (AUTHENTICATION, "selfsubjectreviews"): "SelfSubjectReview",
    (AUTHORIZATION, "subjectaccessreviews"): "SubjectAccessReview",
    (AUTHORIZATION, "localsubjectaccessreviews"): "LocalSubjectAccessReview",
    (AUTHORIZATION, "selfsubjectaccessreviews"): "SelfSubjectAccessReview",
    (AUTHORIZATION, "selfsubjectrulesreviews"): "SelfSubjectRulesReview",
}


async def review(core: Core, call: Call) -> StreamResponse:
    """POST of a review: answered at once, never stored."""
    if call.info.verb != "create" or call.info.subresource:
        raise method_not_allowed()
    kind = _REVIEWS[call.info.group, call.info.resource]
    row = Subresource("", (), call.info.group, call.info.version, kind)
    body, context = await read_kind(call, row, "CreateOptions")
    await core.registry.admit(core.registry.admission(None, "CREATE", body, None, context, kind))
    return respond_object(call, await _answer(core, call, kind, body), 201)


TOKEN_REQUEST = Subresource("token", (), AUTHENTICATION, "v1", "TokenRequest")


async def request_token(core: Core, call: Call, resource: Resource) -> StreamResponse:
    """POST serviceaccounts/<name>/token."""
    issuer = _authentication(core).issuer
    body, context = await read_kind(call, TOKEN_REQUEST, "CreateOptions")
    prepared = issuer.prepare(body, call.info.namespace, call.info.name)
    request = core.registry.admission(resource, "CREATE", prepared, None, context, "TokenRequest")
    await core.registry.admit(request)
    issued = issuer.issue(prepared)
    if call.trail is not None:
        call.trail.annotate("authentication.kubernetes.io/issued-credential-id", issued.credential)
    call.warnings.take(issued.warnings)
    return respond_object(call, issued.obj, 201)


def _component_statuses(core: Core) -> list[Object]:
    """The parts of the control plane that this server can vouch for."""
    is_good = core.hub.is_following
    condition = {
        "type": "Healthy",
        "status": "True" if is_good else "False",
        "message": "ok" if is_good else "the store's watch is broken",
    }
    return [{"metadata": {"name": "etcd-0"}, "conditions": [condition]}]


async def component_statuses(core: Core, call: Call) -> StreamResponse:
    if call.info.verb not in ("get", "list"):
        raise method_not_allowed()
    call.warnings.add("v1 ComponentStatus is deprecated in v1.19+")
    rows = _component_statuses(core)
    wanted, include = call.representation, call.parameter("includeObject")
    if call.info.verb == "list":
        if wanted.transform:
            view = transform_unstored(TABLES["componentstatuses"], rows, wanted, include)
            return respond_object(call, view)
        kind = {"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}}
        return respond_object(call, {**kind, "items": rows})
    for row in rows:
        if row["metadata"]["name"] == call.info.name:
            if wanted.transform:
                view = transform_unstored(TABLES["componentstatuses"], [row], wanted, include)
                return respond_object(call, view)
            return respond_object(call, {"kind": "ComponentStatus", "apiVersion": "v1", **row})
    raise not_found("componentstatuses", "", call.info.name)


async def _openid_configuration(core: Core, call: Call) -> StreamResponse:
    return _document(call, _authentication(core).openid_configuration, "application/json")


async def _jwks(core: Core, call: Call) -> StreamResponse:
    return _document(call, _authentication(core).jwks, "application/jwk-set+json")


def _document(call: Call, body: bytes, content_type: str) -> StreamResponse:
    accepted = call.request.headers.get("Accept", "*/*")
    wanted = {each.partition(";")[0].strip().lower() for each in accepted.split(",")}
    if wanted.isdisjoint((content_type, "application/*", "*/*", "")):
        return respond_text(call, "406: Not Acceptable", 406)
    headers = base_headers(call)
    headers["Content-Type"] = content_type
    headers["Cache-Control"] = "public, max-age=3600"
    return Response(body=body, headers=headers)


def add_reviews(app: App) -> None:
    """Put the handlers into the app's tables."""
    for key in _REVIEWS:
        app.virtual[key] = review
    app.virtual["", "componentstatuses"] = component_statuses
    app.subresources["serviceaccounts", "token", "create"] = request_token
    app.paths["/openid/v1/jwks"] = _jwks
    app.paths["/.well-known/openid-configuration"] = _openid_configuration
