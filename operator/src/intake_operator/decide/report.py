"""The report of an event: its final counts, with the proof or without it."""

from intake_operator.decide import memory
from intake_operator.decide.facts import Facts
from intake_operator.model.account import Account


def proven(facts: Facts) -> Account:
    """The report of an event whose proof was made."""
    proof = facts.observed.proof
    assert proof is not None
    counts = {"claims": proof.claims, "committed": proof.committed, "voided": proof.voided, "released": proof.released}
    recovery = memory.recovery(facts.event, facts.observed)
    if recovery:
        counts["unaccounted"] = int(recovery["unaccounted"])
    counted = str(recovery.get("countedAt", "")) if recovery else ""
    return Account(True, proof.ledger, _now(facts), counts, counted, proof.audit)


def abandoned(facts: Facts) -> Account:
    """The report of an event that was given up: the counts that DB1 still gives, or gave last."""
    event, observed = facts.event, facts.observed
    last = memory.counts(event, observed, facts.now)
    counts: dict[str, int] = {}
    if queue := last.get("queue"):
        ends = {name: int(last.get(name, 0)) for name in ("committed", "voided", "released")}
        open_claims = {"queued": int(queue["depth"]), "deadLetters": int(queue["deadLetters"])}
        counts = {"claims": sum(ends.values()) + sum(open_claims.values()), **ends, **open_claims}
    unasked = "not asked: the event was abandoned by annotation"
    return Account(False, unasked, _now(facts), counts, str(last.get("countedAt", "")), observed.database.audit)


def _now(facts: Facts) -> str:
    return facts.now.isoformat(timespec="seconds")
