"""Taking credentials out of text that somebody will read."""

import re

_SECRETS = (
    (re.compile(r"(\bbearer\s+)\S+", re.IGNORECASE), r"\1***"),
    # user:password@ of anything like a URI, the broken ones included: libpq quotes those back whole.
    (re.compile(r"(//)\S*@"), r"\1***@"),
    # The end of a password with an @ in it, which was taken for part of the host.
    (re.compile(r"(\bhost (?:name )?[\"'])[^\"']*@"), r"\1***@"),
    (re.compile(r"(\b(?:password|passwd|token|authorization)\s*[=:]\s*)('[^']*'|\S+)", re.IGNORECASE), r"\1***"),
)


def redacted(text: str) -> str:
    """The text without what looks like a credential."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def writable(text: str) -> str:
    """What somebody else has written, for a condition, a log or DB1: PostgreSQL holds neither NUL nor half a pair."""
    return redacted(text.encode(errors="replace").decode().replace("\0", "\ufffd"))


def one_line(error: BaseException) -> str:
    """An error as a condition or a log may show it: one line, bounded, no credentials.

    Of what a server says, its message alone: DETAIL quotes the row, CONTEXT the statement, and the user's id with them.
    """
    message = getattr(getattr(error, "diag", None), "message_primary", None) or str(error)
    return redacted(" ".join(message.split()) or type(error).__name__)[:500]
