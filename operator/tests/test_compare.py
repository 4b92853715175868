"""The rules of the comparison: claims that still move are no violation, and each violation names its invariant."""

from uuid import UUID

import pytest
from intake_operator.decide.compare import NAMED, Bits, Comparison, Keys
from intake_operator.model.consistency import DatabaseClaim, LedgerClaim

SOLD = "committed"


def claim(number: int, state: str, **changes: object) -> DatabaseClaim:
    key = -number if state in {"voided", "released", "expired"} else number
    told = {"user_id": f"u{number}", "slot_nos": [number], "resource_ids": [UUID(int=number + 1000)]} | changes
    return DatabaseClaim(key, UUID(int=number), state, **told)  # type: ignore[arg-type]


def seats(*slots: int) -> dict[str, object]:
    """The slots of a claim, each with its own resource."""
    return {"slot_nos": slots, "resource_ids": tuple(UUID(int=slot + 1000) for slot in slots)}


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
    comparison.ended(each for each in here if each.state in {SOLD, "voided", "released", "expired"})
    comparison.page(there, {each.claim_id: each for each in (here if later is None else later)})
    by_key = {each.key: each for each in here}
    for key in comparison.missing():
        comparison.absent(by_key[key])
    return comparison


def test_a_sound_sale_has_no_violation() -> None:
    ended = [claim(1, SOLD), claim(2, "voided"), claim(3, "released"), claim(4, "expired")]
    open_claims = [claim(number, state) for number, state in enumerate(("queued", "dead", "held"), 5)]
    found = compared(ended + open_claims, [sale(1), sale(2, "voided")])
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
        ([claim(1, "expired")], [sale(1, "voided")], "I2"),
        ([claim(1, "held")], [sale(1, "voided")], "I2"),
        ([claim(1, "held")], [sale(1)], "I2"),
        ([claim(1, "voided")], [sale(1)], "I3"),
        ([claim(1, "released")], [sale(1)], "I3"),
        ([claim(1, "expired")], [sale(1)], "I3"),
        ([claim(1, SOLD)], [sale(1, "voided")], "I3"),
        ([claim(1, SOLD)], [sale(1, "gone")], "I3"),
        ([claim(1, SOLD)], [sale(1, user_id="thief")], "I4"),
        ([claim(1, SOLD)], [sale(1, slot_nos=(9,))], "I4"),
        ([claim(1, SOLD)], [sale(1, slot_nos=(1, 9), resource_ids=(UUID(int=1001), UUID(int=1009)))], "I4"),
        ([claim(1, SOLD)], [sale(1, slot_nos=(), resource_ids=())], "I4"),
        ([claim(1, "queued")], [sale(1, resource_ids=(UUID(int=9),))], "I4"),
        ([claim(1, SOLD, **seats(1, 2))], [sale(1)], "I4"),
        ([claim(1, SOLD, **seats(1, 2))], [sale(1, **seats(1, 3))], "I4"),
        ([claim(1, SOLD, **seats(1, 2))], [sale(1, **seats(1, 2, 2))], "I4"),
        ([claim(1, SOLD, **seats(1, 2))], [sale(1, **seats(1, 2) | {"slot_nos": (2, 1)})], "I4"),
        ([claim(1, SOLD, **seats(1, 2))], [sale(1, **seats(1, 2) | {"resource_ids": (UUID(int=1001),)})], "I4"),
        ([claim(1, SOLD), claim(2, SOLD, **seats(1))], [sale(1), sale(2, slot_nos=(1,))], "I1"),
        ([claim(1, SOLD, **seats(1, 2)), claim(2, SOLD)], [sale(1, **seats(1, 2)), sale(2)], "I1"),
        ([claim(1, SOLD, **seats(1, 2))], [sale(1, **seats(1, 2, 2))], "I1"),
        ([claim(1, SOLD), claim(2, SOLD)], [sale(1), sale(2, slot_nos=(2, 1))], "I1"),
    ],
)
def test_a_violation_names_the_promise_that_it_breaks(
    here: list[DatabaseClaim], there: list[LedgerClaim], invariant: str
) -> None:
    assert invariant in {each.invariant for each in compared(here, there).violations}


def test_the_slots_of_a_claim_are_the_same_in_any_order() -> None:
    assert compared([claim(1, SOLD, **seats(1, 2, 3))], [sale(1, **seats(3, 1, 2))]).violations == []


def test_no_user_is_named() -> None:
    found = compared([claim(1, SOLD)], [sale(1, user_id="thief")])
    assert [each.detail for each in found.violations] == [
        f"claim {UUID(int=1)} of slot 1 has another user in the ledger"
    ]


@pytest.mark.parametrize(
    ("here", "there", "detail"),
    [
        ([claim(1, SOLD, **seats(1, 2))], [sale(1)], "of slots 1, 2 has other slots (1) in the ledger"),
        ([claim(1, SOLD, **seats(1, 2))], [], "of slots 1, 2 is committed in DB1, and not in the ledger"),
        ([claim(1, "voided", **seats(1, 2))], [], "of slots 1, 2 is voided in DB1, and not in the ledger"),
        ([], [sale(1, **seats(1, 2))], "of slots 1, 2 is in the ledger, and not in DB1"),
        ([], [sale(1, **seats())], "of no slots is in the ledger, and not in DB1"),
        ([claim(1, "voided", **seats(1, 2))], [sale(1, **seats(1, 2))], "of slots 1, 2 is voided in DB1"),
        ([claim(1, SOLD, **seats(1, 2))], [sale(1, "voided")], "of slots 1, 2 is committed in DB1, and voided"),
        ([claim(1, SOLD)], [sale(1, **seats(*range(1, 103)))], "98, 99, 100 and 2 more) in the ledger"),
    ],
)
def test_a_violation_names_the_claim_and_its_slots(
    here: list[DatabaseClaim], there: list[LedgerClaim], detail: str
) -> None:
    (found,) = compared(here, there).violations
    assert str(UUID(int=1)) in found.detail
    assert detail in found.detail


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


def test_keys_may_be_far_apart() -> None:
    keys = Keys()
    for key in (-(2**62), -129, -1):
        keys.add(key)
    for key in (-129, -130, 0, -(2**63)):
        keys.discard(key)
    assert list(keys) == [-(2**62), -1]


@pytest.mark.parametrize("slot", [2**62, -(2**62), None])
def test_a_slot_that_no_event_can_have_costs_no_memory(slot: int | None) -> None:
    """Such a row was written by hand. It must be reported, and must not take the memory of other events."""
    found = compared([claim(1, SOLD)], [sale(1, slot_nos=(slot,))])
    assert [each.invariant for each in found.violations][-1] == "I4"
    twice = compared([claim(1, SOLD), claim(2, SOLD)], [sale(1, slot_nos=(slot,)), sale(2, slot_nos=(slot,))])
    assert ("I1" in {each.invariant for each in twice.violations}) is (slot is not None)
