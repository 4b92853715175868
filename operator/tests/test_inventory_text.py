"""Any text, any character: the operator and DB1 take the same rows, labels and ids."""

import json
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
from hypothesis import example, given
from hypothesis import strategies as st
from intake_operator.database.migrate import load
from intake_operator.model.attributes import FIELDS, MAX_BYTES
from intake_operator.model.inventory import InventoryError, Row, parse
from intake_operator.model.label import as_id, composed, invisible
from psycopg.types.json import Jsonb

from tests.postgres import INTAKE_SQL

HALF = "0b9c8f6e-3f1d-4f1e-9d53-7a0e4c1f"
IDS = st.sampled_from([f"{HALF}{n:04}" for n in range(3)])
CELLS = st.one_of(
    IDS, IDS.map(str.upper), IDS.map("{{{}}}".format), IDS.map(lambda one: one.replace("-", "")), st.text(max_size=5),
    st.sampled_from(["", "A", "\u00c4", "A\u0308", "resource_id", "label", '"', "\ufeff", "\u00a0", " ", "'", "%"]),
)  # fmt: skip
ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n", ""])
RECORDS = st.tuples(
    IDS, CELLS, st.sampled_from(["{},{}", '{},"{}"', ' {} , "{}" ', "{},{},,", "\ufeff{},{}", "{1},{0}"]), ENDS
)
NAMES = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["row", "Row", "R\u00e4ng", "Ra\u0308ng", "slot_no", "User_ID", "user_\u0131d"]),
)
QUOTED = st.text(max_size=9).map(lambda text: '"' + text.replace('"', '""') + '"')
WIDE = st.tuples(st.lists(NAMES, min_size=1, max_size=3), st.lists(QUOTED, min_size=3, max_size=3), IDS).map(
    lambda made: f"resource_id,label,{','.join(made[0])}\n{made[2]},A,{','.join(made[1][: len(made[0])])}"
)
CSV = st.one_of(
    WIDE,
    st.lists(RECORDS, max_size=4).map(lambda rows: "".join(form.format(a, b) + end for a, b, form, end in rows)),
    st.lists(st.one_of(CELLS, ENDS, st.just(",")), max_size=20).map("".join),
)


def test_any_text_is_taken_by_db1_or_an_error_names_a_line_that_is_there(db1: str) -> None:
    with psycopg.connect(db1) as owner:
        for migration in load(INTAKE_SQL):
            owner.execute(migration.sql.encode())
        at = datetime.now(UTC)
        window = {"opensAt": (at - timedelta(1)).isoformat(), "closesAt": (at + timedelta(1)).isoformat()}
        config = {"inventorySize": 1, "batchSize": 1, "ownResources": True, **window}
        owner.execute("SELECT intake.configure('p', %s)", (Jsonb(config),))

        @given(CSV)
        @example(f"{UUID(int=1)},A-1\n{UUID(int=2)},\ud800")
        def holds(text: str) -> None:
            told = ""
            rows: tuple[Row, ...] = ()
            try:
                rows = parse(text)
            except InventoryError as error:
                told = str(error)
            if told:
                line = re.match(r"line (\d+): ", told)
                assert line, told
                assert 1 <= int(line[1]) <= len(re.split("\r\n|\n|\r", text)), told
            if rows:
                with owner.transaction(force_rollback=True):
                    ids, labels, own = zip(*rows, strict=True)
                    taken = owner.execute(
                        "SELECT intake.stock('p', 1, %s, %s::text[], %s::jsonb[])", (list(ids), list(labels), list(own))
                    ).fetchone()
                    assert taken == (len(rows),)
                    found = owner.execute("SELECT label, attributes FROM intake.inventory ORDER BY slot_no").fetchall()
                    assert found == [(row.label, json.loads(row.attributes or "null")) for row in rows]

        holds()


def test_the_same_characters_are_invisible_here_and_in_db1(db1: str) -> None:
    with psycopg.connect(db1) as owner:
        for migration in load(INTAKE_SQL):
            owner.execute(migration.sql.encode())
        hidden = owner.execute(
            "SELECT n FROM generate_series(1, 1114111) n WHERE n NOT BETWEEN 55296 AND 57343"
            " AND intake_private.invisible_character('A' || chr(n) || 'A') IS NOT NULL"
        ).fetchall()
        surrogates = set(range(0xD800, 0xE000))
        assert {n for (n,) in hidden} == {n for n in range(1, 0x110000) if invisible(chr(n))} - surrogates
        spelled = [chr(n) for n in range(1, 0x110000) if n not in surrogates and composed(chr(n)) != chr(n)]
        theirs = owner.execute("SELECT normalize(c, NFC) FROM unnest(%s::text[]) c", (spelled,)).fetchall()
        assert [label for (label,) in theirs] == [composed(each) for each in spelled]


def test_names_and_sizes_of_attributes_are_the_same_here_and_in_db1(db1: str) -> None:
    with psycopg.connect(db1) as owner:
        for migration in load(INTAKE_SQL):
            owner.execute(migration.sql.encode())

        def refused(attributes: dict[str, str]) -> bool:
            flaw = owner.execute("SELECT intake_private.attribute_flaw(%s)", (Jsonb(attributes),)).fetchone()
            assert flaw is not None
            return flaw[0] is not None

        listed = re.search(r"lower\(k\) IN \(([^)]*)\)", (INTAKE_SQL / "0005_inventory.sql").read_text())
        assert listed
        assert set(re.findall(r"\w+", listed[1])) == FIELDS
        assert all(refused({name: ""}) and refused({name.upper(): ""}) for name in FIELDS)
        room = MAX_BYTES - len('{"x": ""}')
        assert [refused({"x": "y" * size}) for size in (room, room + 1)] == [False, True]


def test_what_is_an_id_is_the_same_here_and_in_db1(db1: str) -> None:
    with psycopg.connect(db1) as owner:

        @given(
            st.one_of(
                CELLS, st.uuids().map(str), st.lists(st.sampled_from([HALF[:4], "-", "{", "}", "_"])).map("".join)
            )
        )
        def agrees(label: str) -> None:
            if "\0" not in label:
                asked = owner.execute("SELECT pg_input_is_valid(%s, 'uuid')", (label,)).fetchone()
                assert asked == (as_id(label) is not None,)

        agrees()
