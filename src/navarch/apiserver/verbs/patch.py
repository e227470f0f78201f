"""PATCH: JSON patch, merge patch, strategic merge patch, server-side apply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
from aiohttp.web import StreamResponse
from msgspec import structs

from navarch.api.errors import (
    ApiError,
    FieldError,
    bad_request,
    conflict,
    forbidden_field,
    invalid,
    invalid_object,
    required,
)
from navarch.api.patch.common import copy_json, go_text, not_a_map
from navarch.api.patch.json import apply_json_patch
from navarch.api.patch.merge import apply_merge_patch
from navarch.api.patch.strategic import apply_strategic_merge_patch
from navarch.api.schema.decode import FieldValidation, parse_document, strictly
from navarch.api.schema.facts import schema_for
from navarch.apiserver.core import Core
from navarch.apiserver.http.body import JSON, content_type, read_body, unsupported_media_type
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.options import WriteOptions, options_error, write_options
from navarch.apiserver.http.turns import off_loop
from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.registry.fields import applied, writer_of
from navarch.apiserver.registry.registry import OTHER_NAMESPACE, Written
from navarch.apiserver.registry.resource import Resource
from navarch.apiserver.verbs.write import context_of, respond_written
from navarch.apiserver.verbs.write_body import accept, check_name, named

Object = dict[str, Any]
Apply = Callable[[Object, Any], Object]

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
ENVELOPE = frozenset({"apiVersion", "kind", "metadata"})


async def patch(
    core: Core, call: Call, resource: Resource, subresource: str = ""
) -> StreamResponse:
    """Change an object by a patch; apply creates it when it is not there."""
    media_type = _check_type(call, resource)
    options = write_options(call, "PatchOptions")
    _check_options(call, options, media_type)
    context = context_of(call, options, "UpdateOptions")
    body = await read_body(call.request)
    if media_type == APPLY_PATCH:
        written = await apply(core, call, resource, body, (context, options), subresource)
        return respond_written(call, resource, written, 201 if written.created else 200)
    value, problems = _parse(body, media_type)
    if call.trail is not None:
        call.trail.request_patch(value)
    try:
        report(problems, resource, options, context)
    except ApiError as error:
        raise _unusable(error, media_type, value, value) from error
    transform = patch_transform(resource, media_type, value, options, context)
    key = (call.info.namespace if resource.kind.namespaced else "", call.info.name)
    written = await core.registry.update(resource, key, transform, context, subresource)
    return respond_written(call, resource, written)


def _check_type(call: Call, resource: Resource) -> str:
    media_type = content_type(call.request)
    accepted = [JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH]
    if resource.is_custom:
        accepted.remove(STRATEGIC_PATCH)
    if media_type not in accepted:
        is_known = media_type == STRATEGIC_PATCH or media_type.startswith("application/apply-patch")
        if resource.is_custom or is_known:
            raise unsupported_media_type(", ".join(accepted))
        # What no PATCH of any kind takes, upstream's router refuses before its handlers see it.
        raise ApiError(415, "UnsupportedMediaType", "415: Unsupported Media Type", {})
    return media_type


def _check_options(call: Call, options: WriteOptions, media_type: str) -> None:
    errors: list[FieldError] = []
    if media_type == APPLY_PATCH:
        if not call.parameter("fieldManager"):
            errors.append(required("fieldManager", "is required for apply patch"))
    elif "force" in call.target.query:
        errors.append(forbidden_field("force", "may not be specified for non-apply patch"))
    if errors:
        raise options_error("PatchOptions", errors)


def report(
    problems: list[str], resource: Resource, options: WriteOptions, context: WriteContext
) -> None:
    """Doubled keys in the patch itself."""
    if problems and options.field_validation == "Strict":
        raise strictly(resource.kind, problems)
    if options.field_validation == "Warn":
        context.warnings.take(problems)


def patch_transform(
    resource: Resource, media_type: str, value: Any, options: WriteOptions, context: WriteContext
) -> Callable[[Object], Object]:
    """A function from the current object to the patched one, in canonical form."""
    kind = resource.kind

    def transform(current: Object) -> Object:
        if media_type == JSON_PATCH:
            result = apply_json_patch(current, value)
        elif media_type == MERGE_PATCH:
            result = apply_merge_patch(current, value)
        else:
            facts = schema_for(kind.group, kind.version, kind.kind)
            result = apply_strategic_merge_patch(current, value, facts)
        try:
            return checked_result(resource, result, current, options, context)
        except ApiError as error:
            raise _unusable(error, media_type, value, result) from error

    return transform


def _unusable(error: ApiError, media_type: str, patch: Any, result: Any) -> ApiError:
    """422 where the patch could be applied, but what it made cannot be decoded."""
    if error.__cause__ is None:
        return error
    is_map = media_type == STRATEGIC_PATCH
    shown = go_text(patch) if is_map else msgspec.json.encode(result).decode()
    return invalid_object("", "", "", [invalid("patch", shown, str(error.__cause__))])


def _parse(body: bytes, media_type: str) -> tuple[Any, list[str]]:
    try:
        return parse_document(body, JSON)
    except ApiError as error:
        if media_type == STRATEGIC_PATCH:
            raise
        raise replace(error, message=f"error decoding patch: {error.message}") from error


def checked_result(
    resource: Resource,
    result: Object,
    current: Object,
    options: WriteOptions,
    context: WriteContext,
) -> Object:
    """A patch's result in canonical form; it may change neither kind nor name."""
    # Read first: a patch may have moved the metadata elsewhere, to be normalised as another type.
    name, namespace = current["metadata"]["name"], current["metadata"].get("namespace")
    validation = FieldValidation(options.field_validation)
    untouched = {} if resource.is_custom else _untouched(result, current)
    changed = {key: value for key, value in result.items() if key not in untouched}
    fields = None if resource.is_custom else _untouched_fields(changed, current)
    obj = accept(resource.shape.normalise(changed, validation), context)
    if fields is not None:
        obj["metadata"]["managedFields"] = fields
    if untouched:
        order = dict.fromkeys((*result, *obj))
        whole = {**obj, **untouched}
        obj = {key: whole[key] for key in order if key in whole}
    check_name(obj, name)
    if namespace and obj["metadata"].setdefault("namespace", namespace) != namespace:
        raise bad_request(OTHER_NAMESPACE)
    return obj


def _untouched(result: Object, current: Object) -> Object:
    """The parts that a patch has left alone are canonical already: a status patch does not cost the
    walk over the spec."""
    return {
        key: value
        for key, value in result.items()
        if key not in ENVELOPE and type(value) is dict and current.get(key) is value
    }


def _untouched_fields(changed: Object, current: Object) -> Any:
    """Take out the managed fields where a patch has left them alone: they are the larger part of
    the metadata that it names."""
    metadata = changed.get("metadata")
    fields = current["metadata"].get("managedFields")
    if type(metadata) is not dict or fields is None or metadata.get("managedFields") is not fields:
        return None
    changed["metadata"] = {key: metadata[key] for key in metadata if key != "managedFields"}
    return fields


async def apply(
    core: Core,
    call: Call,
    resource: Resource,
    body: bytes,
    how: tuple[WriteContext, WriteOptions],
    subresource: str,
) -> Written:
    """Server-side apply: the body is what one manager wants of the object."""
    context, options = how
    try:
        config, problems = await off_loop(len(body), parse_document, body, "application/yaml")
    except ApiError as error:
        raise replace(error, message=f"error decoding YAML: {error.message}") from error
    config = {} if config is None else config
    if call.trail is not None:
        call.trail.request_patch(config)
    report(problems, resource, options, context)
    _check_configuration(call, resource, config)
    context = structs.replace(context, is_apply=True)
    registry = core.registry
    writer = writer_of(resource, context, registry.timestamp(), subresource)
    validation = FieldValidation(options.field_validation)
    namespace = call.info.namespace if resource.kind.namespaced else ""
    key = (namespace, call.info.name)

    def transform(live: Object) -> Object:
        result = applied(resource, live, copy_json(config), writer, options.force)
        return accept(resource.shape.normalise(result, validation), context)

    if subresource or resource.cache.get(*key) is not None:
        return await registry.update(resource, key, transform, context, subresource)
    named(call, config)
    metadata = config["metadata"]
    kind = resource.kind
    if metadata.get("uid") or metadata.get("resourceVersion"):
        why = (
            f"uid mismatch: the provided object specified uid {metadata['uid']}, and no existing "
            "object was found"
            if metadata.get("uid")
            else "the object does not exist, and a resourceVersion was given"
        )
        raise conflict(kind.plural, kind.group, call.info.name, why)
    result = applied(resource, None, copy_json(config), writer, options.force)
    obj = accept(resource.shape.normalise(result, validation), context)
    try:
        as_create = {**context.options, "kind": "CreateOptions"}
        info = replace(context.info, verb="create")
        created = structs.replace(context, info=info, options=as_create)
        return await registry.create(resource, obj, created)
    except ApiError as error:
        if not error.is_already_exists:
            raise
        # Somebody else made it meanwhile: then it is applied to what they made.
        return await registry.update(resource, key, transform, context, subresource)


def _check_configuration(call: Call, resource: Resource, config: Any) -> None:
    """An applied configuration names itself; what it leaves out of its place is filled in."""
    kind = resource.kind
    if not isinstance(config, dict):
        problem = f"error unmarshaling JSON: while decoding JSON: {not_a_map(config)}"
        raise bad_request(f"error decoding YAML: {problem}")
    version, name = config.get("apiVersion") or "", config.get("kind") or ""
    if (version, name) != (kind.api_version, kind.kind):
        group_version = version if "/" in str(version) else f"/{version}"
        raise bad_request(f"invalid object type: {group_version}, Kind={name}")
    metadata = config.setdefault("metadata", {})
    if not isinstance(metadata, dict):
        raise bad_request("metadata: must be an object")
    if "managedFields" in metadata:
        raise bad_request("metadata.managedFields must be nil")
    # An object that is there has its name already; one that is made has to be given it.
    if metadata.get("name"):
        named(call, config)
    if kind.namespaced:
        namespace = metadata.setdefault("namespace", call.info.namespace)
        if namespace != call.info.namespace:
            raise bad_request(OTHER_NAMESPACE)
