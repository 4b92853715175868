"""/livez, /readyz and /metrics. Live means that passes end while there is work, and that no watch hangs."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from intake_operator.metrics import Metrics

# The calls of a pass have time limits of their own (Kubernetes 30 s, seeding up to five minutes), and several workers
# run passes.
DEAD_AFTER: Final = timedelta(seconds=400)


@dataclass(frozen=True)
class Health:
    """What is asked about the process."""

    busy: Callable[[], bool]
    """Whether a pass is due or running."""
    stuck: Callable[[], str]
    """Which watch hangs; empty if none does."""
    complete: Callable[[], bool]
    """Whether the cluster was listed once: before that, no pass begins."""


async def serve(port: int, metrics: Metrics, clock: Callable[[], float], health: Health) -> web.AppRunner:
    """Start the HTTP server. `clock` is in seconds."""

    async def livez(_: web.Request) -> web.Response:
        silent = clock() - metrics.heartbeat
        if health.complete() and health.busy() and silent > DEAD_AFTER.total_seconds():
            return web.Response(status=503, text=f"no pass has ended for {silent:.0f} s\n")
        if hung := health.stuck():
            return web.Response(status=503, text=f"{hung}\n")
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        if not health.complete():
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
