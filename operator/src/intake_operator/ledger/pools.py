"""Whether a pool was sold before: asks the ledger and the other events, until the first slot is seeded."""

from collections.abc import Callable, Sequence
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
from intake_operator.model.observed import Event, Manifest, PoolCheck
from intake_operator.model.parse import parse
from intake_operator.model.secrets import text
from intake_operator.reasons import PoolReason
from intake_operator.remembered import Remembered

# A check reads all events, and the ledger's account of the pool.
LASTS: Final = timedelta(seconds=3)


class Objects(Protocol):
    """What is needed of a cluster."""

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """One object; None when there is none."""

    async def list_everywhere(self, kind: str, namespaces: Sequence[str]) -> list[Manifest]:
        """All objects of a kind in these namespaces."""


class Pools:
    """Checks pools. `clock` is in seconds; `namespaces` are those that are served, empty means all."""

    def __init__(
        self,
        cluster: Objects,
        clock: Callable[[], float],
        namespaces: Sequence[str] = (),
        cluster_domain: str = CLUSTER_DOMAIN,
    ) -> None:
        self._cluster = cluster
        self._namespaces = namespaces
        self._domain = cluster_domain
        self._checks: Remembered[object, PoolCheck] = Remembered(clock)

    async def check(self, event: Event, ledger: Address | None) -> PoolCheck:
        """Whether the pool may be sold. `ledger` is one in Postgres; None for a webhook, or while it is unusable.

        Checks again as soon as the status has told the last verdict: of two events that are checked at the same time,
        at least one then reads of the other.
        """
        unchecked = event.says(names.POOL_UNCHECKED_ANNOTATION)
        question = (ledger, unchecked, event.generation, announced(event))
        if known := self._checks.fresh(event.uid, question):
            return known
        check = _unchecked() if unchecked else await self._check(event, ledger)
        return self._checks.keep(event.uid, question, check, LASTS)

    def forget(self, uid: str) -> None:
        """Drop what is known about an event that is gone."""
        self._checks.forget(uid)

    async def _check(self, event: Event, ledger: Address | None) -> PoolCheck:
        mine = await self._ledger(event)
        if found := in_use(event, mine, await self._rivals(event)):
            return found
        assert event.spec is not None
        if event.spec.commit_target.postgres is None:
            return PoolCheck(
                PoolReason.NOT_CHECKED, "a webhook ledger cannot be asked whether the pool was sold before"
            )
        if ledger is None:
            return PoolCheck(
                PoolReason.WAITING,
                f"slots are seeded when the ledger has said that the pool was not sold before; {without(event)}",
            )
        try:
            account = await read_account(ledger, event.pool)
        except (psycopg.Error, OSError) as error:
            return PoolCheck(
                PoolReason.WAITING,
                f"the ledger does not say whether the pool was sold before: {one_line(error)}. Slots are seeded when "
                f"it does; {without(event)}",
            )
        if account is None:
            return PoolCheck(
                PoolReason.NOT_CHECKED, "the ledger offers no ledger_proof, so it was not asked about the pool"
            )
        return used_before(event, account.committed, account.voided)

    async def _rivals(self, event: Event) -> list[Rival]:
        found = await self._cluster.list_everywhere(names.KIND, self._namespaces)
        others = [
            parse(body)
            for body in found
            if body["metadata"]["uid"] != event.uid
            and (body.get("spec") or {}).get("pool") == event.pool
            and live(body)
        ]
        return [Rival(other, await self._ledger(other)) for other in others]

    async def _ledger(self, event: Event) -> LedgerKey | None:
        """The ledger that an event commits to; None where its Secret does not tell."""
        target = event.spec.commit_target if event.spec else None
        if target is None:
            return None
        if target.webhook:
            return ("webhook", target.webhook.url)
        assert target.postgres is not None
        ref = target.postgres.secret_ref
        secret = await self._cluster.get("Secret", event.namespace, ref.name)
        uri = text(secret, ref.key) if secret else ""
        return ledger_key(Address(uri, event.namespace), target.postgres.function, self._domain) if uri else None


def _unchecked() -> PoolCheck:
    return PoolCheck(
        PoolReason.NOT_CHECKED, f"not asked: the annotation {names.POOL_UNCHECKED_ANNOTATION} opens the pool without it"
    )
