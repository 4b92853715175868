"""What a webhook's signing secrets and bearer token may be. The operator reports a flaw, the bridge refuses to call."""

import base64
import re
import unicodedata
from typing import Final

# https://github.com/standard-webhooks/standard-webhooks: base64 of 24 to 64 random bytes.
_PREFIX: Final = "whsec_"
_SECRET_BYTES: Final = range(24, 65)


def signing_secrets(text: str) -> list[str]:
    """The secrets, one a line, without blanks around them. Two during a rotation: the receiver knows one of them."""
    return [line for line in _lines(text) if line]


def signing_secret_flaw(text: str, where: str = "") -> str:
    """Why calls cannot be signed with it; empty if they can. Names the line and `where` it is; quotes no secret."""
    for number, line in enumerate(_lines(text), 1):
        subject = f"line {number} {where}".strip()
        if character := _invisible(line):
            return f"{subject} has an invisible character: {character}; write the secret anew"
        if line and not _is_signing_secret(line):
            return (
                f"{subject} is no signing secret: expected whsec_ and then 24 to 64 bytes in base64; "
                "make one with: echo whsec_$(openssl rand -base64 32)"
            )
    return ""


def token_flaw(text: str, subject: str = "it") -> str:
    """Why a header cannot carry this bearer token; empty if it can. Quotes nothing of it."""
    if character := _invisible(text):
        return f"{subject} has an invisible character: {character}; write the token anew"
    if " " in text:
        return f"{subject} has a space in it; a token is one word, without Bearer before it"
    return "" if text.isascii() else f"{subject} has characters that a header cannot carry; a token is ASCII"


def _lines(text: str) -> list[str]:
    return [line.strip() for line in re.split("\r\n|\n|\r", text)]


def _is_signing_secret(line: str) -> bool:
    try:
        secret = base64.b64decode(line.removeprefix(_PREFIX), validate=True)
    except ValueError:
        return False
    return line.startswith(_PREFIX) and len(secret) in _SECRET_BYTES


def _invisible(text: str) -> str:
    """The first character that cannot be printed, by its place and number. Quotes nothing else of the secret."""
    for place, character in enumerate(text, 1):
        if not character.isprintable():
            name = "BYTE ORDER MARK" if character == "\ufeff" else unicodedata.name(character, "")
            return f"character {place} is U+{ord(character):04X}" + (f" ({name})" if name else "")
    return ""
