"""Structured authentication (apiserver.config.k8s.io AuthenticationConfiguration, KEP-3331).

It says which OpenID Connect issuers are believed, how claims become a user, and which paths may be
asked without credentials. A file is checked as a whole: an expression that does not compile, a
field that nobody knows, two issuers of one name are errors, at the start as at a reload.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from navarch.api.trust import trusting
from navarch.apiserver.configuration_file import VERSIONS, Strict, read_configuration

MAX_ISSUERS = 64
_DOMAIN_PATH = re.compile(
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/[A-Za-z0-9/\-._~%!$&'()*+,;=:]+"
)


class Issuer(Strict):
    url: str = ""
    discoveryURL: str = ""
    certificateAuthority: str = ""
    audiences: list[str] = []
    audienceMatchPolicy: str = ""
    egressSelectorType: str = ""


class ClaimValidationRule(Strict):
    claim: str = ""
    requiredValue: str = ""
    expression: str = ""
    message: str = ""


class PrefixedClaim(Strict):
    claim: str = ""
    prefix: str | None = None
    expression: str = ""


class Claim(Strict):
    claim: str = ""
    expression: str = ""


class Extra(Strict):
    key: str = ""
    valueExpression: str = ""


class ClaimMappings(Strict):
    username: PrefixedClaim = msgspec.field(default_factory=PrefixedClaim)
    groups: PrefixedClaim = msgspec.field(default_factory=PrefixedClaim)
    uid: Claim = msgspec.field(default_factory=Claim)
    extra: list[Extra] = []


class UserValidationRule(Strict):
    expression: str = ""
    message: str = ""


class JwtIssuer(Strict):
    issuer: Issuer = msgspec.field(default_factory=Issuer)
    claimValidationRules: list[ClaimValidationRule] = []
    claimMappings: ClaimMappings = msgspec.field(default_factory=ClaimMappings)
    userValidationRules: list[UserValidationRule] = []


class Condition(Strict):
    path: str = ""


class Anonymous(Strict):
    enabled: bool = False
    conditions: list[Condition] = []


class AuthenticationConfiguration(Strict):
    apiVersion: str = VERSIONS[0]
    kind: str = "AuthenticationConfiguration"
    jwt: list[JwtIssuer] = []
    anonymous: Anonymous | None = None


def load_configuration(path: Path, own_issuers: tuple[str, ...]) -> AuthenticationConfiguration:
    """Read a file; `own_issuers` sign service-account tokens and are nobody else's. Raises
    ConfigurationError. Expressions are compiled by those who use them."""
    return read_configuration(
        path,
        AuthenticationConfiguration,
        "an authentication configuration",
        lambda config: problems(config, own_issuers),
    )


def problems(config: AuthenticationConfiguration, own_issuers: tuple[str, ...]) -> Iterator[str]:
    if config.apiVersion not in VERSIONS or config.kind != "AuthenticationConfiguration":
        yield f"expected {VERSIONS[0]} AuthenticationConfiguration, not {config.apiVersion}"
    if len(config.jwt) > MAX_ISSUERS:
        yield f"jwt: Too many: {len(config.jwt)}: must have at most {MAX_ISSUERS} items"
    urls = [each.issuer.url for each in config.jwt]
    discoveries = [each.issuer.discoveryURL for each in config.jwt if each.issuer.discoveryURL]
    for name, values in (("url", urls), ("discoveryURL", discoveries)):
        for value in sorted({each for each in values if values.count(each) > 1}):
            yield f'jwt: Duplicate value: issuer.{name} "{value}"'
    for index, each in enumerate(config.jwt):
        where = f"jwt[{index}]"
        yield from _issuer_problems(each.issuer, f"{where}.issuer", own_issuers)
        yield from _rule_problems(each.claimValidationRules, f"{where}.claimValidationRules")
        yield from _mapping_problems(each.claimMappings, f"{where}.claimMappings")
        for number, rule in enumerate(each.userValidationRules):
            if not rule.expression:
                path = f"{where}.userValidationRules[{number}].expression"
                yield f"{path}: Required value"
    anonymous = config.anonymous
    if anonymous is not None and not anonymous.enabled and anonymous.conditions:
        yield "anonymous.conditions: enabled should be set to true when conditions are defined"


def _issuer_problems(issuer: Issuer, where: str, own: tuple[str, ...]) -> Iterator[str]:
    if not issuer.url:
        yield f"{where}.url: Required value"
    else:
        yield from _url_problems(issuer.url, f"{where}.url")
    if issuer.url in own:
        yield f"{where}.url: URL must not overlap with disallowed issuers: {list(own)}"
    if issuer.discoveryURL:
        yield from _url_problems(issuer.discoveryURL, f"{where}.discoveryURL")
        if issuer.discoveryURL.rstrip("/") == issuer.url.rstrip("/"):
            yield f"{where}.discoveryURL: discoveryURL must be different from URL"
    if not issuer.audiences:
        yield f"{where}.audiences: Required value: at least one {where}.audiences is required"
    if "" in issuer.audiences or len(set(issuer.audiences)) < len(issuer.audiences):
        yield f"{where}.audiences: must be distinct, and none empty"
    allowed = ("MatchAny",) if len(issuer.audiences) > 1 else ("", "MatchAny")
    if issuer.audienceMatchPolicy not in allowed:
        many = "multiple audiences" if len(issuer.audiences) > 1 else "single audience"
        yield f"{where}.audienceMatchPolicy: audienceMatchPolicy must be MatchAny for {many}"
    if issuer.egressSelectorType:
        yield f"{where}.egressSelectorType: egress selectors are not supported"
    if issuer.certificateAuthority:
        try:
            trusting(issuer.certificateAuthority)
        except ssl.SSLError:
            yield f"{where}.certificateAuthority: Invalid value: no certificates in it"


def _url_problems(url: str, where: str) -> Iterator[str]:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        yield f"{where}: {error}"
        return
    if parts.scheme != "https":
        yield f"{where}: URL scheme must be https"
    if parts.username is not None or parts.password is not None:
        yield f"{where}: URL must not contain a username or password"
    if parts.query:
        yield f"{where}: URL must not contain a query"
    if parts.fragment:
        yield f"{where}: URL must not contain a fragment"


def _rule_problems(rules: list[ClaimValidationRule], where: str) -> Iterator[str]:
    for index, rule in enumerate(rules):
        if bool(rule.claim) == bool(rule.expression):
            both = "claim and expression can't both be set"
            yield f"{where}[{index}]: {both if rule.claim else 'claim or expression is required'}"
        if rule.claim and rule.message:
            yield f"{where}[{index}].message: may not be specified when claim is set"
        if rule.expression and rule.requiredValue:
            yield f"{where}[{index}].requiredValue: may not be specified when expression is set"
    for names in ([each.claim for each in rules], [each.expression for each in rules]):
        for name in sorted({each for each in names if each and names.count(each) > 1}):
            yield f"{where}: Duplicate value: {name!r}"


def _mapping_problems(mappings: ClaimMappings, where: str) -> Iterator[str]:
    for name, mapping in (("username", mappings.username), ("groups", mappings.groups)):
        path = f"{where}.{name}"
        if mapping.claim and mapping.expression:
            yield f"{path}: claim and expression can't both be set"
        elif mapping.expression and mapping.prefix is not None:
            yield f"{path}.prefix: prefix can't be set when expression is set"
        elif mapping.claim and mapping.prefix is None:
            yield f"{path}.prefix: Required value: prefix is required when claim is set. " + (
                'It can be set to "" to disable prefixing'
            )
        elif not mapping.claim and mapping.prefix is not None:
            yield f"{path}.claim: Required value: non-empty claim name is required with a prefix"
        elif name == "username" and not (mapping.claim or mapping.expression):
            yield f"{path}: Required value: claim or expression is required"
    if mappings.uid.claim and mappings.uid.expression:
        yield f"{where}.uid: claim and expression can't both be set"
    keys = [each.key for each in mappings.extra]
    for index, extra in enumerate(mappings.extra):
        path = f"{where}.extra[{index}]"
        domain = extra.key.partition("/")[0]
        if not _DOMAIN_PATH.fullmatch(extra.key):
            yield f"{path}.key: must be a domain-prefixed path (such as 'acme.io/foo')"
        if extra.key != extra.key.lower():
            yield f"{path}.key: must be lowercase"
        if any(f".{domain}".endswith(each) for each in (".kubernetes.io", ".k8s.io")):
            yield f"{path}.key: k8s.io, kubernetes.io and their subdomains are reserved"
        if keys.count(extra.key) > 1:
            yield f"{path}.key: Duplicate value: {extra.key!r}"
        if not extra.valueExpression:
            yield f"{path}.valueExpression: Required value"
