"""OpenID Connect: whose token it is by its claims, and what is no good token or configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from navarch.apiserver.authentication.configuration import (
    AuthenticationConfiguration,
    JwtIssuer,
    load_configuration,
)
from navarch.apiserver.authentication.kinds import legacy_configuration
from navarch.apiserver.authentication.oidc import (
    ALGORITHMS,
    KeysUnavailable,
    OidcParts,
    OidcTokens,
    PublishedKeys,
)
from navarch.apiserver.authentication.tokens import ForeignToken, TokenError
from navarch.apiserver.authentication.union import AnyAudience
from navarch.apiserver.configuration_file import ConfigurationError
from navarch.apiserver.contracts import UserInfo
from navarch.apiserver.options import ServerOptions

OURS = ("https://here",)
ISSUER = "https://id.example"
JTI = "authentication.kubernetes.io/credential-id"

Object = dict[str, Any]


class Provider:
    """An identity provider: signs tokens, publishes keys, counts who asks."""

    def __init__(self, now: Any) -> None:
        self.now = now
        self.keys: dict[str, Any] = {}
        self.asked: list[str] = []
        self.is_away = False
        self.issuer = ISSUER
        self.add("one")

    def add(self, name: str, kind: str = "RSA") -> None:
        made: Any = (
            rsa.generate_private_key(65537, 2048)
            if kind == "RSA"
            else ec.generate_private_key(ec.SECP256R1())
        )
        self.keys[name] = made

    async def fetch(self, url: str) -> Any:
        self.asked.append(url)
        if self.is_away:
            raise KeysUnavailable("away")
        if url == f"{ISSUER}/.well-known/openid-configuration":
            return {"issuer": self.issuer, "jwks_uri": f"{ISSUER}/keys"}
        return {"keys": [*map(self.jwk, self.keys), {"kty": "strange"}, {}, None]}

    def jwk(self, name: str) -> Object:
        key = self.keys[name].public_key()
        algorithm: Any = jwt.algorithms.RSAAlgorithm
        if isinstance(key, ec.EllipticCurvePublicKey):
            algorithm = jwt.algorithms.ECAlgorithm
        return {**json.loads(algorithm.to_jwk(key)), "kid": name, "use": "sig"}

    def token(self, key: str = "one", algorithm: str = "RS256", **claims: Any) -> str:
        said = {"iss": ISSUER, "aud": "me", "sub": "ann", "exp": self.now() + 60, **claims}
        said = {name: value for name, value in said.items() if value is not None}
        return jwt.encode(said, self.keys[key], algorithm=algorithm, headers={"kid": key})


@pytest.fixture
def provider(clock: Any) -> Provider:
    return Provider(clock)


def config(**changes: Any) -> JwtIssuer:
    base: Object = {
        "issuer": {"url": ISSUER, "audiences": ["me"]},
        "claimMappings": {"username": {"claim": "sub", "prefix": ""}},
    }
    return msgspec.convert({**base, **changes}, JwtIssuer)


def mapped(**mappings: Any) -> JwtIssuer:
    username = {"username": {"claim": "sub", "prefix": ""}}
    return config(claimMappings={**username, **mappings})


def tokens_of(provider: Provider, found: JwtIssuer, *algorithms: str) -> OidcTokens:
    keys = PublishedKeys(ISSUER, found.issuer.discoveryURL, provider.fetch, provider.now)
    parts = OidcParts(keys, AnyAudience(OURS), provider.now, algorithms or ALGORITHMS)
    return OidcTokens(found, parts)


async def user_of(provider: Provider, found: JwtIssuer, **claims: Any) -> UserInfo:
    return (await tokens_of(provider, found).verify(provider.token(**claims), OURS)).user


@pytest.mark.parametrize(
    ("found", "claims", "user"),
    [
        pytest.param(config(), {}, UserInfo("ann"), id="subject"),
        pytest.param(config(), {"aud": ["x", "me"]}, UserInfo("ann"), id="many audiences"),
        pytest.param(config(), {"jti": "7"}, UserInfo("ann", extra={JTI: ("JTI=7",)}), id="id"),
        pytest.param(
            mapped(
                username={"claim": "email", "prefix": "oidc:"},
                groups={"claim": "roles", "prefix": "r:"},
                uid={"claim": "oid"},
            ),
            {"email": "a@b", "email_verified": True, "roles": ["x", "y"], "oid": "9"},
            UserInfo("oidc:a@b", "9", ("r:x", "r:y")),
            id="claims and prefixes",
        ),
        pytest.param(
            mapped(groups={"claim": "role", "prefix": ""}),
            {"role": "one"},
            UserInfo("ann", groups=("one",)),
            id="one group as text",
        ),
        pytest.param(
            mapped(groups={"claim": "role", "prefix": ""}), {}, UserInfo("ann"), id="no groups"
        ),
        pytest.param(
            mapped(
                username={"expression": "claims.sub + '@' + claims.tenant"},
                groups={"expression": "claims.roles.map(r, 'g:' + r)"},
                uid={"expression": "string(claims.number)"},
                extra=[{"key": "example.com/team", "valueExpression": "claims.tenant"}],
            ),
            {"tenant": "t", "roles": ["a"], "number": "5"},
            UserInfo("ann@t", "5", ("g:a",), {"example.com/team": ("t",)}),
            id="expressions",
        ),
        pytest.param(
            config(
                claimValidationRules=[
                    {"claim": "hd", "requiredValue": "example.com"},
                    {"expression": "claims.exp - claims.iat <= 3600", "message": "too long"},
                ],
                userValidationRules=[{"expression": "!user.username.startsWith('system:')"}],
            ),
            {"hd": "example.com", "iat": 1_800_000_000},
            UserInfo("ann"),
            id="rules",
        ),
    ],
)
async def test_users(provider: Provider, found: JwtIssuer, claims: Object, user: UserInfo) -> None:
    assert await user_of(provider, found, **claims) == user


RULED = config(
    claimValidationRules=[
        {"claim": "hd", "requiredValue": "example.com"},
        {"expression": "claims.level >= 2.0", "message": "level too low"},
    ],
    userValidationRules=[
        {"expression": "!user.username.startsWith('system:')", "message": "reserved"}
    ],
)
BY_EMAIL = mapped(username={"claim": "email", "prefix": ""})
GOOD = {"hd": "example.com", "level": 2}


@pytest.mark.parametrize(
    ("found", "claims", "problem"),
    [
        (config(), {"aud": "them"}, "expected audience"),
        (config(), {"aud": None}, "expected audience"),
        (config(), {"exp": 1_799_999_999}, "expired"),
        (config(), {"exp": None}, "expired"),
        (config(), {"nbf": 1_800_001_000}, "before the nbf time"),
        (config(), {"sub": None}, "claim not present"),
        (config(), {"sub": 7}, "not a string"),
        (BY_EMAIL, {"email": "a", "email_verified": False}, "not verified"),
        (mapped(groups={"claim": "g", "prefix": ""}), {"g": [1]}, "not a list of strings"),
        (RULED, {**GOOD, "hd": "evil"}, "value does not match. Got = evil, want = example.com"),
        (RULED, {"level": 2}, "required claim hd not present"),
        (RULED, {**GOOD, "level": 1}, "level too low"),
        (RULED, {"hd": "example.com"}, "error evaluating"),
        (RULED, {**GOOD, "sub": "system:admin"}, "reserved"),
        (mapped(username={"expression": "claims.n"}), {"n": 1}, "must return a string"),
        (mapped(username={"expression": "claims.n"}), {"n": ""}, "empty username"),
        (mapped(groups={"expression": "claims.n"}), {"n": 1}, "a string or a list of strings"),
    ],
)  # fmt: skip
async def test_tokens_that_are_no_good(
    provider: Provider, found: JwtIssuer, claims: Object, problem: str
) -> None:
    with pytest.raises(TokenError, match=problem):
        await user_of(provider, found, **claims)


async def test_strangers_tokens_are_not_ours(provider: Provider) -> None:
    tokens = tokens_of(provider, config())
    for token in ("x", "a.b.c", provider.token(iss="https://other.example")):
        with pytest.raises(ForeignToken):
            await tokens.verify(token, OURS)
    assert provider.asked == []
    with pytest.raises(ForeignToken):
        await tokens.verify(provider.token(), ("elsewhere",))


async def test_keys_are_fetched_once_and_again_when_they_change(
    provider: Provider, clock: Any
) -> None:
    tokens = tokens_of(provider, config())
    for _ in range(3):
        await tokens.verify(provider.token(), OURS)
    assert len(provider.asked) == 2
    provider.add("two", "EC")
    rotated = provider.token("two", "ES256")
    with pytest.raises(TokenError, match="verify signature"):
        await tokens.verify(rotated, OURS)
    assert len(provider.asked) == 2  # not at once again, whoever asks for it
    clock.now += 11
    rotated = provider.token("two", "ES256")
    await tokens.verify(rotated, OURS)
    assert len(provider.asked) == 4


async def test_a_provider_that_is_away_or_another(provider: Provider, clock: Any) -> None:
    tokens = tokens_of(provider, config())
    provider.is_away = True
    with pytest.raises(TokenError, match="not initialized: away"):
        await tokens.verify(provider.token(), OURS)
    provider.is_away = False
    provider.issuer = "https://evil.example"
    clock.now += 11
    with pytest.raises(TokenError, match="issuer did not match"):
        await tokens.verify(provider.token(), OURS)
    provider.issuer = ISSUER
    clock.now += 11
    await tokens.verify(provider.token(), OURS)


async def test_forgeries(provider: Provider) -> None:
    tokens = tokens_of(provider, config(), "RS256")
    good = provider.token()
    head, body, signature = good.split(".")
    claims = {"iss": ISSUER, "aud": "me", "sub": "root", "exp": provider.now() + 60}
    public = provider.keys["one"].public_key()
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    import base64
    import hashlib
    import hmac

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    signed = f"{part({'alg': 'HS256', 'kid': 'one'})}.{part(claims)}"
    mac = base64.urlsafe_b64encode(hmac.new(pem, signed.encode(), hashlib.sha256).digest())
    for token in (
        jwt.encode(claims, "", algorithm="none"),
        f"{signed}.{mac.rstrip(b'=').decode()}",
        f"{head}.{part(claims)}.{signature}",
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
        provider.token(algorithm="RS512"),
    ):
        with pytest.raises(TokenError):
            await tokens.verify(token, OURS)


def load(tmp_path: Path, **config: Any) -> AuthenticationConfiguration:
    file = tmp_path / "authentication.yaml"
    head = {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration"}
    file.write_text(yaml.safe_dump({**head, **config}))
    return load_configuration(file, OURS)


def issuer(**changes: Any) -> Object:
    return {
        "issuer": {"url": ISSUER, "audiences": ["me"], **changes.pop("issuer", {})},
        "claimMappings": {"username": {"claim": "sub", "prefix": ""}},
        **changes,
    }


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({"jwt": [issuer(issuer={"url": ""})]}, "issuer.url: Required"),
        ({"jwt": [issuer(issuer={"url": "http://id.example"})]}, "scheme must be https"),
        ({"jwt": [issuer(issuer={"url": f"{ISSUER}?a=b"})]}, "must not contain a query"),
        ({"jwt": [issuer(issuer={"url": "https://a:b@c"})]}, "username or password"),
        ({"jwt": [issuer(issuer={"url": OURS[0]})]}, "disallowed issuers"),
        ({"jwt": [issuer(issuer={"discoveryURL": f"{ISSUER}/"})]}, "must be different"),
        ({"jwt": [issuer(issuer={"audiences": []})]}, "audiences: Required"),
        ({"jwt": [issuer(issuer={"audiences": ["a", "b"]})]}, "must be MatchAny"),
        ({"jwt": [issuer(issuer={"certificateAuthority": "x"})]}, "certificateAuthority"),
        ({"jwt": [issuer(issuer={"egressSelectorType": "cluster"})]}, "egress"),
        ({"jwt": [issuer(), issuer()]}, "Duplicate value"),
        ({"jwt": [issuer(claimMappings={})]}, "claim or expression is required"),
        ({"jwt": [issuer(claimMappings={"username": {"claim": "sub"}})]}, "prefix is required"),
        (
            {"jwt": [issuer(claimMappings={"username": {"claim": "a", "expression": "b"}})]},
            "can't both be set",
        ),
        ({"jwt": [issuer(claimValidationRules=[{}])]}, "claim or expression is required"),
        ({"jwt": [issuer(userValidationRules=[{}])]}, "expression: Required"),
        ({"jwt": [issuer(issuer={"uri": "x"})]}, "unknown field `uri`"),
        ({"anonymous": {"enabled": False, "conditions": [{"path": "/x"}]}}, "enabled should be"),
        ({"kind": "Other"}, "expected"),
        (
            {
                "jwt": [
                    issuer(
                        claimMappings={
                            "username": {"claim": "sub", "prefix": ""},
                            "extra": [{"key": "k8s.io/x", "valueExpression": "'a'"}],
                        }
                    )
                ]
            },
            "reserved",
        ),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, found: Object, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        load(tmp_path, **found)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (mapped(username={"expression": "claims."}), "compilation failed"),
        (mapped(username={"expression": "1 + 1"}), "must evaluate to"),
        (mapped(username={"expression": "claims.email"}), "email_verified"),
        (config(claimValidationRules=[{"expression": "'a'"}]), "must evaluate to bool"),
        (config(userValidationRules=[{"expression": "user.name == 'x'"}]), "undefined field"),
    ],
)
def test_expressions_that_are_refused(provider: Provider, found: JwtIssuer, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        tokens_of(provider, found)


def test_a_configuration_that_is_one(tmp_path: Path) -> None:
    found = load(
        tmp_path, jwt=[issuer()], anonymous={"enabled": True, "conditions": [{"path": "/livez"}]}
    )
    assert found.jwt[0].issuer.url == ISSUER
    assert found.anonymous is not None and found.anonymous.conditions[0].path == "/livez"


@pytest.mark.parametrize(
    ("options", "username", "prefix"),
    [
        ({}, "sub", f"{ISSUER}#"),
        ({"oidc_username_claim": "email"}, "email", ""),
        ({"oidc_username_prefix": "-"}, "sub", ""),
        ({"oidc_username_prefix": "o:"}, "sub", "o:"),
    ],
)
def test_the_older_options(options: Object, username: str, prefix: str) -> None:
    found = legacy_configuration(
        ServerOptions(
            oidc_issuer_url=ISSUER,
            oidc_client_id="me",
            oidc_groups_claim="g",
            oidc_required_claim=("hd=example.com",),
            **options,
        )
    ).jwt[0]
    assert found.issuer.audiences == ["me"]
    assert (found.claimMappings.username.claim, found.claimMappings.username.prefix) == (
        username,
        prefix,
    )
    assert found.claimMappings.groups.claim == "g"
    assert found.claimValidationRules[0].requiredValue == "example.com"
