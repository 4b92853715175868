"""The read pass: everything that the next decision may need, and nothing else. Errors of databases are values here."""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import psycopg

from intake_operator import names
from intake_operator.children import access
from intake_operator.database.databases import Databases
from intake_operator.database.migrate import MigrationChangedError
from intake_operator.decide import memory
from intake_operator.decide.stage import Stage, abandoned, stage_of, was_claimable
from intake_operator.inventory.inventories import Inventories
from intake_operator.kube.client import Cluster
from intake_operator.ledger.consistency import Consistencies, Sides
from intake_operator.ledger.ledgers import Ledgers
from intake_operator.ledger.proof import Proofs
from intake_operator.model.observed import DatabaseState, Event, LedgerState, Manifest, Observed, owned
from intake_operator.model.secrets import Flaw, fingerprint, key_flaw, text, token_flaw, without_content
from intake_operator.model.spec import IntakeEventSpec, SecretRef
from intake_operator.pools import Pools
from intake_operator.reasons import Problem

LISTED: Final = (
    "StatefulSet",
    "Deployment",
    "Service",
    "PersistentVolumeClaim",
    "NetworkPolicy",
    "PodDisruptionBudget",
)


@dataclass(frozen=True)
class Observer:
    """Everything that can be looked at."""

    cluster: Cluster
    databases: Databases
    ledgers: Ledgers
    inventories: Inventories
    consistencies: Consistencies
    proofs: Proofs
    pools: Pools

    async def observe(self, event: Event, now: datetime) -> Observed:
        """Look at everything that the next decision may need, and at nothing else."""
        observed, superuser = await self._objects(event)
        stage = stage_of(event, observed, now)
        if stage not in {Stage.SERVE, Stage.DRAIN, Stage.KEEP}:
            return observed
        observed = replace(observed, database=await self._database(event, observed, superuser))
        if abandoned(event):
            return replace(observed, database=await self._with_audit(event, observed.database))
        if event.spec is None:
            return observed
        target, observed = await self._inputs(event, event.spec, observed)
        stage = stage_of(event, observed, now)  # DB1 may have said that it is sealed
        observed = await self._rows(event, event.spec, observed, stage)
        if stage is Stage.SERVE and not was_claimable(event, observed):
            observed = replace(observed, pool=await self.pools.check(event, "" if observed.ledger.problem else target))
        database = observed.database
        drained = database.sealed and database.ready and database.depth == 0 and not database.dead_letters
        if drained and stage is Stage.DRAIN:
            proof, error = await self.proofs.prove(event, observed, target)
            observed = replace(observed, proof=proof, proof_error=error)
        if target and superuser and _to_compare(observed):
            assert event.spec.commit_target.postgres
            function = event.spec.commit_target.postgres.function
            self.consistencies.consider(Sides(event, access.host(event), text(superuser, "password"), target, function))
        return replace(observed, consistency=self.consistencies.known(event.uid))

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an event that is gone."""
        for memory_of_events in (self.ledgers, self.inventories, self.consistencies, self.proofs, self.pools):
            memory_of_events.forget(uid)

    async def _objects(self, event: Event) -> tuple[Observed, Manifest | None]:
        """The children, and the Secret of DB1's superuser. Of other Secrets nothing but metadata is passed on."""
        selector = f"{names.EVENT_LABEL}={event.name}"
        lists = [self.cluster.list(kind, event.namespace, selector) for kind in (*LISTED, "Pod")]
        secret_names = (
            names.superuser_secret(event.name),
            names.claimer_secret(event.name),
            names.bridge_secret(event.name),
        )
        *found, pods = await asyncio.gather(*lists)
        looked = await asyncio.gather(*(self.cluster.get("Secret", event.namespace, name) for name in secret_names))
        secrets = [secret for secret in looked if secret and owned(secret, event.uid)]
        ours = [child for kind in found for child in kind if owned(child, event.uid)]
        ours += [without_content(secret) for secret in secrets]
        observed = Observed(
            children={(child["kind"], child["metadata"]["name"]): child for child in ours},
            pods=tuple(pod for pod in pods if owned(pod, event.uid)),
            secret_fingerprints={secret["metadata"]["name"]: fingerprint(secret) for secret in secrets},
        )
        superuser = looked[0] if looked[0] in secrets else None
        return observed, superuser

    async def _rows(self, event: Event, spec: IntakeEventSpec, observed: Observed, stage: Stage) -> Observed:
        """The user's own inventory, where DB1 has yet to take it."""
        # A DB1 that was claimable has its rows: as long as it cannot be asked, nothing is missing.
        asked = observed.database.status is not None or not was_claimable(event, observed)
        wanted = stage is Stage.SERVE or memory.volume_lost(event, observed)
        if spec.inventory is None or not asked or not wanted:
            return observed
        found = await self.inventories.look(event, spec.inventory, spec.inventory_size, observed.database.stocked)
        return replace(observed, inventory=found)

    async def _with_audit(self, event: Event, database: DatabaseState) -> DatabaseState:
        """What people did by hand, for the report of an event that is given up, as far as DB1 can still tell."""
        if database.status is None:
            return database
        try:
            return replace(database, audit=await self.databases.audit(event.uid, event.pool))
        except (psycopg.Error, OSError):
            return database

    async def _database(self, event: Event, observed: Observed, superuser: Manifest | None) -> DatabaseState:
        serving = any(
            pod["metadata"]["labels"].get("app.kubernetes.io/component") == "database"
            and "deletionTimestamp" not in pod["metadata"]
            and any(
                c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions") or ()
            )
            for pod in observed.pods
        )
        if not serving or superuser is None:
            return DatabaseState()
        password = text(superuser, "password")
        if not password:
            secret = superuser["metadata"]["name"]
            return DatabaseState(error=f"Secret {secret} has no password any more: delete it, and it is made anew")
        try:
            return await self.databases.observe(event.uid, event.pool, access.host(event), password)
        except MigrationChangedError as error:
            return DatabaseState(error=str(error))

    async def _inputs(self, event: Event, spec: IntakeEventSpec, observed: Observed) -> tuple[str, Observed]:
        """The user's Secrets and the ledger behind them. Answers the ledger's URI too, empty without one."""
        postgres = spec.commit_target.postgres
        refs: list[tuple[SecretRef | None, Flaw | None]] = [(postgres.secret_ref, None)] if postgres else []
        for webhook in (spec.commit_target.webhook, spec.validation.webhook):
            if webhook is not None:
                refs += [(webhook.secret_ref, token_flaw), (webhook.signing_secret_ref, key_flaw)]
                refs.append((webhook.ca_secret_ref, None))
        fingerprints, uri = dict(observed.secret_fingerprints), ""
        state = LedgerState()
        for ref, flaw in refs:
            if ref is None:
                continue
            secret = await self.cluster.get("Secret", event.namespace, ref.name)
            if secret is not None:
                fingerprints[ref.name] = fingerprint(secret)
            state = state if state.problem else _usable(ref, secret, flaw)
            if secret is not None and postgres and ref is postgres.secret_ref:
                uri = text(secret, ref.key)
        if uri and not state.problem:
            assert postgres is not None
            state = await self.ledgers.check(event.uid, uri, event.namespace, postgres.function)
        return uri, replace(observed, input_fingerprints=fingerprints, ledger=state)


def _to_compare(observed: Observed) -> bool:
    """There is peace, something has ended, and no proof has just said that the ledger agrees."""
    database = observed.database
    at_peace = database.ready and database.status is not None and database.depth == 0
    ended = database.status is not None and (database.status.committed or database.status.voided)
    return bool(at_peace and ended and not (observed.proof and observed.proof.ledger.accepted))


def _usable(ref: SecretRef, secret: Manifest | None, flaw: Flaw | None) -> LedgerState:
    if secret is None:
        message = f"Secret {ref.name} does not exist in this namespace. Create it with the key {ref.key}."
        return LedgerState(Problem.LEDGER_SECRET_MISSING, message)
    if ref.key not in (secret.get("data") or {}):
        message = f"Secret {ref.name} has no key {ref.key}. Add it, or name another key in the spec."
        return LedgerState(Problem.LEDGER_SECRET_KEY_MISSING, message)
    if not text(secret, ref.key):
        message = f"Secret {ref.name} has nothing but blanks, or no text in UTF-8, under the key {ref.key}. Correct it."
        return LedgerState(Problem.LEDGER_SECRET_KEY_MISSING, message)
    if flaw and (found := flaw(text(secret, ref.key))):
        message = f"Secret {ref.name} cannot be used under the key {ref.key}: {found}. Write it anew."
        return LedgerState(Problem.LEDGER_SECRET_KEY_MISSING, message)
    return LedgerState()
