"""POST over HTTP, by aiohttp. At a webhook that takes 20 ms, httpx made a third of the calls a second."""

import ssl
from collections.abc import Mapping
from typing import Final

import aiohttp
from intake_shared.redaction import one_line

from intake_bridge.adapters.encodings import UnreadableError, too_large, unpacked
from intake_bridge.domain.concurrency_limit import CEILING
from intake_bridge.domain.outcomes import Transport
from intake_bridge.ports import HttpError, HttpReply

_CONNECT_SECONDS: Final = 3.0
# An answer has a decision for each claim. A batch of 10 000 with reasons fits, an endless body does not.
_MAX_BODY: Final = 4 * 1024 * 1024

# OpenSSL's X509_V_ERR_*, in words that say what to do. For others, OpenSSL's own words.
_CERTIFICATE: Final = {
    9: "its certificate is not valid yet: check the clocks of both sides",
    10: "its certificate has expired",
    18: "its certificate is self-signed: put it, or the authority that signs it, into the Secret of caSecretRef",
    19: "its certificate comes from an authority that is not trusted here: name that in caSecretRef",
    20: "its certificate comes from an authority that is not trusted here: name that in caSecretRef",
    62: "its certificate does not match the host name",
    64: "its certificate does not match the IP address",
}


class HttpClient:
    """One client for one webhook. No redirects (the method would change), no proxies, no cookies."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            # As many connections as calls may be under way: a call that waits inside the client would look like a slow
            # webhook. Idle connections are closed before servers close them (2 s in gunicorn, 5 s in uvicorn and node),
            # because a POST over a closed connection fails.
            connector=aiohttp.TCPConnector(limit=CEILING, keepalive_timeout=1.5),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": "intake-engine-bridge", "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], seconds: float, tls: ssl.SSLContext | None
    ) -> HttpReply:
        """Send it once. `seconds` bounds the whole call with its body. `tls` None trusts the system's authorities."""
        # Shorter than the whole call: without a connection nothing was sent, and no failure counts against a claim.
        timeout = aiohttp.ClientTimeout(total=seconds, connect=min(_CONNECT_SECONDS, 0.8 * seconds))
        try:
            async with self._session.post(
                url, data=body, headers=headers, timeout=timeout, ssl=tls or True, allow_redirects=False
            ) as response:
                return _reply(response, await _read(response))
        except (aiohttp.ClientError, ValueError, OSError) as error:
            raise _translate(error, seconds) from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    if response.content_length is not None and response.content_length <= _MAX_BODY:
        return await response.read()
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _MAX_BODY:
            raise too_large(_MAX_BODY)
    return bytes(body)


def _reply(response: aiohttp.ClientResponse, body: bytes) -> HttpReply:
    codings = ",".join(response.headers.getall("Content-Encoding", []))
    try:
        return HttpReply(response.status, unpacked(body, codings, _MAX_BODY), response.headers)
    except UnreadableError as error:
        # Still an answer: many statuses mean the same whatever the body says.
        return HttpReply(response.status, b"", response.headers, str(error))


def _translate(error: Exception, seconds: float) -> HttpError:
    match error:
        case aiohttp.ClientConnectorCertificateError(certificate_error=ssl.SSLCertVerificationError() as refused):
            why = _CERTIFICATE.get(refused.verify_code, f"its certificate is not accepted: {refused.verify_message}")
            return HttpError(Transport.UNREACHABLE, f"cannot be reached: {why}")
        case aiohttp.ClientConnectorSSLError():
            return HttpError(Transport.UNREACHABLE, f"cannot be reached: the TLS handshake failed: {_why(error)}")
        case aiohttp.ConnectionTimeoutError():
            return HttpError(Transport.UNREACHABLE, "cannot be reached: no connection in time")
        # ValueError: a host or a token that cannot be written into a request. It is raised before anything is sent.
        case aiohttp.ClientConnectorError() | aiohttp.NonHttpUrlClientError() | ValueError():
            return HttpError(Transport.UNREACHABLE, f"cannot be reached: {_why(error)}")
        # Its text quotes what was sent, which may be anything: a payload that came back, for one.
        case aiohttp.ClientResponseError() | aiohttp.ClientPayloadError():
            return HttpError(Transport.BROKEN, "broke off the connection, or sent what is no HTTP")
        case TimeoutError():
            return HttpError(Transport.TIMEOUT, f"gave no answer within {seconds:g} s")
        case _:
            return HttpError(Transport.BROKEN, f"broke off the connection: {_why(error)}")


def _why(error: Exception) -> str:
    return one_line(error)[:300]
