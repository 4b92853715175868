"""Which labels a slot may have: two labels that look alike are one label, or one of them is refused.

`intake.stock` has the same rules in SQL; a test tries every character on both.
"""

import re
import unicodedata
from typing import Final
from uuid import UUID

MAX_LENGTH: Final = 200  # as in intake.inventory
LONGEST_READ: Final = 4 * MAX_LENGTH
"""Code points of a label that are worth reading: at most four become one character."""

# Characters that cannot be seen, or look like a plain space: control characters, every space but U+0020, and Unicode's
# Default_Ignorable_Code_Point (zero width, direction of writing, soft hyphen, fillers, variants of a character).
_INVISIBLE: Final = re.compile(
    "[\\x00-\\x1f\\x7f-\\xa0\\xad\\u034f\\u061c\\u115f\\u1160\\u1680\\u17b4\\u17b5\\u180b-\\u180f\\u2000-\\u200f"
    "\\u2028-\\u202f\\u205f-\\u206f\\u2800\\u3000\\u3164\\ud800-\\udfff\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff0-\\ufffb"
    "\\U00013430-\\U0001343f\\U0001bca0-\\U0001bca3\\U0001d173-\\U0001d17a\\U000e0000-\\U000e0fff]"
)
# NUL, and half a surrogate pair.
_UNSTORABLE: Final = re.compile("[\\x00\\ud800-\\udfff]")
# Unicode has no names for control characters, and an old one for the byte order mark.
_NAMES: Final = {
    "\0": "NUL",
    "\t": "TAB",
    "\n": "LINE FEED",
    "\r": "CARRIAGE RETURN",
    "\ufeff": "BYTE ORDER MARK",
}

# As PostgreSQL reads a uuid, so that nothing is an id for claim_seats that is none here.
_DIGITS: Final = "(?:[0-9A-Fa-f]{4}-?){7}[0-9A-Fa-f]{4}"
_ID: Final = re.compile(f"{_DIGITS}|\\{{{_DIGITS}\\}}")


def composed(label: str) -> str:
    """The label in Unicode's NFC: é becomes one character, never e and an accent."""
    return unicodedata.normalize("NFC", label)


def as_id(label: str) -> UUID | None:
    """The resource id that claim_seats would take the label for; None if it would not."""
    return UUID(label) if _ID.fullmatch(label) else None


def invisible(text: str) -> str:
    """The first character that cannot be seen, by its place, number and name; empty if there is none."""
    if found := _INVISIBLE.search(text):
        return f"character {found.start() + 1} is {_named(found[0])}"
    return ""


def unstorable(text: str) -> str:
    """The first character that no text in DB1 can have, by its place, number and name; empty if there is none."""
    if found := _UNSTORABLE.search(text):
        return f"character {found.start() + 1} is {_named(found[0])}"
    return ""


def flaw(label: str) -> str:
    """What is wrong with a composed label, and how to correct it; empty if nothing is."""
    if sign := invisible(label):
        return f"{sign} in the label, which cannot be seen; leave it out, or write a plain space"
    if label != label.strip(" "):
        side = "begins" if label[0] == " " else "ends"
        return f"the label {side} with {_named(' ')}, which cannot be seen; leave it out"
    if len(label) > MAX_LENGTH:
        count = str(len(label)) if len(label) <= LONGEST_READ else f"more than {LONGEST_READ}"
        return f"a label has at most {MAX_LENGTH} characters, this one {count}; shorten it"
    return ""


def _named(sign: str) -> str:
    name = _NAMES.get(sign) or unicodedata.name(sign, "")
    return f"U+{ord(sign):04X}" + (f" ({name})" if name else "")
