"""A commit webhook: it commits a signed claim once for each idempotency key, and refuses unsigned calls."""

import os
from pathlib import Path

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

SIGNATURE = Webhook(Path(os.environ["SIGNING_SECRET_FILE"]).read_text().strip())
SOLD: set[str] = set()


async def commit(request: web.Request) -> web.Response:
    """The contract of bridge/README.md."""
    try:
        claim = SIGNATURE.verify(await request.read(), dict(request.headers))
    except WebhookVerificationError as error:
        return web.json_response({"error": f"not signed: {error}"}, status=401)
    if claim["user_id"].startswith("sick"):
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
