"""The machine's buyers: claims of every kind, also in transactions that abort or stay open, and their holds."""

from collections.abc import Callable

import psycopg
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.sql.intake import POOL, Answer, Request
from tests.sql.machine.base import PoolMachine, requests, users
from tests.sql.machine.model import Claim, Payload, Wanted

SLOW = "slow"
# Mostly none, so that a repeated request is mostly the same.
payloads: st.SearchStrategy[Payload] = st.sampled_from([None, None, None, {"price": 1}, {"price": 2}])
wants = st.builds(Wanted, users, requests, st.sampled_from([1, 1, 2, 3]), payloads)


def answers_to(call: Callable[[], list[Answer]]) -> list[Answer]:
    """What a claim function answers; a repeated request with other content has the outcome that a batch gives it."""
    try:
        return call()
    except psycopg.Error as error:
        if error.sqlstate != "IE009":
            raise
        return [Answer("different", None, None, None)]


class Users(PoolMachine):
    """Claims and holds."""

    @rule(user=users, request=requests, payload=payloads)
    def claim(self, user: str, request: str | None, payload: Payload) -> None:
        wanted = Wanted(user, request, 1, payload)
        verdicts = self.model.verdicts(wanted)
        self.answered(verdicts, answers_to(lambda: [self.intake.claim(user, request, payload)]), wanted)

    @rule(callers=st.permutations(["ann", "bob", "cid"]))
    def claim_anew(self, callers: list[str]) -> None:
        """Claims that no request id can turn into retries."""
        for user in callers:
            self.claim(user, None, None)

    @rule(user=users, request=requests, quantity=st.integers(1, 4), payload=payloads)
    def claim_several(self, user: str, request: str | None, quantity: int, payload: Payload) -> None:
        wanted = Wanted(user, request, quantity, payload)
        answers = answers_to(lambda: self.intake.claim_several(user, quantity, request, payload))
        self.answered(self.model.verdicts(wanted), answers, wanted)

    @rule(callers=st.lists(wants, min_size=1, max_size=5))
    def claim_batch(self, callers: list[Wanted]) -> None:
        """Each is answered as if all of them had claimed by themselves, in some order."""
        batch = [Request(w.user, w.request, w.quantity, w.payload) for w in callers]
        pending = list(zip(callers, self.intake.claim_requests(batch), strict=True))
        while pending:
            # Refusals and repeats change nothing, so they are true at some time between the claims, which tell their
            # order by their ids.
            now = [p for p in pending if p[1][0].outcome != self.model.claimed]
            now = [p for p in now if p[1][0].outcome in self.model.verdicts(p[0])]
            now = now or sorted(pending, key=lambda p: str(p[1][0].claim_id))
            wanted, answers = now[0]
            self.answered(self.model.verdicts(wanted), answers, wanted)
            pending.remove(now[0])

    # A running claim may have the seat, or be bringing its burnt number back: the call would wait for its end.
    @precondition(lambda self: self.model.capacity and not self.model.running)
    @rule(
        user=users,
        request=requests,
        numbers=st.lists(st.integers(0, 20), min_size=1, max_size=3),
        by_label=st.booleans(),
        payload=payloads,
    )
    def claim_seats(self, user: str, request: str | None, numbers: list[int], by_label: bool, payload: Payload) -> None:
        slots = list(dict.fromkeys(number % self.model.capacity + 1 for number in numbers))
        wanted = Wanted(user, request, len(slots), payload, frozenset(slots))
        verdicts = self.model.verdicts(wanted)
        seats = [self.seat(slot) for slot in slots]
        names = [label if by_label and label else str(resource) for resource, label in seats]
        answers = answers_to(lambda: self.intake.claim_seats(user, names, request, payload))
        if answers[0].outcome == "taken":
            assert [a.slot_no for a in answers] == sorted(set(slots) - self.model.free), "taken, and free"
            answers = [Answer("taken", None, None, None)]
        outcome = self.answered(verdicts, answers, wanted)
        if outcome == self.model.claimed:
            assert [a.slot_no for a in answers] == slots, "in the order of the names"
            assert [(a.resource_id, a.label) for a in answers] == seats

    @precondition(lambda self: self.model.claims)
    @rule(number=st.integers(0, 60))
    def release(self, number: int) -> None:
        """As long as no bridge has seen the claim, at once; afterwards through the ledger; too late, not at all."""
        claim = self.chosen_claim(number)
        answer = self.intake.release(claim.claim_id)
        expected = claim.status if self.model.ready else "not_ready"
        if expected == "held":
            expected = claim.place = "released"
        elif expected in {"queued", "validated"}:
            expected = "releasing" if claim.reads else "released"
            if claim.reads:
                self.model.revoke(claim)
            else:
                claim.place = "released"
        assert answer == expected, f"{answer}, not {expected}"

    @precondition(lambda self: self.model.ready)
    @rule()
    def ask_for_every_claim(self) -> None:
        for claim in self.model.claims.values():
            rows = self.intake.claim_slots(claim.claim_id)
            facts = {(row["slot_no"], row["resource_id"], row["label"]) for row in rows}
            assert len(rows) == len(claim.slots)
            assert facts == {(slot, *self.seat(slot)) for slot in claim.slots}
            for row in rows:
                assert row["expires_at"] is None or claim.place == "held"
                assert (row["state"], row["receipt"]) == (claim.status, claim.receipt), f"{row}, not {claim}"
        for (user, request), claim_id in self.model.requests.items():
            rows = self.intake.request_status(user, request)
            assert {row["slot_no"] for row in rows} == set(self.model.claims[claim_id].slots)
            assert {(row["claim_id"], row["state"]) for row in rows} == {(claim_id, self.model.claims[claim_id].status)}
        for claim_id in self.model.forgotten:
            assert self.intake.claim_status(claim_id)["state"] == "unknown"
        (proof,) = self.intake.dicts("SELECT * FROM intake.proof(%s)", POOL)
        settled = ("committed", "voided", "released", "expired", "held", "queued", "dead")
        assert proof["claims"] == sum(proof[place] for place in settled) == self.intake.status()["claims"]
        assert proof["slots"] == sum(len(claim.slots) for claim in self.model.at("committed"))

    @rule(wanted=wants, times=st.integers(1, 3))
    def claim_and_abort(self, wanted: Wanted, times: int) -> None:
        """Numbers are burnt, nothing else has happened."""
        for _ in range(times):
            with self.intake.connection.transaction(force_rollback=True):
                answer = self.intake.claim_requests(
                    [Request(wanted.user, wanted.request, wanted.quantity, wanted.payload)]
                )[0][0]
                verdicts = self.model.verdicts(wanted)
                assert answer.outcome in verdicts, f"{answer.outcome}, not {verdicts}"

    @precondition(lambda self: self.model.ready and not self.model.running)
    @rule(request=requests, quantity=st.integers(1, 2))
    def claim_slowly(self, request: str | None, quantity: int) -> None:
        """A claim whose transaction stays open."""
        wanted = Wanted(SLOW, request, quantity)
        verdicts = self.model.verdicts(wanted)
        self.slow.connection.set_autocommit(False)
        answers = answers_to(lambda: self.slow.claim_several(SLOW, quantity, request))
        assert answers[0].outcome in verdicts
        if answers[0].outcome == self.model.claimed:
            self.model.running = self.claim_of(answers, wanted)
        else:
            self.end_slow()

    @precondition(lambda self: self.model.running)
    @rule(commit=st.booleans())
    def end_slow_claim(self, commit: bool) -> None:
        self.end_slow(commit=commit)

    # Holds.

    @precondition(lambda self: self.model.claims)
    @rule(number=st.integers(0, 60), payload=payloads, stranger=st.sampled_from([False, False, False, True]))
    def confirm(self, number: int, payload: Payload, stranger: bool) -> None:
        claim = self.chosen_claim(number)
        user = "stranger" if stranger else claim.user
        expected = self.model.confirmation(claim, user, payload)
        try:
            answer: str | None = self.intake.confirm(claim.claim_id, user, payload)
        except psycopg.Error as error:
            answer = error.sqlstate
        assert answer == expected, f"{answer}, not {expected}"
        if answer == "confirmed":
            self.model.confirm(claim, payload)

    @precondition(lambda self: self.model.at("held"))
    @rule(payload=payloads)
    def confirm_all(self, payload: Payload) -> None:
        """What most buyers do: a machine that has to find it by chance sells little."""
        for claim in self.model.at("held"):
            assert self.intake.confirm(claim.claim_id, claim.user, payload) == self.model.confirmation(
                claim, claim.user, payload
            )
            if self.model.ready and not claim.over:
                self.model.confirm(claim, payload)

    @precondition(lambda self: self.model.holds and self.model.claims)
    @rule(number=st.integers(0, 60), stranger=st.sampled_from([False, False, False, True]))
    def extend(self, number: int, stranger: bool) -> None:
        claim = self.chosen_claim(number)
        user = "stranger" if stranger else claim.user
        answer, expires_at = self.intake.extend_hold(claim.claim_id, user)
        assert answer == self.model.extension(claim, user)
        assert (expires_at is not None) == (answer in {"extended", "replayed"})
        claim.extended = claim.extended or answer == "extended"

    @precondition(lambda self: self.model.at("held"))
    @rule(ended=st.booleans())
    def holds_run_out(self, ended: bool) -> None:
        """By the clock, and perhaps housekeeping has come by."""
        self.intake.expire_holds()
        for claim in self.model.at("held"):
            claim.over = True
        if ended:
            self.housekeep()

    @precondition(lambda self: self.model.holds)
    @rule()
    def time_goes_by(self) -> None:
        """What has ended without a confirmation is so old that housekeeping forgets it."""
        self.intake.connection.execute("UPDATE intake.holds SET ended_at = ended_at - interval '20 minutes'")
        for claim in self.model.at("released", "expired"):
            claim.old_end = not claim.confirmed
        self.housekeep()

    # Slots that are not for sale. It waits for running claims.

    @precondition(lambda self: self.model.ready and not self.model.running)
    @rule(numbers=st.lists(st.integers(1, 12), min_size=1, max_size=3), back=st.sampled_from([False, True, True]))
    def withhold(self, numbers: list[int], back: bool) -> None:
        asked = set(numbers) & set(range(1, self.model.capacity + 1))
        if back:
            query = self.intake.rows("SELECT * FROM intake.return_slots(%s, %s, 'ops', 'test')", POOL, numbers)
            changed, word = asked & self.model.withheld, "returned"
            self.model.withheld -= changed
        else:
            query = self.intake.rows("SELECT * FROM intake.withhold_slots(%s, %s, 'ops', 'test')", POOL, numbers)
            changed, word = asked & self.model.free, "withheld"
            self.model.withheld |= changed
        assert {slot for slot, outcome in query if outcome == word} == changed

    def chosen_claim(self, number: int) -> Claim:
        """Any claim; if there are holds, mostly one of them."""
        held = self.model.at("held") if number % 4 else []
        claims = sorted(held or self.model.claims.values(), key=lambda claim: claim.claim_id)
        return claims[number % len(claims)]

    def answered(self, verdicts: set[str], answers: list[Answer], wanted: Wanted) -> str:
        """Compare the answers to one request with what would be true, and remember what they promise."""
        (outcome,) = {answer.outcome for answer in answers}
        assert outcome in verdicts, f"{outcome}, not {verdicts}"
        if outcome == "replayed":
            assert wanted.request is not None
            first = self.model.claims[self.model.requests[wanted.user, wanted.request]]
            facts = [(a.claim_id, a.slot_no, a.resource_id) for a in answers]
            assert sorted(facts, key=lambda fact: fact[1] or 0) == [
                (first.claim_id, slot, resource)
                for slot, resource in sorted(zip(first.slots, first.resources, strict=True))
            ], "I7: another answer"
            assert all(a.expires_at is None or first.place == "held" for a in answers)
        elif outcome == self.model.claimed:
            self.model.made(self.claim_of(answers, wanted))
        else:
            assert [(a.outcome, a.claim_id, a.slot_no) for a in answers] == [(outcome, None, None)]
        return outcome
