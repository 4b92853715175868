"""The machine's buyers: claims of every kind, also in transactions that abort or stay open."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.sql.intake import Answer
from tests.sql.machine.base import PoolMachine, requests, users

SLOW = "slow"


class Users(PoolMachine):
    """Claims."""

    @rule(user=users, request=requests)
    def claim(self, user: str, request: str | None) -> None:
        self.answered(self.model.verdicts(user, request), [self.intake.claim(user, request)], user, request)

    @rule(callers=st.permutations(["ann", "bob", "cid"]))
    def claim_anew(self, callers: list[str]) -> None:
        """Claims that no request id can turn into retries."""
        for user in callers:
            self.claim(user, None)

    @rule(user=users, request=requests, quantity=st.integers(1, 4))
    def claim_several(self, user: str, request: str | None, quantity: int) -> None:
        answers = self.intake.claim_several(user, quantity, request)
        outcome = self.answered(self.model.verdicts(user, request, quantity), answers, user, request)
        if outcome == "claimed":
            assert len(answers) == quantity, "all or nothing"
        elif outcome == "replayed" and request:
            assert len(answers) == len(self.model.requests[user, request]), "I7: all of the seats again"

    @rule(callers=st.lists(st.tuples(users, requests), min_size=1, max_size=5))
    def claim_batch(self, callers: list[tuple[str, str | None]]) -> None:
        """Each is answered as if all of them had claimed by themselves, in some order."""
        pending = list(zip(callers, self.intake.claim_batch(callers), strict=True))
        while pending:
            now = [p for p in pending if p[1].outcome in self.model.verdicts(*p[0])] or pending
            (user, request), answer = now[0]
            self.answered(self.model.verdicts(user, request), [answer], user, request)
            pending.remove(now[0])

    # A running claim may have the seat, or be bringing its burnt number back: the call would wait for its end.
    @precondition(lambda self: self.model.capacity and not self.model.running)
    @rule(user=users, request=requests, number=st.integers(0, 20), by_label=st.booleans())
    def claim_seat(self, user: str, request: str | None, number: int, by_label: bool) -> None:
        slot = number % self.model.capacity + 1
        refusal = self.model.refusal(user, request)
        free = slot in self.model.free
        verdicts = {refusal} if refusal else {"claimed" if free else "taken"}
        resource, label = self.seat(slot)
        answer = self.intake.claim_seat(user, label if by_label and label else str(resource), request)
        if self.answered(verdicts, [answer], user, request) == "claimed":
            assert (answer.slot_no, answer.resource_id) == (slot, resource), "another seat"

    @precondition(lambda self: self.model.claims)
    @rule(number=st.integers(0, 60))
    def release(self, number: int) -> None:
        """As long as no bridge has seen the claim, at once; afterwards through the ledger; too late, not at all."""
        claims = sorted(self.model.claims.values(), key=lambda claim: claim.claim_id)
        claim = claims[number % len(claims)]
        answer = self.intake.release(claim.claim_id)
        expected = claim.status if self.model.ready else "not_ready"
        if expected in {"queued", "validated"}:
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
            found = self.intake.claim_status(claim.claim_id)
            label = self.seat(claim.slot)[1]
            facts = {"state": claim.status, "slot_no": claim.slot, "resource_id": claim.resource, "label": label}
            assert found == facts, f"{found}, not {facts}"
        for (user, request), claim_ids in self.model.requests.items():
            rows = self.intake.request_status(user, request)
            assert [row["claim_id"] for row in rows] == claim_ids
            assert [row["state"] for row in rows] == [self.model.claims[claim_id].status for claim_id in claim_ids]

    @rule(user=users, request=requests, times=st.integers(1, 3))
    def claim_and_abort(self, user: str, request: str | None, times: int) -> None:
        """Numbers are burnt, nothing else has happened."""
        for _ in range(times):
            with self.intake.connection.transaction(force_rollback=True):
                answer = self.intake.claim(user, request)
                assert answer.outcome in self.model.verdicts(user, request)

    @precondition(lambda self: self.model.ready and not self.model.running)
    @rule(request=requests)
    def claim_slowly(self, request: str | None) -> None:
        """A claim whose transaction stays open."""
        verdicts = self.model.verdicts(SLOW, request)
        self.slow.connection.set_autocommit(False)
        answer = self.slow.claim(SLOW, request)
        assert answer.outcome in verdicts
        if answer.outcome == "claimed":
            self.model.running = self.claim_of(answer, SLOW, request)
        else:
            self.end_slow()

    @precondition(lambda self: self.model.running)
    @rule(commit=st.booleans())
    def end_slow_claim(self, commit: bool) -> None:
        self.end_slow(commit=commit)

    def answered(self, verdicts: set[str], answers: list[Answer], user: str, request: str | None) -> str:
        """Compare the answers to one call with what would be true, and remember what they promise."""
        (outcome,) = {answer.outcome for answer in answers}
        assert outcome in verdicts, f"{outcome}, not {verdicts}"
        if outcome == "replayed":
            assert request is not None
            assert {a.claim_id for a in answers} <= set(self.model.requests[user, request]), "I7: another claim"
            for answer in answers:
                assert answer.claim_id is not None
                first = self.model.claims[answer.claim_id]
                assert (answer.slot_no, answer.resource_id) == (first.slot, first.resource), "I7: another answer"
        elif outcome == "claimed":
            for answer in answers:
                self.model.made(self.claim_of(answer, user, request))
        else:
            assert answers == [Answer(outcome, None, None, None)]
        return outcome
