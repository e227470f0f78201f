"""Images: a node that has them already starts the pod sooner."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from navarch.scheduler.cluster import Numbers
from navarch.scheduler.framework import MAX_SCORE, Cycle, Plugin

MIB = 1024 * 1024
SMALLEST = 23 * MIB
LARGEST_PER_CONTAINER = 1000 * MIB


class ImageLocality(Plugin):
    """Scores by the bytes that need not be pulled. What few nodes have counts less, so that a
    popular image does not pull all its pods onto the first node that got it."""

    name: ClassVar[str] = "ImageLocality"
    weight: ClassVar[int] = 1

    def score(self, cycle: Cycle) -> Numbers | None:
        cluster, pod = cycle.cluster, cycle.pod
        spec = pod.pod.spec
        count = len(spec.containers) + len(spec.initContainers)
        found = [image for name in pod.images if (image := cluster.images.get(name)) is not None]
        if not found or not count:
            return None

        def compute() -> Numbers:
            total = np.zeros(cluster.size, np.int64)
            for image in found:
                total[list(image.slots)] += int(image.size * (len(image.slots) / cluster.count))
            largest = LARGEST_PER_CONTAINER * count
            sizes = np.clip(total, SMALLEST, largest) - SMALLEST
            scores: Numbers = MAX_SCORE * sizes // (largest - SMALLEST)
            return scores

        return cluster.cached((self.name, pod.images, count), compute)[cycle.nodes]
