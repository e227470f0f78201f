"""TokenRequest: POST serviceaccounts/<name>/token answers a new token (KEP-1205).

The token says for which audiences and how long it is good, and may be bound to a pod, a secret or
a node: it dies with that object. Tokens of the default lifetime that pods get for the API server
are in truth good for a year and only marked with a warning time, because old clients never read
their token file again; the kubelet renews them long before.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import jwt
import msgspec

from navarch.api.errors import FieldError, bad_request, conflict, invalid, invalid_object, not_found
from navarch.api.times import format_time
from navarch.apiserver.authentication.claims import USER_PREFIX, Claims, KubernetesClaims, Reference
from navarch.apiserver.authentication.keys import KeyRing
from navarch.apiserver.contracts import Lookup, Object

GROUP = "authentication.k8s.io"
DEFAULT_SECONDS = 3600
MINIMUM_SECONDS = 600
MAXIMUM_SECONDS = 1 << 32
POD_TOKEN_SECONDS = 3607
"""The lifetime asked for by the volume that admission adds to pods; the odd number marks it."""
EXTENDED_SECONDS = 365 * 24 * 3600
_RECREATED = "The object might have been deleted and then recreated"


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """What an API server issues. `max_seconds` 0 means no limit of its own."""

    issuer: str
    audiences: tuple[str, ...]
    max_seconds: int = 0
    extend_pod_tokens: bool = True


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """The TokenRequest with its status, and texts for `Warning` headers."""

    obj: Object
    credential: str
    """Names the token in audit records, here and wherever it is used."""
    warnings: tuple[str, ...] = ()


class TokenIssuer:
    """Answers TokenRequests in two steps, for validating admission comes in between."""

    def __init__(
        self, keys: KeyRing, policy: TokenPolicy, lookup: Lookup, now: Callable[[], float]
    ) -> None:
        self._keys = keys
        self._policy = policy
        self._lookup = lookup
        self._now = now

    def prepare(self, request: Object, namespace: str, name: str) -> Object:
        """The request checked against the service account, and its lifetime set. Raises ApiError.

        Audiences are left as they were asked for: admission tells a node that asks for none (the
        API server's) from one that asks for some."""
        metadata, spec = dict(request.get("metadata") or {}), dict(request.get("spec") or {})
        for field, own in (("name", name), ("namespace", namespace)):
            given = metadata.get(field)
            if given and given != own:
                detail = f"must match the service account {field} if specified"
                errors = [invalid(f"metadata.{field}", given, detail)]
                raise invalid_object("TokenRequest", GROUP, name, errors)
        account = self._get("serviceaccounts", namespace, name)
        uid = account["metadata"].get("uid", "")
        if metadata.get("uid") and metadata["uid"] != uid:
            why = (
                f"the UID in the token request ({metadata['uid']}) does not match "
                f"the UID of the service account ({uid})"
            )
            raise conflict("TokenRequest", GROUP, name, why)
        metadata.update(name=name, namespace=namespace, uid=uid)
        metadata["creationTimestamp"] = format_time(datetime.fromtimestamp(self._now(), UTC))
        if spec.get("expirationSeconds") is None:
            spec["expirationSeconds"] = DEFAULT_SECONDS
        spec.setdefault("boundObjectRef", None)
        errors = _duration_errors(spec["expirationSeconds"])
        if errors:
            raise invalid_object("TokenRequest", GROUP, "", errors)
        return {**request, "metadata": metadata, "spec": spec}

    def issue(self, prepared: Object) -> IssuedToken:
        """Sign the token that a prepared request asks for. Raises ApiError."""
        namespace, name = prepared["metadata"]["namespace"], prepared["metadata"]["name"]
        spec = dict(prepared["spec"])
        spec["audiences"] = spec.get("audiences") or list(self._policy.audiences)
        bound = KubernetesClaims(namespace, Reference(name, prepared["metadata"]["uid"]))
        if spec["boundObjectRef"] is not None:
            self._bind(bound, spec["boundObjectRef"])
        warnings: tuple[str, ...] = ()
        limit = self._policy.max_seconds
        if limit and spec["expirationSeconds"] > limit:
            asked, spec["expirationSeconds"] = spec["expirationSeconds"], limit
            warnings = (f"requested expiration of {asked} seconds shortened to {limit} seconds",)
        now, seconds = int(self._now()), spec["expirationSeconds"]
        lifetime = seconds
        if self._is_pod_token(bound, spec):
            bound.warnafter = now + seconds
            lifetime = max(seconds, min(EXTENDED_SECONDS, limit or EXTENDED_SECONDS))
        claims = Claims(
            self._policy.issuer,
            f"{USER_PREFIX}{namespace}:{name}",
            spec["audiences"],
            now + lifetime,
            now,
            now,
            str(uuid.uuid4()),
            bound,
        )
        expires = format_time(datetime.fromtimestamp(now + seconds, UTC))
        status = {"token": self._sign(claims), "expirationTimestamp": expires}
        issued = {**prepared, "spec": spec, "status": status}
        return IssuedToken(issued, f"JTI={claims.jti}", warnings)

    def _is_pod_token(self, bound: KubernetesClaims, spec: Object) -> bool:
        return (
            self._policy.extend_pod_tokens
            and bound.pod is not None
            and spec["expirationSeconds"] == POD_TOKEN_SECONDS
            and set(spec["audiences"]) <= set(self._policy.audiences)
        )

    def _bind(self, bound: KubernetesClaims, ref: Object) -> None:
        kind, name = ref.get("kind", ""), ref.get("name", "")
        group, _, version = ref.get("apiVersion", "").rpartition("/")
        namespace = bound.namespace
        if group or kind not in ("Pod", "Secret", "Node"):
            described = f"{group}/{version}, Kind={kind}"
            raise bad_request(f"cannot bind token to object of type {described}")
        resource = f"{kind.lower()}s"
        obj = self._get(resource, "" if kind == "Node" else namespace, name)
        account = bound.serviceaccount.name
        if kind == "Pod" and (obj.get("spec") or {}).get("serviceAccountName") != account:
            raise bad_request(
                f'cannot bind token for serviceaccount "{account}" to pod running with '
                "different serviceaccount name."
            )
        uid = obj["metadata"].get("uid", "")
        if ref.get("uid") and ref["uid"] != uid:
            why = (
                f"the UID in the bound object reference ({ref['uid']}) does not match "
                f"the UID in record. {_RECREATED}"
            )
            raise conflict(kind, group, name, why)
        setattr(bound, kind.lower(), Reference(name, uid))
        node_name = (obj.get("spec") or {}).get("nodeName") if kind == "Pod" else None
        if node_name:
            node = self._lookup.get("nodes", "", node_name)
            bound.node = Reference(node_name, node["metadata"].get("uid", "") if node else "")

    def _get(self, resource: str, namespace: str, name: str) -> Object:
        obj = self._lookup.get(resource, namespace, name)
        if obj is None:
            raise not_found(resource, "", name)
        return obj

    def _sign(self, claims: Claims) -> str:
        return jwt.PyJWS().encode(
            msgspec.json.encode(claims),
            self._keys.signing_key,
            algorithm=self._keys.algorithm,
            headers={"kid": self._keys.signing_key_id, "typ": None},
        )


def _duration_errors(seconds: int) -> list[FieldError]:
    path = "spec.expirationSeconds"
    if seconds < MINIMUM_SECONDS:
        return [invalid(path, seconds, "may not specify a duration less than 10 minutes")]
    if seconds > MAXIMUM_SECONDS:
        return [invalid(path, seconds, "may not specify a duration larger than 2^32 seconds")]
    return []
