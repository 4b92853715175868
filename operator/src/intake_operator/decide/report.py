"""The report of an event: its final counts, with the proof or without it."""

from intake_operator.decide import memory
from intake_operator.decide.facts import Facts
from intake_operator.model.report import Report


def proven(facts: Facts) -> Report:
    """The report of an event whose proof was made."""
    proof = facts.observed.proof
    assert proof is not None
    account, ended = proof.account, proof.account.ended
    counts = {"claims": account.claims, "committed": ended.committed, "voided": ended.voided}
    counts |= {"released": account.released, "expired": account.expired}
    status = facts.observed.database.status
    slots = status.counts(["inventory"])["inventory"] | {"consumed": ended.slots} if status else {}
    recovery = memory.recovery(facts.event, facts.observed)
    if recovery:
        counts["unaccounted"] = int(recovery["unaccounted"])
    counted = str(recovery.get("countedAt", "")) if recovery else ""
    return Report(True, proof.ledger_message, _now(facts), counts, slots, counted, proof.audit)


def abandoned(facts: Facts) -> Report:
    """The report of an event that was given up: the counts that DB1 still gives, or gave last."""
    event, observed = facts.event, facts.observed
    last = memory.counts(event, observed, facts.now)
    counts: dict[str, int] = {}
    if queue := last.get("queue"):
        ends = {name: int(last.get(name, 0)) for name in memory.ENDS}
        unsettled = {"queued": int(queue["depth"]), "deadLetters": int(queue["deadLetters"])}
        unsettled["held"] = int(last.get("held", 0))
        counts = {"claims": sum(ends.values()) + sum(unsettled.values()), **ends, **unsettled}
    unasked = "not asked: the event was abandoned by annotation"
    counted, slots = str(last.get("countedAt", "")), last.get("inventory") or {}
    return Report(False, unasked, _now(facts), counts, slots, counted, observed.database.audit)


def _now(facts: Facts) -> str:
    return facts.now.isoformat(timespec="seconds")
