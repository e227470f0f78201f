"""Generates the protobuf modules of the container runtime interface from `node/cri/*.proto`.

Run by hand after a change of a .proto file; the results are checked in, so that neither users nor
tests need a protobuf compiler. Services are not generated: the client names the few methods it
calls itself (`navarch.node.cri.channel`), which spares the import of a stub module.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

SOURCE = Path(__file__).resolve().parent.parent / "src" / "navarch" / "node" / "cri"


def main() -> int:
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    for proto in sorted(SOURCE.glob("*.proto")):
        arguments = [
            "protoc",
            f"-I{SOURCE}",
            f"-I{well_known}",
            f"--python_out={SOURCE}",
            f"--pyi_out={SOURCE}",
            str(proto),
        ]
        if protoc.main(arguments) != 0:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
