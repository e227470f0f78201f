"""User namespaces of pods (`hostUsers: false`): each pod gets a range of ids nobody else has.

Which ranges are taken is what the pods' directories say (`pods/<uid>/userns`, upstream's format):
there is no other record that could disagree with them, and a range is free again when its pod's
directory is gone. The node's own share is everything above the first range, or what /etc/subuid and
/etc/subgid give to the user `kubelet` (KEP-127; `pkg/kubelet/userns`).
"""

from __future__ import annotations

import functools
import pwd
import shutil
import subprocess
import threading
from pathlib import Path

import msgspec

from .cri import runtime_pb2 as pb
from .durable import write_durably

KUBELET_USER = "kubelet"
UNIT = 65536
FILE = "userns"


class UserNamespaceProblem(Exception):
    """A pod cannot have a user namespace; the text is upstream's."""


class _Range(msgspec.Struct, frozen=True, rename="camel"):
    host_id: int
    container_id: int
    length: int


class _Mappings(msgspec.Struct, rename={"uids": "uidMappings", "gids": "gidMappings"}):
    uids: list[_Range]
    gids: list[_Range]


class UserNamespaces:
    """Hands out ranges of ids."""

    def __init__(self, pods_directory: Path, length: int, max_pods: int) -> None:
        self._pods, self._length, self._max_pods = pods_directory, length, max_pods
        self._lock = threading.Lock()

    def mapping(self, uid: str) -> pb.UserNamespace:
        """The pod's range, a new one if it has none. Reads and writes files."""
        with self._lock:
            first = self._recorded(self._pods / uid / FILE)
            if first is None:
                first = self._allocate(uid)
        mapping = pb.IDMapping(host_id=first, container_id=0, length=self._length)
        return pb.UserNamespace(mode=pb.POD, uids=[mapping], gids=[mapping])

    def _allocate(self, uid: str) -> int:
        start, length = self._share
        files = self._pods.glob(f"*/{FILE}")
        taken = {first for each in files if (first := self._recorded(each)) is not None}
        free = (first for first in range(start, start + length, self._length) if first not in taken)
        first = next(free, None)
        if first is None:
            text = "could not find an empty slot to allocate a user namespace"
            raise UserNamespaceProblem(f"create user namespace: {text}")
        ids = [_Range(first, 0, self._length)]
        (self._pods / uid).mkdir(parents=True, exist_ok=True)
        # A range that is in use must not be forgotten when the power fails.
        write_durably(self._pods / uid / FILE, msgspec.json.encode(_Mappings(ids, ids)))
        return first

    def _recorded(self, file: Path) -> int | None:
        try:
            found = msgspec.json.decode(file.read_bytes(), type=_Mappings)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            text = f"user namespace: invalid user namespace mappings file: {error}"
            raise UserNamespaceProblem(text) from error
        if len(found.uids) != 1 or found.uids != found.gids or found.uids[0].container_id != 0:
            text = "GID and UID mapping should be identical, one, and begin with root"
            raise UserNamespaceProblem(
                f"user namespace: invalid user namespace configuration: {text}"
            )
        if found.uids[0].length != self._length:
            text = f"user namespace: wrong user namespace length {found.uids[0].length}"
            raise UserNamespaceProblem(text)
        return found.uids[0].host_id

    @functools.cached_property
    def _share(self) -> tuple[int, int]:
        """The first id of the node's own share, and how many ids it has."""
        start, length = subordinate_ids() or (self._length, 2**32 - self._length)
        each = self._length
        if each % UNIT:
            text = f"kubelet user namespace length {each} is not a multiple of {UNIT}"
        elif start % each:
            text = f"kubelet user assigned ID {start} is not a multiple of {each}"
        elif start < each:
            text = f"kubelet user assigned ID {start} must be greater or equal to {each}"
        elif length % each:
            text = f"kubelet user assigned IDs length {length} is not a multiple of {each}"
        elif length // each < self._max_pods:
            text = f"kubelet user assigned IDs are not enough to support {self._max_pods} pods"
        else:
            return start, length
        raise UserNamespaceProblem(text)


def subordinate_ids() -> tuple[int, int] | None:
    """What /etc/subuid and /etc/subgid (or what stands behind them) give to the agent's user."""
    try:
        pwd.getpwnam(KUBELET_USER)
    except KeyError:
        return None
    program = shutil.which("getsubids")
    if program is None:
        return None
    outputs = []
    for option in ([], ["-g"]):
        command = [program, *option, KUBELET_USER]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        if done.returncode:
            what = "gids" if option else "uids"
            text = f'error retrieving additional {what} for user "{KUBELET_USER}"'
            raise UserNamespaceProblem(f"{text}: {done.stderr.strip()}")
        outputs.append(done.stdout)
    if outputs[0] != outputs[1]:
        raise UserNamespaceProblem(f'mismatched subuids and subgids for user "{KUBELET_USER}"')
    # One line for each range: "0: kubelet 65536 7208960".
    lines = [line.split() for line in outputs[0].splitlines()]
    if len(lines) != 1 or len(lines[0]) != 4:
        raise UserNamespaceProblem("error parsing subids: expected one range of ids")
    return int(lines[0][2]), int(lines[0][3])
