"""The pause image: the process that holds a pod's namespaces while its containers come and go.

Kubernetes pulls this image from a registry; a cluster that must start without one needs its own.
The program does four things: refuse to be interrupted, let the kernel bury orphaned children of a
pod with a shared process namespace, wait, and leave on TERM or INT. That is a dozen instructions,
so instead of shipping a binary or asking for a compiler the image is put together here, from
machine code written out below, as an ELF file of less than 300 bytes. A pod's sandbox then costs
one page of memory.

    rt_sigaction(SIGCHLD, SIG_IGN)   the kernel reaps children whose parent ignores them
    rt_sigprocmask(SIG_BLOCK, all)   process 1 ignores signals without a handler unless blocked
    loop: rt_sigtimedwait({INT, TERM})
          exit_group(0) if a signal came, else again
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import struct
import tarfile

_X86_64 = bytes.fromhex(
    "b80d000000"  # mov eax, 13           rt_sigaction
    "bf11000000"  # mov edi, 17           SIGCHLD
    "488d3547000000"  # lea rsi, [ignore]
    "31d2"  # xor edx, edx
    "41ba08000000"  # mov r10d, 8
    "0f05"  # syscall
    "b80e000000"  # mov eax, 14           rt_sigprocmask
    "31ff"  # xor edi, edi          SIG_BLOCK
    "488d354f000000"  # lea rsi, [every]
    "31d2"  # xor edx, edx
    "41ba08000000"  # mov r10d, 8
    "0f05"  # syscall
    "b880000000"  # wait: mov eax, 128    rt_sigtimedwait
    "488d3d41000000"  # lea rdi, [ending]
    "31f6"  # xor esi, esi
    "31d2"  # xor edx, edx
    "41ba08000000"  # mov r10d, 8
    "0f05"  # syscall
    "85c0"  # test eax, eax
    "7ee4"  # jle wait
    "b8e7000000"  # mov eax, 231          exit_group
    "31ff"  # xor edi, edi
    "0f05"  # syscall
)
_AARCH64 = struct.pack(
    "<24I",
    0xD28010C8,  # mov x8, 134            rt_sigaction
    0xD2800220,  # mov x0, 17             SIGCHLD
    0x100002C1,  # adr x1, ignore
    0xD2800002,  # mov x2, 0
    0xD2800103,  # mov x3, 8
    0xD4000001,  # svc 0
    0xD28010E8,  # mov x8, 135            rt_sigprocmask
    0xD2800000,  # mov x0, 0              SIG_BLOCK
    0x10000301,  # adr x1, every
    0xD2800002,  # mov x2, 0
    0xD2800103,  # mov x3, 8
    0xD4000001,  # svc 0
    0xD2801128,  # wait: mov x8, 137      rt_sigtimedwait
    0x100002A0,  # adr x0, ending
    0xD2800001,  # mov x1, 0
    0xD2800002,  # mov x2, 0
    0xD2800103,  # mov x3, 8
    0xD4000001,  # svc 0
    0xF100001F,  # cmp x0, 0
    0x54FFFF2D,  # b.le wait
    0xD2800BC8,  # mov x8, 94             exit_group
    0xD2800000,  # mov x0, 0
    0xD4000001,  # svc 0
    0xD503201F,  # nop, so that the data begins at a multiple of eight
)
_DATA = struct.pack("<4QqQ", 1, 0, 0, 0, -1, 1 << 14 | 1 << 1)
"""ignore: a sigaction with SIG_IGN; every: all signals; ending: TERM (15) and INT (2)."""

_MACHINES = {"x86_64": ("amd64", 62, _X86_64), "aarch64": ("arm64", 183, _AARCH64)}
"""Per machine: its name in OCI images, its number in ELF, the code."""

_LOAD_ADDRESS = 0x400000
_HEADERS = 64 + 56


def executable(machine: str) -> bytes:
    """The program as a static ELF file with one segment, readable and executable."""
    _, number, code = _machine(machine)
    size = _HEADERS + len(code) + len(_DATA)
    entry = _LOAD_ADDRESS + _HEADERS
    header = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, number, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size, 0x10000)
    return header + segment + code + _DATA


def _machine(machine: str) -> tuple[str, int, bytes]:
    try:
        return _MACHINES[machine]
    except KeyError:
        raise NotImplementedError(
            f"there is no pause program for {machine} yet; name an image with --pause-image"
        ) from None


def image_archive(reference: str, machine: str | None = None) -> bytes:
    """The image as an OCI archive, byte for byte the same every time."""
    machine = machine or platform.machine()
    layer = _tar({"pause": executable(machine)}, mode=0o755)
    blobs: dict[str, bytes] = {}

    def blob(content: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    config = {
        "architecture": _machine(machine)[0],
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535", "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created_by": "navarch"}],
    }
    prefix = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{prefix}.manifest.v1+json",
        "config": blob(_json(config), f"{prefix}.config.v1+json"),
        "layers": [blob(gzip.compress(layer, mtime=0), f"{prefix}.layer.v1.tar+gzip")],
    }
    entry = blob(_json(manifest), str(manifest["mediaType"]))
    # containerd names the imported image after its own annotation, others after OCI's.
    entry["annotations"] = {
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
    }
    index = {"schemaVersion": 2, "manifests": [entry]}
    files = {"oci-layout": _json({"imageLayoutVersion": "1.0.0"}), "index.json": _json(index)}
    return _tar(files | blobs, mode=0o644)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = mode
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
