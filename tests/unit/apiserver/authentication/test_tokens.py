"""Service-account tokens: issued as asked, accepted while everything they depend on is there."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import jwt
import pytest
from tests.unit.apiserver.memory_lookup import MemoryLookup

from navarch.api.errors import ApiError
from navarch.apiserver.authentication.keys import KeyRing, PrivateKey
from navarch.apiserver.authentication.reviews import self_subject_review, token_review
from navarch.apiserver.authentication.token_request import TokenIssuer, TokenPolicy
from navarch.apiserver.authentication.tokens import (
    RECHECK_SECONDS,
    ServiceAccountTokens,
    TokenError,
)
from navarch.apiserver.authentication.union import TokenUnion
from navarch.apiserver.contracts import UserInfo

ISSUER = "https://kubernetes.default.svc.cluster.local"
POD_REF = {"apiVersion": "v1", "kind": "Pod", "name": "web", "uid": "pod-uid"}

Object = dict[str, Any]


@pytest.fixture
def lookup() -> MemoryLookup:
    lookup = MemoryLookup()
    metadata = {"name": "robot", "namespace": "ns", "uid": "sa-uid"}
    lookup.put("serviceaccounts", {"metadata": metadata})
    pod = {"name": "web", "namespace": "ns", "uid": "pod-uid"}
    spec = {"serviceAccountName": "robot", "nodeName": "n1"}
    lookup.put("pods", {"metadata": pod, "spec": spec})
    lookup.put("nodes", {"metadata": {"name": "n1", "uid": "node-uid"}})
    secret = {"name": "s", "namespace": "ns", "uid": "secret-uid"}
    lookup.put("secrets", {"metadata": secret})
    return lookup


@pytest.fixture
def tokens(keys: KeyRing, lookup: MemoryLookup, clock: Callable[[], float]) -> ServiceAccountTokens:
    return ServiceAccountTokens(keys, [ISSUER], [ISSUER], lookup, clock)


@pytest.fixture
def issuer(keys: KeyRing, lookup: MemoryLookup, clock: Callable[[], float]) -> TokenIssuer:
    return TokenIssuer(keys, TokenPolicy(ISSUER, (ISSUER,)), lookup, clock)


def ask(issuer: TokenIssuer, metadata: Object | None = None, **spec: Any) -> Object:
    request = {"kind": "TokenRequest", "metadata": metadata or {}, "spec": spec}
    return issuer.issue(issuer.prepare(request, "ns", "robot")).obj


def token_for(issuer: TokenIssuer, **spec: Any) -> str:
    return str(ask(issuer, **spec)["status"]["token"])


def claims_of(token: str) -> Any:
    return jwt.decode(token, options={"verify_signature": False})


def test_a_plain_token(issuer: TokenIssuer, tokens: ServiceAccountTokens, keys: KeyRing) -> None:
    answer = ask(issuer)
    assert answer["spec"] == {
        "audiences": [ISSUER],
        "expirationSeconds": 3600,
        "boundObjectRef": None,
    }
    assert answer["status"]["expirationTimestamp"] == "2027-01-15T09:00:00Z"
    token = answer["status"]["token"]
    assert jwt.get_unverified_header(token) == {"alg": "RS256", "kid": keys.signing_key_id}
    claims = claims_of(token)
    jti = claims.pop("jti")
    assert claims == {
        "iss": ISSUER,
        "sub": "system:serviceaccount:ns:robot",
        "aud": [ISSUER],
        "exp": 1_800_003_600,
        "iat": 1_800_000_000,
        "nbf": 1_800_000_000,
        "kubernetes.io": {
            "namespace": "ns",
            "serviceaccount": {"name": "robot", "uid": "sa-uid"},
        },
    }
    assert tokens.verify(token).user == UserInfo(
        "system:serviceaccount:ns:robot",
        "sa-uid",
        ("system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"),
        {"authentication.kubernetes.io/credential-id": (f"JTI={jti}",)},
    )


def test_a_pod_token_says_pod_and_node(issuer: TokenIssuer, tokens: ServiceAccountTokens) -> None:
    token = token_for(issuer, boundObjectRef=POD_REF)
    kubernetes = claims_of(token)["kubernetes.io"]
    assert kubernetes["pod"] == {"name": "web", "uid": "pod-uid"}
    assert kubernetes["node"] == {"name": "n1", "uid": "node-uid"}
    extra = tokens.verify(token).user.extra
    prefix = "authentication.kubernetes.io/"
    assert extra[f"{prefix}pod-name"] == ("web",)
    assert extra[f"{prefix}pod-uid"] == ("pod-uid",)
    assert extra[f"{prefix}node-name"] == ("n1",)
    assert extra[f"{prefix}node-uid"] == ("node-uid",)


def test_the_token_of_a_pods_volume_is_good_for_longer(
    issuer: TokenIssuer, tokens: ServiceAccountTokens, clock: Any
) -> None:
    answer = ask(issuer, boundObjectRef=POD_REF, expirationSeconds=3607)
    claims = claims_of(answer["status"]["token"])
    assert claims["exp"] == 1_800_000_000 + 365 * 24 * 3600
    assert claims["kubernetes.io"]["warnafter"] == 1_800_003_607
    assert answer["status"]["expirationTimestamp"] == "2027-01-15T09:00:07Z"
    clock.now += 7200
    tokens.verify(answer["status"]["token"])


@pytest.mark.parametrize(
    ("metadata", "spec", "status", "message"),
    [
        pytest.param({}, {"expirationSeconds": 5}, 422, "less than 10 minutes", id="too short"),
        pytest.param({}, {"expirationSeconds": 2**33}, 422, "larger than 2^32", id="too long"),
        pytest.param({"name": "x"}, {}, 422, "must match the service account name", id="name"),
        pytest.param({"namespace": "x"}, {}, 422, "account namespace if specified", id="namespace"),
        pytest.param({"uid": "x"}, {}, 409, "does not match the UID of the service", id="uid"),
        pytest.param(
            {},
            {"boundObjectRef": {**POD_REF, "name": "none"}},
            404,
            'pods "none" not found',
            id="no pod",
        ),
        pytest.param(
            {},
            {"boundObjectRef": {**POD_REF, "uid": "old"}},
            409,
            'Operation cannot be fulfilled on Pod "web": the UID in the bound object reference '
            "(old) does not match the UID in record. "
            "The object might have been deleted and then recreated",
            id="other pod",
        ),
        pytest.param(
            {},
            {"boundObjectRef": {"apiVersion": "v1", "kind": "ConfigMap", "name": "c"}},
            400,
            "cannot bind token to object of type /v1, Kind=ConfigMap",
            id="kind",
        ),
    ],
)
def test_refusals(
    issuer: TokenIssuer, metadata: Object, spec: Object, status: int, message: str
) -> None:
    with pytest.raises(ApiError) as raised:
        ask(issuer, metadata, **spec)
    assert raised.value.status == status
    assert message in raised.value.message


def test_a_pod_of_another_account(issuer: TokenIssuer, lookup: MemoryLookup) -> None:
    lookup.put("pods", {"metadata": {"name": "web", "namespace": "ns", "uid": "u"}, "spec": {}})
    with pytest.raises(ApiError) as raised:
        ask(issuer, boundObjectRef={**POD_REF, "uid": "u"})
    assert raised.value.status == 400


def test_a_limit_shortens_and_warns(
    keys: KeyRing, lookup: MemoryLookup, clock: Callable[[], float]
) -> None:
    issuer = TokenIssuer(keys, TokenPolicy(ISSUER, (ISSUER,), 700), lookup, clock)
    issued = issuer.issue(issuer.prepare({}, "ns", "robot"))
    assert issued.obj["spec"]["expirationSeconds"] == 700
    assert issued.warnings == ("requested expiration of 3600 seconds shortened to 700 seconds",)


@pytest.mark.parametrize(
    ("ref", "resource", "namespace", "name"),
    [
        (None, "serviceaccounts", "ns", "robot"),
        (POD_REF, "pods", "ns", "web"),
        ({"apiVersion": "v1", "kind": "Secret", "name": "s"}, "secrets", "ns", "s"),
        ({"apiVersion": "v1", "kind": "Node", "name": "n1"}, "nodes", "", "n1"),
    ],
)
@pytest.mark.parametrize("recreated", [False, True])
def test_a_token_dies_with_what_it_is_bound_to(
    issuer: TokenIssuer,
    tokens: ServiceAccountTokens,
    lookup: MemoryLookup,
    clock: Any,
    ref: Object | None,
    resource: str,
    namespace: str,
    name: str,
    recreated: bool,
) -> None:
    token = token_for(issuer, boundObjectRef=ref)
    tokens.verify(token)
    lookup.remove(resource, namespace, name)
    if recreated:
        metadata = {"name": name, "namespace": namespace, "uid": "another"}
        lookup.put(resource, {"metadata": metadata})
    clock.now += RECHECK_SECONDS + 0.1
    with pytest.raises(TokenError):
        tokens.verify(token)


def test_a_deleted_pod_counts_a_little_longer(
    issuer: TokenIssuer, tokens: ServiceAccountTokens, lookup: MemoryLookup, clock: Any
) -> None:
    token = token_for(issuer, boundObjectRef=POD_REF)
    pod = lookup.get("pods", "ns", "web")
    assert pod is not None
    metadata = {**pod["metadata"], "deletionTimestamp": "2027-01-15T08:00:10Z"}
    lookup.put("pods", {**pod, "metadata": metadata})
    clock.now += 60
    tokens.verify(token)
    clock.now += 11
    with pytest.raises(TokenError, match="invalidated"):
        tokens.verify(token)


def test_times(issuer: TokenIssuer, tokens: ServiceAccountTokens, clock: Any) -> None:
    token = token_for(issuer)
    clock.now -= 120
    with pytest.raises(TokenError, match="not valid yet"):
        tokens.verify(token)
    clock.now += 120 + 3600 + 59
    tokens.verify(token)
    clock.now += 2
    with pytest.raises(TokenError, match="has expired"):
        tokens.verify(token)


def test_audiences(issuer: TokenIssuer, tokens: ServiceAccountTokens) -> None:
    token = token_for(issuer, audiences=["vault", "other"])
    with pytest.raises(TokenError) as raised:
        tokens.verify(token)
    assert str(raised.value) == (
        '[invalid bearer token, token audiences ["vault" "other"] is invalid '
        f'for the target audiences ["{ISSUER}"]]'
    )
    assert tokens.verify(token, ["x", "vault"]).audiences == ("vault",)


def forged(token: str, header: Object | None = None, **claims: Any) -> str:
    """The token with other claims or another header, and its old signature."""
    parts = token.split(".")
    if header is not None:
        parts[0] = encode(header)
    if claims:
        parts[1] = encode({**claims_of(token), **claims})
    return ".".join(parts)


def encode(obj: Object) -> str:
    return base64.urlsafe_b64encode(json.dumps(obj).encode()).rstrip(b"=").decode()


def test_forgeries(
    issuer: TokenIssuer, tokens: ServiceAccountTokens, keys: KeyRing, ec_key: PrivateKey
) -> None:
    token = token_for(issuer)
    kid = keys.signing_key_id
    public = next(iter(keys.verification_keys.values())).to_jwk()["n"]
    confused = jwt.encode(claims_of(token), public, "HS256", {"kid": kid})
    foreign = jwt.encode(claims_of(token), ec_key, "ES256", {"kid": kid})
    bad = [
        "garbage",
        "a.b.c",
        forged(token, sub="system:serviceaccount:kube-system:root"),
        forged(token, {"alg": "none", "kid": kid}),
        forged(token, {"alg": "none", "kid": kid}).rsplit(".", 1)[0] + ".",
        forged(token, {"alg": "RS256", "kid": "unknown"}),
        forged(token, iss="https://elsewhere"),
        token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB"),
        confused,
        foreign,
    ]
    for text in bad:
        with pytest.raises(TokenError):
            tokens.verify(text)


def test_rotation(
    issuer: TokenIssuer,
    lookup: MemoryLookup,
    clock: Callable[[], float],
    rsa_key: PrivateKey,
    ec_key: PrivateKey,
) -> None:
    """The new key signs, the old one's tokens are still good, and both are published."""
    old_token = token_for(issuer)
    rotated = KeyRing.from_keys(ec_key, [rsa_key.public_key()])
    tokens = ServiceAccountTokens(rotated, [ISSUER], [ISSUER], lookup, clock)
    new_issuer = TokenIssuer(rotated, TokenPolicy(ISSUER, (ISSUER,)), lookup, clock)
    new_token = token_for(new_issuer)
    assert tokens.verify(old_token).user.name == tokens.verify(new_token).user.name
    published = {key["kid"]: jwt.PyJWK(key) for key in rotated.to_jwks()["keys"]}
    for token in (old_token, new_token):
        key = published[jwt.get_unverified_header(token)["kid"]]
        claims = jwt.decode(
            token,
            key.key,
            [key.algorithm_name],
            audience=ISSUER,
            options={"verify_exp": False, "verify_iat": False, "verify_nbf": False},
        )
        assert claims["sub"] == "system:serviceaccount:ns:robot"
    assert rotated.algorithms() == ["ES256", "RS256"]


async def test_token_review(issuer: TokenIssuer, tokens: ServiceAccountTokens) -> None:
    union = TokenUnion([ISSUER], tokens)
    token = token_for(issuer, boundObjectRef=POD_REF)
    status = (await token_review({"kind": "TokenReview", "spec": {"token": token}}, union))[
        "status"
    ]
    assert status["authenticated"] is True
    assert status["audiences"] == [ISSUER]
    assert status["user"]["username"] == "system:serviceaccount:ns:robot"
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["web"]
    asked = {"kind": "TokenReview", "spec": {"token": token, "audiences": ["elsewhere"]}}
    status = (await token_review(asked, union))["status"]
    assert "authenticated" not in status
    assert "token audiences" in status["error"]
    with pytest.raises(ApiError) as raised:
        await token_review({"spec": {}}, union)
    assert raised.value.status == 400


def test_self_subject_review() -> None:
    user = UserInfo("eve", "7", ("g",), {"k": ("v",)})
    answer = self_subject_review({"kind": "SelfSubjectReview"}, user)
    expected = {"username": "eve", "uid": "7", "groups": ["g"], "extra": {"k": ["v"]}}
    assert answer["status"]["userInfo"] == expected
