"""A commit webhook: it commits a signed claim once for each idempotency key, and refuses unsigned calls."""

import hashlib
import hmac
import json
import os
import time
from pathlib import Path

from aiohttp import web

KEY = Path(os.environ["SIGNING_KEY"]).read_bytes().strip()
SOLD: set[str] = set()


def signed(header: str, body: bytes) -> bool:
    """Whether the bridge has signed this body in the last five minutes."""
    moment, _, mac = header.removeprefix("t=").partition(",v1=")
    ours = hmac.new(KEY, moment.encode() + b"." + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(ours, mac) and abs(time.time() - int(moment)) < 300


async def commit(request: web.Request) -> web.Response:
    """The contract of bridge/README.md."""
    body = await request.read()
    if not signed(request.headers.get("Intake-Signature", ""), body):
        return web.json_response({"error": "not signed"}, status=401)
    if json.loads(body)["user_id"].startswith("sick"):
        return web.json_response({"outcome": "conflict", "reason": "sold over the counter"}, status=409)
    key = request.headers["Idempotency-Key"]
    outcome = "duplicate" if key in SOLD else "committed"
    SOLD.add(key)
    return web.json_response({"outcome": outcome})


async def sold(_: web.Request) -> web.Response:
    """How many claims were committed."""
    return web.json_response({"sold": len(SOLD)})


application = web.Application()
application.add_routes([web.post("/commit", commit), web.get("/sold", sold)])

if __name__ == "__main__":
    web.run_app(application, port=8080, access_log=None, print=None, shutdown_timeout=1)
