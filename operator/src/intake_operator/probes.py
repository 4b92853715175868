"""/livez, /readyz and /metrics. Alive means that the work queue is being worked on, not only that something listens."""

from collections.abc import Callable
from typing import Final

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from intake_operator.metrics import Metrics

# Seconds. A pass has time limits of its own (Kubernetes 30 s, seeding up to five minutes), and some worker always comes
# by.
DEAD_AFTER: Final = 400.0


async def serve(port: int, metrics: Metrics, clock: Callable[[], float], busy: Callable[[], bool]) -> web.AppRunner:
    """Start the HTTP server. `busy` tells whether there is work that somebody should be doing."""

    async def livez(_: web.Request) -> web.Response:
        silent = clock() - metrics.heartbeat
        if busy() and silent > DEAD_AFTER:
            return web.Response(status=503, text=f"no pass has ended for {silent:.0f} s\n")
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def expose(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", expose)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
