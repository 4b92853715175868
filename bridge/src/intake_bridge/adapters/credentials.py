"""What a dependency is called with: bearer token, signature, certificates. Read again before each batch or connect."""

import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from intake_shared import certificates, webhook_secrets
from intake_shared.certificates import Certificates
from standardwebhooks import Webhook

from intake_bridge.ports import DependencyDownError

_NO_AUTHORITY: Final = "what caSecretRef names holds no certificates in PEM"

type Source = Callable[[str], Awaitable[str | None]]
"""TOKEN, SIGNING_SECRET, CA, CERT or KEY to its value, None where it is not set."""


def signing_secrets(text: str) -> list[str]:
    """The secrets that calls are signed with, one a line. Raises DependencyDownError for a line that is none."""
    if flaw := webhook_secrets.signing_secret_flaw(text, "of what signingSecretRef names"):
        raise DependencyDownError(flaw)
    return webhook_secrets.signing_secrets(text)


def bearer_token(text: str) -> str:
    """A token that a header can carry. Raises DependencyDownError for another."""
    if flaw := webhook_secrets.token_flaw(text, "what secretRef names"):
        raise DependencyDownError(flaw)
    return text


async def ledger_certificates(source: Source) -> Certificates:
    """Those for the next connection to a ledger in PostgreSQL. Raises DependencyDownError for what cannot be used."""
    authority, certificate, key = await source("CA"), await source("CERT"), await source("KEY")
    if (certificate is None) != (key is None):
        raise DependencyDownError("a client certificate and its key belong together, and only one of the two is set")
    if authority is not None and (flaw := certificates.certificate_flaw(authority)):
        raise DependencyDownError(f"what caSecretRef names cannot be used: {flaw}")
    if certificate is not None and key is not None:
        flaw = certificates.certificate_flaw(certificate) or certificates.key_flaw(key, certificate)
        if flaw:
            raise DependencyDownError(f"what clientCertSecretRef names cannot be used: {flaw}")
    return Certificates(authority, certificate, key)


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
        self._signers = [Webhook(secret) for secret in signing_secrets(await self._source("SIGNING_SECRET") or "")]
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
