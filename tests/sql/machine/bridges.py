"""The machine's bridges, some of them slow: every lease they ever got may still be used."""

from typing import Any, LiteralString

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.sql.intake import POOL, as_jsonb
from tests.sql.machine.model import Claim, Lease, Payload
from tests.sql.machine.users import Users

picks = st.lists(st.integers(0, 60), min_size=1, max_size=4)


def has_leases(machine: "Bridges") -> bool:
    """Whether a bridge has ever read anything."""
    return bool(machine.model.leases)


class Bridges(Users):
    """Messages, the ledger, dead letters."""

    @rule(limit=st.integers(1, 4), releases=st.booleans())
    def read(self, limit: int, releases: bool) -> None:
        due = self.model.due(voiding=releases)
        if releases:
            messages = self.intake.read_releases(limit)
            self.took(self.not_quarantined(due[:limit]), messages)
            return
        fell_due = dict(self.intake.rows("SELECT (message ->> 'claim_id')::uuid, vt FROM pgmq.q_intake_queue"))
        messages = self.intake.read(limit)
        taken = {message["claim_id"] for message in messages}
        alone = dict(
            self.intake.rows("SELECT (message ->> 'claim_id')::uuid, headers ? 'quarantined' FROM pgmq.q_intake_queue")
        )
        quarantined = [claim for claim in due if alone[claim.claim_id]]
        seen = taken | {claim.claim_id for claim in quarantined}
        left = [fell_due[claim.claim_id] for claim in due if claim.claim_id not in seen]
        assert not left or max(fell_due[each] for each in seen) <= min(left), "what fell due first is read first"
        assert len(seen) == min(limit, len(due))
        assert self.not_quarantined(quarantined) == []
        read = [claim for claim in due if claim.claim_id in taken]
        assert not any(map(self.model.unfinished_three_times, read))
        for claim in read:
            if claim.state == "queued" and not self.asks:
                claim.state = "validated"
        self.took(read, messages)

    @rule(limit=st.integers(1, 4))
    def void_releases(self, limit: int) -> None:
        """What a bridge does with releases when all is well."""
        messages = self.intake.read_releases(limit)
        due = self.not_quarantined(self.model.due(voiding=True)[:limit])
        self.took(due, messages)
        for claim in due:
            self.model.void(claim)
        leases = [claim.lease for claim in due if claim.lease]
        for claim in self.change("acknowledge", leases, [self.model.ledger[lease.claim_id] for lease in leases]):
            claim.place = self.model.ledger[claim.claim_id]

    @precondition(lambda self: self.model.at("queued"))
    @rule(old=st.booleans())
    def time_passes(self, old: bool) -> None:
        """Every lease runs out, and perhaps every claim is past the claim timeout."""
        self.intake.expire_leases()
        if old:
            self.intake.connection.execute(
                "UPDATE pgmq.q_intake_queue SET enqueued_at = enqueued_at - interval '1 hour'"
            )
        for claim in self.model.at("queued"):
            claim.leased, claim.old = False, claim.old or old

    def not_quarantined(self, due: list[Claim]) -> list[Claim]:
        """Those that a reader gets; the others are quarantined."""
        for claim in (quarantined := [claim for claim in due if self.model.unfinished_three_times(claim)]):
            self.model.quarantine_messages(claim)
        return [claim for claim in due if claim not in quarantined]

    @precondition(lambda self: any(claim.alone for claim in self.model.at("queued")))
    @rule(again=st.integers(1, 4))
    def read_quarantined(self, again: int) -> None:
        """One at a time; not finished three times alone is a dead letter. `again`: how often its bridge dies."""
        for _ in range(again):
            messages = self.intake.read_quarantined()
            quarantined = [claim for claim in self.model.unleased() if claim.alone]
            while quarantined and self.model.unfinished_three_times(quarantined[0]):
                quarantined.pop(0).place = "dead"
            for claim in quarantined[:1]:
                if claim.state == "queued" and not self.asks and not claim.voiding:
                    claim.state = "validated"
            self.took(quarantined[:1], messages)
            self.time_passes(old=False)

    @precondition(lambda self: self.model.at("queued"))
    @rule()
    def bridges_die(self) -> None:
        """Three times, with whatever there is."""
        for _ in range(3):
            self.read(4, releases=False)
            self.read(4, releases=True)
            if self.model.at("queued"):
                self.time_passes(old=False)

    def took(self, due: list[Claim], messages: list[dict[str, Any]]) -> None:
        """Compare what a reader got with what was due, and remember the leases."""
        assert [m["claim_id"] for m in messages] == [claim.claim_id for claim in due], f"{messages}, not {due}"
        for claim, message in zip(due, messages, strict=True):
            claim.leased = True
            claim.reads += 1
            claim.unfinished += claim.named
            claim.named = True
            assert (message["read_ct"], message["failures"], message["state"]) == (
                claim.reads, claim.failures, claim.state
            )  # fmt: skip
            assert (message["payload"], message["validation"]) == (claim.payload, claim.validation)
            assert {seat["slot_no"] for seat in message["seats"]} == set(claim.slots)
            claim.lease = Lease(claim.claim_id, message["msg_id"], message["read_ct"])
            self.model.leases.append(claim.lease)

    def chosen(self, numbers: list[int]) -> list[Lease]:
        """Some leases, the last ones first, no message twice."""
        leases = self.model.leases[::-1]
        return list({lease.msg_id: lease for lease in (leases[n % len(leases)] for n in numbers)}.values())

    def change(self, function: LiteralString, leases: list[Lease], *more: list[Any]) -> list[Claim]:
        """Call a fenced function; the claims whose lease stood, and only they, were changed (I9)."""
        standing = sorted((lease for lease in leases if self.model.is_valid(lease)), key=lambda lease: lease.msg_id)
        messages = [{"msg_id": lease.msg_id, "read_ct": lease.read_ct} for lease in leases]
        changed = self.intake.change(function, messages, *more)
        claims = [self.model.claims[lease.claim_id] for lease in standing]
        if function == "mark_validated":
            standing = [s for s, claim in zip(standing, claims, strict=True) if claim.state != "committing"]
            claims = [claim for claim in claims if claim.state != "committing"]
        assert changed == [lease.msg_id for lease in standing], f"I9: {changed}, not {standing}"
        return claims

    @precondition(has_leases)
    @rule(numbers=picks, data=st.sampled_from([None, {"payment": 1}, {"payment": 2}]))
    def approve(self, numbers: list[int], data: Payload) -> None:
        """The first approval counts, with its data."""
        leases = self.chosen(numbers)
        for claim in self.change("mark_validated", leases, [as_jsonb(data)] * len(leases)):
            if claim.state == "queued":
                claim.state, claim.validation = "validated", data

    @precondition(has_leases)
    @rule(numbers=picks, function=st.sampled_from(["mark_committing", "extend"]))
    def mark(self, numbers: list[int], function: LiteralString) -> None:
        for claim in self.change(function, self.chosen(numbers)):
            if function == "extend":
                claim.leased = True
            else:
                claim.state = "committing"

    @precondition(has_leases)
    @rule(numbers=picks, delay=st.sampled_from([0.0, 3600.0]), error=st.sampled_from([None, "timeout"]))
    def give_back(self, numbers: list[int], delay: float, error: str | None) -> None:
        leases = self.chosen(numbers)
        for claim in self.change("give_back", leases, [delay] * len(leases), [error] * len(leases)):
            claim.leased, claim.lease = delay > 0, None
            claim.failures += error is not None
            self.model.ended(claim)

    # The ledger: called by any worker that ever had the message, however long ago.

    @precondition(has_leases)
    @rule(numbers=picks, void=st.booleans())
    def ask_the_ledger(self, numbers: list[int], void: bool) -> None:
        for lease in self.chosen(numbers):
            claim = self.model.claims[lease.claim_id]
            (self.model.void if void else self.model.commit)(claim)

    @precondition(has_leases)
    @rule(numbers=picks, receipt=st.sampled_from([None, {"order": 1}]))
    def acknowledge(self, numbers: list[int], receipt: Payload) -> None:
        """Only with the answer of the ledger (I8)."""
        leases = [lease for lease in self.chosen(numbers) if lease.claim_id in self.model.ledger]
        words = [self.model.ledger[lease.claim_id] for lease in leases]
        for claim in self.change("acknowledge", leases, words, [as_jsonb(receipt)] * len(leases)):
            claim.place = self.model.ledger[claim.claim_id]
            claim.receipt = receipt if claim.place == "committed" else None

    @rule(numbers=picks, void=st.booleans())
    def work(self, numbers: list[int], void: bool) -> None:
        """What a bridge does when all is well, in one step: a machine that has to find it by chance sells little."""
        self.read(4, releases=False)
        if self.model.leases:
            self.ask_the_ledger(numbers, void)
            self.acknowledge(numbers, {"order": len(self.model.ledger)})

    # Dead letters.

    @precondition(has_leases)
    @rule(numbers=picks)
    def dead_letter(self, numbers: list[int]) -> None:
        leases = self.chosen(numbers)
        for claim in self.change("dead_letter", leases, ["poison"] * len(leases)):
            claim.place = "dead"

    @precondition(lambda self: self.model.at("dead"))
    @rule(replay=st.booleans(), most=st.integers(1, 3))
    def end_dead_letters(self, replay: bool, most: int) -> None:
        """Put letters back on the queue, or void them in the ledger and then discard those that it did void."""
        found = self.intake.rows("SELECT msg_id, claim_id FROM intake.dead_letters(%s, %s)", POOL, most)
        claims = [self.model.claims[claim_id] for _, claim_id in found]
        if not replay:
            for claim in claims:
                self.model.void(claim)
            found = [row for row in found if self.model.ledger[row[1]] == "voided"]
            claims = [self.model.claims[claim_id] for _, claim_id in found]
        ids = [msg_id for msg_id, _ in found]
        call: LiteralString = "replay" if replay else "discard"
        ended = self.intake.column("SELECT intake." + call + "(%s, %s, 'ops', 'test')", POOL, ids)
        assert ended == ids
        for claim in claims:
            if replay:
                self.model.replay(claim)
            else:
                claim.place = "voided"
