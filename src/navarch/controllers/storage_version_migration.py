"""Storage-version migration: writes every object of a resource anew, unchanged.

The API server stores an object in the version and the encryption that are in force when it is
written. After either has changed, a StorageVersionMigration has all that was written before written
again: an apply of nothing, guarded by uid and resourceVersion, so that whoever changed or deleted
an object meanwhile has done the work already. What is newer than `status.resourceVersion`, which is
noted at the start, needs no rewriting.

Of several migrations of a resource one runs at a time, the oldest first. When one of a custom
resource has succeeded, the definition's `status.storedVersions` is cut down to the one that is
left, if the definition did not change in between.

Source: KEP-4192; upstream's `pkg/controller/storageversionmigrator`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from navarch.api.errors import ApiError, ignoring, outdated
from navarch.api.objects import copy_object
from navarch.api.times import format_time, parse_time
from navarch.api.types.meta_v1 import Condition
from navarch.api.types.storagemigration_v1beta1 import StorageVersionMigration
from navarch.client import Controller, ControllerContext, PartialObject, PatchType, ResourceClient
from navarch.controllers.discovery import ApiResource, discover

MANAGER = "storage-version-migrator-controller"
VERBS = ("update", "patch", "list")
RUNNING, SUCCEEDED, FAILED = "Running", "Succeeded", "Failed"
PAGE = 500
DISCOVERY_SECONDS = 60.0
"""So long a migration waits for its resource to be there."""
RETRIABLE = (0, 429, 500, 503, 504)
"""Answers after which the migration goes on later; 0 is none."""


def is_true(migration: StorageVersionMigration, *types: str) -> bool:
    return any(c.type in types and c.status == "True" for c in migration.status.conditions)


def is_over(migration: StorageVersionMigration) -> bool:
    return is_true(migration, SUCCEEDED, FAILED)


def may_start(migration: StorageVersionMigration, all_: Iterable[StorageVersionMigration]) -> bool:
    """Whether it is the oldest of its resource that is not over, and none is running."""
    rivals = [
        other
        for other in all_
        if other.spec.resource == migration.spec.resource and not is_over(other)
    ]
    if any(is_true(other, RUNNING) for other in rivals):
        return False
    first = min(rivals, key=lambda m: (m.metadata.creationTimestamp or "", m.metadata.name))
    return first.metadata.name == migration.metadata.name


def with_condition(
    migration: StorageVersionMigration, condition: Condition, now: datetime
) -> StorageVersionMigration:
    result = copy_object(migration)
    condition.lastTransitionTime = format_time(now)
    kept = [each for each in result.status.conditions if each.type != condition.type]
    result.status.conditions = [*kept, condition]
    return result


class StorageVersionMigrationController(Controller):
    """Watches: migrations, each by all of the same resource."""

    name = "storage-version-migrator"

    def __init__(self, context: ControllerContext) -> None:
        super().__init__(context)
        self.migrations = context.informers.informer(StorageVersionMigration)
        self.resource = self.client.resource(StorageVersionMigration)
        self.definitions = self.client.dynamic(
            "apiextensions.k8s.io", "v1", "customresourcedefinitions", False
        )
        self.watch(self.migrations, self._of_same_resource)

    def _of_same_resource(self, migration: StorageVersionMigration) -> list[str]:
        wanted = migration.spec.resource
        everyone = self.migrations.cache.list()
        names = [each.metadata.name for each in everyone if each.spec.resource == wanted]
        return [migration.metadata.name, *names]

    async def reconcile(self, key: str) -> None:
        migration = self.migrations.cache.get(key)
        if migration is None:
            return
        if is_over(migration):
            if is_true(migration, RUNNING):
                await self._finish(migration)
        elif not is_true(migration, RUNNING):
            if may_start(migration, self.migrations.cache.list()):
                await self._start(migration)
        else:
            await self._go_on(migration)

    async def _set(
        self, migration: StorageVersionMigration, kind: str, status: str, why: str, text: str
    ) -> None:
        condition = Condition(type=kind, status=status, reason=why, message=text)
        await self.resource.update_status(with_condition(migration, condition, self.clock.now()))

    async def _fail(self, migration: StorageVersionMigration, message: str) -> None:
        await self._set(migration, FAILED, "True", "StorageVersionMigrationFailed", message)

    async def _start(self, migration: StorageVersionMigration) -> None:
        definition = await self._definition(migration)
        if definition is not None:
            text = f"Migration {migration.metadata.name} is running"
            await self._mark(definition, "True", "MigrationRunning", text, {})
        text = "The migration is running"
        await self._set(migration, RUNNING, "True", "MigrationRunning", text)

    async def _finish(self, migration: StorageVersionMigration) -> None:
        definition = await self._definition(migration)
        if definition is not None:
            await self._release(definition, is_true(migration, SUCCEEDED))
        text = "Migration completed"
        await self._set(migration, RUNNING, "False", "MigrationCompleted", text)

    async def _go_on(self, migration: StorageVersionMigration) -> None:
        resource = await self._find(migration)
        if resource is None:
            created = parse_time(migration.metadata.creationTimestamp or "")
            left = created + timedelta(seconds=DISCOVERY_SECONDS) - self.clock.now()
            if left > timedelta():
                self.queue.add_after(migration.metadata.name, 1.0)
            else:
                await self._fail(migration, "resource does not exist in discovery")
            return
        if not set(VERBS) <= resource.verbs:
            group = resource.group or '""'
            text = (
                f'resource "{group}/{resource.version}, Resource={resource.plural}" does not '
                f"support discovery operations: [{' '.join(VERBS)}]"
            )
            await self._fail(migration, text)
            return
        client: ResourceClient[PartialObject] = self.client.metadata(
            resource.group, resource.version, resource.plural, resource.is_namespaced
        )
        if not migration.status.resourceVersion:
            noted = copy_object(migration)
            noted.status.resourceVersion = (await client.list(limit=1)).resource_version
            migration = await self.resource.update_status(noted)
        try:
            await self._rewrite_all(client, resource, int(migration.status.resourceVersion))
        except ApiError as error:
            if error.status in RETRIABLE:
                raise
            await self._fail(migration, f"migration encountered unhandled error: {error}")
            return
        await self._set(migration, SUCCEEDED, "True", "StorageVersionMigrationSucceeded", "")

    async def _rewrite_all(
        self, client: ResourceClient[PartialObject], resource: ApiResource, newest: int
    ) -> None:
        token = ""
        while True:
            try:
                page = await client.list(limit=PAGE, continue_=token)
            except ApiError as error:
                if not (error.is_gone and token):
                    raise
                # Too slow for the snapshot: what is done already is passed over quickly.
                token = ""
                continue
            for obj in page.items:
                if int(obj.metadata.resourceVersion) <= newest:
                    await self._rewrite(client, resource, obj)
            token = page.continue_
            if not token:
                return

    async def _rewrite(
        self, client: ResourceClient[PartialObject], resource: ApiResource, obj: PartialObject
    ) -> None:
        meta = obj.metadata
        body = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {
                "name": meta.name,
                "namespace": meta.namespace,
                "uid": meta.uid,
                "resourceVersion": meta.resourceVersion,
            },
        }
        # Changed, deleted or made anew: then it was written, or need not be.
        with ignoring(outdated):
            await client.patch(
                meta.name, meta.namespace, body, patch_type=PatchType.APPLY, field_manager=MANAGER
            )

    async def _find(self, migration: StorageVersionMigration) -> ApiResource | None:
        wanted = migration.spec.resource
        for each in (await discover(self.client)).resources:
            if (each.group, each.plural) == (wanted.group, wanted.resource):
                return each
        return None

    async def _definition(self, migration: StorageVersionMigration) -> dict[str, Any] | None:
        wanted = migration.spec.resource
        if not wanted.group:
            return None
        return await self.definitions.find(f"{wanted.resource}.{wanted.group}")

    async def _release(self, definition: dict[str, Any], succeeded: bool) -> None:
        """The end of a definition's migration; its stored versions are cut down only if it is the
        one that was migrated."""
        generation = definition["metadata"].get("generation", 0)
        conditions = (definition.get("status") or {}).get("conditions") or ()
        is_unchanged = any(
            each["type"] == "StorageMigrating" and each.get("observedGeneration", 0) == generation
            for each in conditions
        )
        more: dict[str, Any] = {}
        if is_unchanged and succeeded:
            stored = [v["name"] for v in definition["spec"]["versions"] if v.get("storage")]
            more["storedVersions"] = stored
        if not succeeded:
            reason, text = "MigrationFailed", "The migration has failed"
        else:
            reason = "MigrationSucceeded"
            text = "The migration has succeeded " + (
                "and the stored versions have been updated"
                if is_unchanged
                else "but the stored versions have not been updated due to a generation mismatch"
            )
        await self._mark(definition, "False", reason, text, more)

    async def _mark(
        self, definition: dict[str, Any], status: str, reason: str, text: str, more: dict[str, Any]
    ) -> None:
        meta = definition["metadata"]
        condition = {
            "type": "StorageMigrating",
            "status": status,
            "lastTransitionTime": format_time(self.clock.now()),
            "reason": reason,
            "message": text,
            "observedGeneration": meta.get("generation", 0),
        }
        body = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": meta["name"], "resourceVersion": meta["resourceVersion"]},
            "status": {"conditions": [condition], **more},
        }
        await self.definitions.patch(
            meta["name"],
            "",
            body,
            subresource="status",
            patch_type=PatchType.APPLY,
            field_manager=MANAGER,
            force=True,
        )
