"""Run a program inside a node: `python -m navarch.cluster.enter PINS NODE -- PROGRAM ...`.

A process of its own, because the kernel lets only a process with a single thread change its mount
namespace. It becomes the program, so nothing of it stays in memory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from navarch.cluster.namespaces import Pins, enter


def main(arguments: list[str]) -> int:
    directory, node, separator, *command = arguments
    if separator != "--" or not command:
        print("usage: enter PINS NODE -- PROGRAM ...", file=sys.stderr)
        return 2
    try:
        enter(Pins(Path(directory), node))
    except OSError as error:
        print(f"node {node} is not running: {error}", file=sys.stderr)
        return 1
    os.environ.pop("PYTHONPATH", None)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
