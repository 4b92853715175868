"""Every rule of the CRD on a real API server: what it accepts, and what it refuses with which message.

A fixture with one document is created; a fixture with two is an object and its update. Their windows have passed, so
that a running operator creates nothing for them. The `# expect:` lines of a file in invalid/ are in the API server's
message.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.kube import REPOSITORY, CommandError, Kube

CRD = REPOSITORY / "crds" / "intakeevents.yaml"
FIXTURES = Path(__file__).with_name("crd")
VALID = sorted((FIXTURES / "valid").glob("*.yaml"))
INVALID = sorted((FIXTURES / "invalid").glob("*.yaml"))
EXPECT = "# expect: "


@pytest.mark.parametrize("fixture", VALID, ids=lambda path: path.stem)
def test_accepts(shared_namespace: Kube, fixture: Path) -> None:
    submit(shared_namespace, fixture)


@pytest.mark.parametrize("fixture", INVALID, ids=lambda path: path.stem)
def test_refuses(shared_namespace: Kube, fixture: Path) -> None:
    with pytest.raises(CommandError) as refusal:
        submit(shared_namespace, fixture)
    for words in expected(fixture):
        assert words in str(refusal.value)


def test_every_rule_is_broken_by_a_fixture_that_expects_its_field_and_message() -> None:
    expectations = [expected(path) for path in INVALID]
    version = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]
    for field, message in rules(version["schema"]["openAPIV3Schema"]):
        assert any(message in words and (not field or f"{field}:" in words) for words in expectations), (field, message)


def test_every_invalid_fixture_has_a_valid_one_of_the_same_name() -> None:
    assert [path.stem for path in VALID] == [path.stem for path in INVALID]
    assert all(expected(path) for path in INVALID)


def test_the_schema_sets_the_defaults(shared_namespace: Kube) -> None:
    spec = created(shared_namespace, FIXTURES / "valid" / "pool-required.yaml")["spec"]
    assert spec["batchSize"] == 100
    assert spec["visibilityTimeoutSeconds"] == 45
    assert spec["maxRetries"] == 10
    assert spec["paused"] is False
    assert spec["claims"] == {"maxPayloadBytes": 4096}
    assert "checkout" not in spec
    assert spec["commitTarget"]["postgres"] == {
        "secretRef": {"name": "core-ledger", "key": "uri"},
        "function": "finalize_transaction",
    }
    assert spec["bridge"] == {"minReplicas": 1, "maxReplicas": 4, "backlogPerReplica": 2000}
    assert spec["database"] == {"image": "postgres:18"}
    assert spec["provisioning"] == {"leadTimeMinutes": 60}
    assert spec["teardown"] == {"drainTimeoutSeconds": 3600, "keepMinutes": 10}


def test_spec_and_status_are_written_separately(shared_namespace: Kube) -> None:
    event = yaml.safe_load((FIXTURES / "valid" / "pool-required.yaml").read_text())
    event["metadata"]["name"] = "forger"
    event["status"] = {"committed": 1000}
    shared_namespace.apply(event)
    assert shared_namespace.get("intakeevent", "forger").get("status", {}).get("committed") != 1000
    shared_namespace.kubectl(
        "patch", "intakeevent", "forger", "--subresource=status", "--type=merge", '-p={"status":{"voided":7}}'
    )
    assert shared_namespace.get("intakeevent", "forger")["metadata"]["generation"] == 1
    shared_namespace.kubectl("delete", "intakeevent", "forger")


@pytest.mark.parametrize("example", ["taylor-drop", "seated", "checkout"])
def test_an_example_is_accepted(shared_namespace: Kube, example: str) -> None:
    file = REPOSITORY / "examples" / f"{example}.yaml"
    shared_namespace.kubectl("create", "--dry-run=server", "-f", str(file))


def test_conditions_are_merged_by_type() -> None:
    status = yaml.safe_load(CRD.read_text())["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    conditions = status["properties"]["conditions"]
    assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == ("map", ["type"])


def submit(kube: Kube, fixture: Path) -> None:
    """Create the first document of a fixture and apply the second, if there is one, as its update."""
    text = fixture.read_text()
    first, *update = text.split("\n---\n")
    if not update:
        created(kube, fixture)
        return
    name = yaml.safe_load(first)["metadata"]["name"]
    kube.kubectl("create", "--save-config", "-f", "-", stdin=first)
    try:
        kube.kubectl("apply", "-f", "-", stdin=update[0])
    finally:
        kube.kubectl("delete", "intakeevent", name)


def created(kube: Kube, path: Path) -> dict[str, Any]:
    """The object that the API server would store."""
    stored: dict[str, Any] = json.loads(kube.kubectl("create", "--dry-run=server", "-o", "json", "-f", str(path)))
    return stored


def expected(fixture: Path) -> list[str]:
    """The text that the message of the refusal must contain."""
    lines = fixture.read_text().splitlines()
    return [line.removeprefix(EXPECT) for line in lines if line.startswith(EXPECT)]


def rules(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """Every CEL rule of a schema: the field that its refusal names, and its message."""
    for rule in schema.get("x-kubernetes-validations", ()):
        yield path + rule.get("fieldPath", ""), rule["message"]
    for name, field in schema.get("properties", {}).items():
        yield from rules(field, f"{path}.{name}".lstrip("."))
    if "items" in schema:
        yield from rules(schema["items"], f"{path}[0]")
