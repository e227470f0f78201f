"""`kubectl logs`: the container log files of the runtime, as their readers want them.

The runtime writes one line an entry: `2016-10-06T00:17:09.669794202Z stdout F the text`, with P for
a part of a line that was too long and F for its last part (CRI logging format). Text comes in at
the speed of the disk and must go out like that, so a block of ordinary entries is rendered by one
regular expression; whatever is not ordinary in a block sends it the slow way, entry by entry.

A followed file is rotated meanwhile (see `rotation`): the one that is open is renamed, a new one
has its name, and what fell behind is compressed. The reader goes through all of them in order.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import stat
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from navarch.api.times import parse_time
from navarch.node.inotify import Mask, Watcher

from ..volumes.kernel import open_plain

BLOCK = 128 * 1024
LONGEST_ENTRY = 16 << 20
STATE_CHECK_SECONDS = 0.5
"""How often a silent container is asked whether it still runs."""
SWITCH_SECONDS = 0.2
"""How long a runtime that writes to the new file may still write to the one it leaves."""

_ORDINARY = re.compile(rb"\n[^ \n]{20,40} std(?:out|err) F ")
_TIMED = re.compile(rb"\n([0-9T:-]{19}\.[0-9]{9}(?:Z|[+-][0-9:]{5}) )std(?:out|err) F ")
_FRACTION = re.compile(rb"(\.[0-9]{1,9})?(Z|[+-][0-9:]{5})$")


@dataclass(frozen=True, slots=True)
class LogOptions:
    """The query of a log request. `since` hides what was written before it, `tail` (None: all) is
    counted in lines from the end, `limit` in bytes of output; `stream` empty means both."""

    follow: bool = False
    timestamps: bool = False
    since: datetime | None = None
    tail: int | None = None
    limit: int | None = None
    stream: str = ""


def tail_offset(file: BinaryIO, lines: int) -> int:
    """Where the last `lines` lines of a file begin."""
    end = file.seek(0, os.SEEK_END)
    if lines <= 0:
        return end
    position = end
    wanted = lines
    while position > 0:
        size = min(BLOCK, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        # The newline that ends the file ends the last line; it does not begin another.
        stop = size - 1 if position + size == end and block.endswith(b"\n") else size
        while (found := block.rfind(b"\n", 0, stop)) >= 0:
            wanted -= 1
            if wanted == 0:
                return position + found + 1
            stop = found
    return 0


class Renderer:
    """Shows entries as one reader wants to see them, and remembers whether a line is half shown."""

    def __init__(self, options: LogOptions) -> None:
        self._options = options
        self._is_line_start = True

    def render(self, block: bytes) -> bytes:
        """What whole entries, each with its newline, look like."""
        options = self._options
        if self._is_line_start and not options.stream and self._is_recent(block):
            pattern, shown = (_TIMED, rb"\n\1") if options.timestamps else (_ORDINARY, b"\n")
            text, count = pattern.subn(shown, b"\n" + block)
            if count == block.count(b"\n"):
                return text[1:]
        return b"".join([self.entry(each + b"\n") for each in block[:-1].split(b"\n")])

    def _is_recent(self, block: bytes) -> bool:
        """Whether `since` hides nothing of the block; its entries are in order."""
        if self._options.since is None:
            return True
        last = block.rfind(b"\n", 0, -1) + 1
        return not any(self._is_hidden(each.partition(b" ")[0]) for each in (block, block[last:]))

    def _is_hidden(self, time: bytes) -> bool:
        since = self._options.since
        try:
            return since is not None and parse_time(time.decode("latin-1")) < since
        except ValueError:
            return True

    def entry(self, entry: bytes) -> bytes:
        """What one entry looks like: nothing where an option hides it, or where it is none."""
        head = entry.split(b" ", 3)
        if len(head) < 4 or head[1] not in (b"stdout", b"stderr"):
            return b""
        time, stream, tag, text = head
        # A part keeps no newline, so that the parts of a long line join again.
        line = text.removesuffix(b"\n") if tag.split(b":")[0] == b"P" else text
        is_line_start = self._is_line_start
        self._is_line_start = not line or line.endswith(b"\n")
        if self._options.stream and stream.decode() != self._options.stream:
            return b""
        if self._is_hidden(time):
            return b""
        if self._options.timestamps and is_line_start:
            return _FRACTION.sub(_nine_digits, time) + b" " + line
        return line


def _nine_digits(found: re.Match[bytes]) -> bytes:
    """The runtime leaves out zeros at the end of a time; readers get all of them."""
    return (found[1] or b".").ljust(10, b"0") + found[2]


class _Source:
    """Whole entries of a log file and of those that come after it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = open_log(path)
        self._rest = b""
        self._name = ""
        """What our file is called since it was rotated."""

    def read(self) -> bytes:
        """Entries, or nothing at the end of the file; a half-written one waits for its end."""
        while data := self.file.read(BLOCK):
            if not self._name:
                # Known in time: once it is compressed, nothing tells which it was.
                self._name = self._rotated_name()
            data = self._rest + data
            end = data.rfind(b"\n") + 1
            # What is longer is no entry of a runtime's: nobody waits for its end in memory.
            self._rest = data[end:] if len(data) - end <= LONGEST_ENTRY else b""
            if end:
                return data[:end]
        return b""

    def take_rest(self) -> bytes:
        """The entry without an end, if nobody is going to write it."""
        rest, self._rest = self._rest, b""
        return rest + b"\n" if rest else b""

    def successor(self) -> Path | None:
        """The file that goes on where ours has ended; None if ours is the newest."""
        self._name = self._name or self._rotated_name()
        if not self._name:
            return None
        later = sorted(each for each in self._others() if each.removesuffix(".gz") > self._name)
        following = self.path.with_name(later[0]) if later else self.path
        return following if following.exists() else None

    def is_left(self, following: Path) -> bool:
        """Whether the runtime has begun to write to the file after ours. An empty one is made
        before the runtime leaves ours, and has nothing to show yet."""
        try:
            found = os.lstat(following)
        except FileNotFoundError:
            return False
        return found.st_size > 0 or not stat.S_ISREG(found.st_mode)

    def go_on(self, following: Path) -> None:
        """Continues with the file that `successor` has named. Raises OSError if it is none."""
        self.file.close()
        self.file = open_log(following)
        self._name = following.name.removesuffix(".gz") if following != self.path else ""

    def _others(self) -> list[str]:
        prefix = self.path.name + "."
        try:
            names = os.listdir(self.path.parent)
        except FileNotFoundError:
            return []  # the pod has been deleted
        return [each for each in names if each.startswith(prefix) and not each.endswith(".tmp")]

    def _rotated_name(self) -> str:
        """Our file's new name, without its ending if it was compressed; empty if it has none."""
        descriptor = self.file.fileno()
        inode = os.fstat(descriptor).st_ino
        if _inode(self.path) == inode:
            return ""
        others = self._others()
        for name in others:
            if _inode(self.path.with_name(name)) == inode:
                return name
        beginning = os.pread(descriptor, 64, 0)
        for name in others:
            if name.endswith(".gz") and _beginning(self.path.with_name(name)) == beginning:
                return name.removesuffix(".gz")
        # It was removed, and nobody knows how many came after it: on with the newest.
        return f"{self.path.name}.~" if others or self.path.exists() else ""


def open_log(path: Path) -> BinaryIO:
    """Opens a log file, of `<pod>/<container>/<n>.log` or its likes. Pods that collect logs can
    often write to the directory of all logs: a link there would show them any file of the node, and
    a pipe would keep us waiting. Raises OSError."""
    opened = open_plain(path, depth=3)
    if path.suffix != ".gz":
        return open(opened, "rb")
    try:
        return gzip.open(f"/proc/self/fd/{opened}", "rb")  # type: ignore[return-value]
    finally:
        os.close(opened)


def _inode(path: Path) -> int:
    try:
        return os.lstat(path).st_ino
    except FileNotFoundError:
        return 0


def _beginning(path: Path) -> bytes:
    try:
        with open_log(path) as file:
            return file.read(64)
    except (OSError, EOFError):
        return b""


async def read_log(
    path: Path, options: LogOptions, is_running: Callable[[], bool]
) -> AsyncGenerator[bytes, None]:
    """Chunks of a container's log. With `follow` it goes on until the container has ended and all
    it wrote was read. Raises OSError when there is no such file."""
    source, renderer = _Source(path), Renderer(options)
    left = options.limit
    loop = asyncio.get_running_loop()
    left_since: float | None = None
    try:
        source.file.seek(0 if options.tail is None else tail_offset(source.file, options.tail))
        with Watcher() as watcher:
            if options.follow:
                watcher.add(str(path.parent), Mask.MODIFY | Mask.CREATE | Mask.MOVED_TO)
            while True:
                # Asked before reading: what an ended container wrote is complete in the file.
                running = options.follow and is_running()
                while block := source.read() or (b"" if running else source.take_rest()):
                    left_since = None
                    shown = renderer.render(block)[:left]
                    if shown:
                        yield shown
                    if left is not None:
                        left -= len(shown)
                        if left <= 0:
                            return
                    # A reader that is faster than we are must not keep the loop to itself.
                    await asyncio.sleep(0)
                following = source.successor()
                if following is None:
                    if not running:
                        return
                    await watcher.wait(STATE_CHECK_SECONDS)
                    continue
                if left_since is None and source.is_left(following):
                    left_since = loop.time()
                # What has been rotated as well came long after ours was left.
                is_over = left_since is not None and loop.time() >= left_since + SWITCH_SECONDS
                if running and following == path and not is_over:
                    await watcher.wait(SWITCH_SECONDS)
                    continue
                try:
                    source.go_on(following)
                except OSError:
                    return  # deleted meanwhile, or somebody has put there what is no log
                left_since = None
    finally:
        source.file.close()
