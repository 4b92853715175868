"""A proxy before the API server that counts each request, whoever in the operator's process sends it."""

import asyncio
import base64
import json
import ssl
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from aiohttp import ClientSession, TCPConnector, web

# Of a connection, not of a request: the proxy has its own.
_HOP: Final = {"connection", "host", "keep-alive", "transfer-encoding", "content-length", "content-encoding"}

_SESSION: Final = web.AppKey("session", ClientSession)


class Proxy:
    """Passes every request on, with the rights of the kubeconfig, and counts it by verb and kind."""

    def __init__(self, server: str, tls: ssl.SSLContext | None) -> None:
        self.requests: Counter[str] = Counter()
        self.port = 0
        self._server, self._tls = server, tls

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request; a watch is passed on line by line."""
        verb = verb_of(request.method, request.path, dict(request.query), request.headers.get("Content-Type", ""))
        self.requests[f"{verb} {kind_of(request.path)}"] += 1
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        url = f"{self._server}{request.rel_url}"
        body = await request.read()
        async with request.app[_SESSION].request(request.method, url, headers=headers, data=body) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            response = web.StreamResponse(status=answer.status, headers=kept)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    async def serve(self, started: threading.Event, stop: asyncio.Event) -> None:
        """Serve until `stop`."""
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1)
        connector = TCPConnector(ssl=self._tls or True, limit=0)
        async with ClientSession(connector=connector, auto_decompress=True) as session:
            app[_SESSION] = session
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            started.set()
            await stop.wait()
            await runner.cleanup()


@contextmanager
def counting(kubeconfig: dict[str, Any]) -> Iterator[Proxy]:
    """A proxy for the cluster of this kubeconfig, in a thread of its own."""
    server, tls = _server(kubeconfig)
    proxy, started = Proxy(server, tls), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(proxy.serve(started, stop),))
    thread.start()
    try:
        started.wait()
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


def kubeconfig_for(proxy: Proxy) -> str:
    """A kubeconfig that names the proxy, and needs no credentials."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": f"http://127.0.0.1:{proxy.port}"}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
            "users": [{"name": "bench", "user": {}}],
        }
    )


def verb_of(method: str, path: str, query: dict[str, str], content_type: str) -> str:
    """The verb of Kubernetes."""
    match method:
        case "GET" if query.get("watch") in {"true", "1"}:
            return "watch"
        case "GET":
            return "get" if _parts(path)[1] else "list"
        case "PATCH":
            return "apply" if "apply-patch" in content_type else "patch"
        case "POST":
            return "create"
        case _:
            return method.lower()


def kind_of(path: str) -> str:
    """The plural of the kind, with the subresource; `discovery` for what is no object."""
    plural, _, subresource = _parts(path)
    return f"{plural}/{subresource}" if subresource else plural or "discovery"


def _parts(path: str) -> tuple[str, str, str]:
    """Plural, name and subresource."""
    words = path.strip("/").split("/")
    words = words[2:] if words[0] == "api" else words[3:]
    if words[:1] == ["namespaces"] and len(words) > 2:
        words = words[2:]
    plural, name, subresource = [*words, "", "", ""][:3]
    return plural, name, subresource


def _server(kubeconfig: dict[str, Any]) -> tuple[str, ssl.SSLContext | None]:
    """The API server's URL, and how to speak to it."""
    cluster, user = kubeconfig["clusters"][0]["cluster"], kubeconfig["users"][0]["user"]
    if not cluster["server"].startswith("https:"):
        return cluster["server"], None
    tls = ssl.create_default_context(cadata=_content(cluster, "certificate-authority"))
    tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
    with tempfile.TemporaryDirectory() as folder:
        certificate, key = Path(folder, "tls.crt"), Path(folder, "tls.key")
        certificate.write_text(_content(user, "client-certificate"))
        key.write_text(_content(user, "client-key"))
        tls.load_cert_chain(certificate, key)
    return cluster["server"], tls


def _content(part: dict[str, str], name: str) -> str:
    if found := part.get(f"{name}-data"):
        return base64.b64decode(found).decode()
    return Path(part[name]).read_text()
