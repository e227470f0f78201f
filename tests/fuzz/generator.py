"""Requests at random: objects of every kind as its schema knows them, and then damaged.

Everything comes from one seed: the same seed makes the same requests.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import quote

from tests.fuzz import values
from tests.unit.api.strategies.test_all_kinds import new_object

from navarch.api.kinds import KINDS, Kind
from navarch.api.schema.facts import Shape, TypeFacts, schema_for

Object = dict[str, Any]

GLOBAL = frozenset(
    {
        "apiservices",
        "customresourcedefinitions",
        "flowschemas",
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
        "mutatingwebhookconfigurations",
        "prioritylevelconfigurations",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "validatingwebhookconfigurations",
    }
)
"""Kinds whose objects change what the server answers to everything: only ever written dry."""
ABYSS = "abyss"
"""Stands for nesting that no encoder of ours could write."""
NAMES = ("a", "b", "c", "there")
PATCHES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)
THING = Kind(
    group="fuzz.example",
    version="v1",
    kind="Thing",
    plural="things",
    singular="thing",
    namespaced=True,
    subresources=(),
)
THING_SCHEMA: Object = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "x-kubernetes-validations": [
                {"rule": "!has(self.low) || !has(self.high) || self.low <= self.high"},
                {"rule": "!has(self.name) || self.name == oldSelf.name", "optionalOldSelf": False},
            ],
            "properties": {
                "name": {"type": "string", "pattern": "^(a+)+$", "maxLength": 20},
                "low": {"type": "integer", "format": "int32", "minimum": 0, "multipleOf": 2},
                "high": {"type": "integer", "format": "int64", "default": 10},
                "ratio": {"type": "number", "exclusiveMinimum": True, "minimum": 0},
                "when": {"type": "string", "format": "date-time", "nullable": True},
                "size": {"x-kubernetes-int-or-string": True},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                "whole": {"type": "object", "x-kubernetes-embedded-resource": True,
                          "x-kubernetes-preserve-unknown-fields": True},
                "mode": {"type": "string", "enum": ["on", "off"], "default": "on"},
                "set": {"type": "array", "x-kubernetes-list-type": "set", "maxItems": 5,
                        "items": {"type": "string", "maxLength": 9}},
                "map": {"type": "array", "x-kubernetes-list-type": "map", "maxItems": 9,
                        "x-kubernetes-list-map-keys": ["key"],
                        "items": {"type": "object", "required": ["key"], "properties": {
                            "key": {"type": "string", "maxLength": 9},
                            "value": {"type": "integer"}},
                            "x-kubernetes-validations": [{"rule": "self.key != 'bad'"}]}},
                "labels": {"type": "object", "maxProperties": 4,
                           "additionalProperties": {"type": "string", "format": "ipv4"}},
            },
            "anyOf": [{"required": ["low"]}, {"required": ["name"]}, {"required": ["mode"]}],
        },
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    },
}  # fmt: skip
THING_DEFINITION: Object = {
    "metadata": {"name": "things.fuzz.example"},
    "spec": {
        "group": "fuzz.example",
        "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": THING_SCHEMA},
                "subresources": {
                    "status": {},
                    "scale": {
                        "specReplicasPath": ".spec.high",
                        "statusReplicasPath": ".status.replicas",
                    },
                },
                "additionalPrinterColumns": [
                    {"name": "Mode", "type": "string", "jsonPath": ".spec.mode"},
                    {"name": "When", "type": "date", "jsonPath": ".spec.when"},
                    {"name": "Keys", "type": "integer", "jsonPath": ".spec.map[*].value"},
                ],
                "selectableFields": [{"jsonPath": ".spec.mode"}],
            }
        ],
    },
}


@dataclass(frozen=True)
class Request:
    """What goes over the wire."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    is_chunked: bool = False
    is_watch: bool = field(default=False)

    def wire(self) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: fuzz"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        body = self.body
        if body is not None and self.is_chunked:
            lines.append("Transfer-Encoding: chunked")
            pieces = (body[at : at + 5000] for at in range(0, len(body), 5000))
            body = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces)
            body += b"0\r\n\r\n"
        elif body is not None:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
        return head + (body or b"")

    def __str__(self) -> str:
        headers = "".join(f"\n  {name}: {value[:200]}" for name, value in self.headers)
        return f"{self.method} {self.path[:500]}{headers}\n  {(self.body or b'')[:3000]!r}"


class Generator:
    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.kinds = [kind for kind in KINDS if "create" in kind.verbs]
        self.budget = 0

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    # ---- values

    def anything(self) -> Any:
        if self.chance(0.05):
            return self.random.choice((self.nested(3), self.nested(30), self.nested(150), ABYSS))
        return copy.deepcopy(self.random.choice(self.random.choice(values.EVERYTHING)))

    def nested(self, depth: int) -> Any:
        made: Any = 1
        for _ in range(depth):
            made = [made] if self.chance(0.5) else {"a": made}
        return made

    def value(self, facts: TypeFacts, name: str, depth: int = 0) -> Any:
        """A value of the type, mostly a sensible one."""
        self.budget -= 1
        match facts.shape:
            case Shape.STRUCT:
                return self.struct(facts, depth)
            case Shape.LIST if facts.item is not None:
                count = self.random.choice((0, 1, 1, 2)) if self.budget > 0 else 0
                return [self.value(facts.item, name, depth + 1) for _ in range(count)]
            case Shape.MAP if facts.item is not None:
                keys = [self.random.choice(values.NAMES) for _ in range(self.random.randrange(3))]
                return {key: self.value(facts.item, name, depth + 1) for key in keys}
            case Shape.SCALAR:
                return self.scalar(facts.scalar, name)
        return self.anything()

    def struct(self, facts: TypeFacts, depth: int) -> Object:
        share = 0.5 / (1 + depth)
        return {
            name: self.value(each.type, name, depth + 1)
            for name, each in facts.fields.items()
            if each.required or (self.budget > 0 and self.chance(share))
        }

    def scalar(self, scalar: str, name: str) -> Any:
        pick = self.random.choice
        match scalar:
            case "boolean":
                return self.chance(0.5)
            case "int32" | "int64":
                return pick(values.INTEGERS[:7]) if self.chance(0.8) else pick(values.INTEGERS)
            case "double":
                return pick(values.FLOATS)
            case "bytes":
                return pick(("YWJj", "", "AA==", "%", "YQ"))
            case "quantity":
                return pick(values.QUANTITIES)
            case "int-or-string":
                return pick((80, "80", "http", "50%", -1, "101%", 2**40, ""))
            case "time" | "micro-time":
                return pick(values.TIMES)
        return pick(values.BY_FIELD.get(name.lower(), values.STRINGS))

    # ---- objects

    def object_of(self, kind: Kind) -> Object:
        """A valid object with something of its schema added, and now and then damaged."""
        if kind is THING:
            obj: Object = {"apiVersion": "fuzz.example/v1", "kind": "Thing"}
            obj["spec"] = {"low": 2, "high": 4, "mode": "on", "set": ["a"], "map": [{"key": "a"}]}
            obj["metadata"] = {}
        else:
            obj = copy.deepcopy(new_object(kind))
        metadata: Object = {"name": self.random.choice(NAMES)}
        if kind.namespaced:
            metadata["namespace"] = "default"
        obj["metadata"] = metadata
        if self.chance(0.6) and kind is not THING:
            facts = schema_for(kind.group, kind.version, kind.kind)
            self.budget = self.random.choice((5, 20, 60))
            if self.chance(0.2):
                metadata |= self.value(facts.fields["metadata"].type, "metadata")
            for _ in range(self.random.randrange(3)):
                self.enrich(obj, facts)
        for _ in range(self.random.choice((0, 0, 1, 1, 2, 5))):
            self.damage(obj)
        return obj

    def enrich(self, obj: Object, facts: TypeFacts) -> None:
        """Give one field somewhere in the object a value of its type."""
        names = [name for name in facts.fields if name not in ("apiVersion", "kind", "metadata")]
        if not names:
            return
        name = self.random.choice(names)
        inner, below = facts.fields[name].type, obj.get(name)
        if inner.shape is Shape.LIST and isinstance(below, list) and below:
            inner, below = inner.item or inner, below[0]
        if inner.shape is Shape.STRUCT and isinstance(below, dict) and self.chance(0.85):
            self.enrich(below, inner)
        else:
            obj[name] = self.value(facts.fields[name].type, name, 1)

    def places(self, value: Any) -> list[tuple[Any, Any]]:
        """Every (container, key) of the value."""
        found: list[tuple[Any, Any]] = []
        stack = [value]
        while stack and len(found) < 500:
            top = stack.pop()
            pairs = top.items() if isinstance(top, dict) else enumerate(top)
            for key, below in pairs:
                found.append((top, key))
                if isinstance(below, (dict, list)):
                    stack.append(below)
        return found

    def damage(self, obj: Any) -> None:
        places = self.places(obj)
        if not places:
            return
        holder, key = self.random.choice(places)
        match self.random.randrange(8):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[self.random.choice((key.swapcase(), "x" * 300, "", "$patch", "é"))] = 1
            case 2:
                holder[key] = [holder[key]]
            case 3:
                holder[key] = None
            case 4 if isinstance(holder, list):
                holder.extend(copy.deepcopy(holder[:50]))
            case 5 if isinstance(holder[key], str):
                holder[key] = self.random.choice(
                    values.BY_FIELD.get(str(key).lower(), values.STRINGS)
                )
            case _:
                holder[key] = self.anything()

    # ---- bytes

    def encode(self, value: Any, media_type: str) -> bytes:
        if media_type.endswith("protobuf"):
            return self.protobuf(value)
        text = json.dumps(value, ensure_ascii=self.chance(0.8))
        if self.chance(0.05) and ": " in text:
            # The same key twice.
            text = text.replace("{", '{"metadata": {"name": "a"}, ', 1)
        if self.chance(0.02):
            text = text.replace("80", self.random.choice(("1e400", "-0", "NaN", "1E+2", "0x10")))
        if ABYSS in text:
            text = text.replace(f'"{ABYSS}"', '[{"a":' * 10_000 + "1" + "}]" * 10_000)
        data = text.encode("utf-8", "surrogatepass")
        return self.broken(data) if self.chance(0.08) else data

    def broken(self, data: bytes) -> bytes:
        at = self.random.randrange(len(data) + 1)
        match self.random.randrange(6):
            case 0:
                return data[:at]
            case 1:
                return data[:at] + self.random.randbytes(self.random.choice((1, 4, 40))) + data[at:]
            case 2:
                return data + data
            case 3:
                return data[:at] + data[at + 1 :]
            case 4:
                return self.random.choice(values.BODIES)
        spoiled = bytearray(data)
        for _ in range(self.random.randrange(1, 9)):
            if spoiled:
                spoiled[self.random.randrange(len(spoiled))] = self.random.randrange(256)
        return bytes(spoiled)

    def protobuf(self, value: Any) -> bytes:
        def text(key: str) -> bytes:
            found = value.get(key) if isinstance(value, dict) else None
            return found.encode("utf-8", "replace") if isinstance(found, str) else b""

        type_meta = tagged(1, text("apiVersion")) + tagged(2, text("kind"))
        metadata = tagged(1, b"a") + tagged(3, b"default") if self.chance(0.8) else b""
        raw = tagged(1, metadata) + self.message(0)
        data = b"k8s\0" + tagged(1, type_meta) + tagged(2, raw)
        return self.broken(data) if self.chance(0.3) else data

    def message(self, depth: int) -> bytes:
        data = b""
        for _ in range(self.random.randrange(5)):
            number = self.random.choice((1, 2, 3, 4, 5, 7, 12, 200))
            match self.random.randrange(5):
                case 0:
                    data += varint(number << 3) + varint(self.random.choice((0, 1, 80, 2**63)))
                case 1:
                    data += varint(number << 3 | 1) + self.random.randbytes(8)
                case 2:
                    data += varint(number << 3 | 5) + self.random.randbytes(4)
                case 3 if depth < 30:
                    data += tagged(number, self.message(depth + 1))
                case _:
                    data += tagged(
                        number, self.random.choice((b"", b"a", b"\xff", b"1Gi", b"\0" * 9))
                    )
        return data

    # ---- requests

    def request(self) -> Request:
        if self.chance(0.04):
            return self.elsewhere()
        kind = THING if self.chance(0.08) else self.random.choice(self.kinds)
        makers: dict[Callable[[Kind], Request], int] = {
            self.create: 4,
            self.update: 2,
            self.patch: 3,
            self.read: 3,
            self.delete: 1,
            self.subresource: 2,
        }
        return self.random.choices(list(makers), list(makers.values()))[0](kind)

    def elsewhere(self) -> Request:
        method = self.random.choice(
            ("GET", "GET", "GET", "POST", "DELETE", "OPTIONS", "HEAD", "TRACE")
        )
        body = b"{}" if method == "POST" else None
        path = quote(self.random.choice(values.PLACES), safe="/%?=")
        return Request(method, path, self.headers(), body, is_watch="/watch/" in path)

    def path(self, kind: Kind, name: str = "", subresource: str = "") -> str:
        root = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
        namespace = self.random.choice(values.NAMES) if self.chance(0.02) else "default"
        parts = ["namespaces", namespace, kind.plural] if kind.namespaced else [kind.plural]
        if name:
            if self.chance(0.03):
                name = self.random.choice(values.NAMES)
            parts += [name, *filter(None, [subresource])]
        quoted = (quote(str(part).encode("utf-8", "replace"), safe="") for part in parts)
        return "/".join([root, *quoted])

    def name(self) -> str:
        return self.random.choice(NAMES)

    def query(self, kind: Kind, *given: tuple[str, str], is_write: bool) -> str:
        pairs = list(given)
        if is_write and kind.plural in GLOBAL:
            return "?dryRun=All"
        while self.chance(0.25):
            name = self.random.choice(list(values.QUERY))
            pairs.append((name, str(self.random.choice(values.QUERY[name]))))
        if not pairs:
            return ""
        return "?" + "&".join(
            f"{name}={quote(text.encode('utf-8', 'replace'), safe='')}" for name, text in pairs
        )

    def headers(self, *given: tuple[str, str]) -> tuple[tuple[str, str], ...]:
        found = [("Test-User", "root"), ("Test-Groups", "system:masters"), *given]
        if self.chance(0.15):
            found.append(("Accept", self.random.choice(values.ACCEPTS)))
        if self.chance(0.04):
            name = self.random.choice(list(values.HEADERS))
            found.append((name, self.random.choice(values.HEADERS[name])))
        if self.chance(0.03):
            found[0:2] = [("Test-User", "ann")]
        return tuple(found)

    def write(self, method: str, path: str, value: Any, media_type: str = "") -> Request:
        """A request with a body, by default in one of the forms of objects."""
        if not media_type:
            media_type = self.random.choices(values.BODY_TYPES[:3], (8, 1, 1))[0]
        body = self.encode(value, media_type)
        if self.chance(0.02):
            media_type = self.random.choice(values.BODY_TYPES)
        headers = self.headers(("Content-Type", media_type))
        return Request(method, path, headers, body, self.chance(0.05))

    def create(self, kind: Kind) -> Request:
        path = self.path(kind) + self.query(kind, is_write=True)
        return self.write("POST", path, self.object_of(kind))

    def update(self, kind: Kind) -> Request:
        obj = self.object_of(kind)
        name = obj.get("metadata", {}).get("name") if isinstance(obj.get("metadata"), dict) else ""
        path = self.path(kind, name if isinstance(name, str) and name in NAMES else self.name())
        return self.write("PUT", path + self.query(kind, is_write=True), obj)

    def patch(self, kind: Kind, subresource: str = "") -> Request:
        media_type = self.random.choice(PATCHES)
        obj = self.object_of(kind)
        name = self.name()
        given = []
        if media_type.startswith("application/apply") and self.chance(0.95):
            given = [("fieldManager", self.random.choice(("me", "you"))), ("force", "true")]
            if isinstance(obj.get("metadata"), dict) and self.chance(0.9):
                obj["metadata"]["name"] = name
        elif media_type.startswith("application/json-patch"):
            path = self.path(kind, name, subresource) + self.query(kind, is_write=True)
            return self.write("PATCH", path, self.operations(obj), media_type)
        else:
            if self.chance(0.8):
                obj.pop("metadata", None)
            if "strategic" in media_type and self.chance(0.5):
                self.direct(obj)
        path = self.path(kind, name, subresource) + self.query(kind, *given, is_write=True)
        return self.write("PATCH", path, obj, media_type)

    def direct(self, obj: Object) -> None:
        """Put a directive of strategic merge somewhere."""
        dicts = [
            obj,
            *(holder[key] for holder, key in self.places(obj) if isinstance(holder[key], dict)),
        ]
        target = self.random.choice(dicts)
        key = self.random.choice(list(target) or ["x"])
        directives: list[tuple[str, list[Any]]] = [
            ("$patch", ["replace", "delete", "merge", 5]),
            ("$retainKeys", [[key], "x"]),
            (f"$setElementOrder/{key}", [[{"name": "web"}], ["a", 1]]),
            (f"$deleteFromPrimitiveList/{key}", [["a"], {}]),
            ("$what", [1]),
        ]
        directive, found = self.random.choice(directives)
        target[directive] = self.random.choice(found)

    def operations(self, obj: Object) -> Any:
        places = [self.pointer(obj) for _ in range(3)]
        odd = [
            "",
            "/",
            "/~2",
            "/spec/-",
            "/metadata/labels/a~1b",
            "/spec/99999999999",
            "x",
            "/spec/-1",
            "/kind",
            "/metadata",
        ]
        steps = []
        for _ in range(self.random.choice((0, 1, 1, 2, 4, 40))):
            at = self.random.choice(places) if self.chance(0.7) else self.random.choice(odd)
            step: Object = {
                "op": self.random.choice(
                    ("add", "add", "remove", "replace", "test", "move", "copy", "x")
                ),
                "path": at,
            }
            if step["op"] in ("move", "copy"):
                step["from"] = self.random.choice(places + odd)
            else:
                step["value"] = self.anything() if self.chance(0.7) else obj
            steps.append(step)
        if steps and self.chance(0.1):
            self.damage(steps)
        return steps

    def pointer(self, obj: Any) -> str:
        path = ""
        while isinstance(obj, (dict, list)) and obj and self.chance(0.8):
            key = (
                self.random.choice(list(obj))
                if isinstance(obj, dict)
                else self.random.randrange(len(obj))
            )
            path += "/" + str(key).replace("~", "~0").replace("/", "~1")
            obj = obj[key]
        return path or "/spec"

    def read(self, kind: Kind) -> Request:
        name = self.name() if self.chance(0.4) else ""
        given = []
        if not name and self.chance(0.15):
            given = [("watch", "1"), ("timeoutSeconds", "1")]
        elif not name and self.chance(0.3):
            given = [("limit", "2")]
        path = self.path(kind, name) + self.query(kind, *given, is_write=False)
        method = "GET" if self.chance(0.97) else "HEAD"
        return Request(method, path, self.headers(), is_watch="watch=" in path)

    def delete(self, kind: Kind) -> Request:
        if kind.plural == "namespaces":
            return self.read(kind)
        path = self.path(kind, self.name() if self.chance(0.9) else "") + self.query(
            kind, is_write=True
        )
        if self.chance(0.6) or kind.plural in GLOBAL:  # options in a body outweigh the query
            return Request("DELETE", path, self.headers())
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        if self.chance(0.5):
            self.budget = 9
            options |= self.struct(schema_for("", "v1", "DeleteOptions"), 0)
        if self.chance(0.3):
            self.damage(options)
        return self.write("DELETE", path, options)

    def subresource(self, kind: Kind) -> Request:
        found = kind.subresources
        if kind is THING:
            return self.patch(kind, self.random.choice(("status", "scale", "x")))
        if not found:
            return self.create(kind)
        sub = self.random.choice(found)
        path = self.path(kind, self.name(), sub.name) + self.query(kind, is_write=True)
        if sub.name in ("proxy", "exec", "attach", "portforward", "log"):
            return Request(self.random.choice(("GET", "POST")), path, self.headers(), b"")
        method = self.random.choice(("GET", "PUT", "PUT", "PATCH", "POST"))
        if method == "GET":
            return Request("GET", path, self.headers())
        if method == "PATCH":
            return self.patch(kind, sub.name)
        if (sub.group, sub.kind) == (kind.group, kind.kind):
            return self.write(method, path, self.object_of(kind))
        api_version = f"{sub.group}/{sub.version}" if sub.group else sub.version
        obj: Object = {
            "apiVersion": api_version,
            "kind": sub.kind,
            "metadata": {"name": self.name()},
        }
        self.budget = 20
        obj |= self.struct(schema_for(sub.group, sub.version, sub.kind), 0)
        return self.write("POST" if self.chance(0.7) else method, path, obj)


def varint(number: int) -> bytes:
    data = b""
    while number > 127:
        data += bytes([number & 127 | 128])
        number >>= 7
    return data + bytes([number])


def tagged(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content
