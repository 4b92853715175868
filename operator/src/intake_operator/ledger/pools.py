"""Whether a pool was sold before: asks the ledger and the other events, until the first slot is seeded."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final, Protocol

import psycopg
from intake_shared.redaction import one_line

from intake_operator import names
from intake_operator.addresses import Address
from intake_operator.children.installation import CLUSTER_DOMAIN
from intake_operator.decide.pool import LedgerKey, Rival, announced, in_use, live, used_before, without
from intake_operator.ledger.account import read_account
from intake_operator.ledger.connection import ledger_key
from intake_operator.long_reads import LongReads
from intake_operator.model.observed import Event, Manifest, PoolCheck
from intake_operator.model.parse import parse
from intake_operator.model.secrets import text
from intake_operator.reasons import PoolReason
from intake_operator.remembered import Remembered

# A check reads all events.
LASTS: Final = timedelta(seconds=3)
# The ledger's account of the pool: for the passes until the verdict is announced and the first slot seeded.
ACCOUNT_LASTS: Final = timedelta(seconds=30)


class Objects(Protocol):
    """What is needed of a cluster."""

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """One object; None when there is none."""

    async def list_everywhere(self, kind: str, namespaces: Sequence[str]) -> list[Manifest]:
        """All objects of a kind in these namespaces."""


class Pools:
    """Checks pools. `clock` is in seconds; `namespaces` are those that are served, empty means all.

    The other events come first, the ledger after them: what it says while another event of the pool lives may be older
    than the last claim that this event commits. `cluster` may lag behind, and `live` may not.
    """

    def __init__(
        self,
        cluster: Objects,
        live: Objects,
        clock: Callable[[], float],
        long_reads: LongReads,
        namespaces: Sequence[str] = (),
        cluster_domain: str = CLUSTER_DOMAIN,
    ) -> None:
        self._cluster, self._live = cluster, live
        self._long_reads = long_reads
        self._namespaces = namespaces
        self._domain = cluster_domain
        self._in_use: Remembered[object, PoolCheck | None] = Remembered(clock)
        """The verdict of the other events; None where none has the pool."""
        self._accounts: Remembered[object, PoolCheck] = Remembered(clock)
        """What the ledger says, by itself."""

    async def check(self, event: Event, ledger: Address | None, *, live: bool) -> PoolCheck:
        """Whether the pool may be sold. `ledger` is one in Postgres; None for a webhook, or while it is unusable.

        The ledger's account of a pool is a long read: its end wakes the event, and until then the check is WAITING.
        `live`: everything is asked now, the events of the API server itself. A pass that seeds asks so: of two events
        that are checked at the same time, at least one then reads of the other.
        """
        if event.says(names.POOL_UNCHECKED_ANNOTATION):
            return _unchecked()
        question = (ledger, event.generation, announced(event))
        if live or self._in_use.is_due(event.uid, question):
            rival = await self._rival(event, self._live if live else self._cluster)
            self._in_use.keep(event.uid, question, rival, LASTS)
        if found := self._in_use.latest(event.uid):
            self._long_reads.stop(event.uid)
            self._accounts.forget(event.uid)
            return found
        if verdict := _without_ledger(event, ledger):
            return verdict
        assert ledger is not None
        if live:
            return await _ask(event, ledger)
        return self._account(event, ledger) or _waiting(
            event, "the ledger is being asked whether the pool was sold before"
        )

    def forget(self, uid: str) -> None:
        """Drop what is known about an event that is gone."""
        self._long_reads.stop(uid)
        self._in_use.forget(uid)
        self._accounts.forget(uid)

    async def check_ahead(self, event: Event, ledger: Address | None) -> PoolCheck:
        """The same for what runs outside of passes: it waits for the ledger, and remembers nothing."""
        if event.says(names.POOL_UNCHECKED_ANNOTATION):
            return _unchecked()
        if found := await self._rival(event, self._cluster) or _without_ledger(event, ledger):
            return found
        assert ledger is not None
        return await _ask(event, ledger)

    def _account(self, event: Event, ledger: Address) -> PoolCheck | None:
        """What the ledger says of the pool; while it is being asked anew its last answer, None before the first."""
        question = (ledger, event.generation)
        if known := self._accounts.fresh(event.uid, question):
            return known

        async def ask() -> None:
            check = await _ask(event, ledger)
            lasts = LASTS if check.reason is PoolReason.WAITING else ACCOUNT_LASTS
            self._accounts.keep(event.uid, question, check, lasts)

        self._long_reads.start("pool", event.uid, (event.namespace, event.name), ask)
        known = self._accounts.latest_to(event.uid, question)
        return replace(known, asking=True) if known else None

    async def _rival(self, event: Event, cluster: Objects) -> PoolCheck | None:
        """The verdict if another event has the pool."""
        return in_use(event, await self._ledger(event, cluster), await self._rivals(event, cluster))

    async def _rivals(self, event: Event, cluster: Objects) -> list[Rival]:
        found = await cluster.list_everywhere(names.KIND, self._namespaces)
        others = [
            parse(body)
            for body in found
            if body["metadata"]["uid"] != event.uid
            and (body.get("spec") or {}).get("pool") == event.pool
            and live(body)
        ]
        return [Rival(other, await self._ledger(other, cluster)) for other in others]

    async def _ledger(self, event: Event, cluster: Objects) -> LedgerKey | None:
        """The ledger that an event commits to; None where its Secret does not tell."""
        target = event.spec.commit_target if event.spec else None
        if target is None:
            return None
        if target.webhook:
            return ("webhook", target.webhook.url)
        assert target.postgres is not None
        ref = target.postgres.secret_ref
        secret = await cluster.get("Secret", event.namespace, ref.name)
        uri = text(secret, ref.key) if secret else ""
        return ledger_key(Address(uri, event.namespace), target.postgres.function, self._domain) if uri else None


async def _ask(event: Event, ledger: Address) -> PoolCheck:
    try:
        account = await read_account(ledger, event.pool)
    except (psycopg.Error, OSError) as error:
        silent = f"the ledger does not say whether the pool was sold before: {one_line(error)}"
        return _waiting(event, f"{silent}. Slots are seeded when it does")
    if account is None:
        return PoolCheck(
            PoolReason.NOT_CHECKED, "the ledger offers no ledger_proof, so it was not asked about the pool"
        )
    return used_before(event, account.committed, account.voided)


def _without_ledger(event: Event, ledger: Address | None) -> PoolCheck | None:
    """The verdict where the ledger cannot be asked; None where it can."""
    if event.spec is not None and event.spec.commit_target.postgres is None:
        return PoolCheck(PoolReason.NOT_CHECKED, "a webhook ledger cannot be asked whether the pool was sold before")
    if ledger is None:
        return _waiting(event, "slots are seeded when the ledger has said that the pool was not sold before")
    return None


def _waiting(event: Event, what: str) -> PoolCheck:
    return PoolCheck(PoolReason.WAITING, f"{what}; {without(event)}")


def _unchecked() -> PoolCheck:
    return PoolCheck(
        PoolReason.NOT_CHECKED, f"not asked: the annotation {names.POOL_UNCHECKED_ANNOTATION} opens the pool without it"
    )
