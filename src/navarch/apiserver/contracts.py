"""The seams inside the front door: what authentication, authorization, admission and the registry
of objects know of each other. Each piece implements one of these and is wired in `server.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import msgspec

from navarch.apiserver.warnings import Warnings

Object = dict[str, Any]
"""A Kubernetes object as plain JSON data."""


@dataclass(frozen=True, slots=True)
class UserInfo:
    """Who makes a request (authentication.k8s.io/v1 UserInfo)."""

    name: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_object(self, name_field: str = "username") -> Object:
        """As the API shows users, in a UserInfo or in the spec of a review."""
        result: Object = {name_field: self.name}
        if self.uid:
            result["uid"] = self.uid
        if self.groups:
            result["groups"] = list(self.groups)
        if self.extra:
            result["extra"] = {key: list(values) for key, values in self.extra.items()}
        return result


ANONYMOUS = UserInfo("system:anonymous", groups=("system:unauthenticated",))


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """What a request is about, read off its method and path (upstream's `RequestInfo`).

    `verb` is get, list, watch, create, update, patch, delete, deletecollection, or the lower-case
    HTTP method for a path that is no resource (`is_resource` False)."""

    is_resource: bool
    path: str
    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""


class Decision(Enum):
    ALLOW = "allow"
    DENY = "deny"
    NO_OPINION = "no opinion"


class Attributes(msgspec.Struct, frozen=True):
    """The question put to an authorizer. `field_selector` and `label_selector` are the raw
    selectors of list, watch and deletecollection (KEP-4601)."""

    user: UserInfo
    info: RequestInfo
    field_selector: str = ""
    label_selector: str = ""


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """A client's certificate, which TLS has verified, and the root that it was verified to: that
    of users or that of front proxies. `root` is empty when TLS no longer knows (a resumed session).
    Both are DER."""

    der: bytes
    root: bytes = b""


class Authenticator(Protocol):
    async def authenticate(
        self, headers: Mapping[str, str], peer: PeerCertificate | None
    ) -> UserInfo | None:
        """The user, None when the request carries no credentials this knows (anonymous).
        Raises ApiError 401 for credentials that are bad."""
        ...


class Authorizer(Protocol):
    def authorize(self, attributes: Attributes) -> tuple[Decision, str]:
        """The decision and its reason. Synchronous: it reads caches kept by `Lookup`."""
        ...


class Lookup(Protocol):
    """Read access to stored objects from inside the API server, out of its watch caches.

    `resource` is `pods` or `rolebindings.rbac.authorization.k8s.io`. Objects returned are shared:
    never change them."""

    def get(self, resource: str, namespace: str, name: str) -> Object | None: ...

    def labels(self, resource: str, namespace: str, name: str) -> Mapping[str, str]:
        """Those of an object, which need no decoding; none if it is not there."""
        ...

    def list(self, resource: str, namespace: str = "") -> Iterable[Object]: ...

    def subscribe(
        self, resource: str, callback: Callable[[Object | None, Object | None], None]
    ) -> None:
        """Call `callback(old, new)` for every object there is now (old None) and at each change
        (new None: deleted)."""
        ...

    def follow(self, resource: str, callback: Callable[[str, str, Object | None], None]) -> None:
        """The same for those who need no past states, which cost a decoding each: call
        `callback(namespace, name, new)`."""
        ...


class Trail(Protocol):
    """What the audit record of one request is told. A request that no audit rule is about has
    none."""

    def annotate(self, key: str, value: str, *, level: str = "Metadata") -> None:
        """Add an annotation (`podsecurity.example/verdict`) if the record is of `level` or more.
        The first value of a key stays."""
        ...

    def request_object(self, obj: Any) -> None:
        """The object in the request's body, decoded."""
        ...


@dataclass(slots=True)
class AdmissionRequest:
    """One write on its way to the store. Mutating plug-ins change `obj` in place."""

    operation: str
    """CREATE, UPDATE, DELETE or CONNECT."""
    info: RequestInfo
    kind: str
    user: UserInfo
    obj: Object | None
    old: Object | None
    dry_run: bool = False
    options: Object = field(default_factory=dict)
    """CreateOptions, UpdateOptions, ... as given by the client."""
    warnings: Warnings = field(default_factory=Warnings)
    """Texts for `Warning` headers; plug-ins append."""
    is_name_generated: bool = False
    """The object asked for a name made of its generateName, and has it already, which mutating
    plug-ins are not to know."""
    is_second_round: bool = False
    """Mutating plug-ins are asked again, because one of them let an outsider change the object."""
    is_rewritten: bool = False
    """Set by a plug-in through which outsiders have changed the object: what the server sees to
    before admission is seen to again, and all mutating plug-ins are asked a second time."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What a plug-in, by its name, remembers between the rounds and phases of one request."""
    trail: Trail | None = None

    def annotate(self, key: str, value: str, *, level: str = "Metadata") -> None:
        """Leave an annotation in the request's audit record, if there is one."""
        if self.trail is not None:
            self.trail.annotate(key, value, level=level)


class AdmissionPlugin(Protocol):
    """An admission plug-in. `admit` may change the object, `validate` may only refuse; both raise
    ApiError to refuse."""

    name: str

    def handles(self, request: AdmissionRequest) -> bool: ...

    async def admit(self, request: AdmissionRequest) -> None: ...

    async def validate(self, request: AdmissionRequest) -> None: ...
