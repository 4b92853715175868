"""What a webhook is called with: a bearer token, a signature, and whom to trust. Read again before each batch."""

import hashlib
import hmac
import re
import ssl
import unicodedata
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from intake_bridge.ports import TargetDownError

_NO_AUTHORITY: Final = "what caSecretRef names holds no certificates in PEM"

type Source = Callable[[str], Awaitable[str | None]]
"""TOKEN, SIGNING_KEY or CA to its value, None where it is not set."""


def signature(keys: Iterable[bytes], body: bytes, moment: int) -> str:
    """The value of `Intake-Signature`: `t=<Unix seconds>,v1=<hex>`, with one v1 for each key.

    v1 is HMAC-SHA256 over `<t>.<body>`: without the key nobody can make it, and an old one cannot be sent again later.
    """
    signed = b"%d." % moment + body
    return ",".join([f"t={moment}", *(f"v1={hmac.new(key, signed, hashlib.sha256).hexdigest()}" for key in keys)])


def keys_of(text: str) -> list[bytes]:
    """A key for each line: while keys are exchanged, the receiver may know the old one or the new one.

    Blanks around a key are the file's. What nobody sees inside it, the receiver may or may not have: TargetDownError.
    """
    keys = [line.strip() for line in re.split("\r\n|\n|\r", text)]
    for number, key in enumerate(keys, 1):
        if sign := _unseen(key):
            raise TargetDownError(
                f"in line {number} of what signingSecretRef names, {sign}, which nobody can see: whoever checks the "
                "signature may know the key without it; write the key anew"
            )
    return [key.encode() for key in keys if key]


def token_of(text: str) -> str:
    """A bearer token, which a header can carry: TargetDownError where it cannot."""
    if sign := _unseen(text):
        raise TargetDownError(f"in what secretRef names, {sign}, which nobody can see; write the token anew")
    if " " in text:
        raise TargetDownError("what secretRef names has a space in it; a token is one word, without Bearer before it")
    if not text.isascii():
        raise TargetDownError("what secretRef names has letters that a header cannot carry; a token is ASCII")
    return text


def _unseen(text: str) -> str:
    """The first character without a shape, by its place and number; nothing of a secret beside it."""
    for place, sign in enumerate(text, 1):
        if not sign.isprintable():
            name = "BYTE ORDER MARK" if sign == "\ufeff" else unicodedata.name(sign, "")
            return f"character {place} is U+{ord(sign):04X}" + (f" ({name})" if name else "")
    return ""


class Credentials:
    """Of one webhook. `clock` gives Unix seconds: the receiver compares them with its own."""

    def __init__(self, source: Source, clock: Callable[[], float]) -> None:
        self._source = source
        self._clock = clock
        self._token = ""
        self._keys: list[bytes] = []
        self._authority: str | None = None
        self.tls: ssl.SSLContext | None = None

    async def refresh(self) -> None:
        """Read them; TargetDownError says what is wrong with them."""
        self._token = token_of(await self._source("TOKEN") or "")
        self._keys = keys_of(await self._source("SIGNING_KEY") or "")
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
    # People write names of authorities beside their certificates; OpenSSL reads ASCII alone.
    pem = authority.encode("ascii", "ignore").decode()
    try:
        if pem:  # else everybody would be trusted whom the system trusts
            return ssl.create_default_context(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise TargetDownError(_NO_AUTHORITY) from error
    raise TargetDownError(_NO_AUTHORITY)
