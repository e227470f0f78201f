"""An API server that compacts and sends bookmarks every few seconds, so that a short run meets
both: `python -m bench.reliability.child SECONDS CONFIG.json`. Otherwise it is that of a cluster."""

from __future__ import annotations

import sys

import navarch.apiserver.server
from navarch.cluster import daemon

BOOKMARK_SECONDS = 0.5

if __name__ == "__main__":
    constants = vars(navarch.apiserver.server)
    constants["COMPACT_SECONDS"] = float(sys.argv[1])
    constants["BOOKMARK_SECONDS"] = BOOKMARK_SECONDS
    sys.exit(daemon.main(sys.argv[2:]))
