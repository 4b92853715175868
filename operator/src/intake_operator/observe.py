"""The read half of a pass: looks at what `decide.needs` asks for, and changes nothing.

It looks into the store, which lags behind; where `needs.live` says so, the pass looks again, by the API server itself.
An error of a database is a value of what was observed: the decision goes on without that database.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, Protocol, Self

import psycopg

from intake_operator import names
from intake_operator.addresses import Address, address_of
from intake_operator.children import access
from intake_operator.database.databases import Databases
from intake_operator.decide import inputs, memory, needs
from intake_operator.inventory.inventories import Inventories
from intake_operator.kube.cached import Cached
from intake_operator.kube.client import ApiError
from intake_operator.kube.events import last_seen
from intake_operator.ledger.checks import LedgerChecks
from intake_operator.ledger.consistency import ConsistencyChecks
from intake_operator.ledger.pools import Pools
from intake_operator.ledger.proof import Proofs
from intake_operator.model import pods
from intake_operator.model.observed import DatabaseState, Event, LedgerState, Manifest, Observed, owned
from intake_operator.model.secrets import fingerprint, text, without_content
from intake_operator.model.spec import IntakeEventSpec
from intake_operator.preflight.preflights import Preflights


class Objects(Protocol):
    """What is needed of a cluster."""

    async def get(self, kind: str, namespace: str, name: str) -> Manifest | None:
        """One object; None if there is none."""

    async def list(self, kind: str, namespace: str, label_selector: str) -> list[Manifest]:
        """All objects of a kind with these labels."""


LISTED: Final = (
    "StatefulSet",
    "Deployment",
    "Service",
    "PersistentVolumeClaim",
    "NetworkPolicy",
    "PodDisruptionBudget",
)

# An Event is older than the status that it explains: the status is written after the pod was seen to be missing.
SAID_BEFORE: Final = timedelta(minutes=1)


@dataclass(frozen=True)
class Observer:
    """Reads what a pass needs: Kubernetes, DB1, the ledger and the user's inventory. Changes nothing."""

    cluster: Cached
    databases: Databases
    ledgers: LedgerChecks
    inventories: Inventories
    consistencies: ConsistencyChecks
    proofs: Proofs
    pools: Pools
    preflights: Preflights
    live: bool = False
    """Whether it reads from the API server itself."""

    @property
    def objects(self) -> Objects:
        """Where objects are read."""
        return self.cluster.live if self.live else self.cluster

    def reading_live(self) -> Self:
        """The same, but nothing that it reads of the cluster is older than the question."""
        return replace(self, live=True)

    async def observe(self, event: Event, now: datetime) -> Observed:
        """Look at everything that the next decision needs. Raises ApiError where the API server refuses."""
        observed, superuser = await self._objects(event)
        if event.spec and needs.preflight(event, observed, now):
            return await self._ahead(event, event.spec, observed)
        if not needs.database(event, observed, now) or self._is_too_old(event, observed, now):
            return observed
        if needs.refusals(event, observed):
            observed = replace(observed, refusal=await self._refusal(event, observed))
        observed = replace(observed, database=await self._database(event, observed, superuser))
        if self._is_too_old(event, observed, now):
            return observed
        if needs.audit(event, observed):
            observed = replace(observed, database=await self._with_audit(event, observed.database))
        if event.spec is None or not needs.inputs(event):
            return observed
        ledger, observed = await self._inputs(event, event.spec, observed)
        if event.spec.inventory and needs.inventory(event, observed, now):
            wanted, size, stocked = event.spec.inventory, event.spec.inventory_size, observed.database.stocked
            observed = replace(observed, inventory=await self.inventories.check(event, wanted, size, stocked))
        if needs.pool(event, observed, now):
            usable = None if observed.ledger.problem else ledger
            observed = replace(observed, pool=await self.pools.check(event, usable, live=self.live))
        if needs.proof(event, observed, now):
            proof, error = await self.proofs.prove(event, observed, ledger)
            observed = replace(observed, proof=proof, proof_error=error)
        known, due = self.consistencies.latest(event.uid), self.consistencies.is_due(event.uid)
        return replace(observed, consistency=known, comparison_due=due)

    def _is_too_old(self, event: Event, observed: Observed, now: datetime) -> bool:
        """Whether the rest is not looked at, because the pass will look again: a proof reads whole tables."""
        return not self.live and needs.live(event, observed, now)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an event that is gone."""
        everything = (self.ledgers, self.inventories, self.consistencies, self.proofs, self.pools, self.preflights)
        for memory_of_events in everything:
            memory_of_events.forget(uid)

    async def _ahead(self, event: Event, spec: IntakeEventSpec, observed: Observed) -> Observed:
        """Of an event that waits only its Secrets are read: all else is checked in the background."""
        table = spec.inventory.table if spec.inventory else None
        needed = [*inputs.of_spec(spec), *(inputs.of_postgres(table) if table else ())]
        refs = sorted({each.ref.name for each in needed})
        secrets = await asyncio.gather(*(self.objects.get("Secret", event.namespace, name) for name in refs))
        fingerprints = {secret["metadata"]["name"]: fingerprint(secret) for secret in secrets if secret}
        return replace(
            observed,
            input_fingerprints=fingerprints,
            preflight=self.preflights.latest(event.uid),
            preflight_due=self.preflights.is_due(event, fingerprints),
        )

    async def _objects(self, event: Event) -> tuple[Observed, Manifest | None]:
        """The children, and the Secret of DB1's superuser. Of other Secrets only metadata is passed on."""
        selector = f"{names.EVENT_LABEL}={event.name}"
        lists = [self.objects.list(kind, event.namespace, selector) for kind in (*LISTED, "Pod")]
        secret_names = (
            names.superuser_secret(event.name),
            names.claimer_secret(event.name),
            names.bridge_secret(event.name),
        )
        *found, found_pods = await asyncio.gather(*lists)
        read = await asyncio.gather(*(self.objects.get("Secret", event.namespace, name) for name in secret_names))
        secrets = [secret for secret in read if secret and owned(secret, event.uid)]
        ours = [child for kind in found for child in kind if owned(child, event.uid)]
        ours += [without_content(secret) for secret in secrets]
        observed = Observed(
            children={(child["kind"], child["metadata"]["name"]): child for child in ours},
            pods=tuple(pod for pod in found_pods if owned(pod, event.uid)),
            secret_fingerprints={secret["metadata"]["name"]: fingerprint(secret) for secret in secrets},
        )
        superuser = read[0] if read[0] in secrets else None
        return observed, superuser

    async def _refusal(self, event: Event, observed: Observed) -> str:
        """Why DB1's pod cannot be created: only Events of its StatefulSet say so."""
        name, since = names.database(event.name), memory.without_database_since(event, observed)
        try:
            found = await self.cluster.events_about("StatefulSet", event.namespace, name, "FailedCreate")
        except ApiError as error:
            if error.status != 403:
                raise
            return "the operator may not list Events, which say why"
        uid = observed.children["StatefulSet", name]["metadata"]["uid"]
        said = {last_seen(each): str(each.get("message", "")) for each in found if each["involvedObject"]["uid"] == uid}
        latest = max(said, default=None)
        return said[latest] if latest and (since is None or latest > since - SAID_BEFORE) else ""

    async def _with_audit(self, event: Event, database: DatabaseState) -> DatabaseState:
        """The state of DB1 with its audit, as far as DB1 can still be asked."""
        try:
            return replace(database, audit=await self.databases.audit(event.uid, event.pool))
        except (psycopg.Error, OSError):
            return database

    async def _database(self, event: Event, observed: Observed, superuser: Manifest | None) -> DatabaseState:
        databases = pods.of_component(observed.pods, "database")
        if superuser is None or not any(pods.is_ready(pod) and not pods.is_terminating(pod) for pod in databases):
            return DatabaseState()
        password = text(superuser, "password")
        if not password:
            name = superuser["metadata"]["name"]
            return DatabaseState(error=f"Secret {name} has no password: delete it, and the operator creates a new one")
        return await self.databases.observe(event.uid, event.pool, access.host(event), password)

    async def _inputs(self, event: Event, spec: IntakeEventSpec, observed: Observed) -> tuple[Address | None, Observed]:
        """The user's Secrets and the ledger behind them. Returns the ledger's address as well; None without one."""
        wanted = spec.commit_target.postgres
        secrets: dict[str, Manifest | None] = {}
        for name in dict.fromkeys(each.ref.name for each in inputs.of_spec(spec)):
            secrets[name] = await self.objects.get("Secret", event.namespace, name)
        found = {name: fingerprint(secret) for name, secret in secrets.items() if secret is not None}
        address = address_of(wanted, event.namespace, secrets) if wanted else None
        ledger = address if isinstance(address, Address) else None
        state = address if isinstance(address, LedgerState) else inputs.check_all(inputs.of_webhooks(spec), secrets)
        if wanted and ledger and not state.problem:
            state = await self.ledgers.check(event.uid, ledger, wanted.function)
        fingerprints = {**observed.secret_fingerprints, **found}
        return ledger, replace(observed, input_fingerprints=fingerprints, ledger=state)
