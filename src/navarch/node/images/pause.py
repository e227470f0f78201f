"""The pause image: the process that holds a pod's namespaces open.

It is an ELF executable of some two hundred bytes, put together here instruction by instruction, so
that no compiler and no download is needed. What it does, in C:

    sigaction(SIGCHLD, SIG_IGN);              // as PID 1 of a pod that shares its process
                                              // namespace: orphans are reaped by the kernel
    sigprocmask(SIG_BLOCK, {SIGINT, SIGTERM});
    while (sigtimedwait({SIGINT, SIGTERM}, NULL, NULL) < 0) {}
    exit_group(0);

The signals are blocked and waited for rather than handled: the kernel discards a signal to PID 1
that has no handler, but never a blocked one.
"""

from __future__ import annotations

import struct
from pathlib import Path

from .oci import ImageConfig, ImageFile, build_image, machine_architecture

PAUSE_IMAGE = "navarch.local/pause:1"

_BASE = 0x400000
_HEADERS = 64 + 56
_SIGINT, _SIGTERM = 2, 15
# The kernel's struct sigaction (handler = SIG_IGN, flags, restorer, mask), then the signal set.
_DATA = struct.pack("<QQQQ", 1, 0, 0, 0) + struct.pack(
    "<Q", 1 << (_SIGINT - 1) | 1 << (_SIGTERM - 1)
)


def pause_executable(architecture: str) -> bytes:
    """The executable for `amd64` or `arm64`."""
    if architecture == "amd64":
        machine, code = 62, _amd64_code
    elif architecture == "arm64":
        machine, code = 183, _arm64_code
    else:
        raise ValueError(f"no pause executable for architecture {architecture}")
    entry = _BASE + _HEADERS
    length = len(code(0, 0))
    padded = length + -(_HEADERS + length) % 8
    data = entry + padded
    text = code(data, data + 32).ljust(padded, b"\0")
    size = _HEADERS + len(text) + len(_DATA)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(2, machine, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0),
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x10000)
    return header + segment + text + _DATA


def _amd64_code(action: int, signals: int) -> bytes:
    """System calls 13 rt_sigaction, 14 rt_sigprocmask, 128 rt_sigtimedwait, 231 exit_group."""

    def load(register: int, value: int) -> bytes:
        return bytes([0xB8 + register]) + struct.pack("<I", value)

    eax, edx, esi, edi = 0, 2, 6, 7
    set_size = b"\x41\xba" + struct.pack("<I", 8)  # mov r10d, 8
    syscall, clear_edx = b"\x0f\x05", b"\x31\xd2"
    ignore = load(eax, 13) + load(edi, 17) + load(esi, action) + clear_edx + set_size + syscall
    block = load(eax, 14) + load(edi, 0) + load(esi, signals) + load(edx, 0) + set_size + syscall
    wait = load(eax, 128) + load(edi, signals) + load(esi, 0) + load(edx, 0) + set_size + syscall
    wait += b"\x48\x85\xc0"  # test rax, rax
    wait += b"\x78" + struct.pack("<b", -(len(wait) + 2))  # js to the start of the wait
    return ignore + block + wait + load(eax, 231) + load(edi, 0) + syscall


def _arm64_code(action: int, signals: int) -> bytes:
    """System calls 134 rt_sigaction, 135 rt_sigprocmask, 137 rt_sigtimedwait, 94 exit_group."""

    def load(register: int, value: int) -> bytes:
        low, high = value & 0xFFFF, value >> 16
        words = [0xD2800000 | low << 5 | register, 0xF2A00000 | high << 5 | register]
        return struct.pack("<2I", *words)  # movz; movk, lsl 16

    def call(number: int, *arguments: int) -> bytes:
        loads = b"".join(load(register, value) for register, value in enumerate(arguments))
        return loads + load(8, number) + struct.pack("<I", 0xD4000001)  # svc 0

    wait = call(137, signals, 0, 0, 8)
    offset = -(len(wait) // 4) & 0x3FFF
    wait += struct.pack("<I", 0xB7F80000 | offset << 5)  # tbnz x0, 63, to the start of the wait
    return call(134, 17, action, 0, 8) + call(135, 0, signals, 0, 8) + wait + call(94, 0)


def build_pause_image(target: Path) -> Path:
    """Writes the pause image of this machine's architecture as an OCI archive."""
    executable = ImageFile(pause_executable(machine_architecture()), mode=0o755)
    return build_image(
        target,
        PAUSE_IMAGE,
        ImageConfig(entrypoint=["/pause"], user="65535:65535"),
        files={"pause": executable},
    )
