"""Block volumes of CSI drivers: the driver puts a device file where the kubelet asks for it, and
pods get the device instead of a file system.

Staging and publishing are as for file systems; the record of a volume is shared by the pods of the
node, each of which has its device at `publish/<volume>/<uid>`.
Source: upstream's `pkg/volume/csi/csi_block.go`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from navarch.api.csi import attachment_name

from ..cri.values import RuntimeFailure
from .csi_records import CSI, DRIVER, HANDLE, NAME, load, save
from .csi_values import CsiVolume, access_mode, driver_call, is_final, pod_info, source_of
from .kernel import mounts_under
from .plugin import VolumeProblem, VolumeSpec

if TYPE_CHECKING:
    from .csi import CsiPlugin


class BlockVolumes:
    """The block half of the plug-in, which it shares drivers, secrets and attachment with."""

    def __init__(self, plugin: CsiPlugin) -> None:
        self._plugin, self._paths = plugin, plugin.paths

    async def map(self, spec: VolumeSpec, target: Path) -> Path:
        """Stages the volume and publishes it to the pod; where its device file is."""
        plugin, source = self._plugin, source_of(spec)
        persistent = source.persistent
        assert persistent is not None
        published = self._paths.device_published(spec.name) / spec.pod.metadata.uid
        staging = self._paths.device_staging(spec.name)
        # Before anything else: taking down begins with this link.
        await asyncio.to_thread(_link, target, published)
        options = await plugin.options(source.driver)
        publish_context = await plugin.attached(spec, source, options)
        driver = plugin.driver(source.driver, "blockMapper.SetUpDevice failed to get CSI client")
        context = dict(persistent.volumeAttributes)
        if options is not None and options.spec.podInfoOnMount:
            context |= pod_info(spec.pod, is_inline=False)
        stage_secrets = await plugin.secrets(persistent.nodeStageSecretRef, "NodeStageSecretRef")
        publish = CsiVolume(
            handle=source.handle,
            access_mode=access_mode(spec),
            is_block=True,
            context=context,
            publish_context=publish_context,
            secrets=await plugin.secrets(persistent.nodePublishSecretRef, "NodePublishSecretRef"),
        )
        stage = replace(publish, context=persistent.volumeAttributes, secrets=stage_secrets)
        node = plugin.host.node_name
        record = {
            NAME: spec.name,
            HANDLE: source.handle,
            DRIVER: source.driver,
            "nodeName": node,
            "attachmentID": attachment_name(source.handle, source.driver, node),
        }
        await asyncio.to_thread(save, self._paths.device_record(spec.name), record)
        try:
            capabilities = await driver.capabilities()
            if "STAGE_UNSTAGE_VOLUME" in capabilities:
                await asyncio.to_thread(_make, staging)
                await driver.stage(stage, str(staging), capabilities)
        except RuntimeFailure as failure:
            if is_final(failure) and not await asyncio.to_thread(self._users, spec.name):
                await asyncio.to_thread(self._clean, spec.name)
            raise VolumeProblem(failure.message) from failure
        await asyncio.to_thread(_make, published.parent)
        try:
            await driver.publish(
                publish, str(staging), str(published), capabilities, read_only=spec.read_only
            )
        except RuntimeFailure as failure:
            raise VolumeProblem(failure.message) from failure
        return published

    async def unmap(self, uid: str, name: str) -> None:
        """Takes the device from a pod: also when publishing never came to an end, for nobody knows
        how far it came."""
        record = await asyncio.to_thread(load, self._paths.device_record(name))
        if record is None:
            return
        driver = self._plugin.driver(
            record[DRIVER], "blockMapper.UnmapPodDevice failed to get CSI client"
        )
        self._plugin.remember_attached(name, record)
        published = self._paths.device_published(name) / uid
        with driver_call("blockMapper.unpublishVolumeForBlock"):
            await driver.unpublish(record[HANDLE], str(published))
        await asyncio.to_thread(_remove_file, published)
        if not await asyncio.to_thread(self._users, name):
            await self.unstage(name)

    async def unstage(self, name: str) -> None:
        record = await asyncio.to_thread(load, self._paths.device_record(name))
        if record is None:
            return
        driver = self._plugin.driver(
            record[DRIVER], "blockMapper.TearDownDevice failed to get CSI client"
        )
        staging = self._paths.device_staging(name)
        with driver_call("blockMapper.unstageVolumeForBlock"):
            is_staged = await asyncio.to_thread(staging.is_dir)
            if is_staged and "STAGE_UNSTAGE_VOLUME" in await driver.capabilities():
                await driver.unstage(record[HANDLE], str(staging))
        await asyncio.to_thread(self._clean, name)

    def _users(self, name: str) -> list[str]:
        """The pods (uids) that the volume is published to."""
        published = self._paths.device_published(name)
        return os.listdir(published) if published.is_dir() else []

    def _clean(self, name: str) -> None:
        staging = self._paths.device_staging(name)
        if mounts_under(staging):
            raise VolumeProblem(f"{CSI}: {staging} is still mounted")
        if staging.is_dir():
            shutil.rmtree(staging)
        published = self._paths.device_published(name)
        if published.is_dir():
            published.rmdir()
        # The pods' links beside it are the manager's.
        shutil.rmtree(self._paths.device_record(name))


def _link(target: Path, published: Path) -> None:
    _make(target.parent)
    if not target.is_symlink():
        target.symlink_to(published)


def _make(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True, mode=0o750)


def _remove_file(path: Path) -> None:
    """Drivers remove the device file themselves, but not all do."""
    if path in mounts_under(path):
        raise VolumeProblem(f"{CSI}: {path} is still mounted")
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
