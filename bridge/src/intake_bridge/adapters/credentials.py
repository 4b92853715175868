"""What a webhook is called with: a bearer token, a signature, and whom to trust. Read again before each batch."""

import hashlib
import hmac
import ssl
from collections.abc import Awaitable, Callable, Iterable

from intake_bridge.ports import TargetDownError

type Source = Callable[[str], Awaitable[str | None]]
"""TOKEN, SIGNING_KEY or CA to its value, None where it is not set."""


def signature(keys: Iterable[bytes], body: bytes, moment: int) -> str:
    """The value of `Intake-Signature`: `t=<Unix seconds>,v1=<hex>`, with one v1 for each key.

    v1 is HMAC-SHA256 over `<t>.<body>`: without the key nobody can make it, and an old one cannot be sent again later.
    """
    signed = b"%d." % moment + body
    return ",".join([f"t={moment}", *(f"v1={hmac.new(key, signed, hashlib.sha256).hexdigest()}" for key in keys)])


class Credentials:
    """Of one webhook. `clock` gives Unix seconds: the receiver compares them with its own."""

    def __init__(self, source: Source, clock: Callable[[], float]) -> None:
        self._source = source
        self._clock = clock
        self._token: str | None = None
        self._keys: list[bytes] = []
        self._authority: str | None = None
        self.tls: ssl.SSLContext | None = None

    async def refresh(self) -> None:
        """Read them; TargetDownError says what is wrong with them."""
        self._token = await self._source("TOKEN")
        # A key for each line: while keys are exchanged, the receiver may know the old one or the new one.
        self._keys = [line.strip().encode() for line in (await self._source("SIGNING_KEY") or "").splitlines() if line]
        authority = await self._source("CA")
        if authority != self._authority:
            self.tls = None if authority is None else _trusting(authority)
            self._authority = authority

    def headers(self, key: str, body: bytes) -> dict[str, str]:
        """The headers of one call under an idempotency key."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if self._keys:
            headers["Intake-Signature"] = signature(self._keys, body, int(self._clock()))
        return headers


def _trusting(authority: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cadata=authority)
    except (ssl.SSLError, ValueError) as error:
        raise TargetDownError("what caSecretRef names holds no certificates in PEM") from error
