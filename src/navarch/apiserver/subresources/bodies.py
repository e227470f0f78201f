"""Bodies of kinds that are never stored: bindings, scales, evictions, reviews, token requests."""

from __future__ import annotations

from typing import Any

from navarch.api.schema.decode import FieldValidation, HasKind, decode_object, normalise_object
from navarch.api.schema.defaults import apply_defaults
from navarch.api.schema.protobuf import decode_protobuf
from navarch.apiserver.http.body import PROTOBUF, effective_type, object_type, read_body
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.negotiation import negotiate
from navarch.apiserver.http.options import WriteOptions, write_options
from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.verbs.write import context_of
from navarch.apiserver.verbs.write_body import accept

Object = dict[str, Any]


async def read_kind(call: Call, kind: HasKind, verb_options: str) -> tuple[Object, WriteContext]:
    """The body as an object of `kind` with its defaults, and the context of the write.
    `verb_options` is CreateOptions or UpdateOptions. Raises 400, 406, 413, 415,
    422."""
    if call.representation.transform and kind.kind != "Scale":
        accept_header = call.request.headers.get("Accept")
        call.representation = negotiate(accept_header, transforms=False)
    options: WriteOptions = write_options(call, verb_options)
    context = context_of(call, options, verb_options)
    media_type = object_type(call.request)
    body = await read_body(call.request)
    media_type = effective_type(media_type, body)
    validation = FieldValidation(options.field_validation)
    if media_type == PROTOBUF:
        decoded = normalise_object(kind, decode_protobuf(kind, body), validation)
    else:
        decoded = decode_object(kind, body, media_type, validation)
    obj = accept(decoded, context)
    if context.trail is not None:
        context.trail.request_object(obj)
    apply_defaults(kind, obj)
    return obj, context
