"""The base of the state machine: a pool, what may be done to it from outside, and what must be true after each step."""

from collections import Counter
from datetime import timedelta
from uuid import UUID, uuid4

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.sql.intake import POOL, Answer, Intake, empty, lose_unlogged, window
from tests.sql.machine.model import Claim, Model, Wanted

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
        holds=st.booleans(),
    )
    def provision(
        self, size: int, limit: int | None, claim_timeout: int | None, own: bool, asks: bool, holds: bool
    ) -> None:
        self.model = Model(size, limit, claim_timeout, holds)
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
            holdSeconds=3600 if self.model.holds else None,
            extendSeconds=3600 if self.model.holds else None,
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
        self.model.housekept()

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

    def claim_of(self, answers: list[Answer], wanted: Wanted) -> Claim:
        """The claim that answers speak of, one for each slot."""
        (claim_id,) = {answer.claim_id for answer in answers}
        slots = [answer.slot_no for answer in answers if answer.slot_no]
        resources = [answer.resource_id for answer in answers if answer.resource_id]
        assert claim_id is not None
        assert len(slots) == len(resources) == wanted.quantity, "all or nothing"
        assert wanted.named in (None, frozenset(slots)), "other seats"
        assert all((answer.expires_at is not None) == self.model.holds for answer in answers)
        place = "held" if self.model.holds else "queued"
        return Claim(claim_id, wanted, slots, resources, place, wanted.payload)

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
            "SELECT i.message ->> 'claim_id', i.place, i.message ->> 'state', i.message ->> 'user_id',"
            " i.message ->> 'request_id', nullif(i.message -> 'payload', 'null'),"
            " (SELECT jsonb_object_agg(s ->> 'slot_no', s ->> 'resource_id')"
            " FROM jsonb_array_elements(i.message -> 'seats') s), i.msg_id FROM intake.intents i"
        )
        places = {row[0]: row[1:-1] for row in found}
        expected = {
            str(c.claim_id): (
                c.place, c.state, c.user, c.wanted.request, c.payload,
                {str(slot): str(resource) for slot, resource in zip(c.slots, c.resources, strict=True)},
            )
            for c in self.model.claims.values()
        }  # fmt: skip
        assert len(places) == len(found), "I2"
        assert places == expected, f"I2: {places}, not {expected}"
        for claim_id, *_, msg_id in found:
            self.model.claims[UUID(claim_id)].msg_id = msg_id

    @invariant()
    def i6_the_counts_add_up(self) -> None:
        status, model = self.intake.status(), self.model
        places = Counter(claim.place for claim in model.claims.values())
        slots = Counter(claim.place for claim in model.claims.values() for _ in claim.slots)
        ended = Counter(model.forgotten.values())
        withheld, reserved = len(model.withheld), slots["queued"] + slots["dead"]
        available = model.capacity - slots["held"] - withheld - reserved - slots["committed"]
        assert status["ready"] is model.ready
        expected = {
            "size": model.size, "available": available if model.ready else 0, "held": slots["held"],
            "withheld": withheld, "reserved": reserved, "consumed": slots["committed"],
        }  # fmt: skip
        assert status["inventory"] == expected, f"I6: {status['inventory']}, not {expected}"
        assert (status["queue"]["depth"], status["queue"]["deadLetters"]) == (places["queued"], places["dead"])
        assert (status["claims"], status["held"]) == (len(model.claims) + len(model.forgotten), places["held"])
        assert status["holds"]["claims"] == places["held"]
        for place in ("committed", "voided", "released", "expired"):
            assert status[place] == places[place] + ended[place]
        if model.ready:
            free = self.intake.column("SELECT slot_no FROM intake.allocations WHERE status = 'AVAILABLE'")
            taken = set(model.withheld).union(*(claim.slots for claim in model.claims.values() if claim.has_slots))
            assert free == [slot for slot in range(1, model.capacity + 1) if slot not in taken], f"I6: {free}"
