"""Compressed bodies: some servers and proxies send them although we ask for `identity`."""

import zlib
from typing import Final

from intake_bridge.domain.outcomes import Transport
from intake_bridge.ports import HttpError

_GZIP: Final = 16 + zlib.MAX_WBITS
# The standard's deflate has a zlib header; what some servers send has none.
_WBITS: Final = {"gzip": (_GZIP,), "x-gzip": (_GZIP,), "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS)}


class UnreadableError(Exception):
    """The body cannot be decompressed. The text says what to do."""


def too_large(most: int) -> HttpError:
    """The error for a body of more than `most` bytes."""
    return HttpError(Transport.TOO_LARGE, f"answers with more than {most} bytes")


def unpacked(body: bytes, codings: str, most: int) -> bytes:
    """The decompressed body. HttpError for more than `most` bytes: a small body may decompress to an endless one."""
    named = [name for name in (each.strip().lower() for each in codings.split(",")) if name not in {"", "identity"}]
    if not named or not body:
        return body
    encoding = f"its Content-Encoding is {', '.join(named)[:60]!r}"
    if len(named) > 1 or named[0] not in _WBITS:
        raise UnreadableError(f"{encoding}, which cannot be read here: have the webhook send the body uncompressed")
    for wbits in _WBITS[named[0]]:
        try:
            return _inflated(body, wbits, most)
        except zlib.error:
            continue
    raise UnreadableError(f"{encoding}, but its body is not in that encoding, or is cut short")


def _inflated(body: bytes, wbits: int, most: int) -> bytes:
    plain = b""
    while body:  # gzip may have several members
        member = zlib.decompressobj(wbits)
        plain += member.decompress(body, most + 1 - len(plain))
        if len(plain) > most:
            raise too_large(most)
        if not member.eof:
            raise zlib.error("cut short")
        body = member.unused_data
    return plain
