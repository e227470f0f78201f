"""CSI volumes: storage that a driver on this node mounts for the kubelet.

A persistent volume is attached to the node (by the controllers, if the driver wants that), staged
once for all pods of the node, and published into each pod's place; an inline volume is only
published, and belongs to its pod alone. Everything is undone in the opposite order, and a volume
is staged until its last pod on the node is gone. All calls to drivers can be repeated; a call whose
end is unknown counts as done when things are taken down, and as not done when they are set up.
Source: upstream's `pkg/volume/csi`, KEP-178 (CSI), KEP-596 (inline volumes), KEP-2047 (tokens).
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from navarch.api.csi import attachment_name, unique_name
from navarch.api.errors import ApiError
from navarch.api.quantity import parse_quantity
from navarch.api.types.core_v1 import Pod, SecretReference
from navarch.api.types.storage_v1 import CSIDriver as CSIDriverObject
from navarch.api.types.storage_v1 import CSIDriverSpec
from navarch.client.client import Client

from ..cri.values import RuntimeFailure
from .csi_attach import Attachments, NotAttached
from .csi_block import BlockVolumes
from .csi_drivers import CsiDrivers
from .csi_records import (
    CSI,
    DRIVER,
    EPHEMERAL,
    HANDLE,
    LIFECYCLE,
    NAME,
    PERSISTENT,
    CsiPaths,
    load,
    remove,
    save,
)
from .csi_values import (
    INFEASIBLE_CODES,
    CsiVolume,
    Source,
    access_mode,
    driver_call,
    is_final,
    pod_info,
    source_of,
    wants_group,
)
from .ownership import apply_fs_group
from .payload import TokenWish
from .plugin import (
    ExpansionProblem,
    NotAttachedInTime,
    PreparedVolume,
    VolumeHost,
    VolumePlugin,
    VolumeProblem,
    VolumeSpec,
    VolumeUsage,
)
from .tokens import PodTokens

if TYPE_CHECKING:
    from .csi_client import CsiDriver

log = logging.getLogger(__name__)

MOUNT_DEVICE, WAIT_FOR_ATTACH = "MountDevice", "WaitForAttach"
"""Steps before a volume is set up for a pod, as events name them."""
_DEFAULT_TOKEN_SECONDS = 3600
_TOKENS = "csi.storage.k8s.io/serviceAccount.tokens"


class CsiPlugin(VolumePlugin):
    """File systems of CSI drivers here, their block devices in `csi_block`."""

    name = CSI
    field = "csi"
    is_persistent = True
    supports_block = True
    supports_mount_options = True
    is_refreshed = True
    may_expand = True

    def __init__(self, host: VolumeHost, drivers: CsiDrivers, attachments: Attachments) -> None:
        super().__init__(host)
        self.paths = CsiPaths(host.root)
        self._drivers, self._attachments = drivers, attachments
        self._tokens = PodTokens(host.objects, host.clock)
        self._uniques: dict[str, str] = {}
        """What the node's status calls the attachable volumes, by their names."""
        self._waiting: dict[str, set[asyncio.Future[dict[str, str]]]] = {}
        """What pods (by uid) wait for to be attached."""
        self._published: set[tuple[str, str]] = set()
        """The (uid, name) of what this agent has published."""
        self._staged: set[tuple[str, str]] = set()
        """The (driver, handle) of what it has staged: doing so again is harmless but takes time."""
        self._block = BlockVolumes(self)

    # Setting up

    async def set_up(self, spec: VolumeSpec, target: Path) -> PreparedVolume:
        source, uid = source_of(spec), spec.pod.metadata.uid
        options = await self.options(source.driver)
        is_again = (uid, spec.name) in self._published
        read_only = spec.read_only
        if source.inline is not None:
            read_only = bool(source.inline.readOnly)
            self._check_mode(source, options)
        prepared = PreparedVolume(target / "mount", read_only, relabel=True)
        if is_again and not (options is not None and options.spec.requiresRepublish):
            return prepared
        # Before anything else: taking down begins with what is here.
        await asyncio.to_thread(target.mkdir, parents=True, exist_ok=True, mode=0o750)
        context, staging = {}, ""
        if source.persistent is not None:
            context = await self.attached(spec, source, options)
            staging = await self._stage(spec, source, context)
        await self._publish(spec, source, target, staging, (context, options))
        self._published.add((uid, spec.name))
        return prepared

    async def options(self, driver: str) -> CSIDriverObject | None:
        return await self._drivers.object(driver)

    def driver(self, name: str, where: str, step: str = "") -> CsiDriver:
        try:
            return self._drivers.driver(name)
        except VolumeProblem as problem:
            raise VolumeProblem(f"{CSI}: {where}: {problem}", step) from problem

    def _check_mode(self, source: Source, options: CSIDriverObject | None) -> None:
        """Inline volumes are for drivers only that say they are made for them."""
        modes = options.spec.volumeLifecycleModes if options is not None else []
        if EPHEMERAL in modes:
            return
        why = f"only supports {json.dumps(modes).replace(',', '')}" if modes else ""
        raise VolumeProblem(
            f"{CSI}: mounter.SetupAt failed to check volume lifecycle mode: volume mode "
            f'"{EPHEMERAL}" not supported by driver {source.driver} '
            f"({why or 'no CSIDriver object'})"
        )

    async def attached(
        self, spec: VolumeSpec, source: Source, options: CSIDriverObject | None
    ) -> dict[str, str]:
        """Waits until the volume is attached to this node, if the driver wants that."""
        if options is not None and options.spec.attachRequired is False:
            # It may have been waited for before the driver said so: let go of what was attached.
            self._attachments.release(source.unique_name)
            return {}
        name = attachment_name(source.handle, source.driver, self.host.node_name)
        self._uniques[spec.name] = source.unique_name
        uid = spec.pod.metadata.uid
        waiting = asyncio.ensure_future(
            self._attachments.wait(source.unique_name, source.handle, name)
        )
        self._waiting.setdefault(uid, set()).add(waiting)
        try:
            await asyncio.wait([waiting])
            if waiting.cancelled():
                raise VolumeProblem("the pod is being deleted", WAIT_FOR_ATTACH)
            return waiting.result()
        except NotAttachedInTime as problem:
            if not (problem.is_exhausted and self._drivers.is_counted_again(source.driver)):
                raise NotAttachedInTime(str(problem)) from problem
            await self._drivers.refresh(source.driver)
            raise
        except NotAttached as failure:
            raise VolumeProblem(str(failure), WAIT_FOR_ATTACH) from failure
        finally:
            waiting.cancel()
            self._waiting[uid].discard(waiting)
            if not self._waiting[uid]:
                del self._waiting[uid]

    def give_up(self, uid: str) -> None:
        """Waiting for an attachment ends at once; what a driver is at work with comes to its
        end first."""
        for waiting in self._waiting.get(uid, ()):
            waiting.cancel()

    async def _stage(self, spec: VolumeSpec, source: Source, context: dict[str, str]) -> str:
        """Mounts the volume for all pods of the node; where, or "" for drivers that do not."""
        persistent = source.persistent
        assert persistent is not None
        driver = self.driver(
            source.driver, "attacher.MountDevice failed to create newCsiDriverClient", MOUNT_DEVICE
        )
        directory = self.paths.staged(source.driver, source.handle)
        staging = directory / "globalmount"
        try:
            capabilities = await driver.capabilities()
            if "STAGE_UNSTAGE_VOLUME" not in capabilities:
                return ""
            if source.key in self._staged:
                return str(staging)
            volume = CsiVolume(
                handle=source.handle,
                access_mode=access_mode(spec),
                fs_type=persistent.fsType,
                mount_options=spec.mount_options,
                fs_group=spec.fs_group,
                context=persistent.volumeAttributes,
                publish_context=context,
                secrets=await self.secrets(persistent.nodeStageSecretRef, "NodeStageSecretRef"),
            )
            record = {DRIVER: source.driver, HANDLE: source.handle, NAME: spec.name}
            await asyncio.to_thread(save, directory, record)
            await asyncio.to_thread(staging.mkdir, exist_ok=True, mode=0o750)
            await driver.stage(volume, str(staging), capabilities)
        except VolumeProblem as problem:
            raise VolumeProblem(str(problem), MOUNT_DEVICE) from problem
        except RuntimeFailure as failure:
            if is_final(failure):
                await asyncio.to_thread(self._forget_failed, directory, "globalmount")
            raise VolumeProblem(failure.message, MOUNT_DEVICE) from failure
        self._staged.add(source.key)
        return str(staging)

    async def _publish(
        self,
        spec: VolumeSpec,
        source: Source,
        target: Path,
        staging: str,
        told: tuple[dict[str, str], CSIDriverObject | None],
    ) -> None:
        publish_context, options = told
        wishes = options.spec if options is not None else CSIDriverSpec()
        driver = self.driver(source.driver, "mounter.SetUpAt failed to get CSI client")
        inline, persistent = source.inline, source.persistent
        if inline is not None:
            attributes, read_only = inline.volumeAttributes, bool(inline.readOnly)
            named = inline.nodePublishSecretRef
            reference = None
            if named is not None:
                reference = SecretReference(name=named.name, namespace=spec.pod.metadata.namespace)
        else:
            assert persistent is not None
            attributes, read_only = persistent.volumeAttributes, spec.read_only
            reference = persistent.nodePublishSecretRef
        secrets = await self.secrets(reference, "NodePublishSecretRef")
        context = dict(attributes)
        if wishes.podInfoOnMount:
            context |= pod_info(spec.pod, is_inline=inline is not None)
        tokens = await self._token_attributes(spec.pod, wishes)
        (secrets if wishes.serviceAccountTokenInSecrets else context).update(tokens)
        volume = CsiVolume(
            handle=source.handle,
            access_mode=access_mode(spec),
            fs_type=source.fs_type,
            mount_options=spec.mount_options,
            fs_group=spec.fs_group,
            context=context,
            publish_context=publish_context,
            secrets=secrets,
        )
        record = {
            NAME: spec.name,
            HANDLE: source.handle,
            DRIVER: source.driver,
            "nodeName": self.host.node_name,
            LIFECYCLE: EPHEMERAL if inline is not None else PERSISTENT,
            "attachmentID": attachment_name(source.handle, source.driver, self.host.node_name),
        }
        is_known = await asyncio.to_thread(load, target) is not None
        await asyncio.to_thread(save, target, record)
        mount = target / "mount"
        try:
            capabilities = await driver.capabilities()
            await driver.publish(volume, staging, str(mount), capabilities, read_only=read_only)
        except RuntimeFailure as failure:
            # What a pod may use already stays, whatever became of publishing it once more.
            if is_final(failure) and not is_known:
                await asyncio.to_thread(self._forget_failed, target, "mount")
            raise VolumeProblem(failure.message) from failure
        policy = wishes.fsGroupPolicy or "ReadWriteOnceWithFSType"
        if "VOLUME_MOUNT_GROUP" not in capabilities and wants_group(
            spec, source, policy, read_only=read_only
        ):
            try:
                await apply_fs_group(self.host, spec, mount)
            except OSError as error:
                raise VolumeProblem(
                    f"applyFSGroup failed for vol {source.handle}: {error}"
                ) from error

    def _forget_failed(self, directory: Path, mount: str) -> None:
        try:
            remove(directory, mount)
        except (VolumeProblem, OSError) as problem:
            log.warning("%s", problem)

    async def secrets(self, reference: SecretReference | None, what: str) -> dict[str, str]:
        if reference is None:
            return {}
        namespace, name = reference.namespace, reference.name
        try:
            secret = await self.host.objects.secret(namespace, name)
            reason = f'secrets "{name}" not found'
        except ApiError as error:
            secret, reason = None, error.message
        if secret is None:
            raise VolumeProblem(
                f"fetching {what} {namespace}/{name} failed: {CSI}: failed to find the secret "
                f"{name} in the namespace {namespace} with error: {reason}"
            )
        try:
            return {key: base64.b64decode(text).decode() for key, text in secret.data.items()}
        except UnicodeDecodeError:
            # The protocol has text only. What is in it is not for events.
            raise VolumeProblem(
                f"fetching {what} {namespace}/{name} failed: it holds what is not UTF-8"
            ) from None

    async def _token_attributes(self, pod: Pod, wishes: CSIDriverSpec) -> dict[str, str]:
        """The pod's own tokens, for drivers that act in its name (KEP-2047)."""
        if not wishes.tokenRequests:
            return {}
        wanted = frozenset(
            TokenWish(each.audience, each.expirationSeconds or _DEFAULT_TOKEN_SECONDS)
            for each in wishes.tokenRequests
        )
        found = await self._tokens.statuses(pod, wanted)
        tokens = {
            wish.audience: {
                "token": status.token,
                "expirationTimestamp": status.expirationTimestamp,
            }
            for wish, status in found.items()
        }
        return {_TOKENS: json.dumps(tokens, separators=(",", ":"), sort_keys=True)}

    # Taking down

    def remember_attached(self, name: str, record: Mapping[str, str]) -> None:
        """For volumes that an agent before this one has set up."""
        if record.get(LIFECYCLE) != EPHEMERAL:
            self._uniques[name] = unique_name(record[DRIVER], record[HANDLE])

    async def tear_down(self, uid: str, name: str, target: Path) -> None:
        """Unstages too, if this was the last pod: what is at `target` goes last, so that whoever
        finds it can begin anew."""
        self._tokens.forget(uid)
        self._published.discard((uid, name))
        record = await self._recall(name, target)
        if record is None:
            return
        self.remember_attached(name, record)
        driver = self.driver(record[DRIVER], "Unmounter.TearDownAt failed to get CSI client")
        with driver_call("Unmounter.TearDownAt"):
            await driver.unpublish(record[HANDLE], str(target / "mount"))
        if record.get(LIFECYCLE) == PERSISTENT:
            key = record[DRIVER], record[HANDLE]
            if not await asyncio.to_thread(self.paths.is_published, *key, but=target):
                await self._unstage(*key)
        await asyncio.to_thread(remove, target, "mount")

    async def _recall(self, name: str, target: Path) -> dict[str, str] | None:
        """What was written down of a volume; if that cannot be read, what its object says."""
        try:
            return await asyncio.to_thread(load, target)
        except VolumeProblem as problem:
            persistent = await self.host.objects.volume(name)
            if persistent is None or persistent.spec.csi is None:
                raise
            log.warning("%s; written anew", problem)
            csi = persistent.spec.csi
            record = {NAME: name, DRIVER: csi.driver, HANDLE: csi.volumeHandle}
            record[LIFECYCLE] = PERSISTENT
            await asyncio.to_thread(save, target, record)
            return record

    async def unstage(self, name: str) -> None:
        """No pod has the volume: it may have been staged and never published."""
        records = await asyncio.to_thread(lambda: list(self.paths.staged_records()))
        for record in records:
            if record.get(NAME) == name:
                await self._unstage(record[DRIVER], record[HANDLE])
        await self._block.unstage(name)
        self._attachments.release(self._uniques.pop(name, ""))

    async def _unstage(self, driver_name: str, handle: str) -> None:
        directory = self.paths.staged(driver_name, handle)
        if not await asyncio.to_thread(directory.exists):
            return
        driver = self.driver(
            driver_name, "attacher.UnmountDevice failed to create newCsiDriverClient"
        )
        self._staged.discard((driver_name, handle))
        with driver_call("attacher.UnmountDevice"):
            if "STAGE_UNSTAGE_VOLUME" in await driver.capabilities():
                await driver.unstage(handle, str(directory / "globalmount"))
        await asyncio.to_thread(remove, directory, "globalmount")

    # Block devices, growth, figures

    async def map_device(self, spec: VolumeSpec, target: Path) -> Path:
        return await self._block.map(spec, target)

    async def unmap_device(self, uid: str, name: str, target: Path) -> None:
        await self._block.unmap(uid, name)

    async def expand(self, spec: VolumeSpec, prepared: PreparedVolume, size: str) -> None:
        source = source_of(spec)
        assert source.persistent is not None
        try:
            driver = self.driver(source.driver, "Expander.NodeExpand failed")
        except VolumeProblem as problem:
            raise ExpansionProblem(str(problem), is_final=False) from problem  # it may come back
        staging = str(self.paths.staged(*source.key) / "globalmount")
        if spec.is_block:
            staging = str(self.paths.device_staging(spec.name))
        try:
            capabilities = await driver.capabilities()
            if "EXPAND_VOLUME" not in capabilities:
                text = f"NodeExpand is not supported by the CSI driver {driver.name}"
                raise ExpansionProblem(text, is_unsupported=True)
            if "STAGE_UNSTAGE_VOLUME" not in capabilities:
                staging = ""
            named = source.persistent.nodeExpandSecretRef
            volume = CsiVolume(
                handle=source.handle,
                access_mode=access_mode(spec),
                is_block=spec.is_block,
                fs_type=source.fs_type,
                mount_options=spec.mount_options,
                secrets=await self.secrets(named, "NodeExpandSecretRef"),
            )
            count = parse_quantity(size).value()
            await driver.expand(volume, str(prepared.path), staging, count, capabilities)
        except RuntimeFailure as failure:
            raise ExpansionProblem(
                f"Expander.NodeExpand failed to expand the volume : {failure.message}",
                is_final=is_final(failure),
                is_infeasible=failure.code in INFEASIBLE_CODES,
                is_in_use=failure.code == "FAILED_PRECONDITION",
            ) from failure

    async def usage(self, target: Path) -> VolumeUsage | None:
        """None where the driver does not count, or does not answer."""
        try:
            record = await asyncio.to_thread(load, target.parent)
            if record is None:
                return None
            driver = self._drivers.driver(record[DRIVER])
            if "GET_VOLUME_STATS" not in await driver.capabilities():
                return None
            return await driver.usage(record[HANDLE], str(target))
        except (RuntimeFailure, VolumeProblem) as failure:
            log.debug("usage of %s: %s", target, failure)
            return None


class CsiService:
    """All of CSI on a node: the plug-in for volumes, and what runs beside it."""

    def __init__(self, host: VolumeHost, client: Client) -> None:
        self.drivers = CsiDrivers(client, host.node_name)
        self._attachments = Attachments(client, host.node_name, CsiPaths(host.root))
        self.plugin = CsiPlugin(host, self.drivers, self._attachments)

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.drivers.run(), name="csi-drivers")
            tasks.create_task(self._attachments.run(), name="volumes-in-use")
