"""What a webhook is called with: bearer token, signature, trusted authorities. Read again before each batch."""

import base64
import re
import ssl
import unicodedata
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from standardwebhooks import Webhook

from intake_bridge.ports import DependencyDownError

_NO_AUTHORITY: Final = "what caSecretRef names holds no certificates in PEM"
# https://github.com/standard-webhooks/standard-webhooks: base64 of 24 to 64 random bytes.
_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = range(24, 65)
_EXPECTED: Final = (
    "is no signing secret: expected whsec_ and then 24 to 64 bytes in base64; "
    "make one with: echo whsec_$(openssl rand -base64 32)"
)

type Source = Callable[[str], Awaitable[str | None]]
"""TOKEN, SIGNING_KEY or CA to its value, None where it is not set."""


def signing_secrets(text: str) -> list[str]:
    """The secrets, one a line, without blanks around them. Two while they are rotated: the receiver knows one of them.

    Raises DependencyDownError for a line that is no secret of Standard Webhooks. The message quotes no secret.
    """
    lines = [line.strip() for line in re.split("\r\n|\n|\r", text)]
    for number, line in enumerate(lines, 1):
        where = f"line {number} of what signingSecretRef names"
        if character := _invisible(line):
            raise DependencyDownError(f"{where} has an invisible character: {character}; write the secret anew")
        if line and not _is_signing_secret(line):
            raise DependencyDownError(f"{where} {_EXPECTED}")
    return [line for line in lines if line]


def bearer_token(text: str) -> str:
    """A token that a header can carry. Raises DependencyDownError for another; the message does not quote it."""
    if character := _invisible(text):
        raise DependencyDownError(f"what secretRef names has an invisible character: {character}; write the token anew")
    if " " in text:
        raise DependencyDownError(
            "what secretRef names has a space in it; a token is one word, without Bearer before it"
        )
    if not text.isascii():
        raise DependencyDownError("what secretRef names has letters that a header cannot carry; a token is ASCII")
    return text


def _is_signing_secret(line: str) -> bool:
    try:
        secret = base64.b64decode(line.removeprefix(_PREFIX), validate=True)
    except ValueError:
        return False
    return line.startswith(_PREFIX) and len(secret) in _SECRET_BYTES


def _invisible(text: str) -> str:
    """The place and the name of the first character that is not printable; nothing of a secret beside it."""
    for place, character in enumerate(text, 1):
        if not character.isprintable():
            name = "BYTE ORDER MARK" if character == "\ufeff" else unicodedata.name(character, "")
            return f"character {place} is U+{ord(character):04X}" + (f" ({name})" if name else "")
    return ""


class Credentials:
    """Those of one webhook. `clock` gives Unix seconds: the receiver compares them with its own clock."""

    def __init__(self, source: Source, clock: Callable[[], float]) -> None:
        self._source = source
        self._clock = clock
        self._token = ""
        self._signers: list[Webhook] = []
        self._authority: str | None = None
        self.tls: ssl.SSLContext | None = None

    async def refresh(self) -> None:
        """Read them. Raises DependencyDownError, which says what is wrong with them."""
        self._token = bearer_token(await self._source("TOKEN") or "")
        self._signers = [Webhook(secret) for secret in signing_secrets(await self._source("SIGNING_KEY") or "")]
        authority = await self._source("CA")
        if authority != self._authority:
            self.tls = None if authority is None else _trusting(authority)
            self._authority = authority

    def headers(self, key: str, body: bytes) -> dict[str, str]:
        """The headers of one call. Its idempotency key is also its webhook-id: both are the same when it is repeated.

        Signed by Standard Webhooks: HMAC-SHA256 of `<webhook-id>.<webhook-timestamp>.<body>`, once with each secret.
        """
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if self._signers:
            moment, text = datetime.fromtimestamp(int(self._clock()), UTC), body.decode()
            headers["webhook-id"] = key
            headers["webhook-timestamp"] = str(int(moment.timestamp()))
            headers["webhook-signature"] = " ".join(signer.sign(key, moment, text) for signer in self._signers)
        return headers


def _trusting(authority: str) -> ssl.SSLContext:
    # Certificate files may have comments in other letters; OpenSSL reads only ASCII.
    pem = authority.encode("ascii", "ignore").decode()
    try:
        if pem:  # with empty `cadata` the system's authorities would be trusted
            return ssl.create_default_context(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise DependencyDownError(_NO_AUTHORITY) from error
    raise DependencyDownError(_NO_AUTHORITY)
