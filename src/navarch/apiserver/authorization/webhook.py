"""Authorizers that are asked over the network, by a SubjectAccessReview (KEP-3221).

Decisions elsewhere in the server are made at once, out of caches. So a request's question is put
to the webhooks first, in `prepare`, and the answers are kept; `authorize` then only looks. What was
not prepared (rights asked about in passing, such as `escalate` and `impersonate`) is for the other
authorizers alone to grant.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec

from navarch.api.cel.environment import Environment, Program
from navarch.api.cel.errors import CelError
from navarch.api.cel.library import NEW, base_environment
from navarch.api.cel.types import BOOL, STRING, list_of, map_of, object_type
from navarch.apiserver.authentication.webhook import Remote
from navarch.apiserver.contracts import Attributes, Decision, Object

log = logging.getLogger(__name__)

Answer = tuple[Decision, str]
NO_OPINION: Answer = (Decision.NO_OPINION, "")
CACHE_LIMIT = 8192
_ASKED = ("name", "namespace", "verb", "group", "version", "resource", "subresource")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one webhook is asked. `denies_on_failure`: else a failure is no opinion."""

    name: str
    version: str
    timeout: float
    allowed_seconds: float
    refused_seconds: float
    denies_on_failure: bool


@cache
def _environment() -> Environment:
    strings = list_of(STRING)
    named = dict.fromkeys(_ASKED, STRING)
    paths = object_type("kubernetes.NonResourceAttributes", {"path": STRING, "verb": STRING})
    fields = {
        "resourceAttributes": object_type("kubernetes.ResourceAttributes", named),
        "nonResourceAttributes": paths,
        "user": STRING,
        "groups": strings,
        "uid": STRING,
        "extra": map_of(STRING, strings),
    }
    request = object_type("kubernetes.SubjectAccessReviewSpec", fields)
    return base_environment(NEW).extend(variables={"request": request})


def compile_condition(expression: str) -> Program:
    """A match condition. Raises ValueError."""
    try:
        return _environment().compile(expression, (BOOL,))
    except CelError as error:
        raise ValueError(f"{expression!r}: compilation failed: {error}") from None


class WebhookAuthorizer:
    """Implements `Authorizer`, once `prepare` was awaited for the question."""

    def __init__(
        self,
        remote: Remote,
        behaviour: Behaviour,
        conditions: list[Program],
        now: Callable[[], float],
    ) -> None:
        self._remote = remote
        self._behaviour = behaviour
        self._conditions = conditions
        self._now = now
        self._known: dict[bytes, tuple[float, Answer]] = {}

    def authorize(self, attributes: Attributes) -> Answer:
        found = self._known.get(_key(attributes))
        return found[1] if found is not None and self._now() < found[0] else NO_OPINION

    async def prepare(self, attributes: Attributes) -> None:
        key = _key(attributes)
        found = self._known.get(key)
        if found is not None and self._now() < found[0]:
            return
        answer = await self._decide(attributes)
        behaviour = self._behaviour
        is_allowed = answer[0] is Decision.ALLOW
        seconds = behaviour.allowed_seconds if is_allowed else behaviour.refused_seconds
        if len(self._known) >= CACHE_LIMIT:
            self._known.clear()
        # Long enough at least for the request that asked.
        self._known[key] = (self._now() + max(seconds, 1.0), answer)

    async def _decide(self, attributes: Attributes) -> Answer:
        spec = review_spec(attributes)
        try:
            if not self._matches(spec):
                return NO_OPINION
            return await self._ask(spec)
        except (CelError, OSError, TimeoutError, ValueError) as error:
            log.warning("authorization webhook %s: %s", self._behaviour.name, error)
            if self._behaviour.denies_on_failure:
                return Decision.DENY, f"the webhook {self._behaviour.name} failed"
            return NO_OPINION

    def _matches(self, spec: Object) -> bool:
        """One condition that is false is enough, even if others fail."""
        problem: CelError | None = None
        for program in self._conditions:
            try:
                if program.evaluate({"request": spec}).value is False:
                    return False
            except CelError as error:
                problem = error
        if problem is not None:
            raise problem
        return True

    async def _ask(self, spec: Object) -> Answer:
        review: Object = {
            "kind": "SubjectAccessReview",
            "apiVersion": f"authorization.k8s.io/{self._behaviour.version}",
            "metadata": {"creationTimestamp": None},
            "spec": _as_version(spec, self._behaviour.version),
        }
        answer = msgspec.json.decode(await self._remote.ask(review, self._behaviour.timeout))
        status = answer.get("status") if isinstance(answer, dict) else None
        return _read(status if isinstance(status, dict) else {})


def _read(status: dict[str, Any]) -> Answer:
    """A decision out of an answer: allowed and denied at once is a denial."""
    reason = str(status.get("reason") or "")
    if status.get("denied"):
        return Decision.DENY, reason
    if status.get("allowed") is True:
        return Decision.ALLOW, reason
    return Decision.NO_OPINION, reason


def review_spec(attributes: Attributes) -> Object:
    """The question as a SubjectAccessReview asks it."""
    user, info = attributes.user, attributes.info
    spec = user.to_object("user")
    if not info.is_resource:
        spec["nonResourceAttributes"] = {"path": info.path, "verb": info.verb}
        return spec
    asked = {each: getattr(info, each) for each in _ASKED}
    found: Object = {key: value for key, value in asked.items() if value}
    for name in ("field_selector", "label_selector"):
        if text := getattr(attributes, name):
            first, second = name.split("_")
            found[first + second.title()] = {"rawSelector": text}
    spec["resourceAttributes"] = found
    return spec


def _as_version(spec: Object, version: str) -> Object:
    """v1beta1 calls the groups `group`."""
    if version == "v1":
        return spec
    return {"group" if key == "groups" else key: value for key, value in spec.items()}


def _key(attributes: Attributes) -> bytes:
    return msgspec.json.encode(review_spec(attributes))
