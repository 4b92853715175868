"""What DB1 must answer, in a few lines of Python without sequences, latches and free lists."""

from dataclasses import dataclass, field
from uuid import UUID

type Request = tuple[str, str]


@dataclass(frozen=True)
class Lease:
    """A lease of a bridge, which may have run out."""

    claim_id: UUID
    msg_id: int
    read_ct: int


type Payload = dict[str, int] | None


@dataclass(frozen=True)
class Wanted:
    """What a request asks for: so many slots, or these."""

    user: str
    request: str | None = None
    quantity: int = 1
    payload: Payload = None
    named: frozenset[int] | None = None


@dataclass
class Claim:
    """One claim: what was asked for, what was answered, and where it is."""

    claim_id: UUID
    wanted: Wanted
    slots: list[int]
    resources: list[UUID]
    place: str
    """held, queued, dead, committed, voided, released or expired."""
    payload: Payload = None
    """That of its confirmation, if that had one."""
    over: bool = False
    """It is held, and its time has passed."""
    extended: bool = False
    confirmed: bool = False
    old_end: bool = False
    """It was never confirmed, and ended so long ago that it may be forgotten."""
    validation: Payload = None
    receipt: Payload = None
    msg_id: int = 0
    """Its place on the queue, which is DB1's own affair."""
    state: str = "queued"
    """queued, validated or committing."""
    reads: int = 0
    """How often it was taken over. 0: no bridge has ever seen it."""
    lease: Lease | None = None
    """The valid lease: no other worker has leased the message since, and it was not given back."""
    leased: bool = False
    """Not due yet."""
    voiding: bool = False
    """To be voided, not committed."""
    old: bool = False
    """Past the claim timeout."""
    failures: int = 0
    named: bool = False
    """It names the worker of a delivery that has not ended."""
    unfinished: int = 0
    """Deliveries in a row that had no end."""
    alone: bool = False
    """Read alone."""

    @property
    def user(self) -> str:
        """Whose it is."""
        return self.wanted.user

    @property
    def has_slots(self) -> bool:
        """Whether its slots are not free."""
        return self.place in {"held", "queued", "dead", "committed"}

    @property
    def status(self) -> str:
        """What claim_status says."""
        if self.place != "queued":
            return "expired" if self.over and self.place == "held" else self.place
        return "releasing" if self.voiding else self.state

    def differs(self, wanted: Wanted) -> bool:
        """Whether a repeated request asks for something else."""
        first = self.wanted
        return (first.quantity, first.named, first.payload) != (wanted.quantity, wanted.named, wanted.payload)


@dataclass
class Model:
    """One pool, its claims, and the ledger behind it."""

    size: int
    """Slots as configured."""
    limit: int | None
    claim_timeout: int | None
    holds: bool
    """A claim waits to be confirmed."""
    capacity: int = 0
    """Slots on sale."""
    ready: bool = False
    paused: bool = False
    window: str = "open"
    claims: dict[UUID, Claim] = field(default_factory=dict)
    requests: dict[Request, UUID] = field(default_factory=dict)
    forgotten: dict[UUID, str] = field(default_factory=dict)
    """How claims ended that DB1 has forgotten."""
    withheld: set[int] = field(default_factory=set)
    leases: list[Lease] = field(default_factory=list)
    resources: dict[int, UUID] = field(default_factory=dict)
    """Every resource id that was ever answered, by slot."""
    ledger: dict[UUID, str] = field(default_factory=dict)
    """The outcome of each claim in the ledger, which is final."""
    running: Claim | None = None
    """The claim of a transaction that has not ended."""

    @property
    def claimed(self) -> str:
        """The outcome of a claim that gets its slots."""
        return "held" if self.holds else "claimed"

    @property
    def free(self) -> set[int]:
        """Slots that are neither claimed nor withheld, and that no running claim may take."""
        taken = {slot for claim in self.claims.values() if claim.has_slots for slot in claim.slots} | self.withheld
        if self.running:
            taken.update(self.running.slots)
        return set(range(1, self.capacity + 1)) - taken

    def counted(self, user: str) -> int:
        """How many slots count for the user's limit."""
        return sum(len(claim.slots) for claim in self.claims.values() if claim.has_slots and claim.user == user)

    def at(self, *places: str) -> list[Claim]:
        """The claims that are there, in the queue's order."""
        return sorted((c for c in self.claims.values() if c.place in places), key=lambda c: c.msg_id)

    def refusal(self, wanted: Wanted) -> str | None:
        """The outcome that needs no slot; None: a slot is tried."""
        if not self.ready:
            return "not_ready"
        if wanted.request and (first := self.requests.get((wanted.user, wanted.request))):
            return "different" if self.claims[first].differs(wanted) else "replayed"
        if self.window != "open":
            return self.window
        if self.paused:
            return "paused"
        if self.limit is not None and self.counted(wanted.user) + wanted.quantity > self.limit:
            return "limit_reached"
        return None

    def verdicts(self, wanted: Wanted) -> set[str]:
        """The outcomes that would be true of a claim; one, unless a transaction is running."""
        refusal = self.refusal(wanted)
        if refusal == "limit_reached" and not self.free and not self.counted(wanted.user):
            return {refusal, "sold_out"}  # both are true, and a batch looks for free slots first
        if refusal:
            return {refusal}
        if wanted.named is not None:
            return {self.claimed if wanted.named <= self.free else "taken"}
        free = len(self.free)
        if self.running:
            # Its slots may come back, and while it runs, burnt numbers look like numbers that it has drawn.
            if free >= wanted.quantity:
                return {"busy", self.claimed}
            return {"busy"} | ({"too_few"} if free or wanted.quantity > len(self.running.slots) else set())
        return {self.claimed if free >= wanted.quantity else "too_few" if free else "sold_out"}

    def confirmation(self, claim: Claim, user: str, payload: Payload) -> str:
        """What confirm_claim answers; IE009 is an error."""
        if not self.ready:
            return "not_ready"
        if user != claim.user:
            return "unknown"
        if claim.status in {"held", "expired"} or (claim.status == "released" and not claim.confirmed):
            return "confirmed" if claim.status == "held" else claim.status
        return "replayed" if payload in (None, claim.payload) else "IE009"

    def extension(self, claim: Claim, user: str) -> str:
        """What extend_hold answers."""
        answer = self.confirmation(claim, user, None)
        if answer == "confirmed":
            return "replayed" if claim.extended else "extended"
        return "confirmed" if answer == "replayed" else answer

    def confirm(self, claim: Claim, payload: Payload) -> None:
        """On its way."""
        claim.place, claim.confirmed, claim.payload = "queued", True, payload or claim.payload

    def housekept(self) -> None:
        """What housekeeping does: rebuild, end holds, forget those that ended long ago, void what is too old."""
        if not self.ready:
            self.seeded()
        for claim in self.at("held"):
            if claim.over:
                claim.place = "expired"
        self.forget()
        self.expire()

    def forget(self) -> None:
        """Holds that ended long ago; with a limit not the first and the last claim of a user."""
        old = [claim for claim in self.claims.values() if claim.old_end]
        of_user = {
            claim.user: sorted(c.claim_id for c in self.claims.values() if c.user == claim.user) for claim in old
        }
        for claim in old:
            claim.old_end = False
            if self.limit is None or claim.claim_id not in {of_user[claim.user][0], of_user[claim.user][-1]}:
                self.forgotten[claim.claim_id] = self.claims.pop(claim.claim_id).place
                if claim.wanted.request:
                    del self.requests[claim.user, claim.wanted.request]

    def replay(self, claim: Claim) -> None:
        """On the queue again, as something that bridges have seen."""
        claim.place, claim.reads, claim.failures, claim.leased, claim.old = "queued", 1, 0, False, False
        claim.lease = None
        self.ended(claim)

    def ended(self, claim: Claim) -> None:
        """A delivery had an end."""
        claim.named, claim.unfinished, claim.alone = False, 0, False

    def unfinished_three_times(self, claim: Claim) -> bool:
        """Three deliveries in a row."""
        return claim.named and claim.unfinished >= 2

    def quarantine_messages(self, claim: Claim) -> None:
        """Read alone from now on."""
        claim.lease, claim.named, claim.unfinished, claim.alone = None, False, 0, True

    def revoke(self, claim: Claim) -> None:
        """Its lease is revoked, and it is to be voided."""
        claim.voiding, claim.leased, claim.reads, claim.lease = True, False, claim.reads + 1, None
        claim.named = False

    def made(self, claim: Claim) -> None:
        """A claim that was acknowledged."""
        assert claim.claim_id not in self.claims, "two claims of one id"
        assert self.free.issuperset(claim.slots), f"I1: slots {claim.slots} are not free"
        for slot, resource in zip(claim.slots, claim.resources, strict=True):
            assert self.resources.setdefault(slot, resource) == resource, "a slot changed its resource id"
        self.claims[claim.claim_id] = claim
        if claim.wanted.request:
            self.requests[claim.user, claim.wanted.request] = claim.claim_id

    def is_valid(self, lease: Lease) -> bool:
        """Whether what it is used for may change anything (I9)."""
        claim = self.claims[lease.claim_id]
        return claim.place == "queued" and claim.lease == lease

    def due(self, *, voiding: bool) -> list[Claim]:
        """What a reader gets."""
        return [c for c in self.unleased() if c.voiding == voiding and not c.alone]

    def unleased(self) -> list[Claim]:
        """What may be read, alone or not."""
        return [] if self.paused else [c for c in self.at("queued") if not c.leased]

    def commit(self, claim: Claim) -> None:
        """The ledger is asked to commit, by any worker that has or had the message. It takes a slot only once."""
        if claim.claim_id not in self.ledger:
            for other, word in self.ledger.items():
                assert word != "committed" or not set(self.claims[other].slots) & set(claim.slots), (
                    f"I1: a slot of {claim.slots} is sold to {other}, and {claim.claim_id} could be committed too"
                )
            self.ledger[claim.claim_id] = "committed"

    def void(self, claim: Claim) -> None:
        """The ledger is asked to void."""
        self.ledger.setdefault(claim.claim_id, "voided")

    def expire(self) -> None:
        """What housekeeping does to claims past the claim timeout."""
        for claim in [] if self.paused else self.at("queued"):
            has_bridge = claim.leased and claim.named  # a claim that was given back only waits
            if self.claim_timeout and claim.old and claim.state != "committing" and not (claim.voiding or has_bridge):
                self.revoke(claim)

    def crash(self) -> None:
        """What is not LOGGED is gone, and so is every running transaction."""
        self.ready, self.running = False, None

    def seeded(self) -> None:
        """Provisioned, grown or rebuilt."""
        self.ready, self.capacity = True, self.size
