"""MutatingAdmissionWebhook and ValidatingAdmissionWebhook: outsiders who change or refuse writes.

Mutating webhooks are called one after the other, each on what the one before made of the object;
validating ones all at once, on the final object. A webhook that cannot be asked refuses the request
(failurePolicy Fail, 500) or is passed over (Ignore); one that says no refuses with a status of its
own choice. Without configurations a write costs one test. The server's own writes are not shown to
webhooks: one whose webhook is served from inside the cluster could never start again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from navarch.api.errors import ApiError, bad_request, forbidden, internal_error
from navarch.api.patch.common import copy_json, json_equal
from navarch.api.patch.json import apply_json_patch
from navarch.api.schema.decode import FieldValidation
from navarch.apiserver.admission.base import AdmissionAccess, Plugin
from navarch.apiserver.admission.matching import Subject, Versions, is_exempt, subject_of
from navarch.apiserver.admission.mutation import (
    Rounds,
    completed,
    hidden_metadata,
    restore,
    without,
)
from navarch.apiserver.admission.webhook_hooks import Configurations, Hook
from navarch.apiserver.admission.webhook_review import (
    Response,
    Shown,
    answer_of,
    decoded_patch,
    encode_shown,
    question,
    rejection,
    review_version,
)
from navarch.apiserver.contracts import AdmissionRequest, Authorizer, Object
from navarch.apiserver.registry.context import SYSTEM
from navarch.apiserver.registry.resource import Catalog
from navarch.apiserver.webhooks.client import CallFailed, WebhookClient
from navarch.apiserver.webhooks.metrics import CALLING_ERROR, NO_ERROR, SERVER_ERROR

log = logging.getLogger(__name__)
T = TypeVar("T")

CONDITIONS = "admission_match_condition"
NOT_MUTABLE = (
    'admission webhook "{}" attempted to modify the object, which is not supported for this '
    "operation"
)


class _Rejected(Exception):
    """A webhook said no."""

    def __init__(self, error: ApiError) -> None:
        self.error = error


@dataclass(frozen=True, slots=True)
class WebhookParts:
    """What both plug-ins work with."""

    access: AdmissionAccess
    catalog: Catalog
    client: WebhookClient
    authorizer: Authorizer


class _Webhooks(Plugin):
    """What mutating and validating webhooks have in common."""

    is_mutating = False
    step = ""
    """As metrics call the phase."""
    resource_name = ""
    failed_open = ""

    def __init__(self, parts: WebhookParts) -> None:
        self._parts = parts
        self._versions = Versions(parts.catalog)
        self._configurations = Configurations(parts.access.lookup, self.resource_name)

    def handles(self, request: AdmissionRequest) -> bool:
        return not self._configurations.is_empty and (
            request.user is not SYSTEM and not is_exempt(request)
        )

    async def _match(self, hook: Hook, request: AdmissionRequest, asked: Subject) -> Subject | None:
        seen = await hook.criteria.match(request, asked, self._versions, self._parts.access)
        if seen is None or hook.conditions is None:
            return seen
        obj = await self._in_version(self._visible(request, asked), asked, seen)
        old = await self._in_version(request.old, asked, seen)
        return seen if self._meets(hook, request, (asked, seen), (obj, old)) else None

    def _visible(self, request: AdmissionRequest, asked: Subject) -> Object | None:
        """The object as these webhooks may see it."""
        return request.obj

    def _meets(
        self,
        hook: Hook,
        request: AdmissionRequest,
        subjects: tuple[Subject, Subject],
        objects: tuple[Object | None, Object | None],
    ) -> bool:
        """Whether the webhook's match conditions hold. Raises 403 when nobody can tell."""
        # Late: CEL is for those who use it.
        from navarch.apiserver.admission.expressions import Inputs, asking
        from navarch.apiserver.admission.match_conditions import ConditionsFailed

        assert hook.conditions is not None
        asked = subjects[0]
        authorize = asking(self._parts.authorizer, request.user)
        labels = {
            "name": hook.name,
            "kind": "webhook",
            "type": self.step,
            "operation": request.operation,
        }
        try:
            if hook.conditions.matches(Inputs(request, *subjects, *objects, authorize)):
                return True
        except ConditionsFailed as error:
            self._parts.client.metrics.count(f"{CONDITIONS}_evaluation_errors_total", labels)
            if hook.fails_open:
                return False
            raise forbidden(asked.resource, asked.group, asked.name, str(error)) from error
        self._parts.client.metrics.count(f"{CONDITIONS}_exclusions_total", labels)
        return False

    async def _ask(
        self, hook: Hook, request: AdmissionRequest, subjects: tuple[Subject, Subject], shown: Shown
    ) -> Response:
        """Put the question; returns an answer that allows. Raises CallFailed, _Rejected, 400."""
        if request.dry_run and not hook.supports_dry_run:
            raise bad_request(f'admission webhook "{hook.name}" does not support dry run')
        version = review_version(hook.review_versions)
        uid, document = question(request, subjects, shown, version)
        try:
            content = await self._parts.client.post(hook.endpoint, document, hook.seconds)
        except CallFailed as error:
            raise CallFailed(f"failed to call webhook: {error}", error.status) from error
        response = answer_of(content, uid, version, self.is_mutating)
        for key, value in (response.auditAnnotations or {}).items():
            request.annotate(f"{hook.name}/{key}", value)
        request.warnings.take(response.warnings or ())
        if not response.allowed:
            raise _Rejected(rejection(hook.name, response.status))
        return response

    async def _judged(
        self, hook: Hook, request: AdmissionRequest, turn: Awaitable[T], place: str
    ) -> T | None:
        """The outcome of one webhook's turn, counted. None when it failed and may."""
        labels = {"name": hook.name, "type": self.step, "operation": request.operation}
        metrics, started = self._parts.client.metrics, time.perf_counter()
        try:
            result = await turn
        except CallFailed as failure:
            seconds = time.perf_counter() - started
            metrics.observe(labels, seconds, failure.status, not hook.fails_open)
            text = f'failed calling webhook "{hook.name}": {failure}'
            if hook.fails_open:
                log.warning("%s; it is passed over", text)
                metrics.count(
                    "admission_webhook_fail_open_count", {"name": hook.name, "type": self.step}
                )
                request.annotate(f"{self.failed_open}/{place}", hook.name)
                return None
            metrics.rejected(labels, CALLING_ERROR, failure.status)
            raise internal_error(text) from failure
        except _Rejected as refusal:
            code = refusal.error.status
            metrics.rejected(labels, NO_ERROR, code)
            metrics.observe(labels, time.perf_counter() - started, code, True)
            raise refusal.error from None
        except ApiError:
            metrics.rejected(labels, SERVER_ERROR, 0)
            metrics.observe(labels, time.perf_counter() - started, 0, True)
            raise
        metrics.observe(labels, time.perf_counter() - started, 200, False)
        return result

    async def _in_version(self, obj: Object | None, asked: Subject, seen: Subject) -> Object | None:
        """An object in the version that a webhook wants to see; its own when that is the same."""
        if obj is None or asked.kind == seen.kind:
            return obj
        return await self._versions.convert(obj, asked, seen)


class ValidatingWebhooks(_Webhooks):
    name = "ValidatingAdmissionWebhook"
    step = "validating"
    resource_name = "validatingwebhookconfigurations"
    failed_open = "failed-open.validating.webhook.admission.k8s.io"

    async def validate(self, request: AdmissionRequest) -> None:
        asked = subject_of(request)
        shown: dict[tuple[str, str, str], Shown] = {}
        concerned: list[tuple[Hook, Subject]] = []
        for hook in self._configurations.hooks:
            seen = await self._match(hook, request, asked)
            if seen is None:
                continue
            if seen.kind not in shown:
                obj = await self._in_version(request.obj, asked, seen)
                old = await self._in_version(request.old, asked, seen)
                shown[seen.kind] = Shown(encode_shown(obj), encode_shown(old))
            concerned.append((hook, seen))
        turns = [
            self._judged(
                hook,
                request,
                self._ask(hook, request, (asked, seen), shown[seen.kind]),
                f"round_0_index_{index}",
            )
            for index, (hook, seen) in enumerate(concerned)
        ]
        for result in await asyncio.gather(*turns, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result


class MutatingWebhooks(_Webhooks):
    name = "MutatingAdmissionWebhook"
    is_mutating = True
    step = "admit"
    resource_name = "mutatingwebhookconfigurations"
    failed_open = "failed-open.mutation.webhook.admission.k8s.io"

    def _visible(self, request: AdmissionRequest, asked: Subject) -> Object | None:
        return without(request.obj, hidden_metadata(request, asked))

    async def admit(self, request: AdmissionRequest) -> None:
        rounds = request.notes.setdefault(self.name, Rounds())
        if request.is_second_round and rounds.output != request.obj:
            rounds.object_changed()
        asked = subject_of(request)
        old: dict[tuple[str, str, str], msgspec.Raw] = {}
        for index, hook in enumerate(self._configurations.hooks):
            seen = await self._match(hook, request, asked)
            if seen is None or (request.is_second_round and hook.uid not in rounds.again):
                continue
            if seen.kind not in old:
                shown_old = await self._in_version(request.old, asked, seen)
                old[seen.kind] = encode_shown(shown_old)
            place = f"round_{int(request.is_second_round)}_index_{index}"
            turn = self._change(hook, request, (asked, seen), old[seen.kind], place)
            if await self._judged(hook, request, turn, place):
                rounds.object_changed()
                request.is_rewritten = True
            if hook.is_reinvoked:
                rounds.called.add(hook.uid)
        if request.is_rewritten and not request.is_second_round:
            rounds.output = copy_json(request.obj)

    async def _change(
        self,
        hook: Hook,
        request: AdmissionRequest,
        subjects: tuple[Subject, Subject],
        old: msgspec.Raw,
        place: str,
    ) -> bool:
        """One webhook's turn; returns whether it changed the object."""
        asked, seen = subjects
        hidden = hidden_metadata(request, asked)
        obj = await self._in_version(without(request.obj, hidden), asked, seen)
        response = await self._ask(hook, request, subjects, Shown(encode_shown(obj), old))
        operations = decoded_patch(response)
        is_changed = False
        if operations:
            if obj is None or request.obj is None:
                raise internal_error(NOT_MUTABLE.format(hook.name))
            changed = self._patched(obj, operations, seen)
            is_changed = not json_equal(changed, obj)
            result = await self._in_version(changed, seen, asked)
            assert result is not None
            restore(result, hidden)
            request.obj.clear()
            request.obj.update(result)
            self._annotate_patch(request, hook, place, operations)
        self._annotate(request, "mutation", hook, place, {"mutated": is_changed})
        return is_changed

    def _patched(self, obj: Object, operations: list[Object], seen: Subject) -> Object:
        """The object after a patch. What comes out must be an object of the kind; if not, the
        webhook is broken, not the client."""
        try:
            result: Object = copy_json(apply_json_patch(obj, operations))
            return completed(self._parts.catalog, result, seen, FieldValidation.IGNORE)
        except ApiError as error:
            raise internal_error(_cause(error)) from error

    def _annotate_patch(
        self, request: AdmissionRequest, hook: Hook, place: str, operations: list[Object]
    ) -> None:
        more = {"patch": operations, "patchType": "JSONPatch"}
        self._annotate(request, "patch", hook, place, more, level="Request")

    @staticmethod
    def _annotate(
        request: AdmissionRequest,
        what: str,
        hook: Hook,
        place: str,
        more: Object,
        *,
        level: str = "Metadata",
    ) -> None:
        if request.trail is None:
            return
        value = {"configuration": hook.configuration, "webhook": hook.name, **more}
        key = f"{what}.webhook.admission.k8s.io/{place}"
        request.annotate(key, msgspec.json.encode(value).decode(), level=level)


def _cause(error: ApiError) -> str:
    """What went wrong with a patch, without the words that blame the client."""
    if error.__cause__ is not None:
        return str(error.__cause__)
    _, separator, text = error.message.partition(": json: ")
    return f"json: {text}" if separator else error.message
