"""What a user may write as CSV, and what is said about the rest."""

from uuid import UUID

import pytest
from intake_operator.model.inventory import InventoryError, check, parse

A, B = "0b9c8f6e-3f1d-4f1e-9d53-7a0e4c1f0001", "0b9c8f6e-3f1d-4f1e-9d53-7a0e4c1f0002"
TWO = ((UUID(A), "Block A, seat 1"), (UUID(B), "A-2"))


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f'{A},"Block A, seat 1"\n{B},A-2\n', id="no header"),
        pytest.param(f'resource_id,label\n{A},"Block A, seat 1"\n{B},A-2', id="header, no newline at the end"),
        pytest.param(f'\ufeffResource_ID,Label\r\n{A},"Block A, seat 1"\r\n{B},A-2\r\n', id="as Excel saves it"),
        pytest.param(f'\n\n  \n  {A} , "Block A, seat 1"\n,\n{B.upper()},  A-2\n\n', id="blank lines and spaces"),
        pytest.param(f'"{A}","Block A, seat 1"\n"{B}","A-2"\n', id="everything quoted"),
    ],
)
def test_rows_are_read_in_their_order(text: str) -> None:
    assert parse(text) == TWO


def test_a_label_may_be_left_out_and_hold_quotes() -> None:
    assert parse(f"resource_id\n{A}\n{B},\n") == ((UUID(A), None), (UUID(B), None))
    assert parse(f'{A},"the ""royal"" box"') == ((UUID(A), 'the "royal" box'),)


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff", "resource_id,label\r\n"])
def test_nothing_is_no_rows(text: str) -> None:
    assert parse(text) == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"resource_id,label\n\n{A},A-1\nseat-2,A-2", "line 4: 'seat-2' is not a UUID"),
        (f"{A};A-1", f"line 1: '{A};A-1' is not a UUID; a line is resource_id,label, separated by a comma"),
        (f"{A},A-1\n,A-2", "line 2: '' is not a UUID"),
        (f"{A},Block A, seat 1", "line 1: 3 columns instead of resource_id,label; a label with a comma needs quotes"),
        (f"{A},A-1\n{B},A-2\n{A.upper()},A-3", f"line 3: '{A}' is on line 1 already"),
        (f"{A},A-1\n{B},A-1", "line 2: 'A-1' is on line 1 already"),
        (f'{A},A-1\n{B},"A-2', "line 2: unexpected end of data"),
        (f"{A},{'x' * 201}", "line 1: a label has at most 200 characters, this one 201"),
        (f"{A},A\0", "line 1: a label cannot have a NUL character in it"),
        (f"{'y' * 5000},A-1", f"line 1: '{'y' * 60}…' is not a UUID"),
    ],
)
def test_a_row_that_cannot_be_a_slot_is_named_by_its_line(text: str, told: str) -> None:
    with pytest.raises(InventoryError) as refusal:
        parse(text)
    assert str(refusal.value).startswith(told)


def test_a_row_of_a_table_is_held_to_the_same() -> None:
    assert check("row 1", UUID(A), "A-1") == (UUID(A), "A-1")
    with pytest.raises(InventoryError, match="row 7: there is no resource_id"):
        check("row 7", None, "A-7")
