"""An operator of a new version takes over an event: what of it stays as it was, and what follows the new version."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import given
import pytest
from given import CLOSES, DATABASE, INSTALLATION, OPENS, Given, make_status
from intake_operator import names
from intake_operator.children import bridge, database
from intake_operator.children.installation import BridgeImage, Installation
from intake_operator.children.templates import fitting, kept, stamped
from intake_operator.decide.database_pod import QUIET_BEFORE
from intake_operator.decide.plan import plan
from intake_operator.decide.serve import WARM_UP
from intake_operator.decide.steps import Configure, ScaleBridges
from intake_operator.model.observed import Manifest
from intake_operator.model.parse import parse
from intake_operator.model.secrets import fingerprint
from intake_operator.model.sql_version import SqlVersion, name_of
from intake_operator.reasons import ConditionType, DatabaseReason, Problem
from planning import Decided

SECOND = timedelta(seconds=1)
BRIDGES = ("Deployment", "taylor-drop-bridge")
NEW_IMAGE = "registry.example/bridge:2"
NEW = Installation(BridgeImage(NEW_IMAGE, "Always", "http://collector:4318"), INSTALLATION.guard)
ASKED = {names.UPGRADE_ANNOTATION: "taylor-drop"}
FORMER = SqlVersion("former000000", "present00000", changed=("0008_claims.sql",))
APPENDED = replace(FORMER, changed=())


def with_bridges(sale: Given, image: str = INSTALLATION.bridge.name, **status: int) -> Given:
    """With two bridges of this image, that have run."""
    assert sale.event.spec is not None
    installation = replace(INSTALLATION, bridge=replace(INSTALLATION.bridge, name=image))
    made = bridge.deployment(sale.event, sale.event.spec, installation, sale.observed.input_fingerprints)
    made["metadata"]["generation"] = 3
    made["spec"]["replicas"] = 2
    made["status"] = {"observedGeneration": 3, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2} | status
    return sale.child(BRIDGES, made)


def by_new_version(sale: Given) -> Decided:
    """What an operator of the new version decides."""
    return Decided(**vars(plan(sale.event, sale.observed, NEW, sale.now)))


def template_of(decided: Decided, kind: str = "Deployment") -> Manifest:
    """The pod template that is applied."""
    (made,) = decided.applied(kind)
    template: Manifest = made["spec"]["template"]
    return template


def image_of(decided: Decided) -> str:
    """The bridges' image that is applied."""
    return str(template_of(decided)["spec"]["containers"][0]["image"])


RUSH = pytest.mark.parametrize(
    "sale",
    [
        given.selling(),
        given.selling().at(CLOSES - SECOND),
        given.closed(),
        given.closed().sealed(depth=3),
        given.closed().sealed(deadLetters=1),
        given.scheduled().says(windowState="scheduled", queue={"depth": 1}),
        given.scheduled().says(windowState="scheduled").at(OPENS - WARM_UP),
    ],
    ids=["open", "closing", "closed", "draining", "dead letters", "moved to later", "about to open"],
)


class TestBridges:
    @RUSH
    def test_keep_their_template_in_a_rush(self, sale: Given) -> None:
        before = with_bridges(sale)
        decided = by_new_version(before)
        assert template_of(decided) == before.observed.children[BRIDGES]["spec"]["template"]
        assert decided.status["database"]["bridgeImage"] == INSTALLATION.bridge.name

    def test_that_do_not_exist_yet_get_the_new_one(self) -> None:
        sale = given.scheduled().says(windowState="scheduled").db1(version=FORMER).at(OPENS - WARM_UP)
        assert image_of(by_new_version(sale)) == NEW_IMAGE

    def test_are_still_scaled_in_a_rush(self) -> None:
        sale = with_bridges(given.selling().says(queue={"depth": 8000}))
        assert by_new_version(sale).all(ScaleBridges) == [ScaleBridges(4)]

    def test_are_replaced_where_a_person_asks(self) -> None:
        sale = with_bridges(given.selling(annotations=ASKED)).db1(version=FORMER)
        assert image_of(by_new_version(sale)) == NEW_IMAGE
        other = with_bridges(given.selling(annotations={names.UPGRADE_ANNOTATION: "another"})).db1(version=FORMER)
        assert image_of(by_new_version(other)) == INSTALLATION.bridge.name

    def test_follow_an_edit_of_the_event_and_keep_their_image(self) -> None:
        sale = with_bridges(given.selling())
        edited = given.selling(spec={"bridge": {"resources": {"requests": {"cpu": "1"}}}}).event
        decided = by_new_version(replace(sale, event=edited))
        (container,) = template_of(decided)["spec"]["containers"]
        assert container["resources"] == {"requests": {"cpu": "1"}}
        assert container["image"] == INSTALLATION.bridge.name

    def test_follow_a_new_secret(self) -> None:
        sale = with_bridges(given.selling())
        prints = {**sale.observed.input_fingerprints, "core-ledger": "rotated"}
        before = template_of(by_new_version(sale))["metadata"]
        assert template_of(by_new_version(sale.seen(input_fingerprints=prints)))["metadata"] != before

    def test_number_of_bridges_and_batch_size_change_no_template(self) -> None:
        sale = with_bridges(given.selling())
        edited = given.selling(spec={"bridge": {"maxReplicas": 9, "minReplicas": 2}, "batchSize": 7}).event
        before = sale.observed.children[BRIDGES]["spec"]["template"]
        assert template_of(by_new_version(replace(sale, event=edited))) == before

    def test_that_never_ran_follow_the_installation(self) -> None:
        sale = with_bridges(given.selling(), readyReplicas=0)
        assert image_of(by_new_version(sale)) == NEW_IMAGE

    def test_keep_an_image_that_ran_while_none_is_ready(self) -> None:
        ran = with_bridges(given.selling())
        sale = with_bridges(ran.after(by_new_version(ran)), readyReplicas=0)
        assert image_of(by_new_version(sale)) == INSTALLATION.bridge.name

    def test_whose_deployment_is_lost_come_back_as_they_were(self) -> None:
        ran = with_bridges(given.selling())
        children = {key: child for key, child in ran.observed.children.items() if key != BRIDGES}
        sale = ran.after(by_new_version(ran)).seen(children=children)
        assert image_of(by_new_version(sale)) == INSTALLATION.bridge.name

    def test_keep_the_former_image_until_all_are_replaced(self) -> None:
        ran = with_bridges(given.selling())
        ran = ran.after(by_new_version(ran))
        rolling = with_bridges(ran, NEW_IMAGE, updatedReplicas=1)
        assert by_new_version(rolling).status["database"]["bridgeImage"] == INSTALLATION.bridge.name
        assert by_new_version(with_bridges(ran, NEW_IMAGE)).status["database"]["bridgeImage"] == NEW_IMAGE

    def test_a_hand_is_repaired_where_the_version_is_the_same(self) -> None:
        sale = with_bridges(given.selling())
        sale = with_bridges(sale.after(sale.plan()), updatedReplicas=1)
        (container,) = sale.observed.children[BRIDGES]["spec"]["template"]["spec"]["containers"]
        container["image"] = "by-hand:1"
        assert image_of(sale.plan()) == INSTALLATION.bridge.name

    def test_of_a_rebuilt_db1_are_those_of_its_sql(self) -> None:
        ran = with_bridges(given.selling(annotations={names.RECOVER_ANNOTATION: "taylor-drop"}))
        ran = ran.after(by_new_version(ran)).says(restored={"at": OPENS.isoformat(), "committed": 1, "voided": 0})
        rebuilt = with_bridges(ran.db1(identity="9999"), replicas=0, updatedReplicas=0, readyReplicas=0)
        decided = by_new_version(rebuilt)
        assert image_of(decided) == NEW_IMAGE
        assert "bridgeImage" not in decided.status["database"]

    def test_keep_their_image_on_a_db1_that_lacks_what_the_new_ones_call(self) -> None:
        version = replace(FORMER, bridges_lack=("intake.read_more(text)",))
        early = with_bridges(given.selling(annotations=ASKED).db1(version=version))
        decided = by_new_version(early)
        assert image_of(decided) == INSTALLATION.bridge.name
        assert "intake.read_more(text)" in decided.message(ConditionType.DATABASE_READY)


class TestDatabase:
    @RUSH
    @pytest.mark.parametrize("asked", [False, True])
    def test_keeps_its_template_in_a_rush(self, sale: Given, asked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        before = sale.observed.children[DATABASE]["spec"]["template"]
        monkeypatch.setattr(database, "DEFAULTS", {"max_connections": "999"})
        sale = sale.changed(annotations=ASKED if asked else {})
        assert template_of(sale.plan(), "StatefulSet") == before

    @pytest.mark.parametrize(("before", "new"), [(QUIET_BEFORE, False), (QUIET_BEFORE + SECOND, True)])
    def test_gets_a_new_one_while_its_pod_may_be_replaced(
        self, before: timedelta, new: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sale = given.scheduled().says(windowState="scheduled").at(OPENS - before)
        monkeypatch.setattr(database, "DEFAULTS", {"max_connections": "999"})
        assert ("max_connections=999" in str(template_of(sale.plan(), "StatefulSet"))) is new

    def test_follows_an_edit_of_the_event(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sale = given.selling()
        monkeypatch.setattr(database, "DEFAULTS", {"max_connections": "999"})
        edited = given.selling(spec={"database": {"image": "postgres:18.9"}}).event
        assert "postgres:18.9" in str(template_of(replace(sale, event=edited).plan(), "StatefulSet"))

    def test_what_the_api_server_lets_nobody_change_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sale = given.scheduled().says(windowState="scheduled")
        before = sale.observed.children[DATABASE]["spec"]["volumeClaimTemplates"]
        monkeypatch.setattr(database.common, "labels", lambda *_: {"more": "labels"})
        (made,) = sale.plan().applied("StatefulSet")
        assert made["spec"]["volumeClaimTemplates"] == before
        assert made["spec"]["template"]["metadata"]["labels"]["more"] == "labels"


class TestSql:
    @pytest.mark.parametrize("version", [FORMER, APPENDED], ids=["changed", "appended"])
    @pytest.mark.parametrize("sale", [given.scheduled(), given.selling(), given.closed()])
    def test_of_a_newer_version_waits(self, sale: Given, version: SqlVersion) -> None:
        decided = sale.db1(version=version).plan()
        assert "Migrate" not in decided.kinds
        assert decided.all(Configure)
        assert decided.reason(ConditionType.DEGRADED) == "AsExpected"

    def test_of_a_newer_version_is_run_where_a_person_asks(self) -> None:
        # Last: a file may wait for a lock, and what comes after a step that fails would wait as well.
        assert with_bridges(given.selling(annotations=ASKED)).db1(version=APPENDED).plan().kinds[-1] == "Migrate"
        assert "Migrate" not in given.closed(annotations=ASKED).db1(version=APPENDED).plan().kinds

    def test_that_has_changed_is_never_run_and_the_event_says_why(self) -> None:
        decided = given.selling(annotations=ASKED).db1(version=FORMER).plan()
        assert "Migrate" not in decided.kinds
        assert "0008_claims.sql" in decided.message(ConditionType.DATABASE_READY)
        assert decided.reason(ConditionType.READY) == "Open"

    def test_shows_on_the_status_and_stays_while_db1_cannot_be_asked(self) -> None:
        sale = given.selling().db1(version=FORMER)
        first = sale.plan()
        assert first.status["database"]["version"] == FORMER.name
        away = sale.after(first).new_db1(error="away").plan()
        assert away.status["database"]["version"] == FORMER.name
        assert given.selling(status={}).db1(version=FORMER).plan().status["database"]["version"] == FORMER.name

    def test_of_another_version_is_named_in_a_message(self) -> None:
        message = given.selling().db1(version=FORMER).plan().message(ConditionType.DATABASE_READY)
        assert FORMER.name in message
        assert FORMER.own in message
        own = given.selling().db1(version=SqlVersion("same", "same")).plan()
        assert own.message(ConditionType.DATABASE_READY) == "DB1 answers claims"

    def test_settings_that_it_does_not_know_are_left_out_and_named(self) -> None:
        known = frozenset(given.make_spec().engine_config()) - {"latencyBudgetMilliseconds"}
        decided = given.selling().db1(version=replace(FORMER, settings=known)).plan()
        assert set(decided.all(Configure)[0].config) == known
        assert "latencyBudgetMilliseconds" in decided.message(ConditionType.DATABASE_READY)

    @pytest.mark.parametrize("changed", [(), ("0001.sql",)])
    def test_that_lacks_what_the_operator_calls_is_left_alone(self, changed: tuple[str, ...]) -> None:
        version = replace(FORMER, changed=changed, lacks=("intake.seal(text, text)",))
        for sale in (given.selling(), given.closed()):
            sale = with_bridges(sale).db1(version=version, migrated=False, status=None, connections=None)  # noqa: PLW2901
            decided = sale.plan()
            assert not {"Migrate", "LimitClaimers", "SetLogins", "Configure", "Seed", "Seal"} & set(decided.kinds)
            assert decided.reason(ConditionType.DEGRADED) == Problem.DATABASE_VERSION_UNSUPPORTED
            assert decided.reason(ConditionType.DATABASE_READY) == DatabaseReason.UNSUPPORTED
            assert "intake.seal(text, text)" in decided.message(ConditionType.DEGRADED)

    def test_that_was_never_whole_is_completed_before_the_first_slot(self) -> None:
        version = replace(APPENDED, lacks=("intake.seal(text, text)",))
        sale = given.scheduled().unmarked().db1(version=version, migrated=False, status=None, connections=None)
        assert "Migrate" in sale.plan().kinds

    def test_without_what_bridges_call_starts_none(self) -> None:
        version = replace(FORMER, bridges_lack=("intake.read_more(text)",))
        decided = given.selling().db1(version=version).plan()
        assert not decided.applied("Deployment")
        assert decided.reason(ConditionType.DEGRADED) == Problem.DATABASE_VERSION_UNSUPPORTED

    def test_its_name_depends_on_names_and_contents_alone(self) -> None:
        # Kept on purpose: an operator of another version computes the same for the same DB1.
        assert name_of({"b": "2", "a": "1"}) == name_of({"a": "1", "b": "2"}) == "2951835de336"
        assert name_of({"a": "2", "b": "1"}) != name_of({"a": "1", "b": "2"})


class TestFieldsOfALaterVersion:
    def test_in_the_spec_are_ignored(self) -> None:
        raw = {
            "pool": "p",
            "inventorySize": 5,
            "window": {"opensAt": OPENS.isoformat(), "closesAt": CLOSES.isoformat(), "later": True},
            "commitTarget": {"postgres": {"secretRef": {"name": "core", "later": 1}, "later": {}}, "later": []},
            "bridge": {"later": {"deep": 1}},
            "database": {"later": "x"},
            "later": {"a": 1},
        }
        meta = {"namespace": "n", "name": "e", "uid": "u", "generation": 1, "creationTimestamp": OPENS.isoformat()}
        found = parse({"metadata": meta, "spec": raw})
        assert found.spec_error == ""
        assert found.spec is not None

    def test_that_the_status_remembers_are_kept(self) -> None:
        later: dict[str, Any] = {
            "database": {"systemIdentifier": "7251", "later": {"a": 1}},
            "recovery": {"at": "x", "committed": 1, "voided": 0, "unaccounted": 0, "later": 2},
        }
        for sale in (given.selling(status=later), given.closed(status=later), given.selling(status=later).new_db1()):
            status = sale.plan().status
            assert status["database"].get("later") == {"a": 1}
            assert status["recovery"].get("later") == 2
        report = {**(given.finished().event.status["report"]), "later": 3}
        assert given.finished().changed(status={"report": report}).plan().status["report"]["later"] == 3

    def test_do_not_replace_bridges(self) -> None:
        # A field with a default that a later version adds to the model, and the same spec.
        sale = given.selling()
        stamps = with_bridges(sale).observed.children[BRIDGES]["metadata"]["annotations"]
        assert stamps[names.SETTINGS_ANNOTATION] == "cb703bf3bef05010"
        secret = {"metadata": {"uid": "u"}, "data": {"a": "YQ=="}}
        assert fingerprint(secret).startswith("9fbfa11f2af1")

    def test_what_db1_says_beyond_the_model_is_ignored(self) -> None:
        assert make_status(later={"a": 1}, inventory={**make_status().inventory.model_dump(by_alias=True), "later": 1})


class TestTemplates:
    """The annotations of a workload, without a plan."""

    def wanted(self, image: str, **settings: Any) -> Manifest:
        template = {"metadata": {"annotations": {names.INPUTS_ANNOTATION: "i"}}, "spec": {"image": image}}
        return stamped({"metadata": {"name": "x"}, "spec": {"selector": {}, "template": template}}, settings)

    def test_without_an_existing_one_all_is_as_wanted(self) -> None:
        wanted = self.wanted("a")
        assert kept(wanted, None) == fitting(wanted, None) == wanted

    def test_one_without_annotations_stays_and_follows_later_edits(self) -> None:
        existing = self.wanted("a", cpu=1)
        existing["metadata"] = {"name": "x"}
        taken = kept(self.wanted("b", cpu=1), existing)
        assert taken["spec"]["template"] == existing["spec"]["template"]
        assert kept(self.wanted("b", cpu=1), taken) == taken
        assert kept(self.wanted("b", cpu=2), taken) == self.wanted("b", cpu=2)

    def test_one_without_annotations_follows_a_secret(self) -> None:
        existing = self.wanted("a")
        existing["metadata"] = {"name": "x"}
        existing["spec"]["template"]["metadata"]["annotations"] = {names.INPUTS_ANNOTATION: "before"}
        assert kept(self.wanted("b"), existing) == self.wanted("b")

    def test_what_cannot_change_stays(self) -> None:
        existing = {"spec": {"selector": {"a": 1}, "volumeClaimTemplates": ["v"], "template": "t"}}
        made = fitting(self.wanted("a"), existing)
        assert (made["spec"]["selector"], made["spec"]["volumeClaimTemplates"]) == ({"a": 1}, ["v"])
        assert made["spec"]["template"]["spec"] == {"image": "a"}
