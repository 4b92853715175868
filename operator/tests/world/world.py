"""One event, its cluster, its databases and the operator; what may happen to them, and what is true of them."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from given import INSTALLATION
from intake_operator import names
from intake_operator.act import Actor
from intake_operator.decide.steps import Step
from intake_operator.kube.apply import Applier, NotOursError
from intake_operator.kube.client import ApiError
from intake_operator.metrics import Metrics
from intake_operator.model.observed import Event, Manifest, Observed
from intake_operator.observe import Observer
from intake_operator.reconcile import Reconciler

from .api import PERSON, Api
from .controllers import settle
from .databases import SLOTS, Databases, Ledger, Volume, window
from .watches import Watches

NAMESPACE, NAME = "tickets", "taylor-drop"
DATABASE, CLAIM = names.database(NAME), names.volume_claim(NAME)
START = datetime(2026, 12, 1, 12, tzinfo=UTC)
LABELS = {names.EVENT_LABEL: NAME}


class Killed(Exception):  # noqa: N818 - not an error
    """The operator's process was killed."""


class KilledActor(Actor):
    """An actor whose process is killed after `left` steps."""

    left = 0

    async def act(self, step: Step, event: Event, observed: Observed, now: datetime) -> None:
        """Carry out one step, or raise Killed before it."""
        if not KilledActor.left:
            raise Killed
        KilledActor.left -= 1
        await super().act(step, event, observed, now)


class World:
    """The cluster, its databases, the operator and the clock."""

    def __init__(self, *, protected: bool, ephemeral: bool, keep: int, skew: int, checkout: bool) -> None:
        self.now, self.skew = START, timedelta(seconds=skew)
        self.api = Api(NAMESPACE, lambda: self.now, protected=protected)
        self.ledger = Ledger()
        self.databases = Databases(self.running, self.db_now, self.ledger)
        self.volumes: dict[str, Volume] = {}
        """By the uid of the volume claim, or of the pod where DB1 has no volume."""
        self.in_hand: dict[str, set[tuple[int, int]]] = {}
        """What each bridge's pod has read and not committed yet."""
        self.acknowledged: dict[int, str] = {}
        """Every claim that was ever accepted, and the identity of its DB1."""
        self.expired: set[int] = set()
        """Claims that were not confirmed in time."""
        self.runner = asyncio.Runner()
        self.operator = self._started()
        self._identities = 0
        spec = {
            "pool": "taylor-la-night-1",
            "inventorySize": SLOTS,
            "window": window(START + timedelta(minutes=30), 60),
            "commitTarget": {"postgres": {"secretRef": {"name": "core-ledger"}}},
            "teardown": {"keepMinutes": keep},
        }
        spec |= {"database": {"ephemeral": {}}} if ephemeral else {}
        # A bridge ends holds, so one has to come without a queue.
        spec |= {"checkout": {"holdSeconds": 10}, "bridge": {"minReplicas": 0}} if checkout else {}
        self.api.put({"kind": "Secret", "metadata": {"name": "core-ledger"}, "data": {"uri": "cG9zdGdyZXM6Ly9h"}})
        self.api.put({"kind": names.KIND, "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": spec})

    def seconds(self) -> float:
        """The operator's monotonic clock."""
        return (self.now - START).total_seconds()

    # What exists.

    @property
    def event(self) -> Manifest | None:
        """The event, as long as it is there."""
        return self.api.find(names.KIND, NAME)

    @property
    def uid(self) -> str:
        """The event's uid."""
        return str(self.event["metadata"]["uid"]) if self.event else ""

    @property
    def status(self) -> dict[str, Any]:
        """The event's status."""
        return (self.event or {}).get("status") or {}

    def says(self, annotation: str) -> bool:
        """A person has set this annotation to the event's name."""
        return bool(self.event) and (self.event["metadata"].get("annotations") or {}).get(annotation) == NAME

    def db_now(self) -> datetime:
        """DB1's clock."""
        return self.now + self.skew

    @property
    def volume_of_db1(self) -> Volume | None:
        """The volume that DB1's pod has; made with the pod, should it be a new one."""
        pod = self.api.find("Pod", f"{DATABASE}-0")
        claim = self.api.find("PersistentVolumeClaim", CLAIM)
        key = (claim or pod or {"metadata": {}})["metadata"].get("uid")
        if pod is None or key is None:
            return None
        if key not in self.volumes:
            self._identities += 1
            self.volumes[key] = Volume(f"{7000 + self._identities}")
        return self.volumes[key]

    def running(self) -> Volume | None:
        """The volume of the running DB1; None while its pod is away."""
        return self.volume_of_db1

    def bridges(self) -> Iterator[Manifest]:
        """Pods that may commit: also those that are ending."""
        return (pod for pod in self.api.of("Pod") if pod["metadata"]["name"].startswith(names.bridge(NAME)))

    def remembered(self) -> str:
        """The identity of the DB1 that was made claimable: by the status, else by the marks on the children."""
        if known := (self.status.get("database") or {}).get("systemIdentifier"):
            return str(known)
        found = (self.api.find("StatefulSet", DATABASE), self.api.find("PersistentVolumeClaim", CLAIM))
        marks = ((c["metadata"].get("annotations") or {}).get(names.CLAIMABLE_ANNOTATION) for c in found if c)
        return next((mark for mark in marks if mark), "")

    def ours(self) -> list[Manifest]:
        """The objects with our labels, but for the report."""
        label = names.EVENT_UID_LABEL
        labelled = [o for o in self.api.objects.values() if label in (o["metadata"].get("labels") or {})]
        return [o for o in labelled if o["kind"] != "ConfigMap"]

    # What happens.

    def claims(self, count: int) -> None:
        """Buyers claim slots."""
        found = self.running()
        for _ in range(count if found and found.config else 0):
            assert found is not None
            if not found.sells(self.db_now()):
                return
            number = len(self.acknowledged) + 1
            found.claim(number, self.db_now())
            self.acknowledged[number] = found.identity

    def buyers_confirm(self, count: int) -> None:
        """Buyers confirm holds."""
        if found := self.running():
            found.confirm(count, self.db_now())

    def bridges_work(self, read: int, commit: int, *, answered: bool) -> None:
        """Bridges end holds, read, and commit what they have read, even without DB1.

        If `answered`, DB1 is told the outcome.
        """
        found = self.running()
        for pod in self.bridges():
            if found and "deletionTimestamp" not in pod["metadata"]:
                self.expired |= found.end_holds(self.db_now())
            hand = self.in_hand.setdefault(pod["metadata"]["uid"], set())
            queued = [(c.number, c.slot) for c in found.claims.values() if c.state == "queued"] if found else []
            if "deletionTimestamp" not in pod["metadata"]:
                hand.update(queued[:read])
            for number, slot in sorted(hand)[: 0 if self.ledger.away else commit]:
                hand.discard((number, slot))
                done = self.ledger.commit(number, slot)
                claim = found.claims.get(number) if found else None
                if claim and answered:
                    claim.state = "committed" if done else "dead"

    def passes(self, steps: int | None = None) -> None:
        """The operator makes a pass. With `steps`, its process is killed after so many steps, and a new one starts."""
        KilledActor.left = 10_000 if steps is None else steps
        self.watches.come()
        try:
            self.runner.run(self.operator.reconcile((NAMESPACE, NAME)))
        except Killed:
            lag = self.watches.lag
            self.operator = self._started()
            self.watches.lag = lag
        except (ApiError, NotOursError, OSError):
            pass  # it comes again

    def _started(self) -> Reconciler:
        parts: Any = self.databases
        self.watches = Watches(self.api, self.seconds)
        live = self.watches.live
        ledgers: Any = SimpleNamespace(check=parts.ledger, forget=parts.forget)
        pools: Any = SimpleNamespace(check=parts.pool, forget=parts.forget)
        # Nothing that is checked ahead decides anything.
        ahead: Any = SimpleNamespace(latest=lambda _: None, is_due=lambda *_: False, forget=parts.forget)
        observer = Observer(self.watches.cached, parts, ledgers, parts, parts, parts, pools, ahead)
        actor = KilledActor(live, parts, parts, parts, Applier(live), ahead)
        return Reconciler(live, observer, actor, INSTALLATION, Metrics(), lambda _: None, lambda: self.now)

    def restart_db1(self) -> None:
        """The container crashes: what is UNLOGGED is empty."""
        if found := self.volume_of_db1:
            found.hot = False

    def delete(self, kind: str, name: str, policy: str = "") -> bool:
        """A user deletes an object; False if that was refused."""
        try:
            self.api.remove_of((kind, name), PERSON, policy)
        except ApiError:
            return False
        return True

    def force_volume(self) -> None:
        """The volume is removed by force, whatever finalizers and guard it has."""
        for kind, name in (("PersistentVolumeClaim", CLAIM), ("Pod", f"{DATABASE}-0")):
            if found := self.api.gone((kind, name)):
                self.volumes.pop(found["metadata"]["uid"], None)

    def settle(self) -> None:
        """The controllers run until nothing changes."""
        settle(self.api)

    def forget_volumes(self) -> None:
        """Volumes without a volume claim are reclaimed."""
        uids = {each["metadata"]["uid"] for each in self.api.objects.values()}
        self.volumes = {uid: volume for uid, volume in self.volumes.items() if uid in uids}

    def calm(self, passes: int = 1, look: Callable[[], None] = lambda: None) -> None:
        """Operator, controllers and bridges work, for so many seconds; `look` runs before claims are committed."""
        for _ in range(passes):
            self.passes()
            self.settle()
            look()
            self.bridges_work(SLOTS, SLOTS, answered=True)
            self.now += timedelta(seconds=1)
