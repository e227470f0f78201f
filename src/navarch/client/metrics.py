"""The figures of work queues and informers, under upstream's names where upstream has them
(`workqueue_*`), in the process-wide Prometheus registry."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.00001, 0.0001, 0.001, 0.01, 0.1, 1.0, 10.0, 100.0)

queue_depth = Gauge("workqueue_depth", "Keys waiting in the work queue", ["name"])
queue_adds = Counter("workqueue_adds", "Keys added to the work queue", ["name"])
queue_retries = Counter("workqueue_retries", "Rate-limited additions", ["name"])
queue_wait = Histogram(
    "workqueue_queue_duration_seconds", "Time a key waits", ["name"], buckets=_SECONDS
)
queue_work = Histogram(
    "workqueue_work_duration_seconds", "Time a key is worked on", ["name"], buckets=_SECONDS
)
queue_unfinished = Gauge(
    "workqueue_unfinished_work_seconds", "Seconds of work under way, summed over keys", ["name"]
)
queue_longest = Gauge(
    "workqueue_longest_running_processor_seconds", "Age of the oldest key under work", ["name"]
)
reconcile_failures = Counter(
    "navarch_reconcile_failures", "Reconciliations that raised", ["controller", "reason"]
)
informer_relists = Counter("navarch_informer_lists", "Full lists by informers", ["resource"])
informer_objects = Gauge("navarch_informer_objects", "Objects held by informers", ["resource"])
informer_handler_failures = Counter(
    "navarch_informer_handler_failures", "Event handlers that raised", ["resource"]
)
events_dropped = Counter("navarch_events_dropped", "Events not written", ["component", "reason"])
requests_total = Counter(
    "rest_client_requests",
    "Number of HTTP requests, partitioned by status code, method, and host.",
    ["code", "host", "method"],
)
