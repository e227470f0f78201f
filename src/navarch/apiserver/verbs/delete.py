"""DELETE of one object and of a collection: preconditions, grace, propagation, finalizers."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

from aiohttp.web import StreamResponse

from navarch.api.errors import (
    ApiError,
    FieldError,
    bad_request,
    conflict,
    forbidden,
    invalid,
    invalid_object,
    not_supported,
)
from navarch.api.kinds import Subresource
from navarch.api.schema.decode import parse_document
from navarch.api.schema.protobuf import decode_protobuf
from navarch.api.times import format_time, parse_time
from navarch.apiserver.core import Core
from navarch.apiserver.http.body import PROTOBUF, effective_type, object_type, read_body
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.options import list_options, parse_integer
from navarch.apiserver.http.respond import respond_bytes, respond_object, success_status
from navarch.apiserver.http.transform import transform_object
from navarch.apiserver.hub.entry import Entry
from navarch.apiserver.registry.context import WriteContext
from navarch.apiserver.registry.registry import Registry
from navarch.apiserver.registry.resource import Resource
from navarch.apiserver.verbs.read import find_page
from navarch.apiserver.verbs.selection import selection_of

Object = dict[str, Any]

ORPHAN = "orphan"
FOREGROUND = "foregroundDeletion"
DELETED_AT_ONCE = 64
ORPHANED_BY_DEFAULT = frozenset({"replicationcontrollers", "jobs.batch"})
JOBS_LEAVE_PODS = (
    "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background "
    "to remove them or set propagationPolicy=Orphan to suppress this warning"
)
DEFINITIONS = "customresourcedefinitions.apiextensions.k8s.io"
CLEANUP_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"
PROTECTED_NAMESPACES = frozenset({"default", "kube-system", "kube-public"})
ANSWERED_WITH_OBJECT = frozenset(
    (
        "namespaces",
        "persistentvolumeclaims",
        "persistentvolumes",
        "pods",
        "podtemplates",
        "resourcequotas",
        "serviceaccounts",
        "services",
        "deviceclasses.resource.k8s.io",
        "resourceclaims.resource.k8s.io",
        "resourceclaimtemplates.resource.k8s.io",
        "resourceslices.resource.k8s.io",
        "csidrivers.storage.k8s.io",
        "csinodes.storage.k8s.io",
        "storageclasses.storage.k8s.io",
        "volumeattachments.storage.k8s.io",
        "volumeattributesclasses.storage.k8s.io",
    )
)
"""Whose deletion is answered with their last state though they are gone, as their operations in
OpenAPI promise; that of all others with a Status."""
PROPAGATIONS = ("Foreground", "Background", "Orphan")


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """How to delete. `orphan` is the deprecated orphanDependents."""

    grace_period: int | None = None
    uid: str = ""
    resource_version: str = ""
    propagation: str = ""
    orphan: bool | None = None
    dry_run: bool = False


_DELETE_OPTIONS = Subresource("", (), "", "v1", "DeleteOptions")
_NO_OPTIONS = DeleteOptions()


async def read_options(call: Call) -> DeleteOptions:
    """The options of a deletion: the body's, or else the query's. Raises 400, 422."""
    request = call.request
    body = await read_body(request) if request.body_exists else b""
    if body.strip():
        media_type = effective_type(object_type(request), body)
        if media_type == PROTOBUF:
            value: Any = decode_protobuf(_DELETE_OPTIONS, body)
        else:
            value = parse_document(body, media_type)[0]
        if call.trail is not None:
            call.trail.request_patch(value)
        return options_from_body(value)
    if not call.target.query:
        return _NO_OPTIONS
    grace = call.parameter("gracePeriodSeconds")
    orphan = call.target.query.get("orphanDependents")
    return _checked(
        DeleteOptions(
            grace_period=parse_integer(grace) if grace else None,
            propagation=call.parameter("propagationPolicy"),
            orphan=call.flag("orphanDependents") if orphan else None,
        ),
        call.target.query.get("dryRun", []),
    )


def options_from_body(value: Any) -> DeleteOptions:
    """The options in a decoded DeleteOptions. Raises 400, 422."""
    if not isinstance(value, dict):
        raise bad_request("couldn't get version/kind; json parse error: not a DeleteOptions object")
    kind = value.get("kind") or "DeleteOptions"
    if kind != "DeleteOptions":
        raise bad_request(f"decoded object cannot be converted to DeleteOptions: {kind}")
    grace = value.get("gracePeriodSeconds")
    orphan = value.get("orphanDependents")
    preconditions = value.get("preconditions") or {}
    propagation = value.get("propagationPolicy") or ""
    dry_run = value.get("dryRun") or []
    wellformed = (
        (grace is None or (type(grace) is int and -(2**63) <= grace < 2**63))
        and (orphan is None or type(orphan) is bool)
        and isinstance(preconditions, dict)
        and all(isinstance(each, str) for each in preconditions.values() if each is not None)
        and isinstance(propagation, str)
        and isinstance(dry_run, list)
    )
    if not wellformed:
        raise bad_request("DeleteOptions: a field has the wrong type")
    options = DeleteOptions(
        grace_period=grace,
        uid=preconditions.get("uid") or "",
        resource_version=preconditions.get("resourceVersion") or "",
        propagation=propagation,
        orphan=orphan,
    )
    return _checked(options, dry_run)


def _checked(options: DeleteOptions, dry_run: list[Any]) -> DeleteOptions:
    errors: list[FieldError] = []
    if options.propagation and options.orphan is not None:
        errors.append(
            invalid(
                "propagationPolicy",
                options.propagation,
                "orphanDependents and deletionPropagation cannot be both set",
            )
        )
    if options.propagation not in ("", *PROPAGATIONS):
        choices = (*PROPAGATIONS, "nil")
        errors.append(not_supported("propagationPolicy", options.propagation, choices))
    if dry_run not in ([], ["All"]):
        errors.append(not_supported("dryRun", dry_run[0], ["All"]))
    if errors:
        raise invalid_object("DeleteOptions", "meta.k8s.io", "", errors)
    return replace(options, dry_run=bool(dry_run))


async def _options_for(call: Call, resource: Resource) -> DeleteOptions:
    """Raises 400, 422."""
    options = await read_options(call)
    if resource.name == "jobs.batch" and not options.propagation and options.orphan is None:
        call.warnings.add(JOBS_LEAVE_PODS)
    return options


async def delete(core: Core, call: Call, resource: Resource) -> StreamResponse:
    """One object."""
    options = await _options_for(call, resource)
    namespace = call.info.namespace if resource.kind.namespaced else ""
    context = delete_context(call, options)
    deletion = Deletion(core.registry, resource, options, context)
    gone, obj = await deletion.run(namespace, call.info.name)
    if not gone or resource.name in ANSWERED_WITH_OBJECT:
        status = 202 if options.orphan is False and not gone else 200
        wanted = call.representation
        if wanted.transform:
            obj = transform_object(resource, obj, wanted, call.parameter("includeObject"))
        return respond_object(call, obj, status)
    metadata = obj["metadata"]
    details = {"name": metadata["name"]}
    if resource.kind.group:
        details["group"] = resource.kind.group
    details |= {"kind": resource.kind.plural, "uid": metadata.get("uid", "")}
    return respond_object(call, success_status(details))


def delete_context(call: Call, options: DeleteOptions) -> WriteContext:
    as_object: Object = {"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"}
    if options.grace_period is not None:
        as_object["gracePeriodSeconds"] = options.grace_period
    preconditions = {"uid": options.uid, "resourceVersion": options.resource_version}
    if any(preconditions.values()):
        as_object["preconditions"] = {key: value for key, value in preconditions.items() if value}
    if options.orphan is not None:
        as_object["orphanDependents"] = options.orphan
    if options.propagation:
        as_object["propagationPolicy"] = options.propagation
    if options.dry_run:
        as_object["dryRun"] = ["All"]
    return WriteContext(
        info=call.info,
        user=call.user,
        field_manager=call.field_manager,
        dry_run=options.dry_run,
        options=as_object,
        warnings=call.warnings,
        trail=call.trail,
    )


async def delete_collection(core: Core, call: Call, resource: Resource) -> StreamResponse:
    """Every object that the selectors match; answers with the list of them."""
    options = await _options_for(call, resource)
    wanted = list_options(call, is_watch=False)
    namespace = call.info.namespace if resource.kind.namespaced else ""
    selection = selection_of(resource, namespace, wanted)
    page = await find_page(core, resource, selection, wanted)
    deletion = Deletion(core.registry, resource, options, delete_context(call, options))
    turns = asyncio.Semaphore(DELETED_AT_ONCE)

    async def remove(entry: Entry) -> None:
        async with turns:
            try:
                await deletion.run(entry.namespace, entry.name)
            except ApiError as error:
                if not error.is_not_found:
                    raise

    results = await asyncio.gather(*map(remove, page.entries), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    removed = [resource.item_head + resource.tail(entry) for entry in page.entries]
    body = b'{"kind":"%b","apiVersion":"%b","metadata":{"resourceVersion":"%d"},"items":[%b]}' % (
        resource.kind.list_kind.encode(),
        resource.kind.api_version.encode(),
        page.revision,
        b",".join(removed),
    )
    return respond_bytes(call, body)


class Deletion:
    """The deletion of objects of one resource with the same options."""

    def __init__(
        self,
        registry: Registry,
        resource: Resource,
        options: DeleteOptions,
        context: WriteContext,
        is_admitted: bool = False,
    ) -> None:
        self.registry = registry
        self.resource = resource
        self.options = options
        self.context = context
        self.is_admitted = is_admitted
        """Admission has seen the deletion in another form (an eviction)."""

    async def run(self, namespace: str, name: str) -> tuple[bool, Object]:
        """Delete an object. Returns whether it is gone, and its last state. Raises 404, 409."""
        resource = self.resource
        if resource.name == "namespaces" and name in PROTECTED_NAMESPACES:
            raise forbidden("namespaces", "", name, "this namespace may not be deleted")

        async def attempt(entry: Entry) -> tuple[bool, Object]:
            obj = resource.decode(await resource.view(entry))
            self.check_preconditions(obj)
            if not self.is_admitted:
                # Again after a lost race: who may refuse must see what is deleted (CVE-2021-25735).
                request = self.registry.admission(resource, "DELETE", None, obj, self.context)
                await self.registry.admit(request)
            return await self._attempt(entry, obj)

        return await self.registry.retried(resource, (namespace, name), attempt)

    def check_preconditions(self, obj: Object) -> None:
        """Raises 409 when the object is not the one, or not in the version, that is meant."""
        metadata, kind = obj["metadata"], self.resource.kind
        for label, wanted, actual in (
            ("UID", self.options.uid, metadata.get("uid", "")),
            ("ResourceVersion", self.options.resource_version, metadata.get("resourceVersion")),
        ):
            if wanted and wanted != actual:
                raise conflict(
                    kind.kind,
                    kind.group,
                    metadata["name"],
                    f"the {label} in the precondition ({wanted}) does not match the {label} in "
                    f"record ({actual}). The object might have been deleted and then recreated",
                )

    async def _attempt(self, entry: Entry, obj: Object) -> tuple[bool, Object]:
        """Remove the object, or mark it as being deleted when something has to happen first."""
        is_changed = self._mark(obj)
        if is_changed is None:
            return False, obj
        if is_changed:
            if not self.context.dry_run:
                written = await self.registry.rewrite(self.resource, obj, entry.revision)
                obj = written.obj
            return False, obj
        if not self.context.dry_run:
            revision = await self.registry.remove(self.resource, entry)
            obj["metadata"]["resourceVersion"] = str(revision)
        if self.resource.strategy.default_grace_period_seconds:
            self._set_deleting(obj["metadata"], 0)
        return True, obj

    def _mark(self, obj: Object) -> bool | None:
        """Bring the object into the state of being deleted. True: it must be written and lingers;
        None: it lingers as it is; False: it can be removed at once."""
        if self.resource.name == "namespaces":
            return self._mark_namespace(obj)
        if self.resource.name == DEFINITIONS:
            self._mark_definition(obj)
        metadata = obj["metadata"]
        grace = self._shortened_grace(obj)
        if grace is None:
            return None
        before = metadata.get("finalizers") or []
        finalizers = self._finalizers(before)
        is_changed = finalizers != before
        if finalizers:
            metadata["finalizers"] = finalizers
        else:
            metadata.pop("finalizers", None)
        if grace > 0 or finalizers:
            return self._set_deleting(metadata, grace) or is_changed or None
        return False

    def _mark_definition(self, obj: Object) -> None:
        """The objects of a custom resource go before its definition: a finalizer sees to that."""
        metadata = obj["metadata"]
        if metadata.get("deletionTimestamp"):
            return
        finalizers = metadata.get("finalizers") or []
        if CLEANUP_FINALIZER not in finalizers:
            metadata["finalizers"] = [*finalizers, CLEANUP_FINALIZER]
        status = obj.setdefault("status", {})
        conditions = status["conditions"] = status.get("conditions") or []
        conditions.append(
            {
                "type": "Terminating",
                "status": "True",
                "lastTransitionTime": self.registry.timestamp(),
                "reason": "InstanceDeletionInProgress",
                "message": "CustomResource deletion is in progress",
            }
        )

    def _shortened_grace(self, obj: Object) -> int | None:
        """The seconds of grace this deletion gives; None when a pending one goes on unchanged."""
        metadata = obj["metadata"]
        if not self.resource.strategy.default_grace_period_seconds:
            return 0
        requested = self.options.grace_period
        if metadata.get("deletionTimestamp"):
            left = metadata.get("deletionGracePeriodSeconds") or 0
            if left == 0:
                return 0
            return None if requested is None or requested >= left else max(requested, 0)
        spec, status = obj.get("spec") or {}, obj.get("status") or {}
        if requested is None:
            requested = spec.get("terminationGracePeriodSeconds") or 0
        if not spec.get("nodeName") or status.get("phase") in ("Succeeded", "Failed"):
            return 0
        return 1 if requested < 0 else int(requested)

    def _set_deleting(self, metadata: Object, grace: int) -> bool:
        """Set deletionTimestamp and the grace period; returns whether that changed anything."""
        now = self.registry.now()
        before = metadata.get("deletionTimestamp"), metadata.get("deletionGracePeriodSeconds")
        if metadata.get("deletionTimestamp"):
            left = metadata.get("deletionGracePeriodSeconds") or 0
            if grace < left:
                ends = parse_time(metadata["deletionTimestamp"]).timestamp() - left + grace
                metadata["deletionTimestamp"] = format_time(now.fromtimestamp(ends, now.tzinfo))
        else:
            ends = now.timestamp() + grace
            metadata["deletionTimestamp"] = format_time(now.fromtimestamp(ends, now.tzinfo))
            if metadata.get("generation"):
                metadata["generation"] += 1
        metadata["deletionGracePeriodSeconds"] = grace
        return before != (metadata["deletionTimestamp"], grace)

    def _finalizers(self, before: list[str]) -> list[str]:
        """The finalizers with those of the propagation policy put in or taken out."""
        options = self.options
        if options.orphan is not None:
            wants_orphan, wants_foreground = options.orphan, False
        elif options.propagation:
            wants_orphan = options.propagation == "Orphan"
            wants_foreground = options.propagation == "Foreground"
        else:
            orphans = self.resource.name in ORPHANED_BY_DEFAULT
            wants_foreground = FOREGROUND in before
            wants_orphan = ORPHAN in before or (orphans and not wants_foreground)
        kept = [each for each in before if each not in (ORPHAN, FOREGROUND)]
        wanted = (
            *((ORPHAN,) if wants_orphan else ()),
            *((FOREGROUND,) if wants_foreground else ()),
        )
        if [each for each in before if each in (ORPHAN, FOREGROUND)] == list(wanted):
            return before
        return kept + list(wanted)

    def _mark_namespace(self, obj: Object) -> bool | None:
        """A namespace is emptied by its controller before it goes: spec.finalizers say so."""
        metadata = obj["metadata"]
        before = metadata.get("finalizers") or []
        finalizers = self._finalizers(before)
        if finalizers:
            metadata["finalizers"] = finalizers
        if not finalizers and not (obj.get("spec") or {}).get("finalizers"):
            return False
        if not metadata.get("deletionTimestamp"):
            metadata["deletionTimestamp"] = self.registry.timestamp()
            obj.setdefault("status", {})["phase"] = "Terminating"
            return True
        return True if finalizers != before else None
