"""Ledgers and webhooks that fail: what happens to the claims, and what the user reads meanwhile."""

import json
import time
from pathlib import Path
from typing import Any, Final

from tests.e2e import account, stage
from tests.e2e.kube import Kube, Object, condition, eventually
from tests.e2e.people import person

# Twelve times the visibility timeout that the event has, and some probes of the breaker.
OUTAGE_SECONDS: Final = 60.0
# A probe comes after at most 15 s.
PROBED_SECONDS: Final = 30.0
# Known to the bridge and to the webhook alone.
SIGNING_SECRET: Final = "whsec_b25seSB0aGUgYnJpZGdlIGFuZCB3ZSBrbm93IHRoaXM="


def test_a_ledger_that_is_away_costs_no_claim_and_is_said(shared_theatre: Kube) -> None:
    kube = shared_theatre
    kube.apply(stage.event("away", stage.window(opens_in=3, lasts=3600), visibilityTimeoutSeconds=5, maxRetries=0))
    stage.await_phase(kube, "away", "Open", 60)
    eventually(lambda: _said(kube, "away", "LedgerReady")["reason"] == "FullContract", 30, "the ledger was looked at")

    kube.kubectl("scale", "statefulset/core-ledger", "--replicas=0")
    eventually(lambda: kube.find("pod", stage.LEDGER_POD) is None, 40, "the ledger is gone")
    gone = time.monotonic()
    stage.start_crowd(kube, "away", "away-pool", stage.CrowdPlan(fans=40, hang_up_percent=0))
    answers = stage.crowd_record(kube, 60)
    assert account.outcomes(answers)["claimed"] >= 40, "claims are taken while the ledger is away"
    eventually(lambda: _said(kube, "away", "LedgerReady")["status"] == "False", 30, "the outage is said")
    reason = _said(kube, "away", "Degraded")["reason"]
    assert reason in {"LedgerDown", "LedgerUnreachable"}
    assert _said(kube, "away", "LedgerReady")["reason"] == reason
    eventually(lambda: time.monotonic() - gone > OUTAGE_SECONDS, OUTAGE_SECONDS + 1, "the outage has lasted")
    assert _queue(kube, "away") == {"depth": 40, "deadLetters": 0}

    kube.kubectl("scale", "statefulset/core-ledger", "--replicas=1")
    stage.await_rollout(kube, "statefulset/core-ledger")
    eventually(lambda: account.ledger_counts(kube, "away-pool") == (40, 0), PROBED_SECONDS, "all are sold")
    eventually(lambda: _said(kube, "away", "Degraded")["status"] == "False", 30, "nothing is wrong any more")
    assert _said(kube, "away", "LedgerReady")["status"] == "True"
    failures = "SELECT count(*) FROM pgmq.a_intake_queue WHERE (message ->> 'failures')::int > 0"
    assert stage.engine(kube, "away", failures) == "0"
    _settle(kube, "away", answers)


def test_a_validator_that_answers_500_or_400_or_nothing_is_said_and_a_claim_that_fails_alone_is_a_dead_letter(
    shared_theatre: Kube,
) -> None:
    kube = shared_theatre
    stage.validator(kube, "/faults?mode=500")
    webhook = {"url": stage.VALIDATOR_URL, "timeoutSeconds": 30}
    sale = stage.window(opens_in=3, lasts=3600)
    kube.apply(stage.event("faulty", sale, maxRetries=1, validation={"webhook": webhook}))
    stage.await_phase(kube, "faulty", "Open", 60)
    stage.start_crowd(kube, "faulty", "faulty-pool", stage.CrowdPlan(fans=20, hang_up_percent=0), pod="fans")
    answers = stage.crowd_record(kube, 60, pod="fans")
    # A validation that was changed is tried at once: no fault waits for the next probe.
    for number, (mode, words) in enumerate(
        [("500", "answers 500"), ("400", "answers 400"), ("timeout", "gave no answer within 3 s")]
    ):
        stage.validator(kube, f"/faults?mode={mode}")
        _edit(kube, "faulty", webhook | {"timeoutSeconds": 3, "url": f"{stage.VALIDATOR_URL}?{number}"})
        eventually(lambda words=words: words in _degraded(kube, "faulty", "ValidatorDown"), PROBED_SECONDS, words)  # type: ignore[misc]
    assert _queue(kube, "faulty") == {"depth": 20, "deadLetters": 0}

    # Two of them fail, and everybody else goes well: it is theirs.
    stage.validator(kube, "/faults?mode=400&users=sick")
    _edit(kube, "faulty", webhook)
    eventually(lambda: _queue(kube, "faulty") == {"depth": 0, "deadLetters": 0}, PROBED_SECONDS, "all of them went on")
    ill = stage.CrowdPlan(fans=2, prefix="sick", hang_up_percent=0, twice_percent=0)
    stage.start_crowd(kube, "faulty", "faulty-pool", ill, pod="sick")
    answers += stage.crowd_record(kube, 60, pod="sick")
    eventually(lambda: "2 claims" in _degraded(kube, "faulty", "DeadLetters"), PROBED_SECONDS, "two dead letters")
    reasons = stage.engine(kube, "faulty", "SELECT DISTINCT reason FROM intake.dead_letters('faulty-pool')")
    assert reasons == "validate: answers 400 (after 2 failures)"

    stage.validator(kube, "/faults?mode=ok")
    letters = "ARRAY(SELECT msg_id FROM intake.dead_letters('faulty-pool'))"
    stage.engine(kube, "faulty", f"SELECT intake.replay('faulty-pool', {letters}, 'test', 'the validator is mended')")
    eventually(lambda: _queue(kube, "faulty") == {"depth": 0, "deadLetters": 0}, PROBED_SECONDS, "they went on as well")
    assert stage.validator(kube, "/effects")["repeated"] == []
    _settle(kube, "faulty", answers)


def test_a_commit_webhook_gets_signed_calls_and_what_it_refuses_is_a_dead_letter(
    shared_theatre: Kube, tmp_path: Path
) -> None:
    kube = shared_theatre
    _start_shop(kube)
    target = {"webhook": {"url": "http://shop:8080/commit", "signingSecretRef": {"name": "shop", "key": "key"}}}
    kube.apply(stage.event("shop", stage.window(opens_in=3, lasts=3600), commitTarget=target))
    stage.await_phase(kube, "shop", "Open", 60)
    stage.start_crowd(kube, "shop", "shop-pool", stage.CrowdPlan(fans=10, hang_up_percent=0), pod="buyers")
    assert account.outcomes(stage.crowd_record(kube, 60, pod="buyers"))["claimed"] >= 10
    eventually(lambda: _sold(kube) == 10, PROBED_SECONDS, "the shop has sold what was signed")
    ready = _said(kube, "shop", "LedgerReady")
    assert (ready["status"], ready["reason"]) == ("True", "WeakerContract")
    assert "a webhook" in ready["message"]

    ill = stage.CrowdPlan(fans=1, prefix="sick", hang_up_percent=0, twice_percent=0)
    stage.start_crowd(kube, "shop", "shop-pool", ill, pod="ill")
    stage.crowd_record(kube, 60, pod="ill")
    eventually(lambda: "1 claims" in _degraded(kube, "shop", "DeadLetters"), PROBED_SECONDS, "one dead letter")
    reason = stage.engine(kube, "shop", "SELECT reason FROM intake.dead_letters('shop-pool')")
    assert reason == "commit: sold over the counter"
    assert _sold(kube) == 10

    # It was called, so nobody can promise that it has not sold it: somebody has to look.
    editor = person(kube, tmp_path, "editor", "edit")
    letter = stage.engine(kube, "shop", "SELECT msg_id FROM intake.dead_letters('shop-pool')")
    discard = ("dead-letters", "discard", "shop", letter, "--reason=sold over the counter")
    code, told = editor.command(*discard)
    assert (code, "MayBeCommitted" in told) == (1, True), told
    assert editor.command(*discard, "--target-checked") == (0, "1 discarded\n")
    assert "by hand" in editor.command("audit", "shop", "-o", "json")[1]
    assert _queue(kube, "shop") == {"depth": 0, "deadLetters": 0}


def _start_shop(kube: Kube) -> None:
    kube.kubectl("create", "secret", "generic", "shop", f"--from-literal=key={SIGNING_SECRET}")
    kube.config_map("shop", "tests/e2e/shop.py")
    labels = {"app.kubernetes.io/name": "shop"}
    pod = kube.get("deployment", "validator")["spec"]["template"]
    container: dict[str, Any] = pod["spec"]["containers"][0] | {
        "name": "shop",
        "command": ["python", "/app/shop.py"],
        "env": [{"name": "SIGNING_SECRET_FILE", "value": "/key/key"}],
        "readinessProbe": {"httpGet": {"path": "/sold", "port": "http"}, "periodSeconds": 1},
    }
    container["volumeMounts"] = [*container["volumeMounts"], {"name": "key", "mountPath": "/key", "readOnly": True}]
    volumes = [{"name": "app", "configMap": {"name": "shop"}}, {"name": "key", "secret": {"secretName": "shop"}}]
    template = {"metadata": {"labels": labels}, "spec": pod["spec"] | {"containers": [container], "volumes": volumes}}
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "shop"},
            "spec": {"selector": labels, "ports": [{"port": 8080}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "shop"},
            "spec": {"selector": {"matchLabels": labels}, "template": template},
        },
    )
    stage.await_rollout(kube, "deployment/shop")


def _sold(kube: Kube) -> int:
    script = "import urllib.request as u; print(u.urlopen('http://localhost:8080/sold').read().decode())"
    return int(json.loads(kube.execute("deploy/shop", "python", "-c", script))["sold"])


def _edit(kube: Kube, name: str, webhook: Object) -> None:
    kube.patch("intakeevent", name, {"spec": {"validation": {"webhook": webhook}}})


def _said(kube: Kube, name: str, kind: str) -> Object:
    return condition(kube.get("intakeevent", name), kind)


def _degraded(kube: Kube, name: str, reason: str) -> str:
    said = _said(kube, name, "Degraded")
    return str(said["message"]) if said["reason"] == reason else ""


def _queue(kube: Kube, name: str) -> Object:
    queue: Object = json.loads(stage.engine(kube, name, f"SELECT intake.engine_status('{name}-pool') -> 'queue'"))
    return {key: queue[key] for key in ("depth", "deadLetters")}


def _settle(kube: Kube, name: str, answers: list[Object]) -> None:
    """Every claim that somebody was told of has one end, in the ledger."""
    settled = account.settle(kube, f"{name}-pool", answers)
    assert (settled.dead, settled.lost, settled.duplicated) == (0, 0, 0), settled.line()
    assert account.violations(kube, f"{name}-pool", answers) == ""
