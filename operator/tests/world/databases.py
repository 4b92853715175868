"""DB1 as the operator can observe it, and the ledger."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from given import make_connections, make_status
from intake_operator import names
from intake_operator.database.databases import Login
from intake_operator.decide import connections
from intake_operator.model.engine_status import EngineStatus
from intake_operator.model.observed import DatabaseState, Event, LedgerState, Observed, PoolCheck
from intake_operator.model.proof import Account, DatabaseAccount, LedgerAnswer, Proof
from intake_operator.reasons import PoolReason, Problem

SLOTS = 12


@dataclass
class Ledger:
    """The ledger: claim to slot. While it is `away`, no client reaches it."""

    away: bool = False
    sold: dict[int, int] = field(default_factory=dict)
    twice: list[int] = field(default_factory=list)
    """Claims that it refused because another claim has the slot."""

    def commit(self, claim: int, slot: int) -> bool:
        """Whether it has the claim now."""
        if claim not in self.sold and slot in self.sold.values():
            self.twice.append(claim)
            return False
        self.sold[claim] = slot
        return True


@dataclass
class Claim:
    """A claim that was acknowledged. A hold has a time when it ends."""

    number: int
    slot: int
    state: str = "queued"
    ends: datetime | None = None


@dataclass
class Volume:
    """The data on one volume; everything but `hot` survives a crash of DB1."""

    identity: str
    migrated: bool = False
    logins: dict[str, str] = field(default_factory=dict)
    limit: int = -1
    config: dict[str, Any] = field(default_factory=dict)
    seeded: bool = False
    sealed: bool = False
    restored: dict[str, Any] | None = None
    hot: bool = False
    claims: dict[int, Claim] = field(default_factory=dict)

    def window(self, now: datetime) -> str:
        """By its own clock."""
        if now < datetime.fromisoformat(self.config["opensAt"]):
            return "scheduled"
        return "open" if now < datetime.fromisoformat(self.config["closesAt"]) else "closed"

    def count(self, *states: str) -> int:
        """Claims in any of these states."""
        return sum(claim.state in states for claim in self.claims.values())

    @property
    def taken(self) -> set[int]:
        """Slots that a claim has."""
        return {claim.slot for claim in self.claims.values() if claim.state != "expired"}

    def sells(self, now: datetime) -> bool:
        """Whether a claim would be accepted."""
        return self.hot and not self.sealed and self.window(now) == "open" and len(self.taken) < SLOTS

    def claim(self, number: int, now: datetime) -> None:
        """Take the first free slot. Where the event has a checkout, the claim is a hold."""
        slot = next(each for each in range(1, SLOTS + 1) if each not in self.taken)
        seconds = self.config.get("holdSeconds")
        self.claims[number] = Claim(number, slot)
        if seconds:
            self.claims[number] = Claim(number, slot, "held", now + timedelta(seconds=seconds))

    def confirm(self, count: int, now: datetime) -> None:
        """The first holds that have not ended are put on the queue, also behind the seal."""
        held = [claim for claim in self.claims.values() if claim.state == "held" and claim.ends and now < claim.ends]
        for claim in held[: count if self.hot else 0]:
            claim.state = "queued"

    def end_holds(self, now: datetime) -> set[int]:
        """A bridge's housekeeping: the holds whose time is over, which have ended now."""
        over = {c.number for c in self.claims.values() if c.state == "held" and c.ends and c.ends <= now}
        for number in over:
            self.claims[number].state = "expired"
        return over

    def status(self, now: datetime) -> EngineStatus:
        """intake.engine_status."""
        queued, dead, held = self.count("queued"), self.count("dead"), self.count("held")
        slots = {"held": held, "withheld": 0, "reserved": queued + dead, "consumed": self.count("committed")}
        free = SLOTS - len(self.taken) if self.hot else 0
        ends = max((c.ends for c in self.claims.values() if c.state == "held" and c.ends), default=now)
        return make_status(
            windowState=self.window(now),
            sealed=self.sealed,
            ready=self.hot,
            restored=self.restored,
            inventory={"size": SLOTS, "available": free, **slots},
            queue={"depth": queued, "inFlight": 0, "oldestSeconds": 0, "deadLetters": dead},
            held=held,
            ends=ends,
            claims=len(self.claims),
            committed=slots["consumed"],
            expired=self.count("expired"),
        )


class Databases:
    """What the operator uses instead of Databases, LedgerChecks, Proofs, Pools and ConsistencyChecks.

    `running` returns the volume of the running DB1, `now` its clock.
    """

    def __init__(self, running: Callable[[], Volume | None], now: Callable[[], datetime], ledger: Ledger) -> None:
        self._running, self._now, self._ledger = running, now, ledger
        self.seeded: list[Volume] = []
        """Volumes that got their slots, in order."""

    @property
    def _volume(self) -> Volume:
        found = self._running()
        if found is None:
            raise OSError("connection refused")
        return found

    # Databases

    async def observe(self, uid: str, pool: str, host: str, password: str) -> DatabaseState:
        """Look at DB1."""
        found = self._running()
        if found is None:
            return DatabaseState(error="connection refused")
        status = found.status(self._now()) if found.config else None
        return DatabaseState(
            reachable=True,
            identity=found.identity,
            migrated=found.migrated,
            logins=dict(found.logins),
            connections=make_connections(limit=found.limit) if found.migrated else None,
            status=status,
        )

    async def migrate(self, uid: str) -> None:
        """Install the schema."""
        self._volume.migrated = True

    async def limit_claimers(self, uid: str, others: int) -> None:
        """What claimers may have."""
        self._volume.limit = connections.claimer_limit(make_connections(), others)

    async def set_logins(self, uid: str, logins: dict[str, Login]) -> None:
        """Passwords out of Secrets."""
        self._volume.logins |= {role: login.fingerprint for role, login in logins.items()}

    async def configure(self, uid: str, pool: str, config: dict[str, Any]) -> None:
        """The live configuration."""
        assert self._volume.migrated
        self._volume.config |= config

    async def seed(self, uid: str, pool: str) -> int:
        """Slots, and the claimed slots out of what is LOGGED."""
        found = self._volume
        assert found.config
        if not found.seeded:
            self.seeded.append(found)
        found.seeded = found.hot = True
        return SLOTS

    async def seal(self, uid: str, pool: str, reason: str) -> None:
        """No more claims."""
        assert self._volume.config
        self._volume.sealed = True

    async def recover(self, uid: str, pool: str, ledger: object) -> None:
        """All of the ledger's claims, or none."""
        found = self._volume
        if self._ledger.away or found.seeded or found.restored:
            raise OSError("the ledger is away, or DB1 has a life of its own")
        sold = self._ledger.sold.items()
        found.claims = {number: Claim(number, slot, "committed") for number, slot in sold}
        found.restored = {"at": self._now().isoformat(), "committed": len(self._ledger.sold), "voided": 0}

    async def audit(self, uid: str, pool: str) -> tuple[str, ...]:
        """What people did by hand."""
        return ()

    async def close(self, uid: str) -> None:
        """Drop the connection."""

    # LedgerChecks, Pools, Proofs, ConsistencyChecks

    async def ledger(self, uid: str, ledger: object, function: str) -> LedgerState:
        """LedgerChecks.check."""
        return LedgerState(Problem.LEDGER_UNREACHABLE, "away") if self._ledger.away else LedgerState()

    async def pool(self, event: Event, ledger: object, *, live: bool) -> PoolCheck:
        """Pools.check."""
        if event.says(names.POOL_UNCHECKED_ANNOTATION):
            return PoolCheck(PoolReason.NOT_CHECKED, "not asked")
        if ledger is None or self._ledger.away:
            return PoolCheck(PoolReason.WAITING, "the ledger is away")
        return PoolCheck(PoolReason.USED_BEFORE if self._ledger.sold else PoolReason.UNUSED, "asked")

    async def prove(self, event: Event, observed: Observed, _: object) -> tuple[Proof | None, str]:
        """DB1's account, and the ledger's word on it."""
        if self._ledger.away:
            return None, "the account cannot be made"
        found = self._volume
        ours = {claim.number: claim.slot for claim in found.claims.values() if claim.state == "committed"}
        ledger = LedgerAnswer.AGREES if ours == self._ledger.sold else LedgerAnswer.DIFFERS
        ended = Account(committed=len(ours), voided=0, slots=len(ours), digest=0)
        account = DatabaseAccount(
            claims=len(found.claims),
            released=0,
            expired=found.count("expired"),
            held=found.count("held"),
            queued=found.count("queued"),
            dead_letters=found.count("dead"),
            ended=ended,
            violations=(),
        )
        return Proof(account, ledger), ""

    def is_due(self, uid: str) -> bool:
        """Claims are not compared here."""
        return False

    def latest(self, uid: str) -> None:
        """So there is no verdict."""

    def forget(self, uid: str) -> None:
        """Nothing is remembered."""


def window(opens: datetime, minutes: int) -> dict[str, str]:
    """spec.window."""
    return {"opensAt": opens.isoformat(), "closesAt": (opens + timedelta(minutes=minutes)).isoformat()}
