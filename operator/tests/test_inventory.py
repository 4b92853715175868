"""Which CSV a user may write, and how the rest is refused."""

import json
from uuid import UUID

import pytest
from intake_operator.model.inventory import InventoryError, Row, check, parse

A, B = "0b9c8f6e-3f1d-4f1e-9d53-7a0e4c1f0001", "0b9c8f6e-3f1d-4f1e-9d53-7a0e4c1f0002"
TWO = (Row(UUID(A), "Block A, seat 1"), Row(UUID(B), "A-2"))


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
    assert parse(f"resource_id\n{A}\n{B},\n") == (Row(UUID(A), None), Row(UUID(B), None))
    assert parse(f'{A},"the ""royal"" box"') == (Row(UUID(A), 'the "royal" box'),)


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff", "resource_id,label\r\n"])
def test_an_empty_text_has_no_rows(text: str) -> None:
    assert parse(text) == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"resource_id,label\n\n{A},A-1\nseat-2,A-2", "line 4: 'seat-2' is not a UUID"),
        (f"{A};A-1", f"line 1: '{A};A-1' is not a UUID; a line is resource_id,label, separated by a comma"),
        (f"{A},A-1\n,A-2", "line 2: '' is not a UUID"),
        (f"+{A[1:]},A-1", f"line 1: '+{A[1:]}' is not a UUID"),
        (f"\u200b{A},A-1", "line 1: character 1 is U+200B (ZERO WIDTH SPACE) in the column resource_id"),
        (f"{A},Block A, seat 1", "line 1: 3 columns instead of resource_id,label; a label with a comma needs quotes"),
        (f"{A},A-1\n{B},A-2\n{A.upper()},A-3", f"line 3: '{A}' is on line 1 already"),
        (f"{A},A-1\n{B},A-1", "line 2: 'A-1' is on line 1 already; one slot has it alone"),
        (f"{A},{'x' * 201}", "line 1: a label has at most 200 characters, this one 201"),
        (f"{A},A\0", "line 1: character 2 is U+0000 (NUL) in the label"),
        (f"{A},A\ud800", "line 1: character 2 is U+D800 in the label"),
        (f"{'y' * 5000},A-1", f"line 1: '{'y' * 60}…' is not a UUID"),
        (f'{A},"A-1\n{B},A-2\n', "line 1: a double quote opens in column label and does not close on this line"),
        (f'{A},A-1\n{B},"A-2', "line 2: a double quote opens in column label and does not close on this line"),
        # The quote of another row would close it, so that the error would be reported there.
        (f'{A},"A-1\n{B},"Block A, seat 2"\n', "line 1: a double quote opens in column label"),
        (f'{A},"A\n1"\n{B},A-2', "line 1: a double quote opens in column label"),
        (f'{A},"A""\n{B},A-2', "line 1: a double quote opens in column label"),
        (f'"{A},A-1\n{B},A-2\n', "line 1: a double quote opens in column resource_id"),
        (f'{A},"A"1\n', "line 1: there is more behind the closing double quote of column label; a double quote inside"),
        (f"resource_id,label\r\n{A},A-1,,,,\r\n", "line 2: 4 empty columns behind label, as a spreadsheet leaves"),
        (f"resource_id,label,,\n{A},A-1,,\n", "line 1: 2 empty columns behind label"),
        (f"\ufeff{A},A-1\n\ufeff{B},A-2\n", "line 2: a second byte order mark (U+FEFF) stands before the first column"),
        (f"\ufeff\ufeff{A},A-1\n", "line 1: a second byte order mark (U+FEFF)"),
        (f"\ufeffresource_id,label\n{A},A-1\n\ufeffresource_id,label\n", "line 3: a second byte order mark (U+FEFF)"),
        (f"{A},A-1,Floor\n", "line 1: 3 columns instead of resource_id,label; a label with a comma needs quotes, and"),
        (f"resource_id,label,row\n{A},A-1,1,2\n", "line 2: 4 columns, and the header has 3; a value with a comma"),
        (f"resource_id,label,row\n{A},A-1\n", "line 2: 2 columns, and the header has 3"),
        (f"resource_id,label,row\n{A},A-1,1,,\n", "line 2: 2 empty columns behind row"),
        (f"resource_id,label,row,Row\n{A},A-1,1,2\n", "line 1: column 4 is 'Row', as column 3 is; call it otherwise"),
        (f"resource_id,label,Label\n{A},A-1,1\n", "line 1: column 3 is 'Label', as column 2 is; call it otherwise"),
        (f"resource_id,label,row,,price\n{A},A-1,1,,2\n", "line 1: column 4 has no name; name it, or delete the col"),
        (f"resource_id,label,row,\n{A},A-1,1,2\n", "line 1: column 4 has no name"),
        (f"resource_id,label,Slot_No\n{A},A-1,1\n", "line 1: column 3, 'Slot_No', has the name of a field of a claim"),
        (f"resource_id,label,seats\n{A},A-1,1\n", "line 1: column 3, 'seats', has the name of a field of a claim"),
        (
            f"resource_id,label,a\u200b\n{A},A-1,1\n",
            "line 1: column 3, 'a\\u200b', has a name whose character 2 is U+200B",
        ),
        (f'resource_id,label,"a "\n{A},A-1,1\n', "line 1: column 3, 'a ', has a name with a space at an end"),
        (f"resource_id,label,row\n{A},A-1,\0\n", "line 2: character 1 is U+0000 (NUL) in the column row"),
        (f"resource_id,label,row\n{A},A-1,\ud800\n", "line 2: character 1 is U+D800 in the column row"),
        (
            f"resource_id,label,row\n{A},A-1,{'x' * 1014}\n",
            "line 2: the columns beside resource_id and label have more than 1024 bytes as JSON",
        ),
        (f"resource_id,section\n{A},Floor\n", "line 1: the second column is 'section' and not label"),
        (f"{A},A\u00a01\n{B},A 1\n", "line 1: character 2 is U+00A0 (NO-BREAK SPACE) in the label"),
        (f"{A},A-1\n{B},A-1\u200b\n", "line 2: character 4 is U+200B (ZERO WIDTH SPACE) in the label"),
        (f'{A}," A-1"\n', "line 1: the label begins with U+0020 (SPACE)"),
        (f"{A},A-1\u00a0\n", "line 1: character 4 is U+00A0 (NO-BREAK SPACE) in the label"),
        (f"{A},A-1\u2028\n", "line 1: character 4 is U+2028 (LINE SEPARATOR) in the label"),
        (
            f"{A},Loge \u00c4\n{B},Loge A\u0308\n",
            "line 2: 'Loge \u00c4' is on line 1 already, with other code points for the same letters",
        ),
        (f"{A},{B}\n{B},B\n", f"line 2: the resource_id '{B}' is the label of line 1, so a claim for a seat by it"),
        (
            f"{B},B\n{A},{{{B.upper()}}}\n",
            f"line 2: the label '{{{B.upper()}}}' is the resource_id of line 1, so a claim",
        ),
    ],
)
def test_a_row_that_cannot_be_a_slot_is_named_by_its_line(text: str, told: str) -> None:
    with pytest.raises(InventoryError) as refusal:
        parse(text)
    assert str(refusal.value).startswith(told)


def test_an_open_quote_is_reported_where_it_opens_however_much_follows() -> None:
    lines = [f"{UUID(int=n)},A-{n}" for n in range(1, 101)]
    lines[2] = f'{UUID(int=3)},"A-3'
    with pytest.raises(InventoryError, match=r"^line 3: a double quote opens in column label"):
        parse("\n".join(lines))


def test_a_label_is_one_however_its_letters_are_composed() -> None:
    assert parse(f"{A},Loge A\u0308") == parse(f"{A},Loge \u00c4") == (Row(UUID(A), "Loge \u00c4"),)


def test_a_slot_may_be_labelled_with_its_own_id() -> None:
    assert parse(f"{A},{A}\n{B},{B.upper()}") == (Row(UUID(A), A), Row(UUID(B), B.upper()))


def test_an_id_has_every_spelling_that_postgres_reads() -> None:
    spelled = (f"{{{A}}}", A.replace("-", ""), A.upper())
    assert [parse(one) for one in spelled] == [(Row(UUID(A), None),)] * 3


def test_a_long_line_takes_no_longer_than_a_long_file() -> None:
    with pytest.raises(InventoryError, match="empty columns"):
        parse(A + "," * 1_000_000)
    with pytest.raises(InventoryError, match="does not close"):
        parse(f'{A},"' + '""' * 500_000)


def test_a_row_of_a_table_has_the_same_rules() -> None:
    assert check("row 1", UUID(A), "A-1") == Row(UUID(A), "A-1")
    assert check("row 1", UUID(A), "Loge A\u0308") == Row(UUID(A), "Loge \u00c4")
    with pytest.raises(InventoryError, match="row 7: there is no resource_id"):
        check("row 7", None, "A-7")
    with pytest.raises(InventoryError, match=r"row 7: the label ends with U.0020"):
        check("row 7", UUID(A), "A-7 ")


def own(*lines: str) -> list[dict[str, str | None]]:
    """The attributes of the rows below this header."""
    return [json.loads(row.attributes or "null") for row in parse("\n".join(lines))]


def test_other_columns_of_a_header_are_kept_as_texts() -> None:
    header = "resource_id,label,section,row,price"
    assert own(header, f'{A},A-1,"Floor, left",01,89.50', f"{B},,,2,") == [
        {"section": "Floor, left", "row": "01", "price": "89.50"},
        {"section": None, "row": "2", "price": None},
    ]
    assert [row.label for row in parse(f"{header}\n{A},A-1,Floor,1,2\n{B},,Floor,2,2")] == ["A-1", None]
    assert parse(f"resource_id,label\n{A},A-1") == (Row(UUID(A), "A-1", None),)


def test_a_column_has_one_name_however_its_letters_are_composed() -> None:
    assert own("resource_id,label,Sa\u0308ule", f"{A},A-1,1") == [{"S\u00e4ule": "1"}]
    with pytest.raises(InventoryError, match="line 1: column 4 is 'S\u00e4ule', as column 3 is"):
        parse("resource_id,label,Sa\u0308ule,S\u00e4ule")


def test_attributes_of_the_largest_size_are_kept() -> None:
    value = "\u00e4" * 506 + "x"
    (row,) = parse(f"resource_id,label,row\n{A},A-1,{value}")
    assert row.attributes is not None
    assert len(row.attributes.encode()) == 1024
