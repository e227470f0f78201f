"""Names and records of CSI volumes on disk, the same as upstream's, so that either agent can take
down what the other has set up.

    pods/<uid>/volumes/kubernetes.io~csi/<volume>/vol_data.json and mount/
    plugins/kubernetes.io/csi/<driver>/<hash of the handle>/vol_data.json and globalmount/
    plugins/kubernetes.io/csi/volumeDevices/<volume>/data/vol_data.json     for block volumes
    plugins/kubernetes.io/csi/volumeDevices/staging/<volume>/
    plugins/kubernetes.io/csi/volumeDevices/publish/<volume>/<uid>

A record is written before the driver is asked for anything, and goes after the driver has undone
it: whatever moment an agent ends at, the next one knows whom to ask.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from navarch.api.csi import CSI_PLUGIN_NAME, unique_name

from .kernel import mounts_under
from .plugin import VolumeProblem

log = logging.getLogger(__name__)

CSI = CSI_PLUGIN_NAME
RECORD = "vol_data.json"
DRIVER, HANDLE, NAME, LIFECYCLE = "driverName", "volumeHandle", "specVolID", "volumeLifecycleMode"
PERSISTENT, EPHEMERAL = "Persistent", "Ephemeral"


def inline_handle(uid: str, name: str) -> str:
    """The handle of a volume that lives and dies with its pod."""
    return f"csi-{hashlib.sha256(f'{uid}{name}'.encode()).hexdigest()}"


def save(directory: Path, record: dict[str, str]) -> None:
    """In one step: a record is whole or not there."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o750)
    new = directory / f".{RECORD}.new"
    new.write_text(json.dumps(record) + "\n")
    os.replace(new, directory / RECORD)


def load(directory: Path) -> dict[str, str] | None:
    """None if there is none. Raises VolumeProblem for one that cannot be read."""
    path = directory / RECORD
    try:
        found = json.loads(path.read_bytes())
        return {key: str(found[key]) for key in found} | {
            DRIVER: str(found[DRIVER]),
            HANDLE: str(found[HANDLE]),
        }
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise VolumeProblem(f"{CSI}: failed to parse volume data file [{path}]: {error}") from error


def remove(directory: Path, mount: str) -> None:
    """Removes a record and the mount point beside it, which the driver may have left behind.
    Raises VolumeProblem while something is mounted there."""
    point = directory / mount
    if point in mounts_under(point):
        raise VolumeProblem(f"{CSI}: {point} is still mounted")
    with suppress(FileNotFoundError):
        point.rmdir() if point.is_dir() else point.unlink()
    (directory / RECORD).unlink(missing_ok=True)
    with suppress(FileNotFoundError):
        directory.rmdir()


@dataclass(frozen=True, slots=True)
class CsiPaths:
    """Where the volumes of one node are."""

    root: Path

    @property
    def plugin(self) -> Path:
        return self.root / "plugins" / CSI

    @property
    def devices(self) -> Path:
        return self.plugin / "volumeDevices"

    def staged(self, driver: str, handle: str) -> Path:
        return self.plugin / driver / hashlib.sha256(handle.encode()).hexdigest()

    def device_record(self, name: str) -> Path:
        return self.devices / name / "data"

    def device_staging(self, name: str) -> Path:
        return self.devices / "staging" / name

    def device_published(self, name: str) -> Path:
        return self.devices / "publish" / name

    def staged_records(self) -> Iterator[dict[str, str]]:
        """Of every volume that is staged with a file system, or half so."""
        for path in self.plugin.glob(f"*/*/{RECORD}"):
            if self.devices not in path.parents:
                yield from _readable(path.parent)

    def in_use(self) -> set[str]:
        """The unique names of all persistent volumes something is left of."""
        places = [
            *(self.root / "pods").glob(f"*/volumes/kubernetes.io~csi/*/{RECORD}"),
            *self.devices.glob(f"*/data/{RECORD}"),
        ]
        found = [each for path in places for each in _readable(path.parent)]
        return {
            unique_name(each[DRIVER], each[HANDLE])
            for each in [*found, *self.staged_records()]
            if each.get(LIFECYCLE) != EPHEMERAL
        }

    def is_published(self, driver: str, handle: str, *, but: Path) -> bool:
        """Whether some other place than `but` in a pod has the volume."""
        return any(
            (each[DRIVER], each[HANDLE]) == (driver, handle)
            for path in (self.root / "pods").glob(f"*/volumes/kubernetes.io~csi/*/{RECORD}")
            if path.parent != but
            for each in _readable(path.parent)
        )


def _readable(directory: Path) -> Iterator[dict[str, str]]:
    try:
        record = load(directory)
    except VolumeProblem as problem:
        log.warning("%s", problem)
        return
    if record is not None:
        yield record
