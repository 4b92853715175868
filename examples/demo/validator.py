"""A validation webhook as a fraud or payment service might offer one, small enough to run in a demo.

It declines a fixed share of the users, always the same ones, and charges the others: the approval has the payment's id
in its `data`, which goes on to the ledger. A request is identified by its Idempotency-Key (in a
batch: by the claim), so that a repeated request gets the first answer again and takes effect once. `/effects` tells
what it did, `/faults?mode=...` makes it misbehave, with `&users=sick` only where a user's id begins so. It keeps
everything in memory: one replica, no restarts.

With the variable SIGNING_SECRET (`whsec_…`, the value behind `signingSecretRef`) it answers 401 to a call that is not
signed with it.
"""

import argparse
import asyncio
import json
import os
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

# How long a request hangs in mode `timeout`: longer than any timeoutSeconds the CRD allows.
HANG_SECONDS = 90.0

MODES = ("ok", "400", "500", "timeout", "lost")
"""`lost` decides, takes effect, and then drops the connection instead of answering."""


class Validator:
    """The decisions made so far, and the fault that is switched on."""

    def __init__(self, decline_percent: int) -> None:
        self.mode = "ok"
        self.users = ""
        self.requests = 0
        self._decline_percent = decline_percent
        self._decisions: dict[str, str] = {}
        self._effects: Counter[str] = Counter()
        self._mode_changed = asyncio.Event()

    def decide(self, key: str, item: dict[str, Any]) -> dict[str, Any]:
        """The decision for one claim; a key seen before is answered from memory, without a second effect."""
        claim_id = str(item["claim_id"])
        if key not in self._decisions:
            share = zlib.crc32(str(item["user_id"]).encode()) % 100
            self._decisions[key] = "declined" if share < self._decline_percent else "approved"
            self._effects[claim_id] += 1
        decision = self._decisions[key]
        answer: dict[str, Any] = {"claim_id": claim_id, "decision": decision}
        if decision == "declined":
            return answer | {"reason": "the card was refused"}
        # The same for a repeated request, as a payment service answers an idempotency key that it knows.
        return answer | {"data": {"payment_id": f"pay-{zlib.crc32(claim_id.encode()):08x}"}}

    def mode_for(self, body: dict[str, Any]) -> str:
        """The fault that a request meets; a batch meets it for the sake of one of its users."""
        users = [str(item["user_id"]) for item in body.get("items", [body])]
        return self.mode if any(user.startswith(self.users) for user in users) else "ok"

    def switch(self, mode: str, users: str) -> None:
        """Turn a fault on, or all of them off; requests that hang are let go."""
        self.mode = mode
        self.users = users
        self._mode_changed.set()
        self._mode_changed = asyncio.Event()

    async def hang(self) -> None:
        """Wait until the mode changes, or for longer than any caller does."""
        try:
            await asyncio.wait_for(self._mode_changed.wait(), HANG_SECONDS)
        except TimeoutError:
            return

    def effects(self) -> dict[str, Any]:
        """What happened so far. `repeated` lists the claims that took effect more than once: always empty, or a bug."""
        decisions = Counter(self._decisions.values())
        return {
            "mode": self.mode,
            "requests": self.requests,
            "effects": self._effects.total(),
            "approved": decisions["approved"],
            "declined": decisions["declined"],
            "repeated": sorted(claim for claim, count in self._effects.items() if count > 1),
        }


def application(validator: Validator, signing_secret: str = "") -> web.Application:
    """The HTTP side of a validator. With a signing secret only signed calls are answered."""
    signature = Webhook(signing_secret) if signing_secret else None

    async def validate(request: web.Request) -> web.StreamResponse:
        if signature is not None:
            # Over the body as it came, before any parsing.
            signature.verify(await request.read(), dict(request.headers), json_parse=False)
        body = await request.json()
        validator.requests += 1
        mode = validator.mode_for(body)
        if mode in {"400", "500"}:
            return web.json_response({"error": f"fault {mode}"}, status=int(mode))
        if mode == "timeout":
            await validator.hang()
            return web.json_response({"error": "fault timeout"}, status=503)
        answer: dict[str, Any]
        if "items" in body:
            answer = {"items": [validator.decide(f"{item['claim_id']}:validate", item) for item in body["items"]]}
        else:
            answer = validator.decide(request.headers["Idempotency-Key"], body)
        if mode == "lost" and request.transport is not None:
            request.transport.abort()
        return web.json_response(answer)

    async def faults(request: web.Request) -> web.Response:
        mode = request.query.get("mode", validator.mode)
        if mode not in MODES:
            return web.json_response({"error": f"mode is one of {', '.join(MODES)}"}, status=400)
        validator.switch(mode, request.query.get("users", ""))
        return web.json_response({"mode": validator.mode})

    async def effects(_: web.Request) -> web.Response:
        return web.json_response(validator.effects())

    app = web.Application(middlewares=[refuse_bad_requests])
    app.add_routes(
        [
            web.post("/validate", validate),
            web.get("/faults", faults),
            web.post("/faults", faults),
            web.get("/effects", effects),
        ]
    )
    return app


@web.middleware
async def refuse_bad_requests(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """401 for a call that is not signed; 400 for a body that is not a claim, or a missing Idempotency-Key."""
    try:
        return await handler(request)
    except WebhookVerificationError as error:
        return web.json_response({"error": f"not signed: {error}"}, status=401)
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        return web.json_response({"error": f"not a claim with an Idempotency-Key: {error!r}"}, status=400)


async def serve(port: int, decline_percent: int) -> web.Application:
    """Build the application inside the running loop, which the fault's event belongs to."""
    print(f"validator on port {port}, declines {decline_percent} % of the users", flush=True)
    return application(Validator(decline_percent), os.environ.get("SIGNING_SECRET", ""))


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--decline-percent", type=int, default=3)
    arguments = parser.parse_args()
    web.run_app(
        serve(arguments.port, arguments.decline_percent),
        port=arguments.port,
        access_log=None,
        print=None,
        shutdown_timeout=1,
    )


if __name__ == "__main__":
    main()
