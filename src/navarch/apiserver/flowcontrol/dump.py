"""What flow control shows of itself: metrics, and the tables below
`/debug/api_priority_and_fairness/` for people in search of who floods whom."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from aiohttp import web

from navarch.apiserver.core import Core
from navarch.apiserver.flowcontrol.control import WAIT_BUCKETS, FlowControl, Tally, Waiter
from navarch.apiserver.http.app import App
from navarch.apiserver.http.call import Call
from navarch.apiserver.http.respond import respond_not_found, respond_text

Row = tuple[object, ...]

BASE = "/debug/api_priority_and_fairness"
_LEVELS = (
    "PriorityLevelName",
    "ActiveQueues",
    "IsIdle",
    "IsQuiescing",
    "WaitingRequests",
    "ExecutingRequests",
    "DispatchedRequests",
    "RejectedRequests",
    "TimedoutRequests",
    "CancelledRequests",
)
_QUEUES = ("PriorityLevelName", "Index", "PendingRequests", "SeatsWaiting", "Clock")
_REQUESTS = (
    "PriorityLevelName",
    "FlowSchemaName",
    "QueueIndex",
    "RequestIndexInQueue",
    "FlowDistingsher",
    "ArriveTime",
    "InitialSeats",
)
_DETAILS = (
    "UserName",
    "Verb",
    "APIPath",
    "Namespace",
    "Name",
    "APIVersion",
    "Resource",
    "SubResource",
)


def add_dumps(app: App) -> None:
    """Put the debug paths into the app's tables."""

    async def dump(core: Core, call: Call) -> web.StreamResponse:
        control = core.flow_control
        if control is None:
            return respond_not_found(call)
        name = call.info.path.rpartition("/")[2]
        if name == "dump_priority_levels":
            return respond_text(call, table(_LEVELS, levels(control)))
        if name == "dump_queues":
            return respond_text(call, table(_QUEUES, queues(control)))
        is_full = bool(call.parameter("includeRequestDetails"))
        header = _REQUESTS + (_DETAILS if is_full else ())
        return respond_text(call, table(header, requests(control, is_full)))

    for name in ("dump_priority_levels", "dump_queues", "dump_requests"):
        app.paths[f"{BASE}/{name}"] = dump


def table(header: Row, rows: Iterator[Row]) -> str:
    """Columns parted by commas and filled up with blanks, as upstream's tab writer does."""
    texts = [[_text(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[index]) + 2 for row in texts) for index in range(len(header))]
    lines = []
    for row in texts:
        cells = [f"{cell}," for cell in row[:-1]] + row[-1:]
        lines.append(
            "".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        )
    return "\n".join(lines) + "\n"


def _text(cell: object) -> str:
    return str(cell).lower() if isinstance(cell, bool) else str(cell)


def levels(control: FlowControl) -> Iterator[Row]:
    for name, level in sorted(control.levels.items()):
        tallies = [each for (owner, _), each in control.tallies.items() if owner == name]
        rejected = {
            reason: sum(each.rejected[reason] for each in tallies)
            for reason in ("queue-full", "concurrency-limit", "time-out", "cancelled")
        }
        active = sum(1 for each in level.queues.queues if each.items) if level.queues else 0
        yield (
            name,
            active,
            not level.executing and not level.waiting,
            False,
            level.waiting,
            level.executing,
            sum(each.dispatched for each in tallies),
            rejected["queue-full"] + rejected["concurrency-limit"],
            rejected["time-out"],
            rejected["cancelled"],
        )


def queues(control: FlowControl) -> Iterator[Row]:
    for name, level in sorted(control.levels.items()):
        for index, queue in enumerate(level.queues.queues if level.queues else ()):
            yield name, index, len(queue.items), queue.seats, f"{queue.clock:.1f}"


def requests(control: FlowControl, is_full: bool) -> Iterator[Row]:
    for _, level in sorted(control.levels.items()):
        for number, queue in enumerate(level.queues.queues if level.queues else ()):
            for place, (waiter, _) in enumerate(queue.items):
                yield _request(waiter, number, place, is_full)
    for call in control.executing:
        flow = call.flow
        if flow is not None:
            row: Row = (flow.level.name, flow.schema.name, -1, -1, flow.distinguisher, "")
            yield row + (call.seats,) + (_details(call) if is_full else ())


def _request(waiter: Waiter, number: int, place: int, is_full: bool) -> Row:
    flow = waiter.flow
    arrived = datetime.fromtimestamp(waiter.arrived, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    row: Row = (flow.level.name, flow.schema.name, number, place, flow.distinguisher, arrived)
    return row + (waiter.seats,) + (_details(waiter.call) if is_full else ())


def _details(call: Call) -> Row:
    info = call.info
    version = f"{info.group}/{info.version}" if info.group else info.version
    path = info.path if info.path.isprintable() else ascii(info.path)
    where = (path, info.namespace, info.name, version, info.resource, info.subresource)
    return call.user.name, info.verb, *where


def metrics(control: FlowControl) -> Iterator[str]:
    """Lines in Prometheus' text format."""
    prefix = "apiserver_flowcontrol"
    for name, attribute in (
        ("nominal_limit_seats", "nominal"),
        ("lower_limit_seats", "minimum"),
        ("upper_limit_seats", "maximum"),
        ("current_limit_seats", "limit"),
        ("demand_seats_high_watermark", "peak"),
        ("demand_seats_smoothed", "smoothed"),
    ):
        yield f"# TYPE {prefix}_{name} gauge"
        for level in control.levels.values():
            value = getattr(level, attribute)
            yield f'{prefix}_{name}{{priority_level="{level.name}"}} {value:g}'
    for name, kind, attribute in (
        ("dispatched_requests_total", "counter", "dispatched"),
        ("current_executing_requests", "gauge", "executing"),
        ("current_executing_seats", "gauge", "executing_seats"),
        ("current_inqueue_requests", "gauge", "waiting"),
        ("current_inqueue_seats", "gauge", "waiting_seats"),
    ):
        yield f"# TYPE {prefix}_{name} {kind}"
        for labels, tally in _labelled(control):
            yield f"{prefix}_{name}{{{labels}}} {getattr(tally, attribute)}"
    yield f"# TYPE {prefix}_rejected_requests_total counter"
    for labels, tally in _labelled(control):
        for reason, count in sorted(tally.rejected.items()):
            yield f'{prefix}_rejected_requests_total{{{labels},reason="{reason}"}} {count}'
    name = f"{prefix}_request_wait_duration_seconds"
    yield f"# TYPE {name} histogram"
    for labels, tally in _labelled(control):
        # Who started at once waited for no time at all.
        total = tally.dispatched - sum(tally.waits)
        for bound, count in zip((*WAIT_BUCKETS, "+Inf"), tally.waits, strict=True):
            total += count
            yield f'{name}_bucket{{{labels},execute="true",le="{bound}"}} {total}'
        yield f'{name}_sum{{{labels},execute="true"}} {tally.waited_seconds:.6f}'
        yield f'{name}_count{{{labels},execute="true"}} {total}'


def _labelled(control: FlowControl) -> Iterator[tuple[str, Tally]]:
    for (level, schema), tally in control.tallies.items():
        yield f'priority_level="{level}",flow_schema="{schema}"', tally
