"""Runs components: `python -m navarch.cluster.daemon CONFIG.json`.

The file names the components that share this process and their options:

    {"components": {"kubelet": {"kubeconfig": "..."}, "proxy": {...}}, "log_level": "INFO",
     "shown": {"/var/lib/kubelet": "<a directory that is to appear there>"}}

Components that belong together share a process because every Python process costs some twenty
megabytes before it does anything. They do not share fates quietly, though: if one fails or
returns, the process ends with an error and the supervisor starts all of it again.

Components start one after another as the file names them, and each runs while the next is read:
after a kill, what comes first is at work before the last one's modules are there.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from navarch.cluster.components import COMPONENTS, Run, options_from
from navarch.cluster.namespaces import show_at

log = logging.getLogger("navarch.daemon")

HUNG_SECONDS = 5.0
"""A thread may hang in a file system that does not answer. So long it may keep the process."""

Load = Callable[[], tuple[Run, Any]]
"""Imports a component and reads its options."""


class ComponentEndedError(RuntimeError):
    """A component returned, though it should run until it is cancelled."""


def main(arguments: Sequence[str]) -> int:
    config = json.loads(Path(arguments[0]).read_bytes())
    start_logging(config.get("log_level", "INFO"))
    for place, directory in config.get("shown", {}).items():
        show_at(Path(directory), Path(place))
    components = config["components"]
    loads = {name: partial(_load, name, components[name]) for name in components}
    return run_components(loads, leave_hung_threads)


def leave_hung_threads() -> None:
    """Python waits for all threads of its pools before it ends."""

    def leave() -> None:
        names = [each.name for each in threading.enumerate() if not each.daemon]
        log.warning("ending though threads hang: %s", ", ".join(names))
        os._exit(1)

    timer = threading.Timer(HUNG_SECONDS, leave)
    timer.daemon = True
    timer.start()


def _load(name: str, values: Mapping[str, Any]) -> tuple[Run, Any]:
    run, kind = COMPONENTS[name].load()
    return run, options_from(values, kind)


def start_logging(level: str) -> None:
    """One record per line on standard error, which the supervisor leads to a file."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        RecordFormatter(
            "%(asctime)sZ %(levelname).1s %(name)s: %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
        )
    )
    logging.basicConfig(level=level, handlers=[handler])


class RecordFormatter(logging.Formatter):
    """What others made (names, paths, errors) can neither begin a record of its own nor command a
    terminal: control characters are escaped, and the lines of a traceback are indented."""

    converter = staticmethod(time.gmtime)

    def formatMessage(self, record: logging.LogRecord) -> str:
        return "".join(
            each if each.isprintable() else each.encode("unicode_escape").decode()
            for each in super().formatMessage(record)
        )

    def formatException(self, ei: Any) -> str:
        text = super().formatException(ei)
        lines = text.replace("\x1b", "\\x1b").splitlines()
        return "\n".join(f"    {line}" for line in lines)


def run_components(components: Mapping[str, Load], ended: Callable[[], None] = lambda: None) -> int:
    """Run components until a signal or a failure. Returns the exit code. `ended` is called when
    they have ended, and what they leave is about to be waited for."""
    import uvloop

    # What imports make, stays: collections would look at all of it again and again for nothing.
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                runner.run(_together(components))
            finally:
                ended()
    except asyncio.CancelledError:
        log.info("stopped")
        return 0
    except BaseExceptionGroup as group:
        from navarch.api.component_config import ConfigurationError

        for error in group.exceptions:
            # What is wrong with a file or a flag is mended there, by its words.
            is_theirs = isinstance(error, ConfigurationError)
            log.error("%s", error, exc_info=None if is_theirs else error)
        return 1
    return 0


async def _together(components: Mapping[str, Load]) -> None:
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()

    def replace() -> None:
        """The process is started anew: for a node that is not its end, whatever it does then."""
        from navarch.node.settings import REPLACED

        os.environ[REPLACED] = "1"
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    loop.add_signal_handler(signal.SIGINT, replace)
    async with asyncio.TaskGroup() as group:
        for name, load in components.items():
            run, options = await asyncio.to_thread(load)
            group.create_task(_for_ever(name, run, options), name=name)
        _collect_seldom()


def _collect_seldom() -> None:
    """What was imported lives as long as the process: no collection need look at it again."""
    gc.collect()
    gc.freeze()
    gc.enable()
    # A request makes some thousands of containers and few cycles: with the default of 700 the
    # collector would run several times in every one of them.
    gc.set_threshold(20_000, 20, 20)


async def _for_ever(name: str, run: Run, options: Any) -> None:
    log.info("%s: starting", name)
    await run(options)
    raise ComponentEndedError(f"{name} has ended by itself")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
