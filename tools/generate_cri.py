"""Generates the protobuf modules of what the node agent speaks (the container runtime interface,
plug-in registration, CSI) from the .proto files beside them.

Run by hand after a change of a .proto file; the results are checked in, so that neither users nor
tests need a protobuf compiler. Services are not generated: the clients name the few methods they
call themselves, which spares the import of a stub module.
"""

from __future__ import annotations

import sys
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

SOURCE = Path(__file__).resolve().parent.parent / "src" / "navarch" / "node"


def main() -> int:
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    for proto in sorted(SOURCE.rglob("*.proto")):
        arguments = [
            "protoc",
            f"-I{proto.parent}",
            f"-I{well_known}",
            f"--python_out={proto.parent}",
            f"--pyi_out={proto.parent}",
            str(proto),
        ]
        if protoc.main(arguments) != 0:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
