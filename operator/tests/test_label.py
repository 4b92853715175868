"""Which labels a slot may have, and how others are refused. test_inventory_text.py compares this with intake.stock."""

import unicodedata
from uuid import UUID

import pytest
from intake_operator.model.label import as_id, composed, flaw, invisible

EVERY = [chr(n) for n in range(0x110000)]


def test_a_letter_and_its_accent_are_one_letter() -> None:
    assert composed("Loge A\u0308") == composed("Loge \u00c4") == "Loge \u00c4"
    assert composed("\u212b") == "\u00c5", "the sign for angstrom is the letter"


@pytest.mark.parametrize(
    "label", ["A-1", "Loge Ä", "Block 3, row 12", "Balkon \u2013 rechts", "座席 7", "٣", "🎟 5", "x" * 200]
)
def test_a_label_of_visible_characters_is_allowed(label: str) -> None:
    assert flaw(label) == ""


@pytest.mark.parametrize(
    ("label", "told"),
    [
        (
            "A\u00a01",
            "character 2 is U+00A0 (NO-BREAK SPACE) in the label, which cannot be seen; leave it out, or write",
        ),
        ("A-1\u200b", "character 4 is U+200B (ZERO WIDTH SPACE)"),
        ("\ufeffA", "character 1 is U+FEFF (BYTE ORDER MARK)"),
        ("A\u202e1", "character 2 is U+202E (RIGHT-TO-LEFT OVERRIDE)"),
        ("A\u30001", "character 2 is U+3000 (IDEOGRAPHIC SPACE)"),
        ("A\t1", "character 2 is U+0009 (TAB)"),
        ("A\n1", "character 2 is U+000A (LINE FEED)"),
        ("A\x1b1", "character 2 is U+001B in the label"),
        ("A\0", "character 2 is U+0000 (NUL)"),
        ("A\U000e0031", "character 2 is U+E0031 (TAG DIGIT ONE)"),
        ("A\ud800", "character 2 is U+D800 in the label"),
        (" A", "the label begins with U+0020 (SPACE), which cannot be seen; leave it out"),
        ("A ", "the label ends with U+0020 (SPACE)"),
        ("x" * 201, "a label has at most 200 characters, this one 201; shorten it"),
    ],
)
def test_a_label_that_looks_like_another_is_refused_with_its_code_point(label: str, told: str) -> None:
    assert flaw(label).startswith(told)
    assert label not in flaw(label)


def test_every_blank_and_every_control_character_counts_as_invisible() -> None:
    hidden = {sign for sign in EVERY if unicodedata.category(sign) in {"Cc", "Zs", "Zl", "Zp", "Cf"} and sign != " "}
    # Format characters that are visible all the same: marks around or above numbers.
    visible = {
        sign
        for sign in hidden
        if "NUMBER" in (name := unicodedata.name(sign, "")) or "ARABIC" in name or "SYRIAC" in name
    }
    assert {sign for sign in hidden - visible if not invisible(sign)} == set()
    assert len(visible) < 20


def test_a_letter_a_number_or_a_sign_counts_as_visible() -> None:
    shapes = {"Lu", "Ll", "Lt", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk"}
    assert [sign for sign in EVERY if unicodedata.category(sign) in shapes and invisible(sign)] == []


def test_an_id_is_read_as_postgres_reads_it() -> None:
    plain = "0b9c8f6e3f1d4f1e9d537a0e4c1f0001"
    dashed = "0b9c8f6e-3f1d-4f1e-9d53-7a0e4c1f0001"
    for spelling in (plain, dashed, dashed.upper(), f"{{{dashed}}}", f"{{{plain}}}"):
        assert as_id(spelling) == UUID(plain)
    for label in (
        "A-1",
        f"{{{plain}",
        f"{plain}}}",
        f"urn:uuid:{dashed}",
        f"+{dashed[1:]}",
        f"0x{plain[2:]}",
        f"{plain[:-2]}_1",
    ):
        assert as_id(label) is None
