"""Puts authentication, authorization and admission together over the hub's caches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from navarch.api.errors import ApiError
from navarch.api.patch.common import copy_json
from navarch.apiserver.admission import (
    OFF_BY_DEFAULT,
    AdmissionAccess,
    WebhookParts,
    build_admission,
)
from navarch.apiserver.authentication import Authentication, build_authenticator
from navarch.apiserver.authentication.legacy_tokens import LAST_USED, LastUses
from navarch.apiserver.authorization import Authorization, build_authorizer
from navarch.apiserver.contracts import (
    AdmissionPlugin,
    Authenticator,
    Authorizer,
    Lookup,
    RequestInfo,
)
from navarch.apiserver.options import ServerOptions
from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.registry.registry import Registry
from navarch.apiserver.registry.resource import Resource
from navarch.apiserver.webhooks.client import WebhookClient

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Security:
    """Who decides who may do what. `authentication` and `authorization` are the full objects behind
    the token and review kinds, None in tests that bring simpler ones."""

    authenticator: Authenticator
    authorizer: Authorizer
    plugins: Sequence[AdmissionPlugin] = ()
    authentication: Authentication | None = None
    authorization: Authorization | None = None
    admits_anonymous: Callable[[str], bool] | None = None
    """Whether a path may be asked without credentials, where a file says so and not the option."""
    last_uses: LastUses | None = None
    """Of tokens in secrets, to be written down."""


def build_security(
    options: ServerOptions, registry: Registry, lookup: Lookup, webhooks: WebhookClient
) -> Security:
    """The default security. The caches must be loaded: the authorizers read them at once."""
    last_uses = LastUses()
    authentication = build_authenticator(options, lookup, used=last_uses.note)
    authorization = build_authorizer(lookup, options.authorization_config)
    access = admission_access(registry, lookup)
    parts = WebhookParts(access, registry.catalog, webhooks, authorization)
    plugins = build_admission(access, authorization, parts)
    wanted, unwanted = (
        set(names)
        for names in (options.enable_admission_plugins, options.disable_admission_plugins)
    )
    unknown = (wanted | unwanted) - {plugin.name for plugin in plugins}
    if unknown:
        raise ValueError(f"unknown admission plug-ins: {', '.join(sorted(unknown))}")
    unwanted |= OFF_BY_DEFAULT - wanted
    plugins = [each for each in plugins if each.name not in unwanted]
    issuers = authentication.issuers
    return Security(
        authentication,
        authorization,
        plugins,
        authentication,
        authorization,
        issuers.admits_anonymous if issuers is not None else None,
        last_uses,
    )


def admission_access(registry: Registry, lookup: Lookup) -> AdmissionAccess:
    """What the admission plug-ins may read and write, on this registry."""

    async def get(resource: str, namespace: str, name: str) -> Object | None:
        served = _resource(registry, resource)
        stored = served.stored_kind
        kv = await registry.store.get(stored.key(namespace, name))
        if kv is None:
            return None
        await registry.hub.wait_for(kv.mod_revision)
        entry = served.cache.get(namespace, name)
        return served.decode(entry) if entry is not None else None

    async def update_status(resource: str, obj: Object) -> Object:
        served = _resource(registry, resource)
        context = system_context(served, obj, "update", "status")
        metadata = obj["metadata"]
        key = metadata.get("namespace", ""), metadata["name"]
        written = await registry.update(served, key, lambda old: copy_json(obj), context, "status")
        return written.obj

    return AdmissionAccess(lookup, get, update_status)


async def label_last_use(registry: Registry, namespace: str, name: str, day: str) -> None:
    """Write the day on which the token of a secret was used last."""

    def change(secret: Object) -> None:
        secret["metadata"].setdefault("labels", {})[LAST_USED] = day

    await registry.modify(_resource(registry, "secrets"), (namespace, name), change)


def system_context(
    resource: Resource, obj: Object, verb: str, subresource: str = ""
) -> WriteContext:
    """The context of a write that the server makes for itself."""
    kind, metadata = resource.kind, obj["metadata"]
    info = RequestInfo(
        True,
        "",
        verb,
        kind.group,
        kind.version,
        kind.plural,
        subresource,
        metadata.get("namespace", ""),
        metadata.get("name", ""),
    )
    return WriteContext(info)


def _resource(registry: Registry, name: str) -> Resource:
    resource = registry.catalog.by_name(name)
    if resource is None:
        raise ApiError(404, "NotFound", f"the resource {name} is not served", {})
    return resource
