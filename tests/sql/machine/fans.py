"""The machine's fans: claims of every kind, also in transactions that abort or stay open."""

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.sql.intake import Answer
from tests.sql.machine.base import Ground, requests, users

SLOW = "slow"


class Fans(Ground):
    """Claims."""

    @rule(user=users, request=requests)
    def claim(self, user: str, request: str | None) -> None:
        self.answered(self.model.verdicts(user, request), [self.intake.claim(user, request)], user, request)

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
