"""While tests of clusters run, no packet from or to a cluster address passes this machine's outer
links: what is inside stays inside, whatever is killed, cut off or deleted meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain

import pytest
from tests.cluster.outside import Lookout, cluster_ranges, outer_links


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
