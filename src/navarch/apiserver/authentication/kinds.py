"""Which kinds of tokens an API server takes, by its options."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from navarch.apiserver.authentication.bootstrap_tokens import BootstrapTokens
from navarch.apiserver.authentication.configuration import (
    Anonymous,
    AuthenticationConfiguration,
    ClaimMappings,
    ClaimValidationRule,
    Issuer,
    JwtIssuer,
    PrefixedClaim,
    load_configuration,
    problems,
)
from navarch.apiserver.authentication.keys import KeyRing
from navarch.apiserver.authentication.legacy_tokens import LegacyTokens, Used
from navarch.apiserver.authentication.static_tokens import StaticTokens, load_token_file
from navarch.apiserver.authentication.tokens import INVALID, ForeignToken, VerifiedToken
from navarch.apiserver.authentication.union import AnyAudience, Cached, TokenAuthenticator
from navarch.apiserver.authentication.webhook import WebhookTokens, load_remote
from navarch.apiserver.configuration_file import ConfigurationError
from navarch.apiserver.contracts import Lookup
from navarch.apiserver.options import ServerOptions

if TYPE_CHECKING:
    from navarch.apiserver.authentication.oidc import OidcTokens


@dataclass(frozen=True, slots=True)
class Setting:
    """What kinds of tokens work with."""

    keys: KeyRing
    lookup: Lookup
    audience: AnyAudience
    now: Callable[[], float]
    own_issuers: tuple[str, ...]
    used: Used | None = None


@dataclass(slots=True)
class TokenKinds:
    """The kinds besides service accounts' own, in the order in which they are asked."""

    before: list[TokenAuthenticator] = field(default_factory=list)
    after: list[TokenAuthenticator] = field(default_factory=list)
    issuers: ConfiguredIssuers | None = None


def token_kinds(options: ServerOptions, setting: Setting) -> TokenKinds:
    """Raises OSError or ValueError when a file is missing or makes no sense."""
    kinds = TokenKinds()
    if options.token_auth_file is not None:
        users = load_token_file(options.token_auth_file)
        kinds.before.append(StaticTokens(users, setting.audience))
    legacy = LegacyTokens(setting.keys, setting.lookup, setting.audience, setting.now, setting.used)
    kinds.after.append(legacy)
    if options.enable_bootstrap_token_auth:
        kinds.after.append(BootstrapTokens(setting.lookup, setting.audience, setting.now))
    if options.authentication_config is not None:
        if options.oidc_issuer_url:
            raise ConfigurationError(
                "--authentication-config and the --oidc-* options exclude each other"
            )
        kinds.issuers = ConfiguredIssuers(options.authentication_config, setting)
        kinds.after.append(kinds.issuers)
    elif options.oidc_issuer_url:
        config = legacy_configuration(options)
        found = list(problems(config, setting.own_issuers))
        if found:
            raise ConfigurationError(f"--oidc-*: {'; '.join(found)}")
        kinds.after += _issuers(config, setting, options.oidc_signing_algs)
    if options.authentication_token_webhook_config_file is not None:
        remote = load_remote(options.authentication_token_webhook_config_file)
        tokens = WebhookTokens(remote, options.authentication_token_webhook_version)
        seconds = options.authentication_token_webhook_cache_seconds
        kinds.after.append(Cached(tokens, setting.now, seconds))
    return kinds


def legacy_configuration(options: ServerOptions) -> AuthenticationConfiguration:
    """The `--oidc-*` options as upstream understands them."""
    prefix = options.oidc_username_prefix
    if prefix == "-":
        prefix = ""
    elif not prefix and options.oidc_username_claim != "email":
        # Names of other kinds of users cannot be taken by a provider who hands out any name.
        prefix = f"{options.oidc_issuer_url}#"
    groups = PrefixedClaim()
    if options.oidc_groups_claim:
        groups = PrefixedClaim(options.oidc_groups_claim, options.oidc_groups_prefix)
    authority = ""
    if options.oidc_ca_file is not None:
        authority = options.oidc_ca_file.read_text()
    rules = []
    for each in options.oidc_required_claim:
        claim, separator, value = each.partition("=")
        if not separator:
            raise ConfigurationError(f"--oidc-required-claim: {each!r} is not key=value")
        rules.append(ClaimValidationRule(claim, value))
    audiences = [options.oidc_client_id] if options.oidc_client_id else []
    issuer = Issuer(options.oidc_issuer_url, "", authority, audiences)
    username = PrefixedClaim(options.oidc_username_claim, prefix)
    mappings = ClaimMappings(username=username, groups=groups)
    return AuthenticationConfiguration(jwt=[JwtIssuer(issuer, rules, mappings)])


def _issuers(
    config: AuthenticationConfiguration, setting: Setting, algorithms: tuple[str, ...] = ()
) -> list[OidcTokens]:
    """One authenticator per issuer. The expression language is only loaded where it is needed."""
    from navarch.apiserver.authentication.oidc import (
        ALGORITHMS,
        HttpsFetcher,
        OidcParts,
        OidcTokens,
        PublishedKeys,
    )

    if unknown := sorted(set(algorithms) - set(ALGORITHMS)):
        raise ConfigurationError(f"oidc: unsupported signing alg: {', '.join(unknown)}")
    found = []
    for each in config.jwt:
        fetch = HttpsFetcher(each.issuer.certificateAuthority)
        keys = PublishedKeys(each.issuer.url, each.issuer.discoveryURL, fetch, setting.now)
        parts = OidcParts(keys, setting.audience, setting.now, algorithms or ALGORITHMS)
        found.append(OidcTokens(each, parts))
    return found


class ConfiguredIssuers:
    """The issuers of a file that may change while the server runs. Implements
    `TokenAuthenticator`."""

    def __init__(self, path: Path, setting: Setting) -> None:
        self.path = path
        self.anonymous: Anonymous | None = None
        self._setting = setting
        self._issuers: list[OidcTokens] = []
        self.reload()

    def reload(self) -> None:
        """Raises ConfigurationError; then what was read before goes on."""
        config = load_configuration(self.path, self._setting.own_issuers)
        self._issuers = _issuers(config, self._setting)
        self.anonymous = config.anonymous

    async def verify(self, token: str, audiences: tuple[str, ...]) -> VerifiedToken:
        for issuer in self._issuers:
            try:
                return await issuer.verify(token, audiences)
            except ForeignToken:
                continue
        raise ForeignToken(INVALID)

    def admits_anonymous(self, path: str) -> bool:
        """Whether a path may be asked without credentials."""
        anonymous = self.anonymous
        if anonymous is None:
            return True
        allowed = [each.path for each in anonymous.conditions]
        return anonymous.enabled and (not allowed or path in allowed)
