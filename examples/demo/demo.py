"""`make demo`: one IntakeEvent from apply to gone, on a real cluster, in front of your eyes.

It uses the helpers of the end-to-end tests (tests/e2e), and counts with their queries (tests/e2e/account.sql).
The last line says what became of every claim that was acknowledged; the exit status is 0 only if none was lost or
duplicated and the event is Completed.
"""

import argparse
import json
import re
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from tests.e2e import account, crowd, events, release, services
from tests.e2e.kube import REPOSITORY, CommandError, Kube, Object, await_rollout, eventually

EVENT = "examples/taylor-drop.yaml"

# Time for DB1 to start and for the audience to read, and a sale that is over soon.
OPENS_IN_SECONDS = 25
LASTS_SECONDS = 65

SEATS = 7500
# More wishes than seats, so that it sells out; at a rate at which that takes about half a minute.
CROWD = crowd.Plan(buyers=3600, rate=100, connections=16, most_seats=4)
# In claims. What the ledger can stand is less than what the crowd buys: the queue grows, calls bridges, and empties
# afterwards.
COMMITS_PER_SECOND = 70

# Longer than any healthy drain of this crowd, on a slow machine too.
DRAIN_SECONDS = 600.0
# The table moves at least this often, so that nobody thinks it hangs.
TABLE_SECONDS = 5.0


def overlay(event: Object) -> dict[str, Any]:
    """What the demo changes in the event of examples/."""
    return {
        "window": events.window(OPENS_IN_SECONDS, LASTS_SECONDS),
        "inventorySize": SEATS,
        "validation": {"webhook": {"url": services.VALIDATOR_URL}},
        "commitTarget": {**event["spec"]["commitTarget"], "maxPerSecond": COMMITS_PER_SECOND},
        "bridge": {
            "minReplicas": 1,
            "maxReplicas": 3,
            "backlogPerReplica": 300,
            "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}},
        },
        "database": {"storage": {"size": "1Gi"}, "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}}},
        "teardown": {"keepMinutes": 0},
    }


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print what is done, and then how long it took."""
    print(f"==> {what}", flush=True)
    started = time.monotonic()
    yield
    print(f"    {time.monotonic() - started:.1f} s", flush=True)


def the_event() -> Object:
    """taylor-drop.yaml with its window moved to now, and said so."""
    event: Object = yaml.safe_load((REPOSITORY / EVENT).read_text())
    changes = overlay(event)
    print(f"    {EVENT}, with these changes to its spec:")
    for field, value in changes.items():
        print(f"      {field}: {json.dumps(value)}")
    event["spec"] |= changes
    return event


# Wide enough for what stands in each column, so that lines of different calls stand under each other.
WIDTHS = {"PHASE": 12, "READY": 5, "REASON": 14, "AVAILABLE": 9, "QUEUED": 6, "COMMITTED": 9, "DEAD": 4, "BRIDGES": 7}
WIDTHS |= {"CLOSES": 20}


def show_until_over(kube: Kube, name: str) -> str:
    """`kubectl get intakeevents` as a table that grows when something changes; the phase in which it ended."""
    started = time.monotonic()
    over = started + OPENS_IN_SECONDS + LASTS_SECONDS + DRAIN_SECONDS
    before, printed = "", 0.0
    print("        " + "  ".join(f"{title:<{width}}" for title, width in WIDTHS.items()))
    while True:
        row = columns(kube.kubectl("get", "intakeevent", name))
        line = "  ".join(f"{row[title]:<{width}}" for title, width in WIDTHS.items())
        now = time.monotonic()
        if line != before or now - printed >= TABLE_SECONDS:
            print(f"{now - started:6.0f}s {line}", flush=True)
            before, printed = line, now
        if row["PHASE"] in {"Completed", "Failed"} or now > over:
            return row["PHASE"]
        time.sleep(1)


def columns(table: str) -> dict[str, str]:
    """The only row of kubectl's table, by title; a column may be empty."""
    header, line = table.splitlines()
    starts = [match.start() for match in re.finditer(r"\S+", header)]
    ends = [*starts[1:], None]
    return {header[a:b].strip(): line[a:b].strip() for a, b in zip(starts, ends, strict=True)}


def play(kube: Kube) -> tuple[account.Account, str]:
    """The whole sale in one namespace; the account and the last phase."""
    with step("a ledger database (examples/core-ledger.yaml) and a validation webhook (examples/validator.yaml)"):
        services.start_ledger(kube)
        services.start_validator(kube)
        await_rollout(kube, "statefulset/core-ledger", "deployment/validator")
    with step("kubectl apply -f taylor-drop.yaml"):
        event = the_event()
        kube.apply(event)
    name, pool = event["metadata"]["name"], event["spec"]["pool"]
    with step(
        f"a crowd: {CROWD.buyers} buyers, each of 1 to {CROWD.most_seats} of {SEATS} seats, {CROWD.rate:.0f} a second"
        " once it opens; some press twice"
    ):
        crowd.start(kube, name, pool, CROWD)
    with step("kubectl get intakeevents, until Completed"):
        phase = show_until_over(kube, name)
    with step("what the buyers were told, and what the ledger holds"):
        answers = crowd.answers(kube, 60)
        print(f"    answers: {dict(account.outcomes(answers))}")
        status = kube.get("intakeevent", name)["status"]
        dead = status.get("queue", {}).get("deadLetters", 0)
        settled = account.of_pool(kube, pool, answers, dead)
        committed, voided = account.ledger_counts(kube, pool)
        print(f"    acknowledged claims: {settled.acknowledged}; in the ledger: {committed} committed, {voided} voided")
        print(f"    an order of several seats in the ledger: {account.order_of_several_seats(kube, pool)}")
        print(f"    left of the event: the report, {len(events.leftovers(kube, name))} other objects")
        for violation in account.violations(kube, pool, answers).splitlines():
            print(f"    broken promise: {violation}")
    return settled, phase


def clear_away(kube: Kube, *, uninstall: bool) -> None:
    """Delete what the demo made: the event, its namespace, and the operator if the demo installed it."""
    for event in kube.items("intakeevents"):
        kube.delete("intakeevent", event["metadata"]["name"])
    eventually(lambda: not kube.items("intakeevents"), 60, "the event is deleted")
    kube.kubectl("delete", "namespace", kube.namespace, "--timeout=240s", timeout=280)
    if uninstall:
        release.remove(kube)


def main() -> int:
    """Play it once; 0 if every promise was kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the namespace and the operator for a look around")
    arguments = parser.parse_args()
    started = time.monotonic()
    cluster = Kube.connect()
    print(f"context {cluster.context}")
    was_installed = release.is_installed(cluster)
    with step("helm upgrade --install intake-engine charts/intake-engine"):
        release.install(cluster)
    kube = cluster.create_namespace(f"intake-demo-{secrets.token_hex(2)}")
    print(f"    namespace {kube.namespace}, in which Pod Security `restricted` is enforced")
    try:
        settled, phase = play(kube)
    except (AssertionError, CommandError) as error:
        print(f"==> it failed: {error}")
        print(f"    kept for a look around: kubectl --namespace {kube.namespace} get all,intakeevents")
        return 1
    kept = (settled.lost, settled.duplicated, phase) == (0, 0, "Completed")
    if arguments.keep or not kept:
        print(f"==> kept for a look around: kubectl --namespace {kube.namespace} get all,intakeevents")
    else:
        with step("clearing away"):
            clear_away(kube, uninstall=not was_installed)
    print(f"==> {time.monotonic() - started:.0f} s in all; the event is {phase}")
    print(settled.line())
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
