"""While tests of clusters run, no packet from or to a cluster address passes this machine's outer
links: what is inside stays inside, whatever is killed, cut off or deleted meanwhile.

Two processes can share the work (`-n 2 --dist loadfile`): most of the time goes by with waiting for
containers. Whole clusters are made by one of the two, one after another. A cluster that is stopped
for a test holds its bridge and its ranges no more, so another one, of another home, could take them
before it is started again; and whatever a deleted one left would be looked for among the other's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from typing import Any

import pytest
from tests.cluster.outside import Lookout, cluster_ranges, outer_links
from xdist.scheduler import LoadFileScheduling


@pytest.fixture(scope="session", autouse=True)
def lookout() -> Iterator[Lookout | None]:
    """Nobody looks where it is not allowed; the tests that make clusters need root, too."""
    if os.geteuid() != 0:
        yield None
        return
    links = outer_links()
    found = Lookout(links, cluster_ranges(chain.from_iterable(links.values())))
    try:
        yield found
        assert found.seen() == []
    finally:
        found.close()


@pytest.fixture(autouse=True)
def nothing_leaves(lookout: Lookout | None) -> Iterator[None]:
    """The test during which something is seen fails: whose it is, is not far away then."""
    yield
    if lookout is not None:
        assert lookout.seen() == []


CLUSTERS, NGINX = "clusters", "nginx"
GROUPS = {
    "tests/cluster/test_": CLUSTERS,
    "tests/cluster/test_announce_link.py": "",
    "tests/cluster/test_gateway": NGINX,
    "tests/cluster/test_ingress": NGINX,
    "tests/cluster/test_outside.py": "",
    "tests/cluster/test_policy_": "",
    "tests/cluster/test_proxy_kernel.py": "",
}
"""Files that one process runs, by the longest prefix. Those with none have all they use, such as
network namespaces, for themselves; those with nginx have its addresses and ports in common."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Whole files are given out, and all those of a group together."""
    if config.getoption("dist") != "loadfile":
        return None
    scheduler = LoadFileScheduling(config, log)
    file_of = scheduler._split_scope

    def group_of(test: str) -> str:
        prefix = max((each for each in GROUPS if test.startswith(each)), key=len, default="")
        return GROUPS.get(prefix) or str(file_of(test))

    scheduler._split_scope = group_of
    return scheduler
