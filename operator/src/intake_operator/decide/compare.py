"""DB1 against the ledger, claim by claim, in memory that does not grow with the claims' rows: a bit for each.

The order of the looks makes sure that what is on its way is never taken for a mistake:

1. what has ended in DB1 (for good) is noted;
2. then the ledger is read, page by page: it must have all of that, because its word came before the end in DB1;
3. then DB1 is asked for the claims of each page: it must know them all, because a claim is made there before the ledger
   hears of it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from uuid import UUID

from intake_operator.model.consistency import DatabaseClaim, Sale, Violation

# So many are named; all are counted.
NAMED = 100
# The largest spec.inventorySize: a bit for each slot is little. What a ledger says beyond it is by hand.
LARGEST_SLOT = 10_000_000


class Bits:
    """A set of numbers from 0 on, a bit for each up to the largest."""

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, number: int) -> bool:
        """True if it was not there yet."""
        index, bit = divmod(number, 8)
        if index >= len(self._bits):
            # In steps, so that a million numbers in order are not a million copies.
            self._bits.extend(bytes(index - len(self._bits) + 65536))
        fresh = not self._bits[index] >> bit & 1
        self._bits[index] |= 1 << bit
        return fresh

    def discard(self, number: int) -> None:
        """Take it out, if it is there."""
        index, bit = divmod(number, 8)
        if index < len(self._bits):
            self._bits[index] &= ~(1 << bit)

    def __iter__(self) -> Iterator[int]:
        """In order."""
        for index, byte in enumerate(self._bits):
            if byte:
                yield from (index * 8 + bit for bit in range(8) if byte >> bit & 1)


class Comparison:
    """One comparison of one pool. `voids`: the ledger is told of claims that will never commit."""

    def __init__(self, *, voids: bool) -> None:
        self._voids = voids
        # By key: a slot of a committed claim, the message of a voided one.
        self._committed, self._voided = Bits(), Bits()
        self._slots = Bits()
        self._odd_slots: set[int] = set()
        self.committed = 0
        self.voided = 0
        self.on_their_way = 0
        self.found = 0
        self.violations: list[Violation] = []

    def broken(self, promise: str, detail: str) -> None:
        """Note a violation."""
        self.found += 1
        if len(self.violations) < NAMED:
            self.violations.append(Violation(promise, detail))

    def ended(self, claims: Iterable[DatabaseClaim]) -> None:
        """Claims that have ended in DB1, before the ledger is read."""
        for claim in claims:
            if claim.state == "committed":
                self._committed.add(claim.key)
            elif claim.state == "voided" and self._voids:
                self._voided.add(-claim.key)

    def page(self, sales: Sequence[Sale], claims: Mapping[UUID, DatabaseClaim]) -> None:
        """A page of the ledger, and where DB1 then had its claims."""
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
        """Keys of claims that have ended in DB1 and that the ledger does not have."""
        yield from self._committed
        yield from (-message for message in self._voided)

    def absent(self, claim: DatabaseClaim) -> None:
        """A claim behind one of these keys."""
        self.broken(
            "I2", f"claim {claim.claim_id} of slot {claim.slot_no} is {claim.state} here, and not in the ledger"
        )

    def _sold(self, sale: Sale, claim: DatabaseClaim | None) -> None:
        self.committed += 1
        for slot in sale.slot_nos:
            if not self._first_of(slot):
                self.broken("I1", f"slot {slot} is sold more than once in the ledger, to claim {sale.claim_id} too")
        if claim is None:
            told = ", ".join(map(str, sale.slot_nos)) or "none"
            self.broken("I2", f"claim {sale.claim_id} of slot {told} is in the ledger, and nobody made it here")
            return
        if claim.state in {"voided", "released"}:
            self.broken("I3", f"claim {claim.claim_id} is {claim.state} here, and committed in the ledger")
        if differ := _differ(sale, claim):
            self.broken("I4", f"claim {claim.claim_id} has another {differ} in the ledger")
        if claim.state == "committed":
            self._committed.discard(claim.key)
        else:
            self.on_their_way += 1

    def _first_of(self, slot: int | None) -> bool:
        if slot is not None and 0 <= slot <= LARGEST_SLOT:
            return self._slots.add(slot)
        seen = slot in self._odd_slots
        if slot is not None:
            self._odd_slots.add(slot)
        return not seen

    def _given_up(self, sale: Sale, claim: DatabaseClaim | None) -> None:
        self.voided += 1
        if claim is None:
            self.broken("I2", f"claim {sale.claim_id} is voided in the ledger, and nobody made it here")
        elif claim.state == "committed":
            # It is not missing there as well: one word about it is enough.
            self._committed.discard(claim.key)
            self.broken(
                "I3", f"claim {claim.claim_id} of slot {claim.slot_no} is committed here, and voided in the ledger"
            )
        elif claim.state == "voided":
            self._voided.discard(-claim.key)
        elif claim.state == "released":
            self.broken("I2", f"claim {claim.claim_id} was released before a bridge had it, and the ledger knows it")
        else:
            self.on_their_way += 1


def _differ(sale: Sale, claim: DatabaseClaim) -> str:
    """What is not the same; never a user's name."""
    pairs = {
        "user": (sale.user_id, claim.user_id),
        "slot": (sale.slot_nos, (claim.slot_no,)),
        "resource": (sale.resource_ids, (claim.resource_id,)),
    }
    return " and ".join(name for name, (there, here) in pairs.items() if there != here)
