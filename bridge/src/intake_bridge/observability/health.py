"""/livez, /readyz and /metrics, served by the event loop that does the work: if it hangs, they hang."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from intake_bridge.observability.metrics import Metrics


class ProbeServer:
    """A small HTTP server. `why_not_ready` returns the reason, or None; `refresh` sets gauges before each scrape."""

    def __init__(self, metrics: Metrics, why_not_ready: Callable[[], str | None], refresh: Callable[[], None]) -> None:
        self._metrics = metrics
        self._why_not_ready = why_not_ready
        self._refresh = refresh
        application = web.Application()
        application.add_routes(
            [web.get("/livez", self._livez), web.get("/readyz", self._readyz), web.get("/metrics", self._show_metrics)]
        )
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False)

    async def start(self, port: int) -> int:
        """Listen; port 0 takes a free one. Returns the port."""
        await self._runner.setup()
        await web.TCPSite(self._runner, port=port).start()
        # With port 0 each address family gets a port of its own; IPv4's address is the shorter tuple.
        return int(min(self._runner.addresses, key=len)[1])

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _livez(self, _: web.Request) -> web.Response:
        # The answer proves that the event loop runs. A restart would mend neither DB1 nor a dependency.
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        reason = self._why_not_ready()
        return web.Response(text="ok\n") if reason is None else web.Response(text=f"{reason}\n", status=503)

    async def _show_metrics(self, _: web.Request) -> web.Response:
        self._refresh()
        return web.Response(body=generate_latest(self._metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
