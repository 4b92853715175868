"""The ledger as bridges see it: the calls of its contract, and claims to make them with."""

from collections.abc import Mapping, Sequence
from typing import Any

from psycopg.types.json import Jsonb

from tests.sql.intake import Intake

POOL = "drop"

type Claim = dict[str, Any]


def seat(slot: int, **other: Any) -> dict[str, Any]:
    """A seat of a claim; its resource follows from the slot."""
    resource = f"02900000-0000-8000-8000-{slot:012}"
    return {"slot_no": slot, "resource_id": resource, "label": f"A-{slot}", "attributes": {"row": "A"}} | other


def sale(number: int, *slots: int, **other: Any) -> Claim:
    """The claim with this number, for these slots; for the slot of its own number, if none is given."""
    return {
        "claim_id": f"01900000-0000-7000-8000-{number:012}",
        "pool_id": POOL,
        "user_id": f"u{number}",
        "request_id": None,
        "claimed_at": "2026-12-01T18:00:00+00:00",
        "seats": [seat(slot) for slot in slots or (number,)],
        "payload": None,
        "validation": None,
    } | other


class Ledger(Intake):
    """The three calls of the contract, in whatever form the ledger offers them."""

    def commit(self, claim: Claim) -> str:
        """The outcome alone."""
        return self.commit_with_receipt(claim)[0]

    def commit_with_receipt(self, claim: Claim) -> tuple[str, Any]:
        """Outcome and receipt of the scalar function; no receipt from one that returns only the outcome, or nothing."""
        answer = self.value("SELECT finalize_transaction(%s)", Jsonb(claim))
        return (answer["outcome"], answer["receipt"]) if isinstance(answer, Mapping) else (str(answer), None)

    def void(self, claim: Claim) -> str:
        """Have a claim voided."""
        return str(self.value("SELECT void_claim(%s)", Jsonb(claim)))

    def commit_all(self, *claims: Claim) -> list[str]:
        """An outcome for each claim, in the order of the claims."""
        return [str(row["outcome"]) for row in self._answers(claims)]

    def commit_all_with_receipts(self, *claims: Claim) -> list[tuple[str, Any]]:
        """The same with the receipts."""
        return [(row["outcome"], row["receipt"]) for row in self._answers(claims)]

    def _answers(self, claims: Sequence[Claim]) -> list[dict[str, Any]]:
        rows = self.dicts("SELECT * FROM finalize_transactions(%s)", Jsonb(claims))
        found = {str(row["claim_id"]): row for row in rows}
        assert len(found) == len(rows), "one outcome for each claim"
        assert found.keys() == {claim["claim_id"] for claim in claims}, "an outcome for every claim"
        return [found[claim["claim_id"]] for claim in claims]

    def sold(self) -> dict[str, list[int]]:
        """The slots of each user's claims, as the pages have them; a voided claim has none."""
        rows = self.rows("SELECT user_id, slot_nos FROM ledger_claims(%s, NULL, 100000)", POOL)
        found = dict(rows)
        assert len(found) == len(rows), "a claim a user"
        return found

    def counts(self) -> tuple[int, int, int]:
        """How many claims are committed and voided, and how many slots are sold."""
        (found,) = self.rows("SELECT committed, voided, slots FROM ledger_proof(%s)", POOL)
        return found[0], found[1], found[2]
