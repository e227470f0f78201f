"""YAML request bodies, decoded to the JSON data model.

The dialect is that of upstream's YAML-to-JSON step: YAML 1.1 booleans and numbers, but times stay
text and keys become strings. Aliases are allowed within a budget: a few hundred bytes of them can
stand for gigabytes.
"""

from __future__ import annotations

from typing import Any

import yaml

from navarch.api.errors import bad_request

MAX_DEPTH = 256
ALIAS_BUDGET = 100_000
"""How many nodes aliases may repeat in one document."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader without timestamps."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load_yaml(body: bytes) -> tuple[Any, tuple[str, ...]]:
    """The value and the complaints about doubled keys. Raises 400."""
    text = body.decode("utf-8", "replace")
    _check_nesting(text)
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, ()
        builder = _Builder(loader)
        return builder.build(node, 0), tuple(builder.duplicates)
    except RecursionError:
        raise bad_request("yaml: exceeded max depth") from None
    except (yaml.YAMLError, ValueError) as error:
        problem = " ".join(str(error).split())
        raise bad_request(f"error converting YAML to JSON: yaml: {problem}") from None
    finally:
        loader.dispose()


def _check_nesting(text: str) -> None:
    """The composer recurses in C: refuse flow nesting that would exhaust its stack."""
    depth = deepest = 0
    for character in text:
        if character in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]}":
            depth -= 1
    if deepest > MAX_DEPTH or text.count("- - - - - - - - ") > MAX_DEPTH // 8:
        raise bad_request("yaml: exceeded max depth")


class _Builder:
    """Turns the node graph into values, counting what aliases repeat."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.duplicates: list[str] = []
        self.built = 0
        self.seen: set[int] = set()
        self.repeated = 0
        self.in_alias = 0

    def build(self, node: yaml.Node, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise bad_request("yaml: exceeded max depth")
        is_repeat = id(node) in self.seen
        self.seen.add(id(node))
        self.in_alias += is_repeat
        if self.in_alias:
            self.repeated += 1
            if self.repeated > ALIAS_BUDGET:
                raise bad_request("yaml: document contains excessive aliasing")
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, depth)
            if isinstance(node, yaml.SequenceNode):
                return [self.build(child, depth + 1) for child in node.value]
            return self._scalar(node)
        finally:
            self.in_alias -= is_repeat

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                value = self.build(value_node, depth + 1)
                for each in value if isinstance(value, list) else [value]:
                    if isinstance(each, dict):
                        merged = {**each, **merged}
                continue
            key = self._key(key_node)
            if key in result and not self.in_alias:
                line = key_node.start_mark.line + 1
                self.duplicates.append(f'line {line}: key "{key}" already set in map')
            result[key] = self.build(value_node, depth + 1)
        return {**merged, **result} if merged else result

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise bad_request("error converting YAML to JSON: yaml: invalid map key")
        value = self._scalar(node)
        if isinstance(value, str):
            return value
        if value is None:
            return "null"
        return str(value).lower() if isinstance(value, bool) else str(value)

    def _scalar(self, node: yaml.Node) -> Any:
        value = self.loader.construct_object(node)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, float) and value != value:
            raise bad_request("error converting YAML to JSON: json: unsupported value: NaN")
        return value
