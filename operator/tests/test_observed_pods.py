"""What was observed of pods and workloads, in the files of `observed/`, and what the event says of it."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import given
import pytest
import yaml
from given import CLOSES, DATABASE, OPENS, Given, make_pod
from intake_operator.children import protection
from intake_operator.decide.health.finding import Finding
from intake_operator.decide.health.findings import findings
from intake_operator.decide.health.pods import END_PATIENCE, KILLED_LATELY, START_PATIENCE
from intake_operator.decide.stage import Stage
from intake_operator.model.observed import DatabaseState, Manifest
from intake_operator.reasons import ConditionType, DatabaseReason, Problem

SECOND = timedelta(seconds=1)
HERE = Path(__file__).parent / "observed"
LIMITED = {"containers": [{"name": "postgres", "resources": {"limits": {"memory": "512Mi"}}}]}
ABOUT_A_MINUTE = OPENS + timedelta(minutes=1)


def observed(name: str) -> Manifest:
    """One file of the folder."""
    found: Manifest = yaml.safe_load((HERE / f"{name}.yaml").read_text(encoding="utf-8"))
    return found


def of(sale: Given, stage: Stage = Stage.SERVE) -> list[Finding]:
    """The problems of an event."""
    return list(findings(sale.event, sale.observed, stage, sale.now))


def as_pod(sale: Given, file: str, component: str = "database", **spec: Any) -> Manifest:
    """The pod of an event, as the file has it."""
    pod, seen = make_pod(sale.event, component), observed(file)
    pod["metadata"] |= seen.get("metadata", {})
    return pod | {"status": seen["status"], "spec": seen.get("spec", {}) | spec}


def with_database(sale: Given, file: str, **spec: Any) -> Given:
    """The event whose DB1 has this pod, and cannot be reached."""
    return sale.seen(pods=(as_pod(sale, file, **spec),)).new_db1()


def refused(sale: Given) -> Given:
    """The event whose bridges are refused by a quota."""
    made = sale.bridges(4)
    key = ("Deployment", "taylor-drop-bridge")
    return made.child(key, made.observed.children[key] | observed("deployment-refused"))


@pytest.mark.parametrize(
    ("file", "reason", "words"),
    [
        (
            "init-container-crashing",
            Problem.PODS_NOT_STARTING,
            ["pod taylor-drop-database-0 does not start", "container mesh-init: CrashLoopBackOff back-off 5m0s"],
        ),
        (
            "sidecar-crashing",
            Problem.PODS_NOT_STARTING,
            ["container mesh-proxy: CrashLoopBackOff back-off 2m40s", "last with exit code 2"],
        ),
        ("init-container-hanging", Problem.PODS_NOT_STARTING, ["init container wait-for-vault has not ended yet"]),
        (
            "container-between-restarts",
            Problem.PODS_NOT_STARTING,
            ["container postgres was restarted 4 times, last with exit code 1", "--previous"],
        ),
        (
            "database-never-ready",
            Problem.PODS_NOT_STARTING,
            ["has run since 2026-12-01T17:59:10+00:00 and is not ready", "`kubectl get node worker-7`"],
        ),
        ("pod-evicted", Problem.PODS_NOT_STARTING, ["has ended: Evicted The node was low on resource"]),
        (
            "out-of-memory",
            Problem.OUT_OF_MEMORY,
            ["container postgres", "no limit", "restarted 7 times", "Raise spec.database.resources"],
        ),
    ],
)
def test_a_database_that_does_not_run_is_reported_with_its_reason(file: str, reason: Problem, words: list[str]) -> None:
    sale = with_database(given.selling(), file).at(ABOUT_A_MINUTE)
    assert [each.reason for each in of(sale)] == [reason]
    (finding,) = of(sale)
    assert [word for word in words if word not in finding.message] == [], finding.message
    for stage in (Stage.DRAIN, Stage.KEEP):
        assert finding in of(sale, stage)
    decided = sale.plan()
    assert decided.condition(ConditionType.READY)["status"] == "False"
    assert decided.reason(ConditionType.DEGRADED) == decided.reason(ConditionType.READY) == reason


def test_a_container_that_was_killed_for_its_memory_is_reported_with_its_limit() -> None:
    (finding,) = of(with_database(given.selling(), "out-of-memory", **LIMITED))
    assert "more than its limit of 512Mi" in finding.message


def test_one_that_runs_again_is_told_of_for_a_while_and_is_no_reason_not_to_be_ready() -> None:
    sale = given.selling()
    pod = make_pod(sale.event, "database")
    killed = {"terminated": {"reason": "OOMKilled", "exitCode": 137, "finishedAt": OPENS.isoformat()}}
    again = {"name": "postgres", "ready": True, "restartCount": 1, "state": {"running": {}}, "lastState": killed}
    pod["status"]["containerStatuses"] = [again]
    sale = sale.seen(pods=(pod,))
    assert [(each.reason, each.stops) for each in of(sale)] == [(Problem.OUT_OF_MEMORY, False)]
    ready = sale.plan().condition(ConditionType.READY)
    assert (ready["status"], ready["reason"]) == ("True", "OutOfMemory")
    assert of(sale.at(OPENS + KILLED_LATELY + SECOND)) == []


def test_a_container_that_was_restarted_once_has_the_time_of_a_start() -> None:
    sale = given.selling()
    pod = as_pod(sale, "container-between-restarts")
    pod["status"]["conditions"][0]["lastTransitionTime"] = OPENS.isoformat()
    sale = sale.seen(pods=(pod,)).new_db1()
    assert of(sale.at(OPENS + START_PATIENCE)) == []
    assert [each.reason for each in of(sale.at(OPENS + START_PATIENCE + SECOND))] == [Problem.PODS_NOT_STARTING]


def test_a_bridge_that_was_evicted_is_not_reported_for_ever() -> None:
    sale = given.selling()
    evicted = as_pod(sale, "pod-evicted", "bridge")
    assert of(sale.seen(pods=(*sale.observed.pods, evicted)).at(ABOUT_A_MINUTE)) == []


def test_the_databases_own_pod_is_told_of_before_a_bridge_that_waits_for_it() -> None:
    sale = given.selling()
    bridge, database = (as_pod(sale, "container-between-restarts", name) for name in ("bridge", "database"))
    first, second = of(sale.seen(pods=(bridge, database)).new_db1().at(ABOUT_A_MINUTE))
    assert "taylor-drop-database-0" in first.message
    assert "taylor-drop-bridge-0" in second.message


def test_a_sidecar_that_runs_is_no_init_container_that_hangs() -> None:
    sale = given.selling()
    pod = as_pod(sale, "init-container-hanging", initContainers=[{"name": "wait-for-vault", "restartPolicy": "Always"}])
    assert of(sale.seen(pods=(pod,)).new_db1().at(ABOUT_A_MINUTE)) == []


def test_a_database_on_a_dead_node_is_reported_with_the_node_and_what_to_do() -> None:
    sale = with_database(given.selling(), "database-pod-terminating", nodeName="worker-7")
    half_an_hour = sale.at(OPENS + timedelta(minutes=30))
    (finding,) = of(half_an_hour)
    assert (finding.reason, finding.stops) == (Problem.PODS_NOT_ENDING, True)
    assert "should have ended at 2026-12-01T18:00:00+00:00" in finding.message
    assert "node worker-7 does not confirm it" in finding.message
    assert "`kubectl delete node worker-7`" in finding.message
    assert half_an_hour.plan().reason(ConditionType.READY) == Problem.PODS_NOT_ENDING
    assert of(sale.at(OPENS + END_PATIENCE)) == []


def test_nobody_is_told_to_give_up_a_node_that_has_the_only_copy_of_the_claims() -> None:
    ephemeral = given.selling(spec={"database": {"ephemeral": {}}})
    (finding,) = of(with_database(ephemeral, "database-pod-terminating", nodeName="worker-7").at(ABOUT_A_MINUTE))
    assert "The pod is the data: bring node worker-7 back." in finding.message
    assert "delete node" not in finding.message
    # Once every claim is settled, nothing is lost with it.
    kept = with_database(ephemeral, "database-pod-terminating", nodeName="worker-7").at(ABOUT_A_MINUTE)
    assert "delete node worker-7" in of(kept, Stage.KEEP)[0].message


def test_a_pod_that_finalizers_keep_is_not_blamed_on_its_node() -> None:
    sale = given.selling()
    pod = as_pod(sale, "database-pod-terminating", nodeName="worker-7")
    pod["metadata"]["finalizers"] = ["example.com/backup"]
    (finding,) = of(sale.seen(pods=(pod,)).new_db1().at(ABOUT_A_MINUTE))
    assert "its finalizers keep it: example.com/backup" in finding.message
    assert "node" not in finding.message


def test_a_bridge_that_does_not_end_does_not_stop_the_sale_but_holds_the_teardown() -> None:
    sale = given.selling()
    bridge = as_pod(sale, "database-pod-terminating", "bridge", nodeName="worker-7")
    sale = sale.seen(pods=(*sale.observed.pods, bridge)).at(ABOUT_A_MINUTE)
    assert [(each.reason, each.stops) for each in of(sale)] == [(Problem.PODS_NOT_ENDING, False)]
    assert [(each.reason, each.stops) for each in of(sale, Stage.REMOVE)] == [(Problem.PODS_NOT_ENDING, True)]


def test_a_teardown_that_hangs_on_a_pod_says_so() -> None:
    sale = given.finished()
    pod = as_pod(sale, "database-pod-terminating", nodeName="worker-7")
    decided = sale.seen(pods=(pod,), database=DatabaseState()).plan()
    assert decided.reason(ConditionType.DEGRADED) == Problem.PODS_NOT_ENDING
    assert "worker-7" in decided.message(ConditionType.DEGRADED)
    ready = decided.condition(ConditionType.READY)
    assert (ready["status"], ready["reason"]) == ("False", Problem.PODS_NOT_ENDING)


def test_a_teardown_that_hangs_on_another_object_says_so_once_no_pod_needs_it() -> None:
    sale = given.finished()
    claim = sale.observed.children[given.VOLUME_CLAIM]
    deleted = {"deletionTimestamp": CLOSES.isoformat(), "finalizers": ["kubernetes.io/pvc-protection"]}
    claim = claim | {"metadata": claim["metadata"] | deleted}
    sale = sale.seen(pods=()).child(given.VOLUME_CLAIM, claim)
    (finding,) = of(sale, Stage.REMOVE)
    assert finding.reason is Problem.OBJECTS_NOT_ENDING
    assert "PersistentVolumeClaim data-taylor-drop-db-0" in finding.message
    assert "kubernetes.io/pvc-protection" in finding.message
    assert of(sale.at(CLOSES + END_PATIENCE), Stage.REMOVE) == []
    assert of(sale.seen(pods=(make_pod(sale.event, "database"),)), Stage.REMOVE) == []


def test_bridges_that_are_refused_are_reported_with_the_quotas_own_words() -> None:
    queued = refused(given.selling().says(queue={"depth": 15_000, "oldestSeconds": 90}))
    (finding,) = of(queued)
    assert (finding.reason, finding.stops) == (Problem.PODS_NOT_CREATED, True)
    assert 'pods "taylor-drop-bridge-x" is forbidden: exceeded quota: q' in finding.message
    ready = queued.plan().condition(ConditionType.READY)
    assert (ready["status"], ready["reason"]) == ("False", "PodsNotCreated")


def test_a_sale_with_one_bridge_where_others_are_refused_is_ready_and_degraded() -> None:
    one = {"worker": "w", "batchSize": 100, "health": {}}
    decided = refused(given.selling().says(workers=[one], queue={"depth": 15_000})).plan()
    ready = decided.condition(ConditionType.READY)
    assert (ready["status"], ready["reason"]) == ("True", "PodsNotCreated")
    assert "exceeded quota: q" in ready["message"]
    assert decided.condition(ConditionType.DEGRADED)["status"] == "True"


def without_pod(since: datetime, refusal: str = "") -> Given:
    """An event whose StatefulSet has had no pod since then."""
    sale = given.selling().seen(pods=(), refusal=refusal).new_db1()
    workload = sale.observed.children[DATABASE]
    made = workload | {"metadata": workload["metadata"] | {"creationTimestamp": since.isoformat()}}
    return sale.child(DATABASE, made).changed(status=not_ready(since))


def not_ready(since: datetime) -> dict[str, Any]:
    """A status that says that DB1 has not been ready since then."""
    ready = {"type": "DatabaseReady", "status": "False", "reason": DatabaseReason.STARTING, "message": ""}
    return {"conditions": [ready | {"lastTransitionTime": since.isoformat()}]}


def test_a_database_without_a_pod_is_reported_with_kubernetes_own_words() -> None:
    words = observed("stateful-set-refused")["items"][0]["message"]
    sale = without_pod(OPENS, words)
    assert of(sale.at(OPENS + START_PATIENCE)) == []
    (finding,) = of(sale.at(OPENS + START_PATIENCE + SECOND))
    assert (finding.reason, finding.stops) == (Problem.PODS_NOT_CREATED, True)
    assert "exceeded quota: no-pods" in finding.message
    assert "describe statefulset" in of(without_pod(OPENS).at(ABOUT_A_MINUTE))[0].message


def test_a_pod_that_has_just_gone_is_not_missed_yet() -> None:
    sale = without_pod(OPENS).at(ABOUT_A_MINUTE)
    ready = not_ready(OPENS)
    ready["conditions"][0]["status"] = "True"
    assert of(sale.changed(status=ready)) == []


def test_no_pod_is_missed_of_a_stateful_set_that_is_scaled_to_zero() -> None:
    sale = without_pod(OPENS).at(ABOUT_A_MINUTE)
    workload = sale.observed.children[DATABASE]
    assert of(sale.child(DATABASE, workload | {"spec": workload["spec"] | {"replicas": 0}})) == []


@pytest.mark.parametrize(
    ("sale", "policy"),
    [
        (given.selling(), "IfHealthyBudget"),
        (given.closed(), "AlwaysAllow"),
        (given.selling(spec={"database": {"ephemeral": {}}}), "IfHealthyBudget"),
        (given.closed(spec={"database": {"ephemeral": {}}}), "IfHealthyBudget"),
    ],
)
def test_a_broken_database_may_be_evicted_after_the_close_if_it_has_a_volume(sale: Given, policy: str) -> None:
    (budget,) = sale.plan().applied("PodDisruptionBudget")
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == policy
    assert budget["spec"]["maxUnavailable"] == 0


def test_a_kept_database_may_be_evicted_whatever_it_has() -> None:
    report = {"report": given.finished().event.status["report"]}
    for spec in ({}, {"database": {"ephemeral": {}}}):
        (budget,) = given.closed(status=report, spec=spec).plan().applied("PodDisruptionBudget")
        assert budget == protection.disruption_budget(given.make_event(), keep_pod=False, evict_broken=True) | {
            "metadata": budget["metadata"]
        }
