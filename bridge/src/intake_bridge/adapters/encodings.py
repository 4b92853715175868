"""Bodies that were packed although we ask for `identity`: some servers and proxies do so whatever they are asked."""

import zlib
from typing import Final

from intake_bridge.domain.outcomes import Transport
from intake_bridge.ports import HttpError

_GZIP: Final = 16 + zlib.MAX_WBITS
# The standard's deflate has zlib's frame; what some servers send has none.
_WINDOWS: Final = {"gzip": (_GZIP,), "x-gzip": (_GZIP,), "deflate": (zlib.MAX_WBITS, -zlib.MAX_WBITS)}


class UnreadableError(Exception):
    """The body cannot be unpacked; the text says what to do."""


def too_large(most: int) -> HttpError:
    """For a body that ends nowhere near where an answer does."""
    return HttpError(Transport.TOO_LARGE, f"answers with more than {most} bytes")


def unpacked(body: bytes, codings: str, most: int) -> bytes:
    """The body without its Content-Encoding, at most so many bytes: a small body may hold an endless one."""
    named = [name for name in (each.strip().lower() for each in codings.split(",")) if name not in {"", "identity"}]
    if not named or not body:
        return body
    told = f"its Content-Encoding is {', '.join(named)[:60]!r}"
    if len(named) > 1 or named[0] not in _WINDOWS:
        raise UnreadableError(f"{told}, which is not read here and was not asked for: have it send the body as it is")
    for window in _WINDOWS[named[0]]:
        try:
            return _inflated(body, window, most)
        except zlib.error:
            continue
    raise UnreadableError(f"{told}, and its body is not, or is cut short")


def _inflated(body: bytes, window: int, most: int) -> bytes:
    plain = b""
    while body:  # gzip may have several members
        member = zlib.decompressobj(window)
        plain += member.decompress(body, most + 1 - len(plain))
        if len(plain) > most:
            raise too_large(most)
        if not member.eof:
            raise zlib.error("cut short")
        body = member.unused_data
    return plain
