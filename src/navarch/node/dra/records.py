"""What has been prepared for pods' claims, as it is written down for the next agent.

The file is upstream's (`dra_manager_state`): JSON within JSON, with a checksum over the inner text,
so that a kubelet which takes over the node, or gives it back, finds what it has to undo.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

KIND, API_VERSION = "DRACheckpoint", "checkpoint.dra.kubelet.k8s.io/v1"


class GarbledRecords(Exception):
    """The file cannot be read; which devices are prepared is not known then."""


@dataclass(frozen=True, slots=True)
class Device:
    """A device that a driver has prepared."""

    pool: str
    name: str
    requests: tuple[str, ...] = ()
    """Those of the claim's requests that it is for; none means all."""
    cdi: tuple[str, ...] = ()
    share: str | None = None

    def serves(self, request: str) -> bool:
        return not request or not self.requests or request in self.requests


@dataclass(slots=True)
class ClaimRecord:
    """A claim that pods of this node use."""

    namespace: str
    name: str
    uid: str
    pods: set[str] = field(default_factory=set)
    """Their uids."""
    drivers: dict[str, list[Device]] = field(default_factory=dict)
    """All that have devices of the claim, with those that they have prepared."""
    is_prepared: bool = False

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"


def encode(claims: Iterable[ClaimRecord]) -> bytes:
    data = json.dumps(
        {
            "kind": KIND,
            "apiVersion": API_VERSION,
            "ClaimInfoStateList": [_state(each) for each in claims],
        }
    )
    return json.dumps({"Data": data, "Checksum": zlib.crc32(data.encode())}).encode()


def _state(claim: ClaimRecord) -> dict[str, Any]:
    return {
        "ClaimUID": claim.uid,
        "ClaimName": claim.name,
        "Namespace": claim.namespace,
        "PodUIDs": {uid: {} for uid in sorted(claim.pods)},
        "DriverState": {
            driver: {
                "Devices": [
                    {
                        "PoolName": each.pool,
                        "DeviceName": each.name,
                        "ShareID": each.share,
                        "RequestNames": list(each.requests),
                        "CDIDeviceIDs": list(each.cdi),
                    }
                    for each in devices
                ]
            }
            for driver, devices in claim.drivers.items()
        },
    }


def decode(blob: bytes) -> list[ClaimRecord]:
    """Raises GarbledRecords."""
    try:
        outer = json.loads(blob)
        data = outer["Data"]
        if zlib.crc32(data.encode()) != outer["Checksum"]:
            raise GarbledRecords("the checksum does not match")
        states = json.loads(data)["ClaimInfoStateList"] or []
        return [_claim(state) for state in states]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GarbledRecords(f"{type(error).__name__}: {error}") from error


def _claim(state: Any) -> ClaimRecord:
    return ClaimRecord(
        state["Namespace"],
        state["ClaimName"],
        state["ClaimUID"],
        set(state["PodUIDs"] or {}),
        {
            driver: [
                Device(
                    each["PoolName"],
                    each["DeviceName"],
                    tuple(each.get("RequestNames") or ()),
                    tuple(each.get("CDIDeviceIDs") or ()),
                    each.get("ShareID"),
                )
                for each in found.get("Devices") or ()
            ]
            for driver, found in (state["DriverState"] or {}).items()
        },
    )


def read(path: Path) -> list[ClaimRecord]:
    """What the file says; nothing if there is none or it is garbled."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        return []
    except (OSError, GarbledRecords) as error:
        log.error("%s: %s; devices prepared before are not known", path, error)
        return []
