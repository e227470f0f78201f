"""nginx as the data plane of Ingress and Gateway API.

model.py         what shall be served, as values; Ingress and Gateway API are translated into it
backends.py      Services and EndpointSlices -> endpoints, and a note of what was asked for; pure
certificates.py  Secrets -> certificates and password files; pure
document.py      the model as data for the Lua code
render.py        the configuration file, which holds nothing that a user wrote
process.py       the running nginx: started, told, reloaded, verified
secrets.py       the Secrets that are named, followed one by one
publish.py       each node's endpoints of the Services that lead to nginx; pure
serving.py       what both controllers have in common, and a component's life
lua/             what runs inside nginx: matching, balancing, limits, certificates
"""

import hashlib
from pathlib import Path


def shared_directory(state: Path) -> Path:
    """Where workers may read and write, by the directory that only root may see."""
    return Path(f"/run/navarch-nginx-{hashlib.sha256(str(state).encode()).hexdigest()[:12]}")
