"""Tokens of a file, bootstrap tokens, tokens in secrets, and the union of all."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
from tests.unit.apiserver.memory_lookup import MemoryLookup

from navarch.apiserver.authentication.bootstrap_tokens import BootstrapTokens
from navarch.apiserver.authentication.keys import KeyRing, PrivateKey
from navarch.apiserver.authentication.legacy_tokens import LegacyTokens
from navarch.apiserver.authentication.static_tokens import StaticTokens, load_token_file
from navarch.apiserver.authentication.tokens import (
    ForeignToken,
    ServiceAccountTokens,
    TokenError,
    VerifiedToken,
)
from navarch.apiserver.authentication.union import AnyAudience, Cached, TokenUnion
from navarch.apiserver.contracts import UserInfo

Object = dict[str, Any]

OURS = ("https://here",)
AUDIENCE = AnyAudience(OURS)


def encoded(**data: str) -> dict[str, str]:
    return {
        key.replace("_", "-"): base64.b64encode(value.encode()).decode()
        for key, value in data.items()
    }


# The token file


def token_file(tmp_path: Path, text: str) -> dict[str, UserInfo]:
    path = tmp_path / "tokens.csv"
    path.write_text(text)
    return load_token_file(path)


async def test_the_token_file(tmp_path: Path) -> None:
    users = token_file(tmp_path, 't1,ann,7,"devs,ops"\nt2, bob , 8\n\n,nobody,9\n')
    assert users == {
        "t1": UserInfo("ann", "7", ("devs", "ops")),
        "t2": UserInfo("bob", "8"),
    }
    tokens = StaticTokens(users, AUDIENCE)
    assert (await tokens.verify("t1", OURS)).user.name == "ann"
    for token, audiences in (("t3", OURS), ("t1", ("elsewhere",))):
        with pytest.raises(ForeignToken):
            await tokens.verify(token, audiences)


def test_a_token_file_of_two_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"at least 3 columns.*found 2"):
        token_file(tmp_path, "t1,ann\n")


# Bootstrap tokens

EXTRA_GROUPS = ("system:bootstrappers:b", "system:bootstrappers:a")


def bootstrap_secret(**changes: Any) -> Object:
    data = {
        "token_id": "abcdef",
        "token_secret": "0123456789abcdef",
        "usage_bootstrap_authentication": "true",
        **changes.pop("data", {}),
    }
    return {
        "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
        "type": "bootstrap.kubernetes.io/token",
        "data": encoded(**{key: value for key, value in data.items() if value is not None}),
        **changes,
    }


@pytest.mark.parametrize(
    ("secret", "token", "groups"),
    [
        (bootstrap_secret(), "abcdef.0123456789abcdef", ("system:bootstrappers",)),
        (
            bootstrap_secret(
                data={"auth_extra_groups": "system:bootstrappers:b,system:bootstrappers:a"}
            ),
            "abcdef.0123456789abcdef",
            ("system:bootstrappers", *reversed(EXTRA_GROUPS)),
        ),
        (
            bootstrap_secret(data={"expiration": "2027-01-15T08:00:01Z"}),
            "abcdef.0123456789abcdef",
            ("system:bootstrappers",),
        ),
        (bootstrap_secret(), "abcdef.0123456789abcdee", None),
        (bootstrap_secret(), "abcdeg.0123456789abcdef", None),
        (bootstrap_secret(), "ABCDEF.0123456789abcdef", None),
        (bootstrap_secret(type="Opaque"), "abcdef.0123456789abcdef", None),
        (bootstrap_secret(data={"token_id": "abcdeg"}), "abcdef.0123456789abcdef", None),
        (
            bootstrap_secret(data={"usage_bootstrap_authentication": None}),
            "abcdef.0123456789abcdef",
            None,
        ),
        (
            bootstrap_secret(data={"expiration": "2027-01-15T08:00:00Z"}),
            "abcdef.0123456789abcdef",
            None,
        ),
        (bootstrap_secret(data={"expiration": "soon"}), "abcdef.0123456789abcdef", None),
        (
            bootstrap_secret(data={"auth_extra_groups": "system:masters"}),
            "abcdef.0123456789abcdef",
            None,
        ),
        (
            bootstrap_secret(
                metadata={
                    "name": "bootstrap-token-abcdef",
                    "namespace": "kube-system",
                    "deletionTimestamp": "2026-01-01T00:00:00Z",
                }
            ),
            "abcdef.0123456789abcdef",
            None,
        ),
    ],
)
async def test_bootstrap_tokens(
    clock: Any, secret: Object, token: str, groups: tuple[str, ...] | None
) -> None:
    lookup = MemoryLookup()
    lookup.put("secrets", secret)
    tokens = BootstrapTokens(lookup, AUDIENCE, clock)
    if groups is None:
        with pytest.raises(ForeignToken):
            await tokens.verify(token, OURS)
        return
    user = (await tokens.verify(token, OURS)).user
    assert user == UserInfo("system:bootstrap:abcdef", groups=groups)


# Tokens in secrets

CLAIMS = {
    "iss": "kubernetes/serviceaccount",
    "sub": "system:serviceaccount:ns:robot",
    "kubernetes.io/serviceaccount/namespace": "ns",
    "kubernetes.io/serviceaccount/secret.name": "robot-token",
    "kubernetes.io/serviceaccount/service-account.name": "robot",
    "kubernetes.io/serviceaccount/service-account.uid": "sa-uid",
}


class Held:
    """A service account, its secret, and the tokens in it."""

    def __init__(self, key: PrivateKey, clock: Any) -> None:
        self.key = key
        self.lookup = MemoryLookup()
        self.uses: list[tuple[str, str, str]] = []
        account = {"name": "robot", "namespace": "ns", "uid": "sa-uid"}
        self.lookup.put("serviceaccounts", {"metadata": account})
        ring = KeyRing.from_keys(key)
        note = lambda *use: self.uses.append(use)  # noqa: E731
        self.tokens = LegacyTokens(ring, self.lookup, AUDIENCE, clock, note)

    def token(self, **changes: str) -> str:
        claims = {**CLAIMS, **changes}
        return jwt.encode(claims, self.key, algorithm="RS256")

    def put(self, token: str, **metadata: Any) -> None:
        named = {"name": "robot-token", "namespace": "ns", **metadata}
        self.lookup.put("secrets", {"metadata": named, "data": encoded(token=token)})


@pytest.fixture
def held(rsa_key: PrivateKey, clock: Any) -> Held:
    return Held(rsa_key, clock)


async def test_a_token_in_a_secret(held: Held, clock: Any) -> None:
    token = held.token()
    held.put(token)
    found = await held.tokens.verify(token, OURS)
    assert found.user == UserInfo(
        "system:serviceaccount:ns:robot",
        "sa-uid",
        ("system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"),
    )
    today = f"{datetime.fromtimestamp(clock(), UTC):%Y-%m-%d}"
    assert held.uses == [("ns", "robot-token", today)]
    held.put(token, labels={"kubernetes.io/legacy-token-last-used": today})
    await held.tokens.verify(token, OURS)
    assert len(held.uses) == 1


async def test_it_dies_with_its_secret_and_account(held: Held) -> None:
    token = held.token()
    held.put(token)
    await held.tokens.verify(token, OURS)
    held.put("another")
    with pytest.raises(TokenError, match="does not match server's copy"):
        await held.tokens.verify(token, OURS)
    held.put(token, deletionTimestamp="2026-01-01T00:00:00Z")
    with pytest.raises(TokenError, match="has been invalidated"):
        await held.tokens.verify(token, OURS)
    held.lookup.remove("secrets", "ns", "robot-token")
    with pytest.raises(TokenError, match="has been invalidated"):
        await held.tokens.verify(token, OURS)
    held.put(token)
    again = {"name": "robot", "namespace": "ns", "uid": "another"}
    held.lookup.put("serviceaccounts", {"metadata": again})
    with pytest.raises(TokenError, match="does not match claim"):
        await held.tokens.verify(token, OURS)
    held.lookup.remove("serviceaccounts", "ns", "robot")
    with pytest.raises(TokenError, match="not found"):
        await held.tokens.verify(token, OURS)


async def test_one_that_was_marked_is_refused_and_its_use_noted(held: Held) -> None:
    token = held.token()
    held.put(token, labels={"kubernetes.io/legacy-token-invalid-since": "2026-01-01"})
    with pytest.raises(TokenError, match="has been marked invalid"):
        await held.tokens.verify(token, OURS)
    assert held.uses


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sub": ""}, "sub claim is missing"),
        ({"sub": "system:serviceaccount:ns:other"}, "sub claim is invalid"),
        ({"kubernetes.io/serviceaccount/secret.name": ""}, "secretName claim is missing"),
        ({"kubernetes.io/serviceaccount/namespace": ""}, "namespace claim is missing"),
        ({"kubernetes.io/serviceaccount/service-account.uid": ""}, "UID claim is missing"),
    ],
)
async def test_claims_that_do_not_fit(held: Held, changes: dict[str, str], problem: str) -> None:
    token = held.token(**changes)
    held.put(token)
    with pytest.raises(TokenError, match=problem):
        await held.tokens.verify(token, OURS)


async def test_signatures_count(held: Held, ec_key: PrivateKey) -> None:
    forged = jwt.encode(CLAIMS, ec_key, algorithm="ES256")
    held.put(forged)
    with pytest.raises(TokenError):
        await held.tokens.verify(forged, OURS)
    unsigned = jwt.encode(CLAIMS, "", algorithm="none")
    held.put(unsigned)
    with pytest.raises(TokenError):
        await held.tokens.verify(unsigned, OURS)


# All together


class Kind:
    def __init__(self, answer: UserInfo | TokenError) -> None:
        self.answer = answer
        self.asked = 0

    async def verify(self, token: str, audiences: tuple[str, ...]) -> VerifiedToken:
        self.asked += 1
        if isinstance(self.answer, TokenError):
            raise self.answer
        return VerifiedToken(self.answer, audiences)


def union_of(keys: KeyRing, clock: Any, *kinds: Kind) -> TokenUnion:
    accounts = ServiceAccountTokens(keys, OURS, OURS, MemoryLookup(), clock)
    return TokenUnion(OURS, accounts, after=kinds)


async def test_the_first_that_knows_a_token_counts(keys: KeyRing, clock: Any) -> None:
    ann, bob = Kind(UserInfo("ann")), Kind(UserInfo("bob"))
    bad = Kind(TokenError("it is torn"))
    union = union_of(keys, clock, Kind(ForeignToken("")), bad, ann, bob)
    assert (await union.verify("x")).user == UserInfo("ann", groups=("system:authenticated",))
    assert bob.asked == 0


@pytest.mark.parametrize(
    ("kinds", "reason"),
    [
        ([ForeignToken("")], "invalid bearer token"),
        ([TokenError("it is torn")], r"\[invalid bearer token, it is torn\]"),
        ([TokenError("a"), TokenError("b")], r"\[invalid bearer token, a, b\]"),
    ],
)
async def test_reasons_are_joined(
    keys: KeyRing, clock: Any, kinds: list[TokenError], reason: str
) -> None:
    with pytest.raises(TokenError, match=f"^{reason}$"):
        await union_of(keys, clock, *map(Kind, kinds)).verify("x")


async def test_good_tokens_are_remembered_for_a_while(clock: Any) -> None:
    kind = Kind(UserInfo("ann"))
    cached = Cached(kind, clock, 10)
    await cached.verify("t", OURS)
    await cached.verify("t", OURS)
    assert kind.asked == 1
    await cached.verify("t", ("other",))
    assert kind.asked == 2
    clock.now += 11
    await cached.verify("t", OURS)
    assert kind.asked == 3
    kind.answer = TokenError("no")
    for _ in range(2):
        with pytest.raises(TokenError):
            await cached.verify("u", OURS)
    assert kind.asked == 5
