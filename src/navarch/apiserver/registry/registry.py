"""The registry: every write to an object, of whatever kind, goes through here.

One path for built-in and custom resources: defaults, managed fields, mutating admission, the kind's
strategy, validation, validating admission, and a compare-and-swap on the store. A write returns
when it is durable and every read through the hub shows it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from msgspec.structs import replace

from navarch.api import names
from navarch.api.errors import (
    OBJECT_MODIFIED,
    ApiError,
    FieldError,
    already_exists,
    bad_request,
    conflict,
    forbidden,
    internal_error,
    invalid,
    invalid_object,
    not_found,
    too_large,
)
from navarch.api.numbers import natural
from navarch.api.patch.common import copy_json
from navarch.api.validation.meta import (
    NameRule,
    validate_object_meta,
    validate_object_meta_update,
    validate_standard_finalizers,
)
from navarch.apiserver.contracts import AdmissionRequest
from navarch.apiserver.hub.entry import Entry, encode_object, encode_stored, facts_of, tail_of
from navarch.apiserver.hub.hub import Hint, Hub
from navarch.apiserver.registry import metadata as meta
from navarch.apiserver.registry.chain import Chain
from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.registry.fields import book_create, book_update, restore_fields
from navarch.apiserver.registry.reservation import Hook, reservation
from navarch.apiserver.registry.resource import Catalog, Resource
from navarch.apiserver.registry.status_patch import beside, default_unshared
from navarch.store.contract import CasFailed, Store, StoreError, StoreFull

Object = dict[str, Any]
T = TypeVar("T")

SECOND = timedelta(seconds=1)
VALUE_LIMIT = 1_572_864
"""What etcd takes in one request: an object beyond it could not be handed over."""
RETRIES = 100
GENERATE_ATTEMPTS = 8
NEW_WITH_VERSION = "resourceVersion should not be set on objects to be created"
OTHER_NAMESPACE = (
    "the namespace of the provided object does not match the namespace sent on the request"
)

Transform = Callable[[Object], Object]


@dataclass(frozen=True, slots=True)
class Written:
    """The result of a write: the object in the requested version, and its bytes."""

    obj: Object
    body: bytes
    created: bool = False


class Registry:
    """Writes to the objects of all kinds."""

    def __init__(self, store: Store, hub: Hub, catalog: Catalog) -> None:
        self.store = store
        self.hub = hub
        self.catalog = catalog
        self.chain = Chain()
        self.hooks: dict[str, Hook] = {}
        """By resource name: called for a valid object of a create or update, may allocate."""
        self.removed: dict[str, Callable[[Entry, int], Awaitable[None]]] = {}
        """By resource name: called with an object that is gone and the revision of its removal,
        before the removal is acknowledged."""
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        # Uids and generated names tell objects apart and protect nothing, so they need no bits
        # from the system one by one, each of which is a call into the kernel.
        self.chooser = random.Random(random.SystemRandom().getrandbits(256))
        self._second = (datetime.min.replace(tzinfo=UTC), "")
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By key: held by the one of those who lost a race that tries again."""

    def _new_uid(self) -> str:
        return names.as_uuid(self.chooser.getrandbits(128))

    def timestamp(self) -> str:
        """Now, as objects show it; written out once a second."""
        now = self.now()
        began, text = self._second
        if not began <= now < began + SECOND:
            text = now.strftime("%Y-%m-%dT%H:%M:%SZ")
            self._second = now.replace(microsecond=0), text
        return text

    # ---- reading

    def get(self, resource: Resource, namespace: str, name: str) -> Entry:
        """The entry of an object. Raises 404."""
        entry = resource.cache.get(namespace, name)
        if entry is None:
            raise not_found(resource.kind.plural, resource.kind.group, name)
        return entry

    async def read(self, resource: Resource, namespace: str, name: str) -> Object:
        """A private copy of an object in the resource's version. Raises 404."""
        return resource.decode(await resource.view(self.get(resource, namespace, name)))

    # ---- create

    async def create(self, resource: Resource, obj: Object, context: WriteContext) -> Written:
        """Make a new object out of a decoded one, which becomes the registry's. A generated name
        that is taken is generated anew, and all that follows from the name with it."""
        metadata = obj["metadata"]
        base = "" if metadata.get("name") else metadata.get("generateName", "")
        if not base:
            return await self._create(resource, obj, context)
        for attempt in range(1, GENERATE_ATTEMPTS + 1):
            candidate = copy_json(obj)
            candidate["metadata"]["name"] = names.generate_name(base, self.chooser)
            try:
                return await self._create(
                    resource, candidate, replace(context, is_name_generated=True)
                )
            except ApiError as error:
                if not error.is_already_exists:
                    raise
                if attempt == GENERATE_ATTEMPTS:
                    error.message += (
                        ", the server was not able to generate a unique name for the object"
                    )
                    raise
        raise AssertionError("unreachable")

    async def _create(self, resource: Resource, obj: Object, context: WriteContext) -> Written:
        strategy = resource.strategy
        namespace = obj["metadata"].get("namespace", "")
        stamp = {"uid": self._new_uid(), "creationTimestamp": self.timestamp()}

        def prepare(obj: Object) -> None:
            metadata = obj["metadata"]
            if metadata.get("namespace", "") != namespace:
                raise bad_request(OTHER_NAMESPACE)
            meta.clear_server_fields(metadata)
            metadata |= stamp
            context.warnings.take(meta.dedup_owner_references(metadata))
            resource.shape.default(obj)
            strategy.defaults(obj)
            strategy.prepare_create(obj)
            strategy.stamp_user(obj, context.user.to_object())

        prepare(obj)
        if resource.is_terminating:
            why = "create not allowed while custom resource definition is terminating"
            kind, name = resource.kind, obj["metadata"].get("name", "")
            raise forbidden(kind.plural, kind.group, name, why)
        book_create(resource, obj, context, stamp["creationTimestamp"])
        request = self.admission(resource, "CREATE", obj, None, context)
        obj = await self._mutate(resource, request, prepare)
        self._check(resource, obj, self._create_errors(resource, obj, context))
        async with reservation(self.hooks.get(resource.name), obj, None, context):
            await self._accept(resource, request, (obj, None), context)
            return await self._insert(resource, obj, context)

    def _create_errors(
        self, resource: Resource, obj: Object, context: WriteContext
    ) -> list[FieldError]:
        errors = _metadata_errors(resource, obj["metadata"], resource.strategy.validate_name)
        errors += resource.shape.validate(obj, None, context.warnings.add)
        errors += resource.strategy.validate(obj)
        return errors

    async def _insert(self, resource: Resource, obj: Object, context: WriteContext) -> Written:
        kind = resource.kind
        metadata = obj["metadata"]
        if metadata.pop("resourceVersion", "") not in ("", "0"):
            raise bad_request(NEW_WITH_VERSION)
        name = metadata["name"]
        if context.dry_run:
            if resource.cache.get(metadata.get("namespace", ""), name) is None:
                return await self._dry(resource, obj, created=True)
        else:
            try:
                return await self._put(resource, obj, 0)
            except CasFailed:
                pass
        raise already_exists(kind.plural, kind.group, name)

    # ---- update

    async def update(
        self,
        resource: Resource,
        key: tuple[str, str],
        transform: Transform,
        context: WriteContext,
        subresource: str = "",
    ) -> Written:
        """Change an object: `transform` makes the wanted object from a private copy of the current
        one, and is called again when another write came first. Raises 404, 409, 422."""
        return await self.retried(
            resource,
            key,
            lambda entry: self._attempt(resource, entry, transform, context, subresource),
        )

    async def retried(
        self, resource: Resource, key: tuple[str, str], attempt: Callable[[Entry], Awaitable[T]]
    ) -> T:
        """Attempt a write on the newest state of an object until no other write comes first. Those
        who lost a race queue up, or many writers of one object would each lose to all others.
        Raises 404, and 409 in the end."""
        try:
            return await attempt(self.get(resource, *key))
        except CasFailed as lost:
            await self.catch_up(lost)
        async with self._turns.setdefault(resource.stored_kind.key(*key), asyncio.Lock()):
            for _ in range(RETRIES):
                try:
                    return await attempt(self.get(resource, *key))
                except CasFailed as lost:
                    await self.catch_up(lost)
        raise conflict(resource.kind.plural, resource.kind.group, key[1], OBJECT_MODIFIED)

    async def catch_up(self, lost: CasFailed) -> None:
        """After a lost race: wait until the caches show what won it."""
        if lost.current is not None:
            await self.hub.wait_for(lost.current.mod_revision)
        else:
            await self.hub.wait_for(await self.store.revision())

    async def _attempt(
        self,
        resource: Resource,
        entry: Entry,
        transform: Transform,
        context: WriteContext,
        subresource: str,
    ) -> Written:
        strategy = resource.strategy
        is_patch = context.info.verb == "patch"
        shares = (
            is_patch and subresource == "status" and not (context.is_apply or resource.is_custom)
        )
        view = await resource.view(entry)
        old = (resource.borrow(entry) if shares else None) or resource.decode(view)
        obj = transform(beside(old) if shares else resource.decode(view))
        metadata, old_metadata = obj["metadata"], old["metadata"]
        # The uid in a patch is a change of the uid, which its validation refuses.
        uid = old_metadata.get("uid") if is_patch else metadata.get("uid")
        pinned = self._check_identity(resource, metadata, (uid, old_metadata.get("uid")), entry)
        if is_patch:
            # A patch is made anew on what won the race; one that names a revision itself then
            # differs from the one there is, and fails in the check above.
            pinned = False

        def prepare(obj: Object) -> None:
            meta.carry_over(obj["metadata"], old_metadata)
            context.warnings.take(meta.dedup_owner_references(obj["metadata"]))
            if shares:
                default_unshared(resource, obj, old)
            else:
                resource.shape.default(obj)
            strategy.defaults(obj)
            strategy.prepare_update(obj, old, subresource)

        prepare(obj)
        book_update(resource, (obj, old), context, self.timestamp(), subresource)
        face = context.face
        if face is None:
            request = self.admission(resource, "UPDATE", obj, old, context)
            obj = await self._mutate(resource, request, prepare)
        else:
            shown = face.show(obj), face.show(old)
            request = self.admission(resource, "UPDATE", *shown, context, face.kind)
            await self.chain.admit(request)
            if request.is_rewritten:
                assert request.obj is not None
                obj = face.take(obj, request.obj)
                prepare(obj)
        errors = self._update_errors(resource, obj, old, subresource, context)
        self._check(resource, obj, errors)
        try:
            async with reservation(self.hooks.get(resource.name), obj, old, context):
                await self._accept(resource, request, (obj, old), context)
                return await self._replace(resource, obj, entry, context)
        except CasFailed:
            if pinned:
                kind = resource.kind
                raise conflict(kind.plural, kind.group, entry.name, OBJECT_MODIFIED) from None
            raise

    def _check_identity(
        self, resource: Resource, metadata: Object, uids: tuple[Any, Any], entry: Entry
    ) -> bool:
        """The resourceVersion and uid that a client names must be those there are. Returns whether
        the write insists on this revision."""
        kind = resource.kind
        uid, actual = uids
        if uid and uid != actual:
            key = f"{resource.stored_kind.prefix}{entry.path}"
            raise conflict(
                kind.plural,
                kind.group,
                entry.name,
                f"StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, "
                f"AdditionalErrorMsg: Precondition failed: UID in precondition: {uid}, "
                f"UID in object meta: {actual}",
            )
        version = metadata.get("resourceVersion") or "0"
        if version == "0":
            if not resource.strategy.allow_unconditional_update:
                error = invalid("metadata.resourceVersion", 0, "must be specified for an update")
                raise invalid_object(kind.plural, kind.group, entry.name, [error])
            metadata["resourceVersion"] = str(entry.revision)
            return False
        if (number := natural(version)) is None:
            error = invalid("metadata.resourceVersion", version, "must be an unsigned integer")
            raise bad_request(str(error))
        if number != entry.revision:
            raise conflict(kind.plural, kind.group, entry.name, OBJECT_MODIFIED)
        return True

    def _update_errors(
        self, resource: Resource, obj: Object, old: Object, subresource: str, context: WriteContext
    ) -> list[FieldError]:
        errors = validate_object_meta_update(obj["metadata"], old["metadata"])
        if obj["metadata"] != old["metadata"]:
            errors += _metadata_errors(resource, obj["metadata"], lambda name: [])
        errors += resource.shape.validate(obj, old, context.warnings.add)
        errors += resource.strategy.validate_update(obj, old, subresource)
        return errors

    async def _replace(
        self, resource: Resource, obj: Object, entry: Entry, context: WriteContext
    ) -> Written:
        """Put a changed object, or remove it when this update took its last finalizer."""
        stored = resource.stored_kind
        encoded = await self._encode(resource, obj)
        is_same = entry.is_written_as(encoded[0], stored)
        is_current = entry.api_version == stored.api_version.encode()
        is_stale = self.store.is_stale(stored.key(entry.namespace, entry.name))
        if is_same and is_current and not is_stale:
            return Written(obj, resource.body(await resource.view(entry)))
        if context.dry_run:
            return await self._dry(resource, obj)
        is_deleted = bool(obj["metadata"].get("deletionTimestamp"))
        if is_deleted and _is_released(obj, entry.decode(stored)):
            revision = await self.remove(resource, entry)
            obj["metadata"]["resourceVersion"] = str(revision)
            return await self._dry(resource, obj)
        return await self._put(resource, obj, entry.revision, encoded)

    async def modify(
        self,
        resource: Resource,
        key: tuple[str, str],
        change: Callable[[Object], None],
        dry_run: bool = False,
        copied: Transform | None = None,
    ) -> Object:
        """Change an object in place, past strategy and admission: for subresources with rules of
        their own. `change` is called again when another write came first. `copied` makes a copy as
        deep as `change` reaches, for an object that need not be decoded. Raises 404, 409."""

        async def attempt(entry: Entry) -> Object:
            known = resource.borrow(entry) if copied is not None else None
            if known is None or copied is None:
                obj = resource.decode(await resource.view(entry))
            else:
                obj = copied(known)
            change(obj)
            return obj if dry_run else (await self._put(resource, obj, entry.revision)).obj

        return await self.retried(resource, key, attempt)

    # ---- the store

    async def _encode(self, resource: Resource, obj: Object) -> tuple[bytes, Object]:
        """The value that the store gets, and the object in the stored version."""
        stored, stored_obj = resource.stored_kind, obj
        if resource.converter is not None and resource.kind.api_version != stored.api_version:
            [stored_obj] = await resource.converter.convert([copy_json(obj)], stored.api_version)
        elif resource.convert_in is not None:
            stored_obj = resource.to_stored(copy_json(obj))
        value = encode_stored(stored_obj, stored)
        if len(value) > VALUE_LIMIT:
            raise too_large(VALUE_LIMIT)
        return value, stored_obj

    async def _put(
        self,
        resource: Resource,
        obj: Object,
        expected: int,
        encoded: tuple[bytes, Object] | None = None,
    ) -> Written:
        """Compare and swap; returns when the hub shows it. Raises CasFailed."""
        stored = resource.stored_kind
        metadata = obj["metadata"]
        key = stored.key(metadata.get("namespace", ""), metadata["name"])
        value, stored_obj = encoded or await self._encode(resource, obj)
        facts = facts_of(stored, stored_obj)
        lent = obj if resource.kind is resource.stored else None
        self.hub.hint(key, Hint(value, facts, lent, resource.has_status))
        revision = await self._write(self.store.put(key, value, expected=expected))
        await self.hub.wait_for(revision)
        metadata["resourceVersion"] = str(revision)
        if resource.convert_out is None and resource.converter is None:
            body = resource.head + tail_of(value, stored, revision)
            return Written(obj, body, created=expected == 0)
        # What a reader would see: a conversion there and back may lose something.
        start = len(stored.value_start)
        view = await resource.view(Entry("", "", value, facts, (revision, revision), start))
        if resource.converter is not None:
            obj = resource.decode(view)
        return Written(obj, resource.body(view), created=expected == 0)

    async def rewrite(self, resource: Resource, obj: Object, expected: int) -> Written:
        """Put an object as it is, without the update path: the server's own marks. CasFailed."""
        return await self._put(resource, obj, expected)

    async def remove(self, resource: Resource, entry: Entry) -> int:
        """Remove an object at the revision of `entry`. Raises CasFailed."""
        key = resource.stored_kind.key(entry.namespace, entry.name)
        revision = await self._write(self.store.delete(key, expected=entry.revision))
        await self.hub.wait_for(revision)
        removed = self.removed.get(resource.name)
        if removed is not None:
            await removed(entry, revision)
        return revision

    async def _write(self, operation: Awaitable[int]) -> int:
        """A store write; a full or broken store is never taken for a lost race."""
        try:
            return await operation
        except CasFailed:
            raise
        except StoreFull as error:
            raise internal_error(f"the store is full: {error}") from error
        except StoreError as error:
            # What the store says names the server's own files: that is for its log, and there.
            raise internal_error("the store has failed") from error

    async def _dry(self, resource: Resource, obj: Object, created: bool = False) -> Written:
        """The answer to a dry run: everything but the write. Conversions are done, for they may
        fail."""
        converter = resource.converter
        if converter is not None:
            _, stored_obj = await self._encode(resource, obj)
            [obj] = await converter.convert([copy_json(stored_obj)], resource.kind.api_version)
        body = encode_object(obj, resource.kind.api_version, resource.kind.kind)
        return Written(obj, body, created)

    # ---- admission and checks

    def admission(
        self,
        resource: Resource | None,
        operation: str,
        obj: Object | None,
        old: Object | None,
        context: WriteContext,
        kind: str = "",
    ) -> AdmissionRequest:
        """A write as admission sees it; `kind` when the object is not of the resource's kind, or
        there is no resource because nothing is stored."""
        return AdmissionRequest(
            operation=operation,
            info=context.info,
            kind=kind or (resource.kind.kind if resource is not None else ""),
            user=context.user,
            obj=obj,
            old=old,
            dry_run=context.dry_run,
            options=context.options,
            warnings=context.warnings,
            is_name_generated=context.is_name_generated,
            trail=context.trail,
        )

    async def _mutate(
        self, resource: Resource, request: AdmissionRequest, prepare: Callable[[Object], None]
    ) -> Object:
        """Mutating admission, and defaults for what it added. What outsiders have changed is
        prepared again, as if the client had sent it so."""
        obj = request.obj
        assert obj is not None
        fields = obj["metadata"].get("managedFields")
        may_differ = await self.chain.admit(request)
        request.is_name_generated = False
        if request.is_rewritten:
            request.warnings.take(restore_fields(obj, fields))
            prepare(obj)
        elif may_differ:
            resource.shape.default(obj)
            resource.strategy.defaults(obj)
        return obj

    async def admit(self, request: AdmissionRequest) -> None:
        """Admission of what is not stored as it is: a deletion, a connection, a binding."""
        await self.chain.admit(request)
        await self.chain.validate(request)

    async def _accept(
        self,
        resource: Resource,
        request: AdmissionRequest,
        states: tuple[Object, Object | None],
        context: WriteContext,
    ) -> None:
        """Validating admission, and the warnings about the new and the old state."""
        await self.chain.validate(request)
        context.warnings.take(resource.strategy.warnings(*states))

    def _check(self, resource: Resource, obj: Object, errors: list[FieldError]) -> None:
        if errors:
            kind = resource.kind
            raise invalid_object(kind.kind, kind.group, obj["metadata"].get("name", ""), errors)


FREE_FINALIZERS = frozenset(
    (
        "admissionregistration.k8s.io",
        "apiextensions.k8s.io",
        "apiregistration.k8s.io",
        "coordination.k8s.io",
        "node.k8s.io",
        "policy",
    )
)
"""Groups of Kubernetes whose objects may have any finalizers, as custom resources may."""


def _metadata_errors(resource: Resource, metadata: Object, rule: NameRule) -> list[FieldError]:
    errors = validate_object_meta(metadata, resource.kind.namespaced, rule)
    if not resource.is_custom and resource.kind.group not in FREE_FINALIZERS:
        errors += validate_standard_finalizers(metadata)
    return errors


def _is_released(obj: Object, old: Object) -> bool:
    """An update that leaves a deleted object without finalizers and without grace removes it."""
    metadata, before = obj["metadata"], old["metadata"]
    if not before.get("deletionTimestamp") or metadata.get("finalizers"):
        return False
    if before.get("deletionGracePeriodSeconds"):
        return False
    is_namespace = obj.get("kind") == "Namespace" and obj.get("apiVersion") == "v1"
    return not (is_namespace and (obj.get("spec") or {}).get("finalizers"))
