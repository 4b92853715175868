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


@dataclass
class Claim:
    """One claim: what was answered, and where it is."""

    claim_id: UUID
    user: str
    request: str | None
    slot: int
    resource: UUID
    msg_id: int = 0
    """Its place on the queue, which is DB1's own affair."""
    place: str = "queued"
    """queued, dead, committed, voided or released."""
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
    def has_slot(self) -> bool:
        """Whether its slot is not free."""
        return self.place in {"queued", "dead", "committed"}

    @property
    def status(self) -> str:
        """What claim_status says."""
        if self.place != "queued":
            return self.place
        return "releasing" if self.voiding else self.state


@dataclass
class Model:
    """One pool, its claims, and the ledger behind it."""

    size: int
    """Slots as configured."""
    limit: int | None
    claim_timeout: int | None
    capacity: int = 0
    """Slots on sale."""
    ready: bool = False
    paused: bool = False
    window: str = "open"
    claims: dict[UUID, Claim] = field(default_factory=dict)
    requests: dict[Request, list[UUID]] = field(default_factory=dict)
    leases: list[Lease] = field(default_factory=list)
    resources: dict[int, UUID] = field(default_factory=dict)
    """Every resource id that was ever answered, by slot."""
    ledger: dict[UUID, str] = field(default_factory=dict)
    """The outcome of each claim in the ledger, which is final."""
    running: Claim | None = None
    """The claim of a transaction that has not ended."""

    @property
    def free(self) -> set[int]:
        """Slots that are not claimed and that no running claim may take."""
        taken = {claim.slot for claim in self.claims.values() if claim.has_slot}
        if self.running:
            taken.add(self.running.slot)
        return set(range(1, self.capacity + 1)) - taken

    def counted(self, user: str) -> int:
        """How many claims count for the user's limit."""
        return sum(claim.has_slot and claim.user == user for claim in self.claims.values())

    def at(self, *places: str) -> list[Claim]:
        """The claims that are there, in the queue's order."""
        return sorted((c for c in self.claims.values() if c.place in places), key=lambda c: c.msg_id)

    def refusal(self, user: str, request: str | None, quantity: int = 1) -> str | None:
        """The outcome that needs no slot; None: a slot is tried."""
        if not self.ready:
            return "not_ready"
        if request and (user, request) in self.requests:
            return "replayed"
        if self.window != "open":
            return self.window
        if self.paused:
            return "paused"
        if self.limit is not None and self.counted(user) + quantity > self.limit:
            return "limit_reached"
        return None

    def verdicts(self, user: str, request: str | None, quantity: int = 1) -> set[str]:
        """The outcomes that would be true of a claim for any slots; one, unless a transaction is running."""
        refusal = self.refusal(user, request, quantity)
        if refusal:
            return {refusal}
        free = len(self.free)
        if self.running:
            # Its slot may come back, and while it runs, burnt numbers look like numbers that it has drawn.
            return {"busy", "claimed"} if free >= quantity else {"busy"} | ({"too_few"} if free else set())
        return {"claimed" if free >= quantity else "too_few" if free else "sold_out"}

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
        assert claim.slot in self.free, f"I1: slot {claim.slot} is not free"
        assert self.resources.setdefault(claim.slot, claim.resource) == claim.resource, "a slot changed its resource id"
        self.claims[claim.claim_id] = claim
        if claim.request:
            self.requests.setdefault((claim.user, claim.request), []).append(claim.claim_id)

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
                assert word != "committed" or self.claims[other].slot != claim.slot, (
                    f"I1: slot {claim.slot} is sold to {other}, and {claim.claim_id} could be committed too"
                )
            self.ledger[claim.claim_id] = "committed"

    def void(self, claim: Claim) -> None:
        """The ledger is asked to void."""
        self.ledger.setdefault(claim.claim_id, "voided")

    def expire(self) -> None:
        """What housekeeping does to claims past the claim timeout."""
        for claim in self.unleased():
            if self.claim_timeout and claim.old and claim.state != "committing" and not claim.voiding:
                self.revoke(claim)

    def crash(self) -> None:
        """What is not LOGGED is gone, and so is every running transaction."""
        self.ready, self.running = False, None

    def seeded(self) -> None:
        """Provisioned, grown or rebuilt."""
        self.ready, self.capacity = True, self.size
