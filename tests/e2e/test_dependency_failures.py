"""A ledger, a validator and a commit webhook that fail: what happens to the claims, and what the conditions say."""

import json
import time
from pathlib import Path
from typing import Any, Final

from tests.e2e import account, crowd, events, services, sql
from tests.e2e.admin_users import create_admin_user
from tests.e2e.kube import Kube, Object, await_rollout, condition, eventually

# Twelve times the visibility timeout of the event, and several probes of the circuit breaker.
OUTAGE_SECONDS: Final = 60.0
# A probe comes after at most 15 s.
PROBED_SECONDS: Final = 30.0
# Known to the bridge and to the webhook alone.
SIGNING_SECRET: Final = "whsec_b25seSB0aGUgYnJpZGdlIGFuZCB3ZSBrbm93IHRoaXM="


def test_a_ledger_outage_loses_no_claim_and_is_reported(shared_kube: Kube) -> None:
    kube = shared_kube
    kube.apply(events.event("away", events.window(opens_in=3, lasts=3600), visibilityTimeoutSeconds=5, maxRetries=0))
    events.await_phase(kube, "away", "Open", 60)
    eventually(
        lambda: _condition(kube, "away", "LedgerReady")["reason"] == "FullContract", 30, "the ledger was checked"
    )

    kube.kubectl("scale", "statefulset/core-ledger", "--replicas=0")
    eventually(lambda: kube.find("pod", services.LEDGER_POD) is None, 40, "the ledger is gone")
    gone = time.monotonic()
    crowd.start(kube, "away", "away-pool", crowd.Plan(buyers=40, hang_up_percent=0))
    answers = crowd.answers(kube, 60)
    assert account.outcomes(answers)["claimed"] >= 40, "claims are answered during the outage of the ledger"
    eventually(lambda: _condition(kube, "away", "LedgerReady")["status"] == "False", 30, "the outage is reported")
    reason = _condition(kube, "away", "Degraded")["reason"]
    assert reason in {"LedgerDown", "LedgerUnreachable"}
    assert _condition(kube, "away", "LedgerReady")["reason"] == reason
    eventually(lambda: time.monotonic() - gone > OUTAGE_SECONDS, OUTAGE_SECONDS + 1, "the outage has lasted")
    assert _queue(kube, "away") == {"depth": 40, "deadLetters": 0}

    kube.kubectl("scale", "statefulset/core-ledger", "--replicas=1")
    await_rollout(kube, "statefulset/core-ledger")
    eventually(lambda: account.ledger_counts(kube, "away-pool") == (40, 0), PROBED_SECONDS, "all claims are committed")
    eventually(lambda: _condition(kube, "away", "Degraded")["status"] == "False", 30, "the event is not degraded")
    assert _condition(kube, "away", "LedgerReady")["status"] == "True"
    failures = "SELECT count(*) FROM pgmq.a_intake_queue WHERE (message ->> 'failures')::int > 0"
    assert sql.in_database(kube, "away", failures) == "0"
    _assert_all_settled(kube, "away", answers)


def test_validator_errors_are_reported_and_a_claim_that_alone_fails_becomes_a_dead_letter(
    shared_kube: Kube,
) -> None:
    kube = shared_kube
    services.validator(kube, "/faults?mode=500")
    webhook = {"url": services.VALIDATOR_URL, "timeoutSeconds": 30}
    sale = events.window(opens_in=3, lasts=3600)
    kube.apply(events.event("faulty", sale, maxRetries=1, validation={"webhook": webhook}))
    events.await_phase(kube, "faulty", "Open", 60)
    crowd.start(kube, "faulty", "faulty-pool", crowd.Plan(buyers=20, hang_up_percent=0), pod="faulty-buyers")
    answers = crowd.answers(kube, 60, pod="faulty-buyers")
    # A changed webhook is called at once, without waiting for the next probe.
    for number, (mode, words) in enumerate(
        [("500", "answers 500"), ("400", "answers 400"), ("timeout", "gave no answer within 3 s")]
    ):
        services.validator(kube, f"/faults?mode={mode}")
        _set_webhook(kube, "faulty", webhook | {"timeoutSeconds": 3, "url": f"{services.VALIDATOR_URL}?{number}"})
        eventually(lambda words=words: words in _degraded(kube, "faulty", "ValidatorDown"), PROBED_SECONDS, words)  # type: ignore[misc]
    assert _queue(kube, "faulty") == {"depth": 20, "deadLetters": 0}

    # Two claims fail while others succeed, so the fault is theirs and not the validator's.
    services.validator(kube, "/faults?mode=400&users=sick")
    _set_webhook(kube, "faulty", webhook)
    eventually(lambda: _queue(kube, "faulty") == {"depth": 0, "deadLetters": 0}, PROBED_SECONDS, "the queue is empty")
    ill = crowd.Plan(buyers=2, prefix="sick", hang_up_percent=0, twice_percent=0)
    crowd.start(kube, "faulty", "faulty-pool", ill, pod="sick")
    answers += crowd.answers(kube, 60, pod="sick")
    eventually(lambda: "2 dead letters" in _degraded(kube, "faulty", "DeadLetters"), PROBED_SECONDS, "two dead letters")
    reasons = sql.in_database(kube, "faulty", "SELECT DISTINCT reason FROM intake.dead_letters('faulty-pool')")
    assert reasons == "validate: answers 400 (after 2 failures)"

    services.validator(kube, "/faults?mode=ok")
    letters = "ARRAY(SELECT msg_id FROM intake.dead_letters('faulty-pool'))"
    sql.in_database(
        kube, "faulty", f"SELECT intake.replay('faulty-pool', {letters}, 'test', 'the validator is repaired')"
    )
    eventually(lambda: _queue(kube, "faulty") == {"depth": 0, "deadLetters": 0}, PROBED_SECONDS, "the queue is empty")
    assert services.validator(kube, "/effects")["repeated"] == []
    _assert_all_settled(kube, "faulty", answers)


def test_a_commit_webhook_gets_signed_calls_and_a_claim_that_it_refuses_becomes_a_dead_letter(
    shared_kube: Kube, tmp_path: Path
) -> None:
    kube = shared_kube
    _start_commit_webhook(kube)
    target = {
        "webhook": {
            "url": "http://commit-webhook:8080/commit",
            "signingSecretRef": {"name": "commit-webhook", "key": "key"},
        }
    }
    kube.apply(events.event("webhook", events.window(opens_in=3, lasts=3600), commitTarget=target))
    events.await_phase(kube, "webhook", "Open", 60)
    crowd.start(kube, "webhook", "webhook-pool", crowd.Plan(buyers=10, hang_up_percent=0), pod="buyers")
    assert account.outcomes(crowd.answers(kube, 60, pod="buyers"))["claimed"] >= 10
    eventually(lambda: _sold(kube) == 10, PROBED_SECONDS, "the webhook has committed the signed claims")
    ready = _condition(kube, "webhook", "LedgerReady")
    assert (ready["status"], ready["reason"]) == ("True", "WeakerContract")
    assert "a webhook" in ready["message"]

    ill = crowd.Plan(buyers=1, prefix="sick", hang_up_percent=0, twice_percent=0)
    crowd.start(kube, "webhook", "webhook-pool", ill, pod="ill")
    crowd.answers(kube, 60, pod="ill")
    eventually(
        lambda: "1 dead letter keeps" in _degraded(kube, "webhook", "DeadLetters"), PROBED_SECONDS, "one dead letter"
    )
    reason = sql.in_database(kube, "webhook", "SELECT reason FROM intake.dead_letters('webhook-pool')")
    assert reason == "commit: sold over the counter"
    assert _sold(kube) == 10

    # The webhook was called, so it may have committed the claim: a discard needs the word of a user who checked.
    editor = create_admin_user(kube, tmp_path, "editor", "edit")
    letter = sql.in_database(kube, "webhook", "SELECT msg_id FROM intake.dead_letters('webhook-pool')")
    discard = ("dead-letters", "discard", "webhook", letter, "--reason=sold over the counter")
    code, output = editor.command(*discard)
    assert (code, "MayBeCommitted" in output) == (1, True), output
    assert editor.command(*discard, "--ledger-checked") == (0, "1 discarded\n")
    assert "by hand" in editor.command("audit", "webhook", "-o", "json")[1]
    assert _queue(kube, "webhook") == {"depth": 0, "deadLetters": 0}


def _start_commit_webhook(kube: Kube) -> None:
    kube.kubectl("create", "secret", "generic", "commit-webhook", f"--from-literal=key={SIGNING_SECRET}")
    kube.config_map("commit-webhook", "tests/e2e/commit_webhook.py")
    labels = {"app.kubernetes.io/name": "commit-webhook"}
    pod = kube.get("deployment", "validator")["spec"]["template"]
    container: dict[str, Any] = pod["spec"]["containers"][0] | {
        "name": "commit-webhook",
        "command": ["python", "/app/commit_webhook.py"],
        "env": [{"name": "SIGNING_SECRET_FILE", "value": "/key/key"}],
        "readinessProbe": {"httpGet": {"path": "/sold", "port": "http"}, "periodSeconds": 1},
    }
    container["volumeMounts"] = [*container["volumeMounts"], {"name": "key", "mountPath": "/key", "readOnly": True}]
    volumes = [
        {"name": "app", "configMap": {"name": "commit-webhook"}},
        {"name": "key", "secret": {"secretName": "commit-webhook"}},
    ]
    template = {"metadata": {"labels": labels}, "spec": pod["spec"] | {"containers": [container], "volumes": volumes}}
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "commit-webhook"},
            "spec": {"selector": labels, "ports": [{"port": 8080}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "commit-webhook"},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
    )
    await_rollout(kube, "deployment/commit-webhook")


def _sold(kube: Kube) -> int:
    script = "import urllib.request as u; print(u.urlopen('http://localhost:8080/sold').read().decode())"
    return int(json.loads(kube.execute("deploy/commit-webhook", "python", "-c", script))["sold"])


def _set_webhook(kube: Kube, name: str, webhook: Object) -> None:
    kube.patch("intakeevent", name, {"spec": {"validation": {"webhook": webhook}}})


def _condition(kube: Kube, name: str, kind: str) -> Object:
    return condition(kube.get("intakeevent", name), kind)


def _degraded(kube: Kube, name: str, reason: str) -> str:
    said = _condition(kube, name, "Degraded")
    return str(said["message"]) if said["reason"] == reason else ""


def _queue(kube: Kube, name: str) -> Object:
    queue: Object = json.loads(sql.in_database(kube, name, f"SELECT intake.engine_status('{name}-pool') -> 'queue'"))
    return {key: queue[key] for key in ("depth", "deadLetters")}


def _assert_all_settled(kube: Kube, name: str, answers: list[Object]) -> None:
    """Every acknowledged claim is in the ledger once."""
    settled = account.of_pool(kube, f"{name}-pool", answers)
    assert (settled.dead, settled.lost, settled.duplicated) == (0, 0, 0), settled.line()
    assert account.violations(kube, f"{name}-pool", answers) == ""
