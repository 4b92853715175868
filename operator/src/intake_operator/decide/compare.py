"""Compares DB1 with the ledger claim by claim. The memory is a bit for each claim and slot, and no row.

The order of the reads makes sure that a claim in progress is never reported as a mistake:

1. read the claims that are settled in DB1, which is final;
2. then read the ledger page by page: it must have all of them, because it answered before they were settled in DB1;
3. then read DB1's claims of each page: it must have all of them, because a claim is in DB1 before it is sent to the
   ledger.
"""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import compress, zip_longest
from uuid import UUID

from intake_operator.model.consistency import DatabaseClaim, LedgerClaim, Violation

# Violations that are named; all are counted.
NAMED = 100
# The largest spec.inventorySize: larger slot numbers in a ledger were written by hand, and are kept in a set.
LARGEST_SLOT = 10_000_000
# The most slots of one claim: a ledger with more was written by hand, and they are not all named.
MOST_SLOTS = 100
# States of a claim that no bridge has read, so that no ledger has it.
NEVER_SENT = frozenset({"held", "released", "expired"})
GIVEN_UP = frozenset({"voided", "released", "expired"})


class Bits:
    """A set of numbers from 0, with one bit for each number up to the largest."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, number: int) -> bool:
        """Add a number; True if it is new."""
        index, bit = divmod(number, 8)
        if index >= len(self._bits):
            # In steps, so that a million numbers in order do not copy it a million times.
            self._bits.extend(bytes(index - len(self._bits) + 65536))
        fresh = not self._bits[index] >> bit & 1
        self._bits[index] |= 1 << bit
        return fresh

    def discard(self, number: int) -> None:
        """Remove a number, if it is in the set."""
        index, bit = divmod(number, 8)
        if index < len(self._bits):
            self._bits[index] &= ~(1 << bit)

    def __iter__(self) -> Iterator[int]:
        """The numbers in ascending order."""
        for index, byte in enumerate(self._bits):
            if byte:
                yield from (index * 8 + bit for bit in range(8) if byte >> bit & 1)


class Keys:
    """Numbers that are added in ascending order, with 9 bytes for each, however far apart they are."""

    def __init__(self) -> None:
        self._keys = array("q")
        self._left = bytearray()

    def add(self, key: int) -> None:
        """Add a number that is larger than all before."""
        self._keys.append(key)
        self._left.append(1)

    def discard(self, key: int) -> None:
        """Remove a number, if it is there."""
        index = bisect_left(self._keys, key)
        if index < len(self._keys) and self._keys[index] == key:
            self._left[index] = 0

    def __iter__(self) -> Iterator[int]:
        """The numbers in ascending order."""
        return compress(self._keys, self._left)


class Comparison:
    """One comparison of one pool. `voids`: the ledger has `void_claim`, so it has the voided claims as well."""

    def __init__(self, *, voids: bool) -> None:
        self._voids = voids
        # By key. That of a committed claim is one of its slots; those of voided ones are negative and far apart.
        self._committed, self._voided = Bits(), Keys()
        self._slots = Bits()
        self._odd_slots: set[int] = set()
        self.committed = 0
        self.voided = 0
        self.on_their_way = 0
        self.found = 0
        self.violations: list[Violation] = []

    def broken(self, invariant: str, detail: str) -> None:
        """Record a violation."""
        self.found += 1
        if len(self.violations) < NAMED:
            self.violations.append(Violation(invariant, detail))

    def ended(self, claims: Iterable[DatabaseClaim]) -> None:
        """Record claims that are settled in DB1, before the ledger is read."""
        for claim in claims:
            if claim.state == "committed":
                self._committed.add(claim.key)
            elif claim.state == "voided" and self._voids:
                self._voided.add(claim.key)

    def page(self, sales: Sequence[LedgerClaim], claims: Mapping[UUID, DatabaseClaim]) -> None:
        """Compare a page of the ledger with the same claims in DB1, which were read after it."""
        for sale in sales:
            if sale.state == "committed":
                self._sold(sale, claims.get(sale.claim_id))
            elif sale.state == "voided":
                self._given_up(sale, claims.get(sale.claim_id))
            else:
                self.broken(
                    "I3", f"claim {sale.claim_id} is {sale.state!r} in the ledger, neither committed nor voided"
                )

    def missing(self) -> Iterator[int]:
        """Keys of the claims that are settled in DB1 and missing in the ledger."""
        yield from self._committed
        yield from self._voided

    def absent(self, claim: DatabaseClaim) -> None:
        """Record the claim of one of these keys."""
        self.broken("I2", f"{_name(claim)} is {claim.state} in DB1, and not in the ledger")

    def _sold(self, sale: LedgerClaim, claim: DatabaseClaim | None) -> None:
        self.committed += 1
        for slot in sale.slot_nos:
            if not self._first_of(slot):
                self.broken("I1", f"slot {slot} is sold more than once in the ledger, to claim {sale.claim_id} too")
        if claim is None:
            self.broken("I2", f"{_name(sale)} is in the ledger, and not in DB1")
            return
        if claim.state in GIVEN_UP:
            self.broken("I3", f"{_name(claim)} is {claim.state} in DB1, and committed in the ledger")
        elif claim.state in NEVER_SENT:
            self._never_sent(claim)
        if differ := _differ(sale, claim):
            self.broken("I4", f"{_name(claim)} has {differ} in the ledger")
        if claim.state == "committed":
            self._committed.discard(claim.key)
        elif claim.state == "voided":
            # Reported once: it is not missing in the ledger as well.
            self._voided.discard(claim.key)
        elif claim.state not in NEVER_SENT:
            self.on_their_way += 1

    def _first_of(self, slot: int | None) -> bool:
        if slot is not None and 0 <= slot <= LARGEST_SLOT:
            return self._slots.add(slot)
        seen = slot in self._odd_slots
        if slot is not None:
            self._odd_slots.add(slot)
        return not seen

    def _given_up(self, sale: LedgerClaim, claim: DatabaseClaim | None) -> None:
        self.voided += 1
        if claim is None:
            self.broken("I2", f"claim {sale.claim_id} is voided in the ledger, and not in DB1")
        elif claim.state == "committed":
            # Reported once: it is not missing in the ledger as well.
            self._committed.discard(claim.key)
            self.broken("I3", f"{_name(claim)} is committed in DB1, and voided in the ledger")
        elif claim.state == "voided":
            self._voided.discard(claim.key)
        elif claim.state in NEVER_SENT:
            self._never_sent(claim)
        else:
            self.on_their_way += 1

    def _never_sent(self, claim: DatabaseClaim) -> None:
        self.broken("I2", f"{_name(claim)} is {claim.state} in DB1, where no bridge has read it, and is in the ledger")


def _differ(sale: LedgerClaim, claim: DatabaseClaim) -> str:
    """What differs, in words: never the user, and no resource id."""
    found = ["another user"] if sale.user_id != claim.user_id else []
    # All slots of a claim or none, in any order. The same order is the usual one, and compared first.
    if tuple(claim.slot_nos) == sale.slot_nos and tuple(claim.resource_ids or ()) == sale.resource_ids:
        return " and ".join(found)
    if Counter(sale.slot_nos) != Counter(claim.slot_nos):
        found.append(f"other slots ({_numbers(sale.slot_nos)})")
    elif _seats(sale) != _seats(claim):
        found.append("other resources")
    return " and ".join(found)


def _seats(claim: LedgerClaim | DatabaseClaim) -> Counter[tuple[int | None, UUID | None]]:
    return Counter(zip_longest(claim.slot_nos, claim.resource_ids or ()))


def _name(claim: LedgerClaim | DatabaseClaim) -> str:
    slots = claim.slot_nos
    if not slots:
        return f"claim {claim.claim_id} of no slots"
    return f"claim {claim.claim_id} of {'slot' if len(slots) == 1 else 'slots'} {_numbers(slots)}"


def _numbers(slots: Sequence[int | None]) -> str:
    named = ", ".join("NULL" if slot is None else str(slot) for slot in slots[:MOST_SLOTS])
    return f"{named} and {len(slots) - MOST_SLOTS} more" if len(slots) > MOST_SLOTS else named or "none"
