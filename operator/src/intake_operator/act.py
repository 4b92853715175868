"""Carries out the steps of a plan. A step that fails raises, and ends the pass."""

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import psycopg

from intake_operator import names
from intake_operator.addresses import Address, read_address
from intake_operator.children import access, scale
from intake_operator.children.installation import CLUSTER_DOMAIN
from intake_operator.database.databases import Databases, Login
from intake_operator.decide import scaling, steps
from intake_operator.inventory.inventories import Inventories
from intake_operator.kube.apply import Applier, NotOursError
from intake_operator.kube.cached import Live
from intake_operator.kube.client import ApiError
from intake_operator.ledger.consistency import ConsistencyChecks, Sides
from intake_operator.model.observed import Event, LedgerState, Manifest, Observed, owned
from intake_operator.model.secrets import fingerprint, text, value
from intake_operator.model.spec import PostgresTarget
from intake_operator.preflight.preflights import Preflights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Actor:
    """Carries out the steps of a plan, in Kubernetes and in DB1."""

    cluster: Live
    databases: Databases
    inventories: Inventories
    consistencies: ConsistencyChecks
    applier: Applier
    preflights: Preflights
    cluster_domain: str = CLUSTER_DOMAIN

    async def act(self, step: steps.Step, event: Event, observed: Observed, now: datetime) -> None:
        """Carry out one step. Raises ApiError, NotOursError, psycopg.Error or OSError where it fails."""
        match step:
            case steps.AddFinalizer():
                await self._set_finalizers(event, [*event.finalizers, names.FINALIZER])
            case steps.RemoveFinalizer():
                await self.databases.close(event.uid)
                await self._set_finalizers(event, [f for f in event.finalizers if f != names.FINALIZER])
            case steps.CreateCredentials(secret, role):
                await self._create_credentials(event, secret, role)
            case steps.Apply(manifest):
                existing = observed.children.get((manifest["kind"], manifest["metadata"]["name"]))
                await self.applier.apply(event, manifest, existing)
            case steps.ScaleBridges(replicas):
                await self._scale(event, observed, replicas, now)
            case steps.StopDatabase():
                await self._stop_database(event, observed)
            case steps.ReplaceDatabasePod(pod, why):
                where = {"namespace": event.namespace, "event": event.name}
                logger.info("replacing pod %s: %s", pod, why, extra=where)
                await self.cluster.delete("Pod", event.namespace, pod, _uid(observed, "Pod", pod))
            case steps.Unguard(kind, name, finalizer):
                await self._unguard(event, observed.children[kind, name], finalizer=finalizer)
            case steps.Delete(kind, name):
                await self.cluster.delete(kind, event.namespace, name, _uid(observed, kind, name))
            case steps.Compare(ledger):
                await self._compare(event, ledger)
            case steps.CheckAhead():
                self.preflights.start(event, observed.input_fingerprints)
            case _:
                await self._in_database(step, event)

    def forget(self, uid: str) -> None:
        """Drop what is remembered of an event that is gone."""
        self.applier.forget(uid)

    async def _in_database(self, step: steps.DatabaseStep, event: Event) -> None:
        match step:
            case steps.Migrate():
                await self.databases.migrate(event.uid)
            case steps.LimitClaimers(others):
                await self.databases.limit_claimers(event.uid, others)
            case steps.SetLogins(secret_names, altered):
                await self._set_logins(event, secret_names, altered)
            case steps.Configure(config):
                await self.databases.configure(event.uid, event.pool, config)
            case steps.Stock(inventory, size):
                self.inventories.stock(event, inventory, size)
            case steps.Seed():
                await self.databases.seed(event.uid, event.pool)
            case steps.Recover(ledger):
                await self._recover(event, ledger)
            case steps.Seal(reason):
                await self.databases.seal(event.uid, event.pool, reason)

    async def _set_finalizers(self, event: Event, finalizers: list[str]) -> None:
        """Only if the object and its finalizers are as they were observed: others may own finalizers, too."""
        # Without any there is no such field, which a test for null tells.
        patch: list[dict[str, object]] = [
            {"op": "test", "path": "/metadata/uid", "value": event.uid},
            {"op": "test", "path": "/metadata/finalizers", "value": list(event.finalizers) or None},
            {"op": "add", "path": "/metadata/finalizers", "value": finalizers},
        ]
        await self.cluster.patch(names.KIND, event.namespace, event.name, patch, names.FIELD_MANAGER)

    async def _unguard(self, event: Event, seen: Manifest, *, finalizer: bool) -> None:
        """Only if the object is the one that was observed."""
        meta = seen["metadata"]
        patch: list[dict[str, object]] = [{"op": "test", "path": "/metadata/uid", "value": meta["uid"]}]
        if names.GUARD_LABEL in (meta.get("labels") or {}):
            patch.append({"op": "remove", "path": f"/metadata/labels/{names.GUARD_LABEL.replace('/', '~1')}"})
        if finalizer and names.FINALIZER in (before := meta.get("finalizers") or []):
            patch.append({"op": "test", "path": "/metadata/finalizers", "value": before})
            left = [each for each in before if each != names.FINALIZER]
            patch.append({"op": "add", "path": "/metadata/finalizers", "value": left})
        await self.cluster.patch(seen["kind"], event.namespace, meta["name"], patch, names.FIELD_MANAGER)

    async def _create_credentials(self, event: Event, secret: str, role: str) -> None:
        # 32 random bytes, in characters that need no quoting in SQL, shell or URI.
        manifest = access.credentials(event, secret, role, secrets.token_hex(32), self.cluster_domain)
        try:
            await self.cluster.create(manifest, names.FIELD_MANAGER)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            existing = await self.cluster.get("Secret", event.namespace, secret)
            if existing and not owned(existing, event.uid):
                raise NotOursError("Secret", secret, existing) from error

    async def _scale(self, event: Event, observed: Observed, replicas: int, now: datetime) -> None:
        current = scaling.replicas_of(observed.children.get(("Deployment", names.bridge(event.name))))
        manifest = scale.bridges(event, replicas, scaling.scale_in_after(current, replicas, now))
        await self.cluster.apply(manifest, names.SCALER_FIELD_MANAGER)

    async def _stop_database(self, event: Event, observed: Observed) -> None:
        await self.databases.close(event.uid)
        # The data is not needed any more. A DB1 that is being initialised ignores SIGTERM and would take two minutes,
        # and the kubelet is slow to shorten a grace period that the controller has set. So the pod is deleted first.
        pod = f"{names.database(event.name)}-0"
        uid = _uid(observed, "Pod", pod)
        await self.cluster.delete("Pod", event.namespace, pod, uid, grace_seconds=steps.STOP_GRACE_SECONDS)
        await self.cluster.apply(scale.database(event, 0), names.SCALER_FIELD_MANAGER)

    async def _recover(self, event: Event, wanted: PostgresTarget) -> None:
        ledger = await read_address(self.cluster, wanted, event.namespace)
        if isinstance(ledger, LedgerState):
            raise psycopg.OperationalError(ledger.message)
        await self.databases.recover(event.uid, event.pool, ledger)

    async def _compare(self, event: Event, wanted: PostgresTarget) -> None:
        ledger = await read_address(self.cluster, wanted, event.namespace)
        superuser = await self.cluster.get("Secret", event.namespace, names.superuser_secret(event.name))
        if isinstance(ledger, Address) and superuser and owned(superuser, event.uid):
            sides = Sides(event, access.host(event), text(superuser, "password"), ledger, wanted.function)
            self.consistencies.start(sides)

    async def _set_logins(self, event: Event, secret_names: Mapping[str, str], altered: tuple[str, ...]) -> None:
        logins = {}
        for role, name in secret_names.items():
            secret = await self.cluster.get("Secret", event.namespace, name)
            if secret is not None:
                logins[role] = Login(value(secret, "password"), fingerprint(secret))
        await self.databases.set_logins(event.uid, logins)
        if altered:
            ended = await self.databases.reset_roles(event.uid, altered)
            logger.warning(
                "reset the settings of role %s in DB1, which were changed by hand, and ended %d sessions that may have "
                "begun with the changed settings",
                ", ".join(altered),
                ended,
                extra={"namespace": event.namespace, "event": event.name},
            )


def _uid(observed: Observed, kind: str, name: str) -> str | None:
    """The uid of the object that was observed: another object that has its name by now is not deleted."""
    seen = [*observed.children.values(), *observed.pods]
    found = (each["metadata"]["uid"] for each in seen if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return next(found, None)
