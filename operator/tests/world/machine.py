"""What users, Kubernetes and crashes do, in any order; what must hold after each step, and how it ends."""

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from intake_operator import names
from intake_operator.kube.watches import WATCHED

from .api import COLLECTOR, FOREGROUND, GUARDED, NAMESPACES, OPERATOR, ORPHAN
from .controllers import CONTROLLERS
from .databases import window
from .world import CLAIM, DATABASE, NAME, NAMESPACE, START, World

POLICIES = st.sampled_from(["", FOREGROUND, ORPHAN])
NEEDED = {("StatefulSet", DATABASE), ("PersistentVolumeClaim", CLAIM)}
POD = ("Pod", f"{DATABASE}-0")
# Seconds in which the event has to end once nothing prevents it any more.
PATIENCE = 40
# Minutes: beyond the lead time.
FAR = 600


# Hypothesis prefers few kinds of rules in one example, and the first by name. So some things, each as likely as the
# others, may happen before its first rule.
AT_FIRST: Final[dict[str, Callable[["Machine"], None]]] = {
    "anchor deleted": lambda m: m.a_child_is_deleted("NetworkPolicy", ""),
    "StatefulSet deleted": lambda m: m.a_child_is_deleted("StatefulSet", FOREGROUND),
    "volume claim deleted": lambda m: m.a_child_is_deleted("PersistentVolumeClaim", ""),
    "Secret deleted": lambda m: m.a_child_is_deleted("Secret", ""),
    "pod deleted": lambda m: m.a_child_is_deleted("Pod", ""),
    "node drained": lambda m: m.a_node_is_drained(),
    "finalizer of the claim removed": lambda m: m.the_finalizer_of_the_volume_claim_is_removed(),
    "volume lost": lambda m: m.the_volume_is_removed_by_force(),
    "status dropped": lambda m: m.a_restore_drops_the_status(),
    "deleted": lambda m: m.the_event_is_deleted(),
    "deleted in the foreground": lambda m: m.the_event_is_deleted_in_the_foreground(),
    "deleted as orphan": lambda m: m.the_event_is_deleted_and_its_children_orphaned(),
    "namespace deleted": lambda m: m.the_namespace_is_deleted(),
    "recover": lambda m: m.an_annotation_is_set(names.RECOVER_ANNOTATION, NAME),
    "abandon, another": lambda m: m.an_annotation_is_set(names.ABANDON_ANNOTATION, "another"),
    "report forged": lambda m: m.somebody_makes_a_config_map_like_the_report(labelled=True),
    "over": lambda m: m.the_window_is_edited(None, 0),
    "far away": lambda m: m.the_window_is_edited(FAR, 60),
    "ledger away": lambda m: m.the_ledger_goes_or_comes(away=True),
    "confirmed": lambda m: m.buyers_confirm(2),
    "holds end": lambda m: m.time_passes(20),
    "bridges read": lambda m: m.bridges_work(2, 1, answered=False),
    "DB1 restarts": lambda m: m.db1_restarts(),
    "half a pass": lambda m: m.the_operator_makes_a_pass(9),
    "two passes": lambda m: [m.the_operator_makes_a_pass(None) for _ in range(2)] and None,
    "controllers": lambda m: m.kubernetes_comes_to_rest(),
    "watches lag": lambda m: m.the_watches_lag(lag=True),
    "watch of the claims lists again": lambda m: m.a_watch_lists_again("PersistentVolumeClaim"),
    "calm": lambda m: m.all_is_calm(4),
}


class Machine(RuleBasedStateMachine):
    """`given_up` are the identities of the DB1s whose claims a person let go."""

    world: World

    @initialize(
        protected=st.booleans(),
        ephemeral=st.sampled_from([False, False, True]),
        keep=st.sampled_from([0, 10]),
        skew=st.sampled_from([0, -60, 60]),
        begins=st.sampled_from(["selling", "selling", "scheduled", "waiting", "new"]),
        deleted=st.booleans(),
        checkout=st.booleans(),
        first=st.lists(st.sampled_from(sorted(AT_FIRST)), max_size=5),
    )
    def begin(
        self,
        protected: bool,
        ephemeral: bool,
        keep: int,
        skew: int,
        begins: str,
        deleted: bool,
        checkout: bool,
        first: list[str],
    ) -> None:
        self.world = World(protected=protected, ephemeral=ephemeral, keep=keep, skew=skew, checkout=checkout)
        self.ephemeral, self.ends_deleted = ephemeral, deleted
        self.given_up: set[str] = set()
        self.abandoned = self.recovers = self.wiped = self.reported = False
        self.live, self.seen = "", 0
        if begins == "waiting":
            self.the_window_is_edited(FAR, 60)
        if begins != "new":
            self.world.calm(6)
        if begins == "selling":
            self.world.now = START + timedelta(minutes=32)
            self.world.calm(2)
            self.world.claims(4)
        for what in first:
            AT_FIRST[what](self)
            self.look()

    # Kubernetes, DB1, bridges, the operator, the clock.

    @rule(seconds=st.sampled_from([1, 20, 360, 3600]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)

    @rule(which=st.sampled_from(sorted(CONTROLLERS)))
    def a_controller_looks(self, which: str) -> None:
        CONTROLLERS[which](self.world.api)

    @rule()
    def kubernetes_comes_to_rest(self) -> None:
        self.world.settle()

    @rule(steps=st.one_of(st.none(), st.integers(0, 16)))
    def the_operator_makes_a_pass(self, steps: int | None) -> None:
        self.world.passes(steps)

    @rule(passes=st.integers(1, 6))
    def all_is_calm(self, passes: int) -> None:
        self.world.calm(passes, self.look)

    @rule(count=st.integers(1, 3))
    def a_buyer_claims(self, count: int) -> None:
        found = self.world.running()
        if found and found.config and found.sells(self.world.db_now()) and not self.wiped:
            assert found.identity == self.world.remembered(), "sold from a DB1 that is not remembered"
        self.world.claims(count)

    @rule(count=st.integers(1, 3))
    def buyers_confirm(self, count: int) -> None:
        self.world.buyers_confirm(count)

    @rule(read=st.integers(0, 2), commit=st.integers(0, 2), answered=st.booleans())
    def bridges_work(self, read: int, commit: int, answered: bool) -> None:
        self.world.bridges_work(read, commit, answered=answered)

    @rule(dead=st.booleans())
    def claims_give_up_or_are_replayed(self, dead: bool) -> None:
        found = self.world.running()
        for claim in found.claims.values() if found else ():
            if claim.state == ("queued" if dead else "dead"):
                claim.state = "dead" if dead else "queued"

    @rule(away=st.booleans())
    def the_ledger_goes_or_comes(self, away: bool) -> None:
        self.world.ledger.away = away

    @rule()
    def db1_restarts(self) -> None:
        self.world.restart_db1()

    # The operator's watches.

    @rule(lag=st.booleans())
    def the_watches_lag(self, lag: bool) -> None:
        self.world.watches.lag = lag

    @rule(kind=st.sampled_from(WATCHED), count=st.integers(1, 5))
    def a_watch_hears_something(self, kind: str, count: int) -> None:
        self.world.watches.hears(kind, count)

    @rule(kind=st.sampled_from(WATCHED))
    def a_watch_lists_again(self, kind: str) -> None:
        self.world.watches.lists(kind)

    @rule()
    def a_node_is_drained(self) -> None:
        """An eviction, as far as the budget allows it."""
        budget = self.world.api.find("PodDisruptionBudget", DATABASE)
        if budget and budget["spec"]["maxUnavailable"] == 0:
            return
        if budget is None:
            self.lose_pod()
        self.world.delete(*POD)

    # Users.

    # Three rules, so that each is as frequent as any other.

    @rule()
    def the_event_is_deleted(self) -> None:
        self.world.delete(names.KIND, NAME)

    @rule()
    def the_event_is_deleted_in_the_foreground(self) -> None:
        self.world.delete(names.KIND, NAME, FOREGROUND)

    @rule()
    def the_event_is_deleted_and_its_children_orphaned(self) -> None:
        self.world.delete(names.KIND, NAME, ORPHAN)

    @rule()
    def the_namespace_is_deleted(self) -> None:
        self.world.delete("Namespace", NAMESPACE)
        if not self.world.api.protected:
            self.give_up()

    @rule(kind=st.sampled_from([*sorted(GUARDED), "Pod", "PodDisruptionBudget"]), policy=POLICIES)
    def a_child_is_deleted(self, kind: str, policy: str) -> None:
        child = next((each for each in self.world.ours() if each["kind"] == kind), None)
        if child is None:
            return
        key = kind, child["metadata"]["name"]
        if key == POD:
            self.lose_pod()
        if self.world.delete(*key, policy) and key[0] == "StatefulSet":  # it is unguarded, and so is its pod
            self.lose_pod()
        self.see_memory()

    @rule()
    def the_finalizer_of_the_volume_claim_is_removed(self) -> None:
        claim = self.world.api.find("PersistentVolumeClaim", CLAIM)
        if claim is None:
            return
        if not self.world.api.protected:
            self.give_up()
        self.world.api.release(claim, names.FINALIZER)
        self.see_memory()

    @rule()
    def the_volume_is_removed_by_force(self) -> None:
        self.give_up()
        self.world.force_volume()
        self.see_memory()

    @rule()
    def a_restore_drops_the_status(self) -> None:
        if self.world.event is None:
            return
        self.world.event.pop("status", None)
        self.world.api.touch(self.world.event)
        self.reported = False
        self.see_memory()

    @rule(opens=st.sampled_from([None, None, 2, 60, FAR]), minutes=st.sampled_from([1, 20, 120]))
    def the_window_is_edited(self, opens: int | None, minutes: int) -> None:
        event = self.world.event
        if event is None:
            return
        begins = START + timedelta(minutes=30) if opens is None else self.world.now + timedelta(minutes=opens)
        length = minutes if opens is not None else (self.world.now - begins).total_seconds() // 60 + minutes
        event["spec"]["window"] = window(begins, max(int(length), 1))
        event["metadata"]["generation"] += 1
        self.world.api.touch(event)

    @rule(
        name=st.sampled_from([names.RECOVER_ANNOTATION, names.POOL_UNCHECKED_ANNOTATION, names.ABANDON_ANNOTATION]),
        value=st.sampled_from([NAME, "true", "", "another"]),
    )
    def an_annotation_is_set(self, name: str, value: str) -> None:
        if self.world.event is None:
            return
        self.world.event["metadata"].setdefault("annotations", {})[name] = value
        self.world.api.touch(self.world.event)
        self.abandoned |= self.world.says(names.ABANDON_ANNOTATION)
        self.recovers |= self.world.says(names.RECOVER_ANNOTATION)

    @rule(labelled=st.booleans())
    def somebody_makes_a_config_map_like_the_report(self, labelled: bool) -> None:
        key = ("ConfigMap", names.report(NAME))
        if self.world.event and key not in self.world.api.objects and not self.world.api.terminating:
            labels = {names.EVENT_LABEL: NAME, names.EVENT_UID_LABEL: self.world.event["metadata"]["uid"]}
            meta = {"name": key[1], "labels": labels if labelled else {}}
            meta["annotations"] = {names.VERIFIED_ANNOTATION: "true"}
            self.world.api.put({"kind": key[0], "metadata": meta, "data": {"verified": "true"}})

    # What that means.

    def give_up(self) -> None:
        """A user gives up the claims on all present volumes."""
        self.given_up |= {volume.identity for volume in self.world.volumes.values()}

    def lose_pod(self) -> None:
        """Without a volume the pod is the data."""
        if self.ephemeral:
            self.give_up()

    def see_memory(self) -> None:
        """Users can remove every record of the DB1 that was sold from: then the operator cannot know it."""
        self.wiped |= bool(self.live) and not self.world.remembered()

    @property
    def unsettled(self) -> list[int]:
        """Acknowledged claims that are not in the ledger, did not expire, and that no user has given up."""
        if self.abandoned:
            return []
        claims, settled = self.world.acknowledged.items(), self.world.ledger.sold.keys() | self.world.expired
        return [n for n, identity in claims if n not in settled and identity not in self.given_up]

    # What must hold.

    @invariant()
    def look(self) -> None:
        """Check everything that must hold at this moment."""
        self.world.forget_volumes()
        self.look_i11()
        self.look_i1()
        self.look_at_the_report()

    def look_i11(self) -> None:
        """Nothing that holds an unsettled claim is removed by any client."""
        deletions, self.world.api.deletions = self.world.api.deletions, []
        if not self.unsettled:
            return
        held = {number for volume in self.world.volumes.values() for number in volume.claims}
        assert held >= set(self.unsettled), "claims are gone with their volume"
        event = self.world.event
        assert event is not None, "the event is gone"
        assert names.FINALIZER in event["metadata"]["finalizers"], "the event has lost its finalizer"
        for deletion in deletions:
            pod = self.world.api.protected and deletion.key == POD and deletion.by != OPERATOR
            if deletion.by in {OPERATOR, COLLECTOR, NAMESPACES}:
                assert deletion.key not in NEEDED, f"{deletion.by} removes {deletion.key}"
                assert not pod, f"{deletion.by} removes DB1's pod"
        made = self.world.api.find(*("StatefulSet", DATABASE))
        assert made is None or made["spec"]["replicas"], "DB1 is stopped"

    def look_i1(self) -> None:
        """The DB1 that was sold from is remembered, and no other is sold from."""
        if not self.wiped:
            assert not self.world.ledger.twice, "a slot was sold twice"
            for volume in self.world.databases.seeded[self.seen :]:
                again = volume.restored and self.recovers
                assert not self.live or again, "an empty DB1 was seeded"
                self.live = volume.identity
        self.seen = len(self.world.databases.seeded)
        event = self.world.event
        if event is None or names.FINALIZER not in (event["metadata"].get("finalizers") or ()):
            self.live = ""
        if self.live and not self.wiped and not self.world.remembered():
            assert self.live in self.given_up, "the operator forgot what it sold from"
            self.wiped = True

    def look_at_the_report(self) -> None:
        """The report permits every removal, so it needs the proof or the abandon annotation."""
        if "report" in self.world.status and not self.reported:
            assert not self.unsettled, "a report without a proof"
            assert self.abandoned or self.world.status["report"]["verified"], "a report without a proof"
            self.reported, self.live = True, ""

    # How it ends.

    def teardown(self) -> None:
        """The event ends: by itself, unless a user has removed what the drain needs."""
        if not hasattr(self, "world"):
            return
        try:
            if sys.exception() is None:
                self.end()
        finally:
            self.world.runner.close()

    def end(self) -> None:
        """The ledger and the watches are back, dead letters are replayed, and the event is over or deleted."""
        self.world.ledger.away = self.world.watches.lag = False
        event = self.world.event
        if event is not None and self.ends_deleted:
            self.world.delete(names.KIND, NAME)
        elif event is not None:
            event["spec"]["window"] = window(START, 1)
            self.world.api.touch(event)
            self.world.now += timedelta(hours=1)
        if self.over():
            return
        messages = [c["message"] for c in self.world.status["conditions"] if c["type"] in {"Drained", "Degraded"}]
        assert self.needs_abandoning(), f"it does not end: {messages}"
        self.an_annotation_is_set(names.ABANDON_ANNOTATION, NAME)
        assert self.over(), f"it does not end, although it was abandoned: {messages}"

    def needs_abandoning(self) -> bool:
        """Whether the claims cannot be drained any more: their DB1 is lost, or cannot run, or no bridge can."""
        found, api = self.world.running(), self.world.api
        if found is not None and found.identity != self.world.remembered():
            return True
        if api.terminating:
            return found is None or bool(found.count("held", "queued", "dead") and not any(self.world.bridges()))
        claim = api.find("PersistentVolumeClaim", CLAIM)
        return found is None and claim is not None and "deletionTimestamp" in claim["metadata"]

    def over(self) -> bool:
        """Whether nothing is left after PATIENCE seconds."""
        for _ in range(PATIENCE):
            event = self.world.event
            if not self.world.ours() and (not event or names.FINALIZER not in event["metadata"].get("finalizers", ())):
                return True
            self.claims_give_up_or_are_replayed(dead=False)
            self.world.calm(look=self.look)
            problems = {c["reason"] for c in self.world.status.get("conditions", ()) if c["type"] == "Degraded"}
            if "ChildNotOurs" in problems:  # as its message says
                self.world.delete("ConfigMap", names.report(NAME))
        return False
