"""One read pass over an event: the object, its children, DB1 and the ledger."""

import asyncio
import base64
import hashlib
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from intake_operator import names
from intake_operator.build import access
from intake_operator.decide.stage import Stage, stage_of, was_claimable
from intake_operator.engine.consistency import Consistencies, Sides
from intake_operator.engine.database import Engines
from intake_operator.engine.ledger import Ledgers
from intake_operator.engine.migrate import MigrationChangedError
from intake_operator.engine.proof import Proofs
from intake_operator.inventories import Inventories
from intake_operator.kube.apply import owned
from intake_operator.kube.client import Cluster
from intake_operator.model.observed import (
    LEDGER_ACCEPTS,
    Engine,
    Event,
    Ledger,
    Manifest,
    Observed,
)
from intake_operator.model.spec import IntakeEventSpec, PostgresTarget, SecretRef
from intake_operator.reasons import Problem

LISTED: Final = (
    "StatefulSet",
    "Deployment",
    "Service",
    "PersistentVolumeClaim",
    "NetworkPolicy",
    "PodDisruptionBudget",
)


def parse(body: Manifest) -> Event:
    """An event out of what the API server has. A specification that makes no sense is an observation, not an error."""
    meta, raw = body["metadata"], body.get("spec") or {}
    try:
        spec, spec_error = IntakeEventSpec.model_validate(raw), ""
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        spec, spec_error = None, f"spec.{'.'.join(str(p) for p in first['loc'])}: {first['msg']}"
    deleted = meta.get("deletionTimestamp")
    return Event(
        namespace=meta["namespace"],
        name=meta["name"],
        uid=meta["uid"],
        pool=str(raw.get("pool", "")),
        generation=meta["generation"],
        deleted_at=datetime.fromisoformat(deleted) if deleted else None,
        finalizers=tuple(meta.get("finalizers") or ()),
        annotations=meta.get("annotations") or {},
        spec=spec,
        spec_error=spec_error,
        status=body.get("status") or {},
    )


@dataclass(frozen=True)
class Observer:
    """Everything that can be looked at."""

    cluster: Cluster
    engines: Engines
    ledgers: Ledgers
    inventories: Inventories
    consistencies: Consistencies
    proofs: Proofs

    async def observe(self, event: Event, now: datetime) -> Observed:
        """Look at everything that the next decision may need, and at nothing else."""
        selector = f"{names.EVENT_LABEL}={event.name}"
        lists = [self.cluster.list(kind, event.namespace, selector) for kind in (*LISTED, "Pod")]
        secret_names = (
            names.superuser_secret(event.name),
            names.claimer_secret(event.name),
            names.bridge_secret(event.name),
        )
        *found, pods = await asyncio.gather(*lists)
        *secrets, report = await asyncio.gather(
            *(self.cluster.get("Secret", event.namespace, name) for name in secret_names),
            self.cluster.get("ConfigMap", event.namespace, names.report(event.name)),
        )
        ours = [child for kind in found for child in kind if owned(child, event.uid)]
        observed = Observed(
            children={(child["kind"], child["metadata"]["name"]): child for child in ours},
            pods=tuple(pods),
            secret_fingerprints={s["metadata"]["name"]: fingerprint(s) for s in secrets if s and owned(s, event.uid)},
            report=report if report and owned(report, event.uid) else None,
        )
        if stage_of(event, observed, now) not in {Stage.SERVE, Stage.DRAIN}:
            return observed
        engine = await self._engine(event, observed, secrets[0])
        observed = replace(observed, engine=engine)
        if event.spec is not None:
            # A DB1 that was claimable has its rows: as long as it cannot be asked, nothing is missing.
            asked = engine.status is not None or not was_claimable(event, observed)
            if event.spec.inventory and asked and stage_of(event, observed, now) is Stage.SERVE:
                wanted = (event.spec.inventory, event.spec.inventory_size, engine.stocked)
                observed = replace(observed, inventory=await self.inventories.look(event, *wanted))
            target, observed = await self._inputs(event, event.spec, observed)
            drained = engine.sealed and engine.ready and engine.depth == 0 and not engine.dead_letters
            if drained and stage_of(event, observed, now) is Stage.DRAIN:
                proof, error = await self.proofs.prove(event, observed, target)
                observed = replace(observed, proof=proof, proof_error=error)
            if target and secrets[0] and _to_compare(observed):
                assert event.spec.commit_target.postgres
                function = event.spec.commit_target.postgres.function
                self.consistencies.consider(
                    Sides(event, access.host(event), value(secrets[0], "password"), target, function)
                )
            observed = replace(observed, consistency=self.consistencies.known(event.uid))
        return observed

    async def _engine(self, event: Event, observed: Observed, superuser: Manifest | None) -> Engine:
        serving = any(
            pod["metadata"]["labels"].get("app.kubernetes.io/component") == "database"
            and "deletionTimestamp" not in pod["metadata"]
            and any(
                c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions") or ()
            )
            for pod in observed.pods
        )
        if not serving or superuser is None:
            return Engine()
        password = text(superuser, "password")
        if not password:
            secret = superuser["metadata"]["name"]
            return Engine(error=f"Secret {secret} has no password any more: delete it, and it is made anew")
        try:
            return await self.engines.observe(event.uid, event.pool, access.host(event), password)
        except MigrationChangedError as error:
            return Engine(error=str(error))

    async def _inputs(self, event: Event, spec: IntakeEventSpec, observed: Observed) -> tuple[str, Observed]:
        """The user's Secrets and the ledger behind them. Answers the ledger's URI too, empty without one."""
        users = (spec.commit_target.postgres, spec.commit_target.webhook, spec.validation.webhook)
        refs: list[SecretRef | None] = [user.secret_ref for user in users if user]
        for webhook in (spec.commit_target.webhook, spec.validation.webhook):
            refs += [webhook.signing_secret_ref, webhook.ca_secret_ref] if webhook else []
        fingerprints, uri = dict(observed.secret_fingerprints), ""
        state = Ledger()
        for ref in filter(None, refs):
            secret = await self.cluster.get("Secret", event.namespace, ref.name)
            if secret is not None:
                fingerprints[ref.name] = fingerprint(secret)
            state = state if state.problem else _usable(ref, secret)
            postgres = spec.commit_target.postgres
            if secret is not None and postgres and ref is postgres.secret_ref:
                uri = text(secret, ref.key)
        if uri and not state.problem:
            assert isinstance(spec.commit_target.postgres, PostgresTarget)
            state = await self.ledgers.check(event.uid, uri, event.namespace, spec.commit_target.postgres.function)
        return uri, replace(observed, input_fingerprints=fingerprints, ledger=state)


def _to_compare(observed: Observed) -> bool:
    """There is peace, something has ended, and no proof has just said that the ledger agrees."""
    engine = observed.engine
    at_peace = engine.ready and engine.status is not None and engine.depth == 0
    ended = engine.status is not None and (engine.status["committed"] or engine.status["voided"])
    return bool(at_peace and ended and not (observed.proof and observed.proof.ledger in LEDGER_ACCEPTS))


def fingerprint(secret: Manifest) -> str:
    """Changes with the content of a Secret, and does not give it away: it is salted with the Secret's own uid."""
    salted = [secret["metadata"]["uid"], *(f"{k}={v}" for k, v in sorted((secret.get("data") or {}).items()))]
    return hashlib.sha256("\n".join(salted).encode()).hexdigest()


def value(secret: Manifest, key: str) -> str:
    """One value of a Secret."""
    data: dict[str, Any] = secret["data"]
    return base64.b64decode(data[key]).decode()


def text(secret: Manifest, key: str) -> str:
    """What a user wrote, without blanks around it, as the bridge reads it; empty where it is missing or no text."""
    try:
        return value(secret, key).strip() if key in (secret.get("data") or {}) else ""
    except UnicodeDecodeError:
        return ""


def _usable(ref: SecretRef, secret: Manifest | None) -> Ledger:
    if secret is None:
        message = f"Secret {ref.name} does not exist in this namespace. Create it with the key {ref.key}."
        return Ledger(Problem.LEDGER_SECRET_MISSING, message)
    if ref.key not in (secret.get("data") or {}):
        message = f"Secret {ref.name} has no key {ref.key}. Add it, or name another key in the spec."
        return Ledger(Problem.LEDGER_SECRET_KEY_MISSING, message)
    if not text(secret, ref.key):
        message = f"Secret {ref.name} has nothing but blanks, or no text in UTF-8, under the key {ref.key}. Correct it."
        return Ledger(Problem.LEDGER_SECRET_KEY_MISSING, message)
    return Ledger()
