"""The API server alone: how fast it starts, answers, and how much memory a full store takes.

`python -m bench.server` starts a profile without nodes (`bench-api`) and deletes it at the end;
`python -m bench.api` measures any other server.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import uvloop

from bench import api
from bench.cluster import memory
from bench.report import Row, show
from navarch.client.config import ClientConfig

PROFILE = "bench-api"
NAVARCH = (sys.executable, "-m", "navarch.cli.main", "-p", PROFILE)


def main() -> None:
    home = Path(tempfile.mkdtemp(prefix="navarch-bench-"))
    kubeconfig = home / "kubeconfig"
    os.environ.update(NAVARCH_HOME=str(home / "home"), KUBECONFIG=str(kubeconfig))
    try:
        subprocess.run([*NAVARCH, "start", "--nodes", "0"], check=True)
        config = ClientConfig.from_kubeconfig(kubeconfig)
        rows = uvloop.run(api.measure(config, large=True))
        rows.append(
            Row("memory, control plane with a large store", memory(home)[0], "MB", 300, 1507)
        )
        show(rows)
    finally:
        subprocess.run([*NAVARCH, "delete"], check=False)
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main()
