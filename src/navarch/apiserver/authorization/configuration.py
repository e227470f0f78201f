"""Which authorizers there are, in which order: the file AuthorizationConfiguration (KEP-3221).

Without a file the order is Node, RBAC. Whatever the file says, `system:masters` may do everything:
an administrator can always mend what a webhook broke.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from navarch.api.times import parse_duration
from navarch.apiserver.configuration_file import VERSIONS, Strict, read_configuration

if TYPE_CHECKING:
    from navarch.apiserver.authorization.webhook import WebhookAuthorizer

MAX_TIMEOUT, MAX_CONDITIONS = 30.0, 64


class ConnectionInfo(Strict):
    type: str = ""
    kubeConfigFile: str = ""


class MatchCondition(Strict):
    expression: str = ""


class Webhook(Strict):
    authorizedTTL: str = "5m"
    cacheAuthorizedRequests: bool = True
    unauthorizedTTL: str = "30s"
    cacheUnauthorizedRequests: bool = True
    timeout: str = ""
    subjectAccessReviewVersion: str = ""
    matchConditionSubjectAccessReviewVersion: str = ""
    failurePolicy: str = ""
    connectionInfo: ConnectionInfo = msgspec.field(default_factory=ConnectionInfo)
    matchConditions: list[MatchCondition] = []


class AuthorizerEntry(Strict):
    type: str = ""
    name: str = ""
    webhook: Webhook | None = None


class AuthorizationConfiguration(Strict):
    apiVersion: str = ""
    kind: str = ""
    authorizers: list[AuthorizerEntry] = []


def load_authorizers(path: Path) -> list[AuthorizerEntry]:
    """The entries of a file, checked. Raises ValueError."""
    what = "an authorization configuration"
    return read_configuration(path, AuthorizationConfiguration, what, _problems).authorizers


def webhook_of(entry: AuthorizerEntry, now: Callable[[], float]) -> WebhookAuthorizer:
    """Raises OSError or ValueError. The network and the expression language are loaded here."""
    from navarch.apiserver.authentication.webhook import load_remote
    from navarch.apiserver.authorization.webhook import (
        Behaviour,
        WebhookAuthorizer,
        compile_condition,
    )

    config = entry.webhook
    assert config is not None
    behaviour = Behaviour(
        entry.name,
        config.subjectAccessReviewVersion,
        parse_duration(config.timeout),
        parse_duration(config.authorizedTTL) if config.cacheAuthorizedRequests else 0.0,
        parse_duration(config.unauthorizedTTL) if config.cacheUnauthorizedRequests else 0.0,
        config.failurePolicy == "Deny",
    )
    remote = load_remote(Path(config.connectionInfo.kubeConfigFile))
    conditions = [compile_condition(each.expression) for each in config.matchConditions]
    return WebhookAuthorizer(remote, behaviour, conditions, now)


def _problems(config: AuthorizationConfiguration) -> Iterator[str]:
    if config.apiVersion not in VERSIONS or config.kind != "AuthorizationConfiguration":
        yield f"expected {VERSIONS[0]} AuthorizationConfiguration, not {config.apiVersion}"
    if not config.authorizers:
        yield "authorizers: at least one authorization mode must be defined"
    types = [each.type for each in config.authorizers]
    for kind in ("Node", "RBAC"):
        if types.count(kind) > 1:
            yield f"authorizers: Duplicate value: {kind!r}"
    names = [each.name for each in config.authorizers]
    for index, each in enumerate(config.authorizers):
        where = f"authorizers[{index}]"
        if each.type not in ("Node", "RBAC", "Webhook"):
            yield f"{where}.type: Unsupported value: {each.type!r}"
        if not each.name or names.count(each.name) > 1:
            yield f"{where}.name: each needs a name of its own"
        if (each.type == "Webhook") != (each.webhook is not None):
            yield f"{where}.webhook: must be set for a webhook, and for nothing else"
        if each.webhook is not None:
            yield from _webhook_problems(each.webhook, f"{where}.webhook")


def _webhook_problems(webhook: Webhook, where: str) -> Iterator[str]:
    for name in ("timeout", "authorizedTTL", "unauthorizedTTL"):
        try:
            value = parse_duration(getattr(webhook, name))
        except ValueError as error:
            yield f"{where}.{name}: {error}"
            continue
        if name == "timeout" and not 0 < value <= MAX_TIMEOUT:
            yield f"{where}.timeout: must be above 0s and no more than 30s"
        elif value < 0:
            yield f"{where}.{name}: must not be negative"
    if webhook.subjectAccessReviewVersion not in ("v1", "v1beta1"):
        yield f"{where}.subjectAccessReviewVersion: v1 or v1beta1"
    if webhook.matchConditions and webhook.matchConditionSubjectAccessReviewVersion != "v1":
        yield f"{where}.matchConditionSubjectAccessReviewVersion: must be v1"
    if webhook.failurePolicy not in ("NoOpinion", "Deny"):
        yield f"{where}.failurePolicy: NoOpinion or Deny"
    if webhook.connectionInfo.type != "KubeConfigFile" or not webhook.connectionInfo.kubeConfigFile:
        yield f"{where}.connectionInfo: has to be a KubeConfigFile, with its path"
    if len(webhook.matchConditions) > MAX_CONDITIONS:
        yield f"{where}.matchConditions: at most {MAX_CONDITIONS}"
