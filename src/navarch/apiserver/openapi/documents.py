"""The OpenAPI documents: built at the first request, kept compressed, made anew when CRDs change.

The index names every document with a hash that stands for its content. It is taken from what the
document is made of (the schema data, the code, the definitions of custom resources), so that an
index costs no document. Documents are written piece by piece into the compressor: the largest has
megabytes of text, and only its compressed form is ever whole in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from navarch.api.kinds import Kind
from navarch.api.schema import facts as schema_facts
from navarch.api.schema.facts import TypeFacts, schema_for, type_facts
from navarch.apiserver.discovery.documents import served_groups
from navarch.apiserver.openapi import gnostic
from navarch.apiserver.openapi.custom import custom_definitions, custom_name
from navarch.apiserver.openapi.definitions import PATCH, Definitions, definition_name
from navarch.apiserver.openapi.descriptions import descriptions_path, load_descriptions
from navarch.apiserver.openapi.paths import CUSTOM_PATCH_TYPES, Names, render_path, resource_paths
from navarch.apiserver.registry.resource import Catalog, Resource

Object = dict[str, Any]
GroupVersion = tuple[str, str]

TITLE = "Kubernetes"
VERSION = "v1.36.0"
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Document:
    """A document's gzip form and the hash of what it was made of."""

    compressed: bytes
    hash: str


@dataclass(frozen=True, slots=True)
class Extension:
    """What an extension API server says of one of its group versions: the document of OpenAPI v3,
    compressed, and its part of the Swagger document."""

    hash: str
    v3: bytes
    paths: Object
    definitions: Object


@dataclass(frozen=True, slots=True)
class Served:
    """The resources of one group version; custom ones with their definitions."""

    kinds: tuple[Kind, ...]
    custom: tuple[Resource, ...]

    @property
    def hash(self) -> str:
        digest = hashlib.sha512(fixed_digest())
        for kind in self.kinds:
            digest.update(f"{kind}/{kind.version};".encode())
        for resource in self.custom:
            digest.update(repr(resource.kind).encode())
            digest.update(_encode((resource.definition or {}).get("spec")))
        return digest.hexdigest().upper()


@cache
def fixed_digest() -> bytes:
    """Stands for everything that documents are made of, except custom resources."""
    digest = hashlib.sha512()
    schema = Path(schema_facts.__file__).parent
    for path in sorted((*Path(__file__).parent.glob("*.py"), *schema.glob("data/*.json"))):
        digest.update(path.read_bytes())
    prose = descriptions_path()
    if prose is not None:
        digest.update(str(prose.stat().st_size).encode())
    return digest.digest()


def path_of(group: str, version: str) -> str:
    """`api/v1`, `apis/apps/v1`: how the index calls a group version."""
    return f"apis/{group}/{version}" if group else f"api/{version}"


class OpenApi:
    """The documents of what the catalog serves now."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._generation = -1
        self._served: dict[GroupVersion, Served] = {}
        self._hashes: dict[str, str] = {}
        self._documents: dict[str, Document] = {}
        self._build = asyncio.Lock()
        self._extensions: dict[str, Extension] = {}

    def set_extension(self, path: str, found: Extension | None) -> None:
        """Publish what an extension server says of a group version (`apis/<group>/<version>`); None
        takes it back."""
        if self._extensions.pop(path, None) != found:
            self._generation = -1
        if found is not None:
            self._extensions[path] = found

    def index(self) -> Object:
        """Where each group version's document is."""
        self._refresh()
        return {
            "paths": {
                path: {"serverRelativeURL": f"/openapi/v3/{path}?hash={hash_}"}
                for path, hash_ in self._hashes.items()
            }
        }

    def v3_hash(self, path: str) -> str | None:
        """The hash of a group version's document; None when the group version is not served."""
        self._refresh()
        return self._hashes.get(path)

    async def v3(self, path: str) -> Document | None:
        """The document of a group version, by its path in the index."""
        return await self._document(path)

    async def v2(self, is_protobuf: bool) -> Document:
        """The Swagger document of everything."""
        found = await self._document("v2.pb" if is_protobuf else "v2")
        assert found is not None
        return found

    def _refresh(self) -> None:
        if self._generation == self.catalog.generation:
            return
        custom = {(*each.kind.gvk[:2], each.kind.plural): each for each in self.catalog.custom()}
        self._served = {}
        for group in served_groups(each.kind for each in custom.values()):
            for version, kinds in group.versions.items():
                keys = [(group.name, version, kind.plural) for kind in kinds]
                resources = tuple(custom[key] for key in keys if key in custom)
                own = tuple(
                    kind for kind, key in zip(kinds, keys, strict=True) if key not in custom
                )
                if own or resources:
                    self._served[group.name, version] = Served(own, resources)
        self._hashes = {path_of(*key): served.hash for key, served in self._served.items()}
        self._hashes |= {path: found.hash for path, found in self._extensions.items()}
        self._generation = self.catalog.generation
        for path in list(self._documents):
            if self._current_hash(path) != self._documents[path].hash:
                del self._documents[path]

    def _current_hash(self, path: str) -> str | None:
        if path.startswith("v2"):
            return hashlib.sha512("".join(self._hashes.values()).encode()).hexdigest().upper()
        return self._hashes.get(path)

    async def _document(self, path: str) -> Document | None:
        """One at a time and off the event loop: it takes tenths of a second."""
        self._refresh()
        found = self._documents.get(path)
        if found is not None:
            return found
        async with self._build:
            self._refresh()
            hash_ = self._current_hash(path)
            found = self._documents.get(path)
            if found is not None or hash_ is None:
                return found
            if path in self._extensions:
                return Document(self._extensions[path].v3, hash_)
            if path.startswith("v2"):
                extensions = list(self._extensions.values())
                served = {
                    key: each
                    for key, each in self._served.items()
                    if path_of(*key) not in self._extensions
                }
                pieces = v2_pieces(served, path == "v2.pb", extensions)
            else:
                key = next(key for key in self._served if path_of(*key) == path)
                pieces = v3_pieces(key, self._served[key])
            compressed = await asyncio.to_thread(_compress, pieces)
            document = Document(compressed, hash_)
            if self._current_hash(path) == hash_:
                self._documents[path] = document
            return document


def _compress(pieces: Iterator[bytes]) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, 31)
    out = [compressor.compress(piece) for piece in pieces]
    return b"".join([*out, compressor.flush()])


def v3_pieces(group_version: GroupVersion, served: Served) -> Iterator[bytes]:
    """The text of one group version's document."""
    definitions = Definitions(True, load_descriptions(), group_version)
    info = {"title": TITLE, "version": VERSION}
    yield b'{"openapi":"3.0.0","info":%b,"paths":' % _encode(info)
    yield from _members(_paths({group_version: served}, definitions))
    yield b',"components":{"schemas":'
    yield from _members(_schemas({group_version: served}, definitions))
    yield b"}}"


def v2_pieces(
    served: dict[GroupVersion, Served], is_protobuf: bool, extensions: Sequence[Extension] = ()
) -> Iterator[bytes]:
    """The Swagger document, as JSON text or as protobuf."""
    definitions = Definitions(False, load_descriptions())
    foreign_paths, foreign = merged(extensions)
    paths = chain(_paths(served, definitions), foreign_paths.items())
    schemas = _with_foreign(_schemas(served, definitions), foreign)
    if is_protobuf:
        yield gnostic.encode_header(TITLE, VERSION)
        for path, item in paths:
            yield gnostic.encode_path(path, item)
        for name, schema in schemas:
            yield gnostic.encode_definition(name, schema)
        return
    info = {"title": TITLE, "version": VERSION}
    yield b'{"swagger":"2.0","info":%b,"paths":' % _encode(info)
    yield from _members(paths)
    yield b',"definitions":'
    yield from _members(schemas)
    yield b"}"


def merged(extensions: Sequence[Extension]) -> tuple[Object, Object]:
    """Paths and definitions of all extension servers. Definitions that two of them mean differently
    keep apart by a suffix."""
    paths: Object = {}
    definitions: Object = {}
    for each in extensions:
        renamed = {}
        for name, schema in each.definitions.items():
            unique, number = name, 1
            while definitions.get(unique, schema) != schema:
                number += 1
                unique = f"{name}_v{number}"
            definitions[unique] = schema
            if unique != name:
                renamed[f"#/definitions/{name}"] = f"#/definitions/{unique}"
        paths |= _redirected(each.paths, renamed) if renamed else each.paths
        for name in renamed.values():
            own = name.removeprefix("#/definitions/")
            definitions[own] = _redirected(definitions[own], renamed)
    return paths, definitions


def _redirected(value: Any, renamed: dict[str, str]) -> Any:
    """A copy with references to renamed definitions."""
    if isinstance(value, dict):
        return {
            key: renamed.get(each, each)
            if key == "$ref" and isinstance(each, str)
            else _redirected(each, renamed)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_redirected(each, renamed) for each in value]
    return value


def _with_foreign(own: Iterator[tuple[str, Object]], foreign: Object) -> Iterator[tuple[str, Any]]:
    """Our definitions, then those of extension servers that we have not: the types of meta.k8s.io
    are everywhere the same."""
    seen = set()
    for name, schema in own:
        seen.add(name)
        yield name, schema
    yield from ((name, schema) for name, schema in foreign.items() if name not in seen)


def _members(pairs: Iterator[tuple[str, Object]]) -> Iterator[bytes]:
    """The text of an object, member by member."""
    separator = b"{"
    for name, value in pairs:
        yield b"%b%b:%b" % (separator, _encode(name), _encode(value))
        separator = b","
    yield b"{}" if separator == b"{" else b"}"


def _schemas(
    served: dict[GroupVersion, Served], definitions: Definitions
) -> Iterator[tuple[str, Object]]:
    for group_version in served.values():
        for resource in group_version.custom:
            found = custom_definitions(resource, definitions.prefix, definitions.is_v3)
            yield from found.items()
    yield from definitions.definitions()


def _paths(
    served: dict[GroupVersion, Served], definitions: Definitions
) -> Iterator[tuple[str, Object]]:
    """Every path; the types that operations speak of become wanted definitions."""
    for (group, version), each in served.items():
        tag = f"{group.removesuffix('.k8s.io').replace('.', '_') or 'core'}_{version}"
        for kind in (*each.kinds, *(resource.kind for resource in each.custom)):
            is_custom = kind not in each.kinds
            names, spoken = _names(kind, is_custom, definitions)
            for path in resource_paths(kind, names, spoken):
                yield path.path, render_path(path, tag, definitions.is_v3)


def _names(
    kind: Kind, is_custom: bool, definitions: Definitions
) -> tuple[Names, dict[tuple[str, str, str], str]]:
    """The definitions of a kind, of its list, and of what its subresources speak."""
    wanted = [type_facts("meta_v1", name) for name in ("Status", "DeleteOptions", "ObjectMeta")]
    wanted += [type_facts("meta_v1", name) for name in ("ListMeta", "WatchEvent")]
    spoken = {}
    for sub in kind.subresources:
        facts = _facts(sub.group, sub.version, sub.kind)
        if facts is not None:
            wanted.append(facts)
            spoken[sub.group, sub.version, sub.kind] = definition_name(facts.name)
    if is_custom:
        group, version = kind.group, kind.version
        names = Names(
            custom_name(group, version, kind.kind),
            custom_name(group, version, kind.list_kind),
            CUSTOM_PATCH_TYPES,
        )
    else:
        own = schema_for(*kind.gvk)
        of_list = _facts(kind.group, kind.version, kind.list_kind) if kind.list_kind else None
        wanted += [own, *([of_list] if of_list else ())]
        names = Names(definition_name(own.name), definition_name(of_list.name) if of_list else "")
    definitions.want(wanted, [PATCH])
    return names, spoken


def _facts(group: str, version: str, kind: str) -> TypeFacts | None:
    try:
        return schema_for(group, version, kind)
    except KeyError:
        return None
