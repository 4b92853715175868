"""POST over HTTP: httpx's API on aiohttp's transport, which is several times faster at our concurrency."""

import asyncio
from collections.abc import Mapping

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport

from intake_bridge.domain.outcomes import Transport
from intake_bridge.ports import HttpError, HttpReply
from intake_bridge.redaction import one_line

# Calls at a time for one target. The connections equal it, so that no call ever waits inside the client, where waiting
# would look like a slow target.
CONCURRENCY = 32
_CONNECT_SECONDS = 3.0
# An answer is a decision for each claim; a batch of 10 000 with reasons fits, an endless body does not.
_MAX_BODY = 4 * 1024 * 1024


class HttpClient:
    """One client for one target. No redirects (the method would change), no proxies from the environment."""

    def __init__(self) -> None:
        # Idle connections go before servers drop them (5 s in uvicorn and node): a POST that meets a dead one fails.
        limits = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY, keepalive_expiry=4)
        self._client = httpx.AsyncClient(
            # trust_env here is SSL_CERT_FILE and SSL_CERT_DIR, for a private authority; proxies stay out.
            transport=AiohttpTransport(limits=limits, trust_env=True),
            follow_redirects=False,
            trust_env=False,
            headers={"User-Agent": "intake-engine-bridge", "Accept-Encoding": "identity"},
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> HttpReply:
        """Send it once. `seconds` bounds the whole call, body included."""
        timeout = httpx.Timeout(seconds, connect=min(_CONNECT_SECONDS, seconds))
        try:
            async with (
                asyncio.timeout(seconds),
                self._client.stream("POST", url, content=body, headers=dict(headers), timeout=timeout) as response,
            ):
                return HttpReply(response.status_code, await _read(response), response.headers)
        except TimeoutError as error:
            raise HttpError(Transport.TIMEOUT, f"gave no answer within {seconds:.1f} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, aiohttp.ClientError, OSError) as error:
            raise _translate(error) from error


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > _MAX_BODY:
            raise HttpError(Transport.TOO_LARGE, f"answers with more than {_MAX_BODY} bytes")
    return bytes(body)


def _translate(error: Exception) -> HttpError:
    # httpx-aiohttp maps a refused connection to a timeout; aiohttp's own error, the cause, tells them apart.
    cause = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
    text = one_line(cause)[:300]
    never_sent = (aiohttp.ClientConnectorError, aiohttp.InvalidURL, aiohttp.ConnectionTimeoutError, httpx.InvalidURL)
    if isinstance(cause, (*never_sent, httpx.UnsupportedProtocol)):
        return HttpError(Transport.UNREACHABLE, f"cannot be reached: {text}")
    if isinstance(cause, (aiohttp.ServerTimeoutError, httpx.TimeoutException)):
        return HttpError(Transport.TIMEOUT, f"gave no answer in time: {text}")
    return HttpError(Transport.BROKEN, f"broke off the connection: {text}")
