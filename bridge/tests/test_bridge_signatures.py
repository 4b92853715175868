"""Signatures by Standard Webhooks, verified with its own library."""

import base64
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer
from intake_bridge.adapters.credentials import Credentials
from sale import Sale, validation
from standardwebhooks import WebhookVerificationError
from webhook_server import WebhookServer, verified

from examples.demo import validator

README = Path(__file__).parents[1] / "README.md"
OLD, NEW, OTHER = ("whsec_" + base64.b64encode(bytes([first] * 32)).decode() for first in (1, 2, 3))


def credentials(clock: float = 0.0, **values: str) -> Credentials:
    """Credentials that do not change, under a clock that stands still."""

    async def source(part: str) -> str | None:
        return values.get(part)

    return Credentials(source, lambda: clock)


async def test_the_library_verifies_ours_and_nothing_else() -> None:
    body, now = b'{"claim_id":"c"}', int(time.time())
    ours = credentials(clock=now, SIGNING_SECRET=f"{OLD}\n{NEW}\n")
    await ours.refresh()
    headers = ours.headers("c:validate", body)
    assert headers["webhook-id"] == headers["Idempotency-Key"] == "c:validate"
    assert headers["webhook-timestamp"] == str(now)
    assert re.fullmatch(r"v1,[A-Za-z0-9+/]{43}= v1,[A-Za-z0-9+/]{43}=", headers["webhook-signature"])
    assert verified(OLD, body, headers)
    assert verified(NEW, body, headers)
    assert not verified(OTHER, body, headers)
    assert not verified(NEW, body + b" ", headers)
    assert not verified(NEW, body, headers | {"webhook-id": "d:validate"})
    assert not verified(NEW, body, headers | {"webhook-timestamp": str(now + 1)})
    late = credentials(clock=now - 301, SIGNING_SECRET=NEW)
    await late.refresh()
    assert not verified(NEW, body, late.headers("c:validate", body))


async def test_a_call_is_signed_as_the_specification_says() -> None:
    """Its own example, so that a receiver in any language verifies us."""
    ours = credentials(clock=1614265330, SIGNING_SECRET="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    await ours.refresh()
    headers = ours.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_the_readme_shows_how_to_verify() -> None:
    (snippet,) = re.findall(r"```python\n(from standardwebhooks.*?)```", README.read_text(), re.DOTALL)
    receiver: dict[str, Any] = {}
    exec(snippet, receiver)  # what the page tells people to run
    ours = credentials(clock=int(time.time()), SIGNING_SECRET=NEW)
    await ours.refresh()
    body = b'{"claim_id":"c"}'
    headers = ours.headers("c:commit", body)
    assert receiver["claim_of"](NEW, headers, body) == {"claim_id": "c"}
    with pytest.raises(WebhookVerificationError):
        receiver["claim_of"](OTHER, headers, body)


async def test_both_webhooks_sign_and_a_rotated_secret_is_used_without_a_restart(
    sale: Sale, webhook: WebhookServer, tmp_path: Path
) -> None:
    first, second = tmp_path / "validation", tmp_path / "commit"
    first.write_text(OTHER)
    second.write_text(OLD)
    await sale.configure(
        validation=validation(webhook.batch, batch=True), commitTarget={"webhook": {"url": webhook.single}}
    )
    await sale.claim(1)
    files = {"INTAKE_VALIDATION_SIGNING_SECRET_FILE": str(first), "INTAKE_COMMIT_SIGNING_SECRET_FILE": str(second)}
    secrets = (OTHER, OLD, NEW)
    async with sale.worker(**files):
        await sale.until_drained()
        assert [webhook.signers(call, *secrets) for call in (0, 1)] == [[OTHER], [OLD]]
        second.write_text(NEW)

        async def rotated() -> bool:
            await sale.claim(1)
            await sale.until_drained()
            return webhook.signers(-1, *secrets) == [NEW]

        await sale.until(rotated, "a batch is signed with the new secret")


async def test_without_a_secret_nothing_is_signed() -> None:
    bare = credentials()
    await bare.refresh()
    assert bare.headers("c:validate", b"{}") == {"Content-Type": "application/json", "Idempotency-Key": "c:validate"}


async def test_the_example_validator_refuses_a_call_that_is_not_signed() -> None:
    application = validator.application(validator.Validator(0), NEW)
    claim = {"claim_id": "c", "user_id": "u"}
    body = json.dumps(claim).encode()
    async with TestClient(TestServer(application)) as client:
        for secret, status in ((NEW, 200), (OTHER, 401), ("", 401)):
            ours = credentials(clock=time.time(), SIGNING_SECRET=secret)
            await ours.refresh()
            answer = await client.post("/validate", data=body, headers=ours.headers("c:validate", body))
            assert answer.status == status, await answer.text()
