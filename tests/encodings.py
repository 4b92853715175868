"""Every server encoding of PostgreSQL, with names that it can represent and names that it cannot."""

from dataclasses import dataclass
from typing import Final

LATIN: Final = ("Jürgen", "José")
WEST: Final = ("Zoë", "straße 7")
CYRILLIC: Final = ("Юрий", "Ольга")
GREEK: Final = ("Γιώργος",)
HEBREW: Final = ("שרה",)
ARABIC: Final = ("محمد",)
JAPANESE: Final = ("山田太郎", "ひろし\uff5e")
CHINESE: Final = ("王小明",)
KOREAN: Final = ("김철수",)
TICKET: Final = ("🎫 fan",)


@dataclass(frozen=True)
class Case:
    """An encoding, with names that it can represent (`holds`) and names that it cannot (`lacks`)."""

    encoding: str
    holds: tuple[str, ...]
    lacks: tuple[str, ...]


# encoding: (names it can represent, names it cannot). The server accepts the last names of EUC_JP, EUC_TW and
# EUC_JIS_2004 too. It returns the first of these changed, and cannot read back what it stored of the others.
_CASES: Final = {
    "UTF8": (LATIN + HEBREW + JAPANESE + TICKET, ()),
    "SQL_ASCII": (LATIN + HEBREW + JAPANESE + TICKET, ()),
    "LATIN1": (LATIN + WEST, HEBREW + TICKET),
    "LATIN2": (("Łukasz", "Dvořák"), HEBREW + TICKET),
    "LATIN3": (("Ĝoja", "Jürgen"), HEBREW + TICKET),
    "LATIN4": (("Jānis", "Jürgen"), HEBREW + TICKET),
    "LATIN5": (("Ayşe", "Jürgen"), HEBREW + TICKET),
    "LATIN6": (("Þór", "Jānis"), HEBREW + TICKET),
    "LATIN7": (("Jānis", "Łukasz"), HEBREW + TICKET),
    "LATIN8": (("Siân Ŵyn", "Jürgen"), HEBREW + TICKET),
    "LATIN9": ((*LATIN, "Œuvre €"), HEBREW + TICKET),
    "LATIN10": (("Ștefan", "Jürgen"), HEBREW + TICKET),
    "WIN1250": (("Łukasz", "Dvořák"), HEBREW + TICKET),
    "WIN1251": (CYRILLIC, LATIN[:1] + TICKET),
    "WIN1252": ((*LATIN, "“Œuvre” €"), HEBREW + TICKET),
    "WIN1253": (GREEK, HEBREW + TICKET),
    "WIN1254": (("Ayşe", "Jürgen"), HEBREW + TICKET),
    "WIN1255": (HEBREW, CYRILLIC + TICKET),
    "WIN1256": (ARABIC, HEBREW + TICKET),
    "WIN1257": (("Jānis",), HEBREW + TICKET),
    "WIN1258": (("Đơn",), HEBREW + TICKET),
    "WIN866": (CYRILLIC, HEBREW + TICKET),
    "WIN874": (("สมชาย",), HEBREW + TICKET),
    "KOI8R": (CYRILLIC, HEBREW + TICKET),
    "KOI8U": ((*CYRILLIC, "Їжак"), HEBREW + TICKET),
    "ISO_8859_5": (CYRILLIC, HEBREW + TICKET),
    "ISO_8859_6": (ARABIC, HEBREW + TICKET),
    "ISO_8859_7": (GREEK, HEBREW + TICKET),
    "ISO_8859_8": (HEBREW, CYRILLIC + TICKET),
    "EUC_CN": (CHINESE, HEBREW + TICKET),
    "EUC_JP": (JAPANESE, (*HEBREW, *TICKET, "a ¦ b")),
    "EUC_JIS_2004": (JAPANESE[:1], (*HEBREW, *TICKET, "a \x85 b")),
    "EUC_KR": (KOREAN, HEBREW + TICKET),
    "EUC_TW": (CHINESE, (*HEBREW, *TICKET, "令狐争")),
}
NAMES: Final = tuple(_CASES)
ALL: Final = tuple(Case(encoding, *names) for encoding, names in _CASES.items())
# PostgreSQL does not convert these to UTF-8, so none of our clients can use them.
REFUSED: Final = frozenset({"MULE_INTERNAL"})
