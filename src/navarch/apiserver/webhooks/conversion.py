"""Conversion webhooks: custom resources moved between the versions of their definition.

Objects lie in the store in the version that was the storage version when they were written, and are
shown in the version that a request names. Where the two differ the definition's webhook is asked,
for all objects of a list at once (in parts of bounded size). It may change everything but the
object's identity and its metadata other than labels and annotations. Answers are kept while they
are used: an object is converted once for all readers and watchers of a version.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from navarch.api.errors import ApiError
from navarch.api.patch.common import copy_json
from navarch.api.schema.decode import FieldValidation
from navarch.api.validation.fields import Field
from navarch.api.validation.meta import check_annotations
from navarch.apiserver.hub.entry import Entry, StoredKind, encode_stored, facts_of
from navarch.apiserver.registry.shape import Shape
from navarch.apiserver.webhooks.client import CallFailed, Endpoint, WebhookClient

Object = dict[str, Any]
Key = tuple[Entry, str]

GROUP = "apiextensions.k8s.io"
SECONDS = 30.0
PART_BYTES = 8 * 1024 * 1024
KEPT_BYTES = 32 * 1024 * 1024

log = logging.getLogger(__name__)


class _Result(msgspec.Struct):
    status: str = ""
    message: str = ""


class _Response(msgspec.Struct):
    uid: str = ""
    convertedObjects: list[Object] | None = None
    result: _Result = msgspec.field(default_factory=_Result)


class _Review(msgspec.Struct):
    apiVersion: str = ""
    kind: str = ""
    response: _Response | None = None


_decode = msgspec.json.Decoder(_Review).decode


class WebhookConverter:
    """Converts the objects of one definition. Implements `Converter`."""

    def __init__(
        self,
        client: WebhookClient,
        crd: Object,
        stored: StoredKind,
        shapes: Mapping[str, Shape],
        defaulted: Collection[str],
    ) -> None:
        """`shapes` are the versions' forms by apiVersion; `defaulted` those with defaults in their
        schema, which objects get when they are read."""
        webhook = crd["spec"]["conversion"]["webhook"]
        self.source = _source(crd)
        self._client = client
        self._endpoint = Endpoint.of(webhook["clientConfig"])
        self._review_versions: Sequence[str] = webhook.get("conversionReviewVersions") or ()
        self._stored = stored
        self._shapes = shapes
        self._defaulted = frozenset(defaulted)
        self._kept: OrderedDict[Key, Entry] = OrderedDict()
        self._kept_bytes = 0
        self._under_way: dict[Key, asyncio.Task[dict[Entry, Entry]]] = {}

    def is_of(self, crd: Object) -> bool:
        """Whether this is still how the definition wants to be converted."""
        return self.source == _source(crd)

    # ---- entries of the store

    async def entries(self, entries: Sequence[Entry], api_version: str) -> list[Entry]:
        known: dict[Entry, Entry] = {}
        missing: list[Entry] = []
        tasks: dict[asyncio.Task[dict[Entry, Entry]], None] = {}
        own = api_version.encode()
        for entry in entries:
            key = entry, api_version
            if entry.api_version == own and api_version not in self._defaulted:
                known[entry] = entry
            elif (kept := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                known[entry] = kept
            elif (task := self._under_way.get(key)) is not None:
                tasks[task] = None
            else:
                missing.append(entry)
        for part in _parts(missing):
            tasks[self._begin(part, api_version)] = None
        for task in tasks:
            # Others may wait for the same: who leaves must not take the answer away from them.
            known |= await asyncio.shield(task)
        return [known[entry] for entry in entries]

    def _begin(self, part: Sequence[Entry], api_version: str) -> asyncio.Task[dict[Entry, Entry]]:
        task = asyncio.create_task(self._convert_part(part, api_version), name="conversion")
        for entry in part:
            self._under_way[entry, api_version] = task

        def done(task: asyncio.Task[dict[Entry, Entry]]) -> None:
            for entry in part:
                del self._under_way[entry, api_version]
            if not task.cancelled() and task.exception() is not None:
                log.debug("a conversion failed: %s", task.exception())

        task.add_done_callback(done)
        return task

    async def _convert_part(self, part: Sequence[Entry], api_version: str) -> dict[Entry, Entry]:
        objects = []
        for entry in part:
            version = entry.api_version.decode()
            obj = entry.decode(self._kind_in(version))
            if version in self._defaulted:
                self._shapes[version].default(obj)
            objects.append(obj)
        target = self._kind_in(api_version)
        result: dict[Entry, Entry] = {}
        for entry, obj in zip(part, await self.convert(objects, api_version), strict=True):
            view = Entry(
                entry.namespace,
                entry.name,
                encode_stored(obj, target),
                facts_of(target, obj),
                (entry.create_revision, entry.revision),
                len(target.value_start),
            )
            result[entry] = view
            self._keep((entry, api_version), view)
        return result

    def _kind_in(self, api_version: str) -> StoredKind:
        return replace(self._stored, api_version=api_version)

    def _keep(self, key: Key, view: Entry) -> None:
        self._kept[key] = view
        self._kept_bytes += view.tail_size
        while self._kept_bytes > KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._kept_bytes -= oldest.tail_size

    # ---- objects

    async def convert(self, objects: Sequence[Object], api_version: str) -> list[Object]:
        asked = [obj for obj in objects if obj.get("apiVersion") != api_version]
        if not asked:
            return list(objects)
        answers = iter(await self._ask(asked, api_version))
        return [obj if obj.get("apiVersion") == api_version else next(answers) for obj in objects]

    async def _ask(self, objects: Sequence[Object], api_version: str) -> list[Object]:
        """The webhook's answer, checked. Raises ApiError 500 in upstream's words."""
        started = time.perf_counter()
        failure = "conversion_webhook_call_failure"
        try:
            try:
                answers = await self._call(objects, api_version)
            except CallFailed as error:
                raise _failure(f"conversion webhook for {_gvk(objects[0])} failed: {error}") from (
                    error
                )
            failure = "conversion_webhook_invalid_converted_object_failure"
            self._check(objects, answers, api_version)
            failure = ""
        finally:
            self._client.metrics.converted(time.perf_counter() - started, failure)
        return answers

    def _check(
        self, objects: Sequence[Object], answers: Sequence[Object], api_version: str
    ) -> None:
        """Whether answers are conversions of objects; puts the metadata back that is not theirs."""
        who = _gvk(objects[0])
        if len(answers) != len(objects):
            raise _failure(
                f"conversion webhook for {who} returned {len(answers)} objects, "
                f"expected {len(objects)}"
            )
        for index, (original, answer) in enumerate(zip(objects, answers, strict=True)):
            problem = _problem(original, answer, api_version)
            if problem is not None:
                where = problem.place if len(objects) == 1 else problem.place_in_list(index)
                raise _failure(f"conversion webhook for {who} returned {where}: {problem.text}")
            self._prune(answer, api_version, who)

    async def _call(self, objects: Sequence[Object], api_version: str) -> list[Object]:
        version = next((each for each in self._review_versions if each in ("v1", "v1beta1")), "")
        if not version:
            raise CallFailed("no supported conversion review versions")
        uid = str(uuid.uuid4())
        review = {
            "kind": "ConversionReview",
            "apiVersion": f"{GROUP}/{version}",
            "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": objects},
        }
        content = await self._client.post(self._endpoint, review, SECONDS)
        try:
            answer = _decode(content)
        except msgspec.ValidationError as error:
            raise CallFailed(f"json: cannot unmarshal: {error}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise CallFailed(f"couldn't get version/kind; json parse error: {error}") from None
        return _converted(answer, uid, version)

    def _prune(self, obj: Object, api_version: str, who: str) -> None:
        """What the version's schema does not know goes, in place."""
        shape = self._shapes.get(api_version)
        if shape is None:
            return
        try:
            shape.normalise(obj, FieldValidation.IGNORE)
        except ApiError as error:
            raise _failure(
                f"conversion webhook for {who} returned invalid object: {error}"
            ) from error


def _source(crd: Object) -> Object:
    """What a converter is made of: as long as this stays, so does the converter."""
    spec = crd["spec"]
    return {"conversion": spec.get("conversion"), "versions": spec["versions"]}


def _parts(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    part: list[Entry] = []
    size = 0
    for entry in entries:
        if part and size + entry.tail_size > PART_BYTES:
            yield part
            part, size = [], 0
        part.append(entry)
        size += entry.tail_size
    if part:
        yield part


def _failure(text: str) -> ApiError:
    return ApiError(500, "", text)


def _gvk(obj: Object) -> str:
    return f"{obj.get('apiVersion')}, Kind={obj.get('kind')}"


def _converted(review: _Review, uid: str, version: str) -> list[Object]:
    """The objects in an answer. Raises CallFailed."""
    wanted = f"{GROUP}/v1, Kind=ConversionReview"
    given = f"{review.apiVersion or '/'}, Kind={review.kind}"
    if version == "v1" and given != wanted:
        raise CallFailed(f"expected webhook response of {wanted}, got {given}")
    response = review.response
    if response is None:
        raise CallFailed("no response provided")
    if version == "v1" and response.uid != uid:
        raise CallFailed(f'expected response.uid="{uid}", got "{response.uid}"')
    result = response.result
    if result.status != "Success":
        text = f"response.result.status was '{result.status}', not 'Success'"
        raise CallFailed(result.message or text)
    return response.convertedObjects or []


class _Problem(NamedTuple):
    """Why an answer is no conversion. `place` is how upstream names what is wrong with the only
    object that was asked for; of several it says which one."""

    place: str
    text: str

    def place_in_list(self, index: int) -> str:
        if self.place == METADATA:
            return f"{METADATA} in object at index {index}"
        return f"invalid converted object at index {index}"


METADATA = "invalid metadata"


def _problem(original: Object, answer: Object, api_version: str) -> _Problem | None:
    """What is wrong with a converted object, which gets the original's metadata, in place: only
    labels and annotations are the webhook's to change."""
    given = answer.get("apiVersion") or ""
    if given != api_version:
        text = f"invalid groupVersion (expected {api_version}, received {given})"
        return _Problem("invalid object at index 0", text)
    kind = original.get("kind")
    if answer.get("kind") != kind:
        text = f"invalid kind (expected {kind}, received {answer.get('kind') or ''})"
        return _Problem("invalid object at index 0", text)
    before: Object = original.get("metadata") or {}
    after = answer.get("metadata")
    if not isinstance(after, dict):
        after = {}
    for field, what in (("name", "name"), ("namespace", "namespace"), ("uid", "UID")):
        old, new = before.get(field) or "", after.get(field) or ""
        if old != new:
            return _Problem("invalid object", f"must have the same {what}: {old} != {new}")
    answer["metadata"] = metadata = copy_json(before)
    for field in ("labels", "annotations"):
        value = after.get(field)
        if value is None:
            metadata.pop(field, None)
            continue
        text = _map_problem(field, value, before.get(field) or {})
        if text:
            return _Problem(METADATA, text)
        metadata[field] = value
    return None


def _map_problem(field: str, value: Any, before: Object) -> str:
    """What is wrong with labels or annotations; "" for nothing."""
    if not isinstance(value, dict):
        return f"invalid metadata.{field} of type {_go_type(value)} in converted object"
    for key, text in value.items():
        if not isinstance(text, str):
            where = f"metadata.{field}[{key}]"
            return f"{where} must be a string, but is {_go_type(text)} in converted object"
    checked = Field(value, step=f"metadata.{field}")
    if value != before:
        if field == "labels":
            checked.labels()
        else:
            check_annotations(checked)
    return ", ".join(map(str, checked.errors))


_GO_TYPES = {
    bool: "bool",
    int: "int64",
    float: "float64",
    str: "string",
    list: "[]interface {}",
    dict: "map[string]interface {}",
    type(None): "<nil>",
}


def _go_type(value: object) -> str:
    return _GO_TYPES[type(value)]
