"""Labels: two spellings of one label are one, invisible characters are refused, no name means two seats."""

from uuid import UUID

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sql.intake import Intake

A, B, C = (UUID(f"0b9c8f6e-3f1d-4f1e-9d53-7a0e4c1f000{n}") for n in "abc")
COMPOSED, APART = "Loge \u00e9", "Loge e\u0301"
PLAIN = A.hex
SPELLINGS = [
    str(A),
    str(A).upper(),
    PLAIN,
    f"{{{A}}}",
    f"{{{PLAIN}}}",
    "-".join(PLAIN[n : n + 4] for n in range(0, 32, 4)),
]


@pytest.fixture
def hall(intake: Intake) -> Intake:
    """A pool for three seats of its own, none of them stocked."""
    intake.configure(3, ownResources=True)
    return intake


def refused(hall: Intake, first: int, *rows: tuple[UUID, str | None]) -> str:
    """What stock says of rows that it does not take; as the last guard, it says what to do."""
    before = hall.rows("SELECT * FROM intake.inventory ORDER BY slot_no")
    refusal: psycopg.Error | None = None
    try:
        with hall.connection.transaction():
            hall.stock(first, rows)
    except psycopg.Error as error:
        refusal = error
    assert refusal is not None, "it is stocked"
    assert (refusal.sqlstate, bool(refusal.diag.message_hint)) == ("IE002", True)
    assert hall.rows("SELECT * FROM intake.inventory ORDER BY slot_no") == before
    return str(refusal.diag.message_primary)


def found(hall: Intake, seat: str) -> int | str | None:
    """The slot that a claim of this seat gets; IE005 if there is none."""
    with hall.connection.transaction(force_rollback=True):
        try:
            return hall.claim_seats("ann", [seat])[0].slot_no
        except psycopg.Error as error:
            return error.sqlstate


def test_a_seat_is_found_however_its_letters_are_composed(hall: Intake) -> None:
    hall.stock(1, [(A, COMPOSED), (B, "B"), (C, "Ctrl e\u0301 \u212b")])
    hall.seed()
    assert [found(hall, asked) for asked in (COMPOSED, APART)] == [1, 1]
    assert [found(hall, asked) for asked in ("Ctrl \u00e9 \u00c5", "Ctrl e\u0301 A\u030a")] == [3, 3]
    claimed = hall.claim_seats("ann", [APART], "r1")[0]
    assert hall.claim_status(claimed.claim_id)["label"] == COMPOSED
    assert hall.claim_seats("bob", [COMPOSED])[0].outcome == "taken"


def test_the_same_rows_in_other_code_points_are_the_same_rows(hall: Intake) -> None:
    assert hall.stock(1, [(A, COMPOSED)]) == 1
    assert hall.stock(1, [(A, APART), (B, None)]) == 2


@pytest.mark.parametrize("first", [1, 2])
def test_a_label_in_other_code_points_is_a_duplicate(hall: Intake, first: int) -> None:
    rows = [(A, COMPOSED), (B, "B"), (C, APART)]
    if first > 1:
        hall.stock(1, rows[: first - 1])
    assert refused(hall, first, *rows[first - 1 :]).endswith(f"slots 1 and 3 have the same label, '{COMPOSED}'")


@pytest.mark.parametrize("first", [1, 2])
def test_a_duplicate_resource_id_is_reported_with_both_slots(hall: Intake, first: int) -> None:
    rows: list[tuple[UUID, str | None]] = [(A, "A"), (B, "B"), (A, "C")]
    if first > 1:
        hall.stock(1, rows[: first - 1])
    assert refused(hall, first, *rows[first - 1 :]).endswith(f"slots 1 and 3 have the same resource id, '{A}'")


@pytest.mark.parametrize(
    ("label", "sign"),
    [
        ("A\u00a01", "U+00A0"),
        ("A-1\u200b", "U+200B"),
        ("\u202eA-1", "U+202E"),
        ("A\t1", "U+0009"),
        ("A\r\n1", "U+000D"),
        ("\u2001A", "U+2003"),  # composed, one space is another
        ("A\ufeff", "U+FEFF"),
        ("A\U000e0041", "U+E0041"),
    ],
)
def test_a_label_with_an_invisible_character_is_refused(hall: Intake, label: str, sign: str) -> None:
    assert refused(hall, 1, (A, "Row 1, Loge Ä"), (B, label)).startswith(
        f"the label of slot 2 has the character {sign}"
    )


@pytest.mark.parametrize("label", [" A", "A ", " "])
def test_a_space_at_an_end_of_a_label_is_an_invisible_character(hall: Intake, label: str) -> None:
    assert refused(hall, 1, (A, "A B"), (B, label)).startswith("the label of slot 2 has the character U+0020")


@pytest.mark.parametrize("label_first", [True, False])
@pytest.mark.parametrize("at_once", [True, False])
def test_no_label_is_the_id_of_another_slot(hall: Intake, label_first: bool, at_once: bool) -> None:
    for spelling in SPELLINGS:
        rows: list[tuple[UUID, str | None]] = [(B, spelling), (A, "A")]
        if not label_first:
            rows.reverse()
        label_of, id_of = (1, 2) if label_first else (2, 1)
        with hall.connection.transaction(force_rollback=True):
            if not at_once:
                hall.stock(1, rows[:1])
                rows = rows[1:]
            told = refused(hall, 1 if at_once else 2, *rows)
        assert told.endswith(f"the label of slot {label_of} is the resource id of slot {id_of}")


def test_a_slot_may_be_labelled_with_its_own_id_or_an_unused_one(hall: Intake) -> None:
    hall.stock(1, [(A, str(A).upper()), (B, str(C)), (UUID(int=1), None)])
    hall.seed()
    assert [found(hall, name) for name in (str(A).upper(), str(C), str(UUID(int=1)))] == [1, 2, 3]


def test_a_label_of_another_pool_names_no_seat(hall: Intake) -> None:
    hall.stock(1, [(A, str(B))])
    with Intake(hall.uri, "other") as other:
        other.configure(1, ownResources=True)
        assert other.stock(1, [(B, "A")]) == 1


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_seat_is_found_by_its_id_in_every_spelling(hall: Intake, spelling: str) -> None:
    hall.stock(1, [(A, "A"), (B, "B"), (C, "C")])
    hall.seed()
    assert found(hall, spelling) == 1


HEX = st.sampled_from("0123456789abcdefABCDEF")
ALMOST_IDS = st.lists(st.one_of(st.text(HEX, min_size=4, max_size=4), st.sampled_from("-{}_ g")), max_size=20).map(
    "".join
)


def test_a_label_can_be_read_as_an_id_wherever_postgres_reads_one(uri: str) -> None:
    with Intake(uri) as intake:

        @given(
            st.one_of(
                ALMOST_IDS, st.uuids().map(str), st.text(st.characters(exclude_categories=["Cs"], min_codepoint=1))
            )
        )
        def agrees(label: str) -> None:
            ours, theirs = "intake_private.label_as_uuid(%s) IS NOT NULL", "pg_input_is_valid(%s, 'uuid')"
            assert intake.rows(f"SELECT {ours}, {theirs}", label, label)[0] in {(True, True), (False, False)}

        agrees()
