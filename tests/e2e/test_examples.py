"""What is applied is what is stored: examples and events show no difference to a program that compares the two."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from tests.e2e import services, sql
from tests.e2e.kube import REPOSITORY, Kube, Object, await_rollout

EXAMPLES: Final = REPOSITORY / "examples"
FIXTURES: Final = sorted((Path(__file__).parent / "crd" / "valid").glob("*.yaml"))
# A window that has passed, as those of the fixtures have: the operator makes nothing for such an event.
OVER: Final = {"opensAt": "2020-12-01T18:00:00Z", "closesAt": "2020-12-01T20:00:00Z"}


def test_apply_k_examples_makes_a_ledger_that_answers_and_differs_from_nothing(namespace: Kube) -> None:
    services.start_ledger(namespace)
    await_rollout(namespace, "statefulset/core-ledger")
    assert sql.in_ledger(namespace, "SELECT committed, voided, slots FROM ledger_proof('none')") == "0|0|0"
    for source in (("-k", str(EXAMPLES)), ("-f", str(EXAMPLES / "validator.yaml"))):
        namespace.kubectl("apply", "--server-side", "--field-manager=gitops", "--force-conflicts", *source)
        namespace.kubectl("diff", "--server-side", "--field-manager=gitops", *source)
    # A list that is replaced as a whole is compared as a whole, and without the API server's defaults, by Argo CD.
    *_, applied = yaml.safe_load_all((EXAMPLES / "core-ledger.yaml").read_text())
    templates = namespace.get("statefulset", "core-ledger")["spec"]["volumeClaimTemplates"]
    assert templates == applied["spec"]["volumeClaimTemplates"]


def test_events_differ_from_nothing_when_another_manager_applies_them_again(namespace: Kube) -> None:
    """Quantities, offsets and defaults included."""
    events = "\n---\n".join(_events())
    stored = _applied(namespace, events, "kubectl")
    assert _applied(namespace, events, "gitops") == stored
    assert _applied(namespace, events, "gitops") == stored
    # One by one, as they are removed after a test, takes a minute.
    namespace.kubectl("delete", "intakeevents", "--all", "--wait=false")


def _applied(kube: Kube, events: str, manager: str) -> dict[str, tuple[int, Object]]:
    """Generation and spec of each event, as they are stored afterwards."""
    options = ("--server-side", f"--field-manager={manager}", "-o", "json", "-f", "-")
    found = json.loads(kube.kubectl("apply", *options, stdin=events))
    return {each["metadata"]["name"]: (each["metadata"]["generation"], each["spec"]) for each in found["items"]}


def _events() -> Iterator[str]:
    """Every event of the examples and of the CRD's valid fixtures, under names of their own."""
    for path in sorted(EXAMPLES.glob("*.yaml")):
        for example in yaml.safe_load_all(path.read_text()):
            if example["kind"] == "IntakeEvent":
                yield json.dumps(example | {"spec": example["spec"] | {"window": OVER}})
    for number, path in enumerate(FIXTURES):
        # As text: what YAML makes of it is a part of some fixtures.
        *_, last = path.read_text().split("\n---\n")
        yield last.replace("\n  name: fixture\n", f"\n  name: fixture-{number}\n")
