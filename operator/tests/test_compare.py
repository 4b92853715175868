"""The rules of the comparison: claims that still move are no violation, and each violation names its invariant."""

from uuid import UUID

import pytest
from intake_operator.decide.compare import NAMED, Bits, Comparison
from intake_operator.model.consistency import DatabaseClaim, LedgerClaim

SOLD = "committed"


def claim(number: int, state: str, **changes: object) -> DatabaseClaim:
    key = -number if state in {"voided", "released"} else number
    told = {"user_id": f"u{number}", "slot_no": number, "resource_id": UUID(int=number + 1000)} | changes
    return DatabaseClaim(key, UUID(int=number), state, **told)  # type: ignore[arg-type]


def sale(number: int, state: str = SOLD, **changes: object) -> LedgerClaim:
    """A claim in the ledger; a voided one has no slots."""
    slots = ((number,), (UUID(int=number + 1000),)) if state == SOLD else ((), ())
    told = {"user_id": f"u{number}", "slot_nos": slots[0], "resource_ids": slots[1]} | changes
    return LedgerClaim(UUID(int=number), state, request_id=None, claimed_at=None, **told)  # type: ignore[arg-type]


def compared(
    here: list[DatabaseClaim], there: list[LedgerClaim], *, later: list[DatabaseClaim] | None = None, voids: bool = True
) -> Comparison:
    """`here` is DB1 when the comparison begins, `later` when it is asked about what the ledger has."""
    comparison = Comparison(voids=voids)
    comparison.ended(each for each in here if each.state in {"committed", "voided", "released"})
    comparison.page(there, {each.claim_id: each for each in (here if later is None else later)})
    by_key = {each.key: each for each in here}
    for key in comparison.missing():
        comparison.absent(by_key[key])
    return comparison


def test_a_sound_sale_has_no_violation() -> None:
    here = [claim(1, SOLD), claim(2, "voided"), claim(3, "released"), claim(4, "queued"), claim(5, "dead")]
    found = compared(here, [sale(1), sale(2, "voided")])
    assert (found.violations, found.committed, found.voided, found.on_their_way) == ([], 1, 1, 0)


@pytest.mark.parametrize("state", ["queued", "validated", "committing", "releasing", "dead"])
@pytest.mark.parametrize("word", ["committed", "voided"])
def test_a_claim_that_is_not_acknowledged_yet_is_no_violation(state: str, word: str) -> None:
    found = compared([claim(1, state)], [sale(1, word)])
    assert (found.violations, found.on_their_way) == ([], 1)


def test_a_claim_made_and_committed_during_the_read_is_no_violation() -> None:
    assert compared([], [sale(1)], later=[claim(1, SOLD)]).violations == []


def test_a_claim_committed_after_its_page_was_read_is_no_violation() -> None:
    assert compared([claim(1, "validated")], [], later=[claim(1, SOLD)]).violations == []


@pytest.mark.parametrize(
    ("here", "there", "invariant"),
    [
        ([claim(1, SOLD)], [], "I2"),
        ([claim(1, "voided")], [], "I2"),
        ([], [sale(1)], "I2"),
        ([], [sale(1, "voided")], "I2"),
        ([claim(1, "released")], [sale(1, "voided")], "I2"),
        ([claim(1, "voided")], [sale(1)], "I3"),
        ([claim(1, "released")], [sale(1)], "I3"),
        ([claim(1, SOLD)], [sale(1, "voided")], "I3"),
        ([claim(1, SOLD)], [sale(1, "gone")], "I3"),
        ([claim(1, SOLD)], [sale(1, user_id="thief")], "I4"),
        ([claim(1, SOLD)], [sale(1, slot_nos=(9,))], "I4"),
        ([claim(1, SOLD)], [sale(1, slot_nos=(1, 9), resource_ids=(UUID(int=1001), UUID(int=1009)))], "I4"),
        ([claim(1, SOLD)], [sale(1, slot_nos=(), resource_ids=())], "I4"),
        ([claim(1, "queued")], [sale(1, resource_ids=(UUID(int=9),))], "I4"),
        ([claim(1, SOLD), claim(2, SOLD, slot_no=1)], [sale(1), sale(2, slot_nos=(1,))], "I1"),
        ([claim(1, SOLD), claim(2, SOLD)], [sale(1), sale(2, slot_nos=(2, 1))], "I1"),
    ],
)
def test_a_violation_names_the_promise_that_it_breaks(
    here: list[DatabaseClaim], there: list[LedgerClaim], invariant: str
) -> None:
    assert invariant in {each.invariant for each in compared(here, there).violations}


def test_no_user_is_named() -> None:
    found = compared([claim(1, SOLD)], [sale(1, user_id="thief")])
    assert not {"u1", "thief"} & set(" ".join(map(str, found.violations)).split())


def test_a_ledger_that_cannot_be_told_of_voids_is_not_asked_for_them() -> None:
    assert compared([claim(1, "voided")], [], voids=False).violations == []


def test_the_first_are_named_and_all_are_counted() -> None:
    found = compared([claim(n, SOLD) for n in range(1, 2 * NAMED + 1)], [])
    assert (len(found.violations), found.found) == (NAMED, 2 * NAMED)


def test_bits_are_a_set_of_numbers() -> None:
    bits = Bits()
    assert [bits.add(n) for n in (0, 7, 8, 10_000_000, 7)] == [True, True, True, True, False]
    bits.discard(8)
    bits.discard(10**9)
    assert list(bits) == [0, 7, 10_000_000]


@pytest.mark.parametrize("slot", [2**62, -(2**62), None])
def test_a_slot_that_no_event_can_have_costs_no_memory(slot: int | None) -> None:
    """Such a row was written by hand. It must be reported, and must not take the memory of other events."""
    found = compared([claim(1, SOLD)], [sale(1, slot_nos=(slot,))])
    assert [each.invariant for each in found.violations][-1] == "I4"
    twice = compared([claim(1, SOLD), claim(2, SOLD)], [sale(1, slot_nos=(slot,)), sale(2, slot_nos=(slot,))])
    assert ("I1" in {each.invariant for each in twice.violations}) is (slot is not None)
