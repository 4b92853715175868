"""Carries out the steps of a plan, in their order. The first that fails ends the pass: nothing is swallowed here."""

import logging
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from intake_operator import names
from intake_operator.children import access
from intake_operator.database.databases import Databases, Login
from intake_operator.decide import scaling
from intake_operator.decide.steps import (
    HASTE,
    AddFinalizer,
    Apply,
    Configure,
    CreateCredentials,
    DatabaseStep,
    Delete,
    KeepRoom,
    Migrate,
    Recover,
    RemoveFinalizer,
    ReplaceDatabasePod,
    ScaleBridges,
    Seal,
    Seed,
    SetLogins,
    Step,
    Stock,
    StopDatabase,
    Unguard,
)
from intake_operator.inventory.inventories import Inventories
from intake_operator.kube.apply import Applier, NotOursError
from intake_operator.kube.client import ApiError, Cluster
from intake_operator.model.observed import Event, Manifest, Observed, owned
from intake_operator.model.secrets import fingerprint, text, value
from intake_operator.model.spec import SecretRef

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Actor:
    """Everything that can be changed."""

    cluster: Cluster
    databases: Databases
    inventories: Inventories
    applier: Applier

    async def act(self, step: Step, event: Event, observed: Observed, now: datetime) -> None:
        """Carry out one step."""
        match step:
            case AddFinalizer():
                await self._set_finalizers(event, [*event.finalizers, names.FINALIZER])
            case RemoveFinalizer():
                await self.databases.close(event.uid)
                await self._set_finalizers(event, [f for f in event.finalizers if f != names.FINALIZER])
            case CreateCredentials(secret, role):
                await self._create_credentials(event, secret, role)
            case Apply(manifest):
                existing = observed.children.get((manifest["kind"], manifest["metadata"]["name"]))
                await self.applier.apply(event, manifest, existing)
            case ScaleBridges(replicas):
                await self._scale(event, observed, replicas, now)
            case StopDatabase():
                await self._stop_database(event, observed)
            case ReplaceDatabasePod(pod, why):
                where = {"namespace": event.namespace, "event": event.name}
                logger.info("replacing pod %s: %s", pod, why, extra=where)
                await self.cluster.delete("Pod", event.namespace, pod, _uid(observed, "Pod", pod))
            case Unguard(kind, name, finalizer):
                await self._unguard(event, observed.children[kind, name], finalizer=finalizer)
            case Delete(kind, name):
                await self.cluster.delete(kind, event.namespace, name, _uid(observed, kind, name))
            case _:
                await self._in_database(step, event)

    async def _in_database(self, step: DatabaseStep, event: Event) -> None:
        match step:
            case Migrate():
                await self.databases.migrate(event.uid)
            case KeepRoom(others):
                await self.databases.keep_room(event.uid, others)
            case SetLogins(wanted, altered):
                await self._set_logins(event, dict(wanted), altered)
            case Configure(config):
                await self.databases.configure(event.uid, event.pool, config)
            case Stock(inventory, size):
                await self.inventories.stock(event, inventory, size)
            case Seed():
                await self.databases.seed(event.uid, event.pool)
            case Recover(ledger):
                await self._recover(event, ledger)
            case Seal(reason):
                await self.databases.seal(event.uid, event.pool, reason)

    async def _set_finalizers(self, event: Event, finalizers: list[str]) -> None:
        """Only if they, and the object, are what was seen: others may own finalizers, too."""
        seen: dict[str, object] = {"op": "test", "path": "/metadata/finalizers", "value": list(event.finalizers)}
        patch: list[dict[str, object]] = [
            {"op": "test", "path": "/metadata/uid", "value": event.uid},
            *([seen] if event.finalizers else []),
            {"op": "add", "path": "/metadata/finalizers", "value": finalizers},
        ]
        await self.cluster.patch(names.KIND, event.namespace, event.name, patch, names.FIELD_MANAGER)

    async def _unguard(self, event: Event, seen: Manifest, *, finalizer: bool) -> None:
        """Only if the object is the one that was seen."""
        meta = seen["metadata"]
        patch: list[dict[str, object]] = [{"op": "test", "path": "/metadata/uid", "value": meta["uid"]}]
        if names.GUARD_LABEL in (meta.get("labels") or {}):
            patch.append({"op": "remove", "path": f"/metadata/labels/{names.GUARD_LABEL.replace('/', '~1')}"})
        if finalizer and names.FINALIZER in (held := meta.get("finalizers") or []):
            patch.append({"op": "test", "path": "/metadata/finalizers", "value": held})
            left = [each for each in held if each != names.FINALIZER]
            patch.append({"op": "add", "path": "/metadata/finalizers", "value": left})
        await self.cluster.patch(seen["kind"], event.namespace, meta["name"], patch, names.FIELD_MANAGER)

    async def _create_credentials(self, event: Event, secret: str, role: str) -> None:
        # 32 random bytes, in letters that need no quoting in SQL, shell or URI.
        manifest = access.credentials(event, secret, role, secrets.token_hex(32))
        try:
            await self.cluster.create(manifest, names.FIELD_MANAGER)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            there = await self.cluster.get("Secret", event.namespace, secret)
            if there and not owned(there, event.uid):
                raise NotOursError("Secret", secret, there) from error

    async def _scale(self, event: Event, observed: Observed, replicas: int, now: datetime) -> None:
        manifest = _scaled("Deployment", event.namespace, names.bridge(event.name), replicas)
        existing = observed.children.get(("Deployment", names.bridge(event.name)))
        rests_until = scaling.rest(scaling.replicas_of(existing), replicas, now)
        manifest["metadata"]["annotations"] = {
            names.SCALE_IN_AFTER_ANNOTATION: rests_until.isoformat(timespec="seconds")
        }
        await self.cluster.apply(manifest, names.SCALER_FIELD_MANAGER)

    async def _stop_database(self, event: Event, observed: Observed) -> None:
        await self.databases.close(event.uid)
        # Its data is not needed any more. A DB1 that is being initialised ignores SIGTERM and would take two minutes,
        # and the kubelet is slow to hurry one that its controller has given that time. So this comes first.
        pod = f"{names.database(event.name)}-0"
        await self.cluster.delete("Pod", event.namespace, pod, _uid(observed, "Pod", pod), grace_seconds=HASTE)
        manifest = _scaled("StatefulSet", event.namespace, names.database(event.name), 0)
        await self.cluster.apply(manifest, names.SCALER_FIELD_MANAGER)

    async def _recover(self, event: Event, ref: SecretRef) -> None:
        secret = await self.cluster.get("Secret", event.namespace, ref.name)
        await self.databases.recover(event.uid, event.namespace, event.pool, text(secret, ref.key) if secret else "")

    async def _set_logins(self, event: Event, wanted: dict[str, str], altered: tuple[str, ...]) -> None:
        logins = {}
        for role, name in wanted.items():
            secret = await self.cluster.get("Secret", event.namespace, name)
            if secret is not None:
                logins[role] = Login(value(secret, "password"), fingerprint(secret))
        await self.databases.set_logins(event.uid, logins)
        if altered:
            ended = await self.databases.reset_roles(event.uid, altered)
            logger.warning(
                "somebody changed the settings of role %s in DB1: they are set again, and %d sessions that may have "
                "begun with the wrong ones are ended",
                ", ".join(altered),
                ended,
                extra={"namespace": event.namespace, "event": event.name},
            )


def _uid(observed: Observed, kind: str, name: str) -> str | None:
    """Of the object that was seen: one that has taken its name since then stays."""
    seen = [*observed.children.values(), *observed.pods]
    found = (each["metadata"]["uid"] for each in seen if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return next(found, None)


def _scaled(kind: str, namespace: str, name: str, replicas: int) -> dict[str, Any]:
    """The number of pods of a workload, and nothing else of it."""
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": meta, "spec": {"replicas": replicas}}
