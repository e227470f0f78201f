"""How much work a request is, in seats.

All requests share one event loop, so a seat is a slice of its time: about a tenth of a millisecond.
Reading or writing one object takes one or two; a list takes as many as the objects it looks at and
the bytes it sends are worth, by rates that were measured and err on the high side. A write costs
more the more watchers hear of it.
"""

from __future__ import annotations

from navarch.apiserver.http.call import Call
from navarch.apiserver.http.options import query_integer
from navarch.apiserver.registry.resource import Resource

SEAT_MICROSECONDS = 100
PLAIN_OBJECT, SELECTED_OBJECT, RENDERED_OBJECT, DELETED_OBJECT = 0.3, 2.0, 60.0, 300.0
"""Microseconds an object: sent as it is stored, asked by a selector, made into a table or another
version, deleted."""
MICROSECONDS_PER_BYTE = 0.0015
WATCHERS_PER_SEAT = 32
WRITE_SEATS = 2
_NARROW = frozenset({"get", ""})
_WRITES = frozenset({"create", "update", "patch", "delete"})


def seats_of(call: Call, resource: Resource | None) -> int:
    """The seats of a request; one for what is no stored resource."""
    verb = call.info.verb
    if resource is None or verb in _NARROW:
        return 1
    cache = resource.cache
    if verb in _WRITES:
        return WRITE_SEATS + cache.audience(call.info.namespace) // WATCHERS_PER_SEAT
    query = call.target.query
    if verb == "watch" and not _wants_state(call):
        return 1
    number = cache.count_in(call.info.namespace if resource.kind.namespaced else "")
    if call.info.name:
        number = min(number, 1)
    elif verb == "deletecollection":
        return 1 + int(number * DELETED_OBJECT) // SEAT_MICROSECONDS
    limit = query_integer(query.get("limit"))
    is_selecting = "labelSelector" in query or "fieldSelector" in query
    sent = min(number, limit) if limit > 0 else number
    rate = PLAIN_OBJECT
    if resource.convert_out is not None or "as=" in call.request.headers.get("Accept", ""):
        rate = RENDERED_OBJECT
    microseconds = sent * rate + (number * SELECTED_OBJECT if is_selecting else 0)
    if cache.count:
        microseconds += cache.size / cache.count * sent * MICROSECONDS_PER_BYTE
    return 1 + int(microseconds) // SEAT_MICROSECONDS


def _wants_state(call: Call) -> bool:
    """Whether a watch begins with all objects there are."""
    if "sendInitialEvents" in call.target.query:
        return call.flag("sendInitialEvents")
    return call.parameter("resourceVersion") in ("", "0")
