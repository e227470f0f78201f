"""From the selectors of a list or watch to a selection on the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from navarch.api.errors import bad_request
from navarch.api.selectors import SelectorError, parse_field_selector, parse_label_selector
from navarch.apiserver.http.options import ListOptions
from navarch.apiserver.hub.entry import Entry
from navarch.apiserver.hub.watcher import Selection
from navarch.apiserver.registry.resource import Resource

_META_FIELDS = ("metadata.name", "metadata.namespace")


def selection_of(
    resource: Resource, namespace: str, options: ListOptions, name: str = ""
) -> Selection:
    """The selection that a request describes. Raises 400 for bad selectors."""
    if not options.label_selector and not options.field_selector and not name:
        return Selection(namespace)
    predicates: list[Callable[[Entry], bool]] = []
    indexed = None
    if options.label_selector:
        try:
            labels = parse_label_selector(options.label_selector)
        except SelectorError as error:
            raise bad_request(str(error)) from None
        if not labels.empty:
            predicates.append(lambda entry: labels.matches(entry.facts.labels))
    if options.field_selector:
        matches, exact = _field_predicate(resource, options.field_selector)
        if matches is not None:
            predicates.append(matches)
        name = name or exact.get("metadata.name", "")
        namespace = namespace or exact.get("metadata.namespace", "")
        indexed = exact.get(resource.cache.index_field) if resource.cache.index_field else None
    if name:
        predicates.append(lambda entry: entry.name == name)
    if not predicates:
        return Selection(namespace)
    if len(predicates) == 1:
        return Selection(namespace, predicates[0], name, indexed)
    return Selection(
        namespace, lambda entry: all(each(entry) for each in predicates), name, indexed
    )


def _field_predicate(
    resource: Resource, text: str
) -> tuple[Callable[[Entry], bool] | None, Mapping[str, str]]:
    """The predicate of a field selector, and its equality requirements."""
    try:
        selector = parse_field_selector(text)
    except SelectorError as error:
        raise bad_request(str(error)) from None
    known = resource.stored_kind.field_names
    aliases = _ALIASES.get(resource.name, {})
    requirements = [
        (aliases.get(each.field, each.field), not each.negated, each.value)
        for each in selector.requirements
    ]
    positions = {name: index for index, name in enumerate(known)}
    checks: list[tuple[int, bool, str]] = []
    exact: dict[str, str] = {}
    for key, wanted, value in requirements:
        if key == "metadata.name":
            position = -1
        elif key == "metadata.namespace" and resource.kind.namespaced:
            position = -2
        else:
            stored = _stored_field(resource, key)
            if stored not in positions or (
                resource.selectable is not None and key not in resource.selectable
            ):
                raise _unknown_field(resource, key)
            position = positions[stored]
        checks.append((position, wanted, value))
        if wanted:
            exact[key] = value
    if not checks:
        return None, exact

    def matches(entry: Entry) -> bool:
        for position, wanted, value in checks:
            if position >= 0:
                actual = entry.facts.fields[position]
            else:
                actual = entry.name if position == -1 else entry.namespace
            if (actual == value) is not wanted:
                return False
        return True

    return matches, exact


_ALIASES = {"namespaces": {"name": "metadata.name"}}


def _stored_field(resource: Resource, key: str) -> str:
    """A field as the stored version names it."""
    if resource.kind.group != "events.k8s.io":
        return key
    if key == "reportingController":
        return "reportingComponent"
    first, dot, rest = key.partition(".")
    return f"involvedObject.{rest}" if dot and first == "regarding" else key


def _unknown_field(resource: Resource, key: str) -> Exception:
    if resource.stored_kind.field_names or resource.is_custom:
        return bad_request(f"field label not supported: {key}")
    known = ", ".join(
        f'"{each}"' for each in (_META_FIELDS if resource.kind.namespaced else _META_FIELDS[:1])
    )
    return bad_request(f'"{key}" is not a known field selector: only {known}')
