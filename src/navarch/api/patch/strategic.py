"""Strategic merge patch: a merge patch that knows the types of the built-in kinds.

Lists whose field says `patchStrategy: merge` are merged by their merge key (or as sets of scalars)
instead of being replaced, and directives inside the patch say what plain JSON cannot:

* `$patch: replace | delete | merge` in an object or in a list of objects,
* `$retainKeys`: the only keys that may stay in an object (unions such as volume sources),
* `$deleteFromPrimitiveList/<field>`: scalars to remove,
* `$setElementOrder/<field>`: the order of a merged list.

The order of a merged list: `$setElementOrder` goes before the order in the patch, and that before
the live order, so new items without an order come first. Upstream answers some malformed patches
with 500; here all of them are 400.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from navarch.api.errors import ApiError, bad_request
from navarch.api.patch.common import not_a_map, too_deep, unprocessable
from navarch.api.schema.facts import FieldFacts, Shape, TypeFacts

DIRECTIVE = "$patch"
RETAIN_KEYS = "$retainKeys"
DELETE_FROM_LIST = "$deleteFromPrimitiveList/"
ELEMENT_ORDER = "$setElementOrder/"

Object = dict[str, Any]


def apply_strategic_merge_patch(document: Object, patch: Any, kind: TypeFacts) -> Object:
    """`document` with `patch` (decoded JSON) merged into it. Unchanged parts are shared."""
    if not isinstance(patch, dict):
        raise bad_request(not_a_map(patch))
    try:
        return _merge_object(document, patch, kind)
    except RecursionError:
        raise too_deep() from None


def _bad(message: str) -> ApiError:
    return bad_request(f"invalid strategic merge patch: {message}")


def _merge_object(original: Object, patch: Object, kind: TypeFacts | None) -> Object:
    directive = patch.get(DIRECTIVE, "merge")
    if directive == "replace":
        return _cleaned_object({key: item for key, item in patch.items() if key != DIRECTIVE})
    if directive == "delete":
        return {}
    if directive != "merge":
        raise _bad(f"unknown patch type: {directive!r}")
    result = dict(original)
    if RETAIN_KEYS in patch:
        _retain_keys(result, patch)
    ordered = _merge_ordered_lists(result, patch, kind)
    for key, value in patch.items():
        if key.startswith(DELETE_FROM_LIST):
            _delete_scalars(result, key.removeprefix(DELETE_FROM_LIST), value)
    for key, value in patch.items():
        if (key[:1] == "$" and _is_directive(key)) or key in ordered:
            continue
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge_value(result.get(key), value, key, kind)
            if result[key] is None:
                del result[key]
    return result


def _is_directive(key: str) -> bool:
    return key in (DIRECTIVE, RETAIN_KEYS) or key.startswith((DELETE_FROM_LIST, ELEMENT_ORDER))


def _merge_value(current: Any, value: Any, key: str, kind: TypeFacts | None) -> Any:
    """The new value of field `key`; None when nothing is to stay of it."""
    if isinstance(value, dict) and isinstance(current, dict):
        rule = _rule(kind, key)
        if rule is not None and "replace" in rule.patch_strategies:
            return _cleaned(value)
        if rule is not None:
            return _merge_object(current, value, rule.type)
        # The values of a map are never structs with directives of their own to look up.
        return _merge_object(current, value, kind.item if kind is not None else None)
    if isinstance(value, list) and isinstance(current, list):
        rule = _rule(kind, key)
        if rule is not None and "merge" in rule.patch_strategies:
            return _merge_list(current, value, rule)
    return _cleaned(value)


def _rule(kind: TypeFacts | None, key: str) -> FieldFacts | None:
    """The rule of a field; maps and free JSON (None) have none and merge like a merge patch."""
    if kind is None or kind.shape is not Shape.STRUCT:
        return None
    rule = kind.fields.get(key)
    if rule is None:
        raise _bad(f'unable to find api field for the json field "{key}"')
    return rule


def _retain_keys(result: Object, patch: Object) -> None:
    keep = patch[RETAIN_KEYS]
    if not isinstance(keep, list) or not all(isinstance(key, str) for key in keep):
        raise _bad("invalid patch format of retainKeys")
    keep = set(keep)
    for key, value in patch.items():
        if value is not None and not _is_directive(key) and key not in keep:
            raise _bad("invalid patch format of retainKeys")
    for key in [key for key in result if key not in keep]:
        del result[key]


def _delete_scalars(result: Object, key: str, values: Any) -> None:
    if not isinstance(values, list):
        raise _bad("invalid patch format of primitive list")
    current = result.get(key)
    if isinstance(current, list):
        gone = set(_keys(values, ""))
        result[key] = [item for item in _keys(current, "") if item not in gone]


def _merge_ordered_lists(result: Object, patch: Object, kind: TypeFacts | None) -> set[str]:
    """Merge the lists that have a `$setElementOrder`; returns their fields."""
    done: set[str] = set()
    for directive, order in patch.items():
        if not directive.startswith(ELEMENT_ORDER):
            continue
        key = directive.removeprefix(ELEMENT_ORDER)
        rule = _rule(kind, key)
        merge_key = rule.patch_merge_key if rule else ""
        live, changes = result.get(key), patch.get(key)
        for value in (order, live, changes):
            if not isinstance(value, list) and not (value is None and value is not order):
                raise _bad("invalid patch format of setElementOrder list")
        if key in patch and changes is None:
            continue
        done.add(key)
        wanted = _keys(order, merge_key)
        _check_order(changes or [], wanted, merge_key)
        if live is None and changes is None:
            continue
        if live is None:
            merged = _cleaned(changes)
        elif changes is None:
            merged = live
        elif rule is not None and "merge" in rule.patch_strategies:
            merged = _merge_list(live, changes, rule)
        else:
            merged = _cleaned(changes)
        result[key] = _arranged(merged, wanted, _keys(live or [], merge_key), merge_key)
    return done


def _check_order(changes: list[Any], wanted: list[Any], merge_key: str) -> None:
    """Every item of the patch must stand in the element order, in the same sequence."""
    if not wanted:
        return
    plain = [item for item in changes if not (isinstance(item, dict) and DIRECTIVE in item)]
    remaining = iter(wanted)
    for key in _keys(plain, merge_key):
        if not any(key == candidate for candidate in remaining):
            raise _bad("the order in the patch list does not match the $setElementOrder list")


def _keys(items: Iterable[Any], merge_key: str) -> list[Any]:
    """What tells the items of a merged list apart: their merge key, or the scalars themselves."""
    if not merge_key:
        keys = list(items)
    else:
        keys = []
        for item in items:
            if not isinstance(item, dict):
                raise _bad("the items of a list merged by key must be objects")
            if merge_key not in item:
                raise _bad(f"map: {item} does not contain declared merge key: {merge_key}")
            keys.append(item[merge_key])
    if any(isinstance(key, list) for key in keys) and not merge_key:
        raise unprocessable()
    if any(isinstance(key, dict | list) for key in keys):
        raise _bad("list element types are not identical")
    return keys


def _merge_list(current: list[Any], changes: list[Any], rule: FieldFacts) -> list[Any]:
    merge_key = rule.patch_merge_key
    if not merge_key:
        live = _keys(current, "")
        wanted = list(dict.fromkeys(_keys(changes, "")))
        return _arranged(list(dict.fromkeys(live + wanted)), wanted, live, "")
    current, changes = _apply_list_directives(current, changes, merge_key)
    merged = list(current)
    positions: dict[Any, int] = {}
    for position, key in enumerate(_keys(current, merge_key)):
        positions.setdefault(key, position)
    wanted = _keys(changes, merge_key)
    for key, item in zip(wanted, changes, strict=True):
        known = positions.get(key)
        if known is None:
            positions[key] = len(merged)
            merged.append(_cleaned_object(item))
        else:
            merged[known] = _merge_object(merged[known], item, rule.type.item)
    return _arranged(merged, wanted, _keys(current, merge_key), merge_key)


def _apply_list_directives(
    current: list[Any], changes: list[Any], merge_key: str
) -> tuple[list[Any], list[Any]]:
    """The live items without the deleted ones, and the patch without its `$patch` items."""
    plain: list[Any] = []
    deleted: list[Any] = []
    replace = False
    for item in changes:
        if not isinstance(item, dict):
            raise _bad("list element types are not identical")
        directive = item.get(DIRECTIVE)
        if directive is None:
            plain.append(item)
        elif directive == "delete":
            deleted += _keys([item], merge_key)
        elif directive == "replace":
            replace = True
        else:
            raise _bad(f"unknown patch type: {directive!r} in a list")
    if replace:
        return [_cleaned_object(item) for item in plain], []
    if deleted:
        gone = set(deleted)
        keys = _keys(current, merge_key)
        current = [item for key, item in zip(keys, current, strict=True) if key not in gone]
    return current, plain


def _arranged(items: list[Any], wanted: list[Any], live: list[Any], merge_key: str) -> list[Any]:
    """`items` in the order of the keys `wanted`; the others keep their `live` order and are woven
    in before the first wanted item that stood behind them."""
    rank = {key: position for position, key in reversed(list(enumerate(wanted)))}
    live_rank = {key: position for position, key in reversed(list(enumerate(live)))}
    first: list[tuple[Any, Any]] = []
    rest: list[tuple[Any, Any]] = []
    for key, item in zip(_keys(items, merge_key), items, strict=True):
        (first if key in rank else rest).append((key, item))
    first.sort(key=lambda pair: rank[pair[0]])
    rest.sort(key=lambda pair: live_rank.get(pair[0], len(live)))
    result: list[Any] = []
    waiting = 0
    for key, item in first:
        place = live_rank.get(key)
        while place is not None and waiting < len(rest):
            other = live_rank.get(rest[waiting][0])
            if other is None or other > place:
                break
            result.append(rest[waiting][1])
            waiting += 1
        result.append(item)
    result += [item for _, item in rest[waiting:]]
    return result


def _cleaned(value: Any) -> Any:
    """A value of the patch that has no live counterpart, without nulls and directives; None for an
    object that only says `$patch`."""
    if isinstance(value, dict):
        if DIRECTIVE in value and value[DIRECTIVE] != "replace" and value[DIRECTIVE] != "merge":
            return None
        return _cleaned_object(value)
    if isinstance(value, list):
        return [
            _cleaned(item) for item in value if not (isinstance(item, dict) and DIRECTIVE in item)
        ]
    return value


def _cleaned_object(value: Object) -> Object:
    result = {}
    for key, item in value.items():
        if item is None or (key[:1] == "$" and _is_directive(key)):
            continue
        if isinstance(item, dict | list):
            item = _cleaned(item)
            if item is None:
                continue
        result[key] = item
    return result
