"""/livez, /readyz and /metrics.

Live: passes end while there is work, each namespace gets a worker, and no watch hangs.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from intake_operator.metrics import Metrics
from intake_operator.workqueue import Load

logger = logging.getLogger(__name__)

# The calls of a pass have time limits of their own (Kubernetes 30 s, seeding up to five minutes), and several workers
# run passes.
DEAD_AFTER: Final = timedelta(seconds=400)
# A namespace that holds no worker has the next one that is free, so it waits for less than the longest pass.
STARVED_AFTER: Final = timedelta(seconds=400)
# Before a restart, a person reads in the log who holds the workers.
WARN_AFTER: Final = timedelta(seconds=30)
WARN_EVERY: Final = timedelta(seconds=60)


def flaw(silent: float, load: Load, *, long_steps: int) -> str:
    """Why the operator should be restarted; empty if it should not. `silent`: seconds since a pass has ended.

    A namespace may have to wait for recoveries of DB1s, of which each has a time limit of hours: a restart would begin
    them anew.
    """
    if (load.waiting or load.busy) and silent > DEAD_AFTER.total_seconds():
        return f"no pass has ended for {silent:.0f} s"
    if load.starved > STARVED_AFTER.total_seconds() and not long_steps:
        return f"passes end, and one is due for {load.starved:.0f} s: {holders(load)}"
    return ""


def holders(load: Load) -> str:
    """The namespaces that hold the workers, the greediest first, as a part of a sentence."""
    counts = sorted(load.held.items(), key=lambda each: (-each[1], each[0]))
    held = ", ".join(f"{namespace} {count}" for namespace, count in counts) or "nobody"
    return f"{load.busy} of {load.workers} workers are busy; by namespace: {held}"


def starvation(load: Load) -> str:
    """What the log says while a namespace waits for a worker; empty while none has waited for long."""
    if load.starved <= WARN_AFTER.total_seconds():
        return ""
    due = f"a namespace has waited for a worker for {load.starved:.0f} s, and {load.waiting} passes are due"
    return f"{due}: {holders(load)}. Look for databases and ledgers of these namespaces that do not answer"


async def warn_of_starvation(load: Callable[[], Load]) -> None:
    """Log it, until cancelled."""
    while True:
        if told := starvation(load()):
            logger.warning(told)
        await asyncio.sleep(WARN_EVERY.total_seconds())


@dataclass(frozen=True)
class Health:
    """What is asked about the process."""

    load: Callable[[], Load]
    """How busy the work queue is."""
    stuck: Callable[[], str]
    """Which watch hangs; empty if none does."""
    ready: Callable[[], bool]
    """Whether the events of a namespace and their children were listed once: before that, no pass over them begins."""


async def serve(port: int, metrics: Metrics, clock: Callable[[], float], health: Health) -> web.AppRunner:
    """Start the HTTP server. `clock` is in seconds."""

    async def livez(_: web.Request) -> web.Response:
        silent, load = clock() - metrics.heartbeat, health.load()
        if wrong := flaw(silent, load, long_steps=metrics.long_steps) or health.stuck():
            return web.Response(status=503, text=f"{wrong}\n")
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if not health.ready():
            return web.Response(status=503, text="the events and their children are not listed yet\n")
        return web.Response(text="ok\n")

    async def expose(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", expose)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
