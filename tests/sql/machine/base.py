"""The base of the state machine: a pool, what may be done to it from outside, and what must be true after each step."""

from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.sql.intake import POOL, Answer, Intake, empty, lose_unlogged, window
from tests.sql.machine.model import Claim, Model

WINDOWS = {
    "open": {},
    "not_open": window(opens=timedelta(minutes=30)),
    "closed": window(closes=timedelta(minutes=-30)),
}
users = st.sampled_from(["ann", "bob", "cid"])
limits = st.sampled_from([None, 2, 3, 4])
LARGEST = 12
PATIENCE = 3
requests = st.sampled_from([None, "r1", "r2", "r3"])


class PoolMachine(RuleBasedStateMachine):
    """One pool on an empty DB1."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        empty(uri)
        self.intake = Intake(uri)
        self.slow = Intake(uri)
        # A vacuum locks the hot row's table as a claim does, and the answer is `busy` where the model expects another.
        self.intake.connection.execute("ALTER TABLE intake.pools SET (autovacuum_enabled = false)")

    def teardown(self) -> None:
        self.slow.connection.close()
        self.intake.connection.close()

    @initialize(
        size=st.integers(2, 8),
        limit=limits,
        claim_timeout=st.sampled_from([None, 600]),
        own=st.booleans(),
        asks=st.booleans(),
    )
    def provision(self, size: int, limit: int | None, claim_timeout: int | None, own: bool, asks: bool) -> None:
        self.model = Model(size, limit, claim_timeout)
        self.asks = asks  # a validator
        self.own, self.closed_for = own, 0
        self.configure()
        if own:
            ids = [uuid4() for _ in range(LARGEST)]
            self.stocked = [(one, f"seat {n}" if n % 3 else None) for n, one in enumerate(ids, 1)]
            self.intake.stock(1, self.stocked)
        self.seed()

    def seat(self, slot: int) -> tuple[UUID, str | None]:
        """The resource id of a slot, and its label."""
        if self.own:
            return self.stocked[slot - 1]
        return self.intake.value(
            "SELECT intake_private.resource_of(intake_private.resource_prefix_of(%s), %s)", POOL, slot
        ), None

    def configure(self) -> None:
        """Make the configuration what the model says."""
        if self.model.running and not self.intake.rows("SELECT FROM intake.pools FOR UPDATE SKIP LOCKED"):
            self.end_slow(commit=True)  # its claim has set the latch: configure() waits for its end
        self.intake.configure(
            self.model.size,
            claimsPerUser=self.model.limit,
            claimTimeoutSeconds=self.model.claim_timeout,
            paused=self.model.paused,
            visibilityTimeoutSeconds=3600,
            ownResources=self.own,
            validation={"url": "http://validator"} if self.asks else None,
            **WINDOWS[self.model.window],
        )

    @rule(more=st.integers(1, 3), seed=st.booleans())
    def grow(self, more: int, seed: bool) -> None:
        self.model.size = min(self.model.size + more, LARGEST)
        self.configure()
        if seed:
            self.seed()

    def seed(self) -> None:
        """Provision, grow or rebuild."""
        self.intake.seed()
        self.model.seeded()

    @rule()
    def housekeep(self) -> None:
        self.intake.housekeep()
        if not self.model.ready:
            self.model.seeded()
        self.model.expire()

    @rule(window=st.sampled_from(["open", "not_open", "closed"]), paused=st.booleans())
    def change_window(self, window: str, paused: bool) -> None:
        self.model.window, self.model.paused = window, paused
        self.configure()

    @precondition(lambda self: not self.model.running)  # it may wait for running claims
    @rule(limit=limits)
    def change_limit(self, limit: int | None) -> None:
        self.model.limit = limit
        self.configure()

    @precondition(lambda self: self.model.ready)
    @rule(lost=st.sampled_from([0, 1, 32]))
    def crash(self, lost: int) -> None:
        self.end_slow()
        # A sequence is logged 32 numbers ahead: that many numbers may be lost.
        sequence = "intake.numbers_1"
        last = self.intake.value("SELECT coalesce(pg_sequence_last_value(%s::regclass), 0)", sequence)
        if last + lost:
            self.intake.value("SELECT setval(%s, %s)", sequence, last + lost)
        lose_unlogged(self.intake.connection)
        self.model.crash()

    def end_slow(self, *, commit: bool = False) -> None:
        """End the transaction that is running, if one is."""
        (self.slow.connection.commit if commit else self.slow.connection.rollback)()
        self.slow.connection.set_autocommit(True)
        if commit and self.model.running:
            claim, self.model.running = self.model.running, None
            self.model.made(claim)
        self.model.running = None

    def claim_of(self, answer: Answer, user: str, request: str | None) -> Claim:
        """The claim that an answer speaks of."""
        assert answer.claim_id is not None
        assert answer.resource_id is not None
        assert answer.slot_no is not None
        return Claim(answer.claim_id, user, request, answer.slot_no, answer.resource_id)

    @invariant()
    def nothing_stays_closed(self) -> None:
        """A few steps see a pool that is closed, paused or lost; the others shall have something to do."""
        open_now = self.model.ready and not self.model.paused and self.model.window == "open"
        self.closed_for = 0 if open_now else self.closed_for + 1
        if self.closed_for > PATIENCE:
            self.change_window("open", paused=False)
            self.housekeep()

    # What must be true after every step.

    @invariant()
    def nothing_to_reconcile(self) -> None:
        violations = self.intake.reconcile()
        assert not violations, violations

    @invariant()
    def i2_every_claim_is_where_the_model_has_it(self) -> None:
        found = self.intake.rows(
            "SELECT (message ->> 'claim_id')::uuid, place, message ->> 'state', (message ->> 'slot_no')::int,"
            " message ->> 'user_id', message ->> 'request_id', (message ->> 'resource_id')::uuid, msg_id"
            " FROM intake.intents"
        )
        places = [row[:-1] for row in found]
        expected = [
            (c.claim_id, c.place, c.state, c.slot, c.user, c.request, c.resource) for c in self.model.claims.values()
        ]
        assert len(places) == len(expected), "I2"
        assert not set(places) ^ set(expected), f"I2: {set(places) ^ set(expected)}"
        for claim_id, *_, msg_id in found:
            self.model.claims[claim_id].msg_id = msg_id

    @invariant()
    def i6_the_counts_add_up(self) -> None:
        status = self.intake.status()
        places = Counter(claim.place for claim in self.model.claims.values())
        reserved, consumed = places["queued"] + places["dead"], places["committed"]
        available = self.model.capacity - reserved - consumed if self.model.ready else 0
        assert status["ready"] is self.model.ready
        counts: dict[str, Any] = status["inventory"]
        assert (counts["available"], counts["reserved"], counts["consumed"]) == (available, reserved, consumed), (
            f"I6: {counts}, not {available}, {reserved}, {consumed}"
        )
        assert (status["queue"]["depth"], status["queue"]["deadLetters"]) == (places["queued"], places["dead"])
        assert status["claims"] == len(self.model.claims)
        assert (status["voided"], status["released"]) == (places["voided"], places["released"])
        if self.model.ready:
            held = {claim.slot for claim in self.model.claims.values() if claim.has_slot}
            free = self.intake.column("SELECT slot_no FROM intake.allocations WHERE status = 'AVAILABLE'")
            assert free == [slot for slot in range(1, self.model.capacity + 1) if slot not in held], f"I6: {free}"
