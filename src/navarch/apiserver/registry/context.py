"""What a write knows besides the object: who makes it, how, and where it may leave warnings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from navarch.apiserver.contracts import RequestInfo, Trail, UserInfo
from navarch.apiserver.warnings import Warnings

Object = dict[str, Any]

SYSTEM = UserInfo("system:apiserver", groups=("system:masters", "system:authenticated"))
"""The server itself, when it makes objects of its own."""


@dataclass(frozen=True, slots=True)
class Face:
    """An object written through another kind that shows a part of it (a Scale): admission sees that
    kind alone. `take` puts what admission made of it back into the object."""

    kind: str
    show: Callable[[Object], Object]
    take: Callable[[Object, Object], Object]


class WriteContext(msgspec.Struct, frozen=True):
    """A write on its way to the store. `options` are the client's options object for admission;
    `warnings` collects texts for `Warning` headers."""

    info: RequestInfo
    user: UserInfo = SYSTEM
    field_manager: str = "kube-apiserver"
    dry_run: bool = False
    is_apply: bool = False
    """Server-side apply, which has booked its fields itself."""
    options: Object = msgspec.field(default_factory=dict)
    warnings: Warnings = msgspec.field(default_factory=Warnings)
    is_name_generated: bool = False
    face: Face | None = None
    trail: Trail | None = None
