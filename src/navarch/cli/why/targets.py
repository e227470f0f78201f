"""What is asked about: `NAME`, `TYPE/NAME` or `TYPE NAME`, with types as kubectl knows them."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from navarch.api.errors import ApiError
from navarch.api.kinds import KINDS, kind_by_name, split_api_version
from navarch.client import Client
from navarch.client.resource import ResourcePath


class UnknownTypeError(ValueError):
    """There is no such type."""


class Target(NamedTuple):
    type: str
    name: str


class Typed(NamedTuple):
    kind: str
    path: ResourcePath


POD = Typed("Pod", ResourcePath("", "v1", "pods", True))


def target_of(words: list[str]) -> Target:
    """Raises UnknownTypeError."""
    match words:
        case [word] if word.count("/") == 1:
            kind, _, name = word.partition("/")
        case [word] if "/" not in word:
            kind, name = "pod", word
        case [kind, name] if "/" not in kind + name:
            pass
        case _:
            raise UnknownTypeError("ask about one thing: NAME of a pod, TYPE/NAME, or TYPE NAME")
    if not kind or not name:
        raise UnknownTypeError("a name is missing: ask for TYPE/NAME")
    return Target(kind.lower(), name)


async def resource_of(client: Client, word: str) -> Typed:
    """Where objects of a type are. Raises UnknownTypeError, ApiError."""
    plain, _, group = word.partition(".")
    for each in KINDS:
        names = {each.plural, each.singular, each.kind.lower(), *each.short_names}
        if plain in names and group in ("", each.group):
            if not each.namespaced:
                raise UnknownTypeError(
                    f"{each.plural} are in no namespace: kubectl describe {word}"
                )
            return Typed(each.kind, ResourcePath(each.group, each.version, each.plural, True))
    groups = json.loads(await client.request("GET", "/apis"))["groups"]
    for found in groups:
        if group in ("", found["name"]):
            version = found["preferredVersion"]["groupVersion"]
            typed = await _discovered(client, version, plain)
            if typed is not None:
                return typed
    raise UnknownTypeError(f'the server has no namespaced resource type "{word}"')


async def path_of_kind(client: Client, api_version: str, kind: str) -> ResourcePath | None:
    """Where an owner is to be found; None if the server does not know its kind."""
    known = kind_by_name(*split_api_version(api_version), kind)
    if known is not None:
        return ResourcePath(known.group, known.version, known.plural, known.namespaced)
    if "/" not in api_version:
        return None
    found = await _discovered(client, api_version, kind.lower())
    return found.path if found is not None else None


async def _discovered(client: Client, group_version: str, name: str) -> Typed | None:
    try:
        answer = json.loads(await client.request("GET", f"/apis/{group_version}"))
    except ApiError as error:
        if error.status in (403, 404, 503):
            return None
        raise
    resources: list[dict[str, Any]] = answer.get("resources", [])
    for each in resources:
        names = {each["name"], each.get("singularName"), each["kind"].lower()}
        if "/" not in each["name"] and name in names | {*each.get("shortNames", ())}:
            group, _, version = group_version.partition("/")
            path = ResourcePath(group, version, each["name"], each["namespaced"])
            return Typed(each["kind"], path)
    return None
