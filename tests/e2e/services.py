"""What an event needs beside the operator: the example ledger and the example validator."""

import json

from tests.e2e.kube import REPOSITORY, Kube, Object

LEDGER_POD = "core-ledger-0"
LEDGER_DATABASE = "ledger"
VALIDATOR_URL = "http://validator:8080/validate"


def start_ledger(kube: Kube) -> None:
    """Apply examples/: core-ledger.yaml, with the reference contract of sql/ledger."""
    kube.kubectl("apply", "-k", str(REPOSITORY / "examples"))


def start_validator(kube: Kube) -> None:
    """Apply examples/validator.yaml."""
    kube.config_map("validator", "examples/demo/validator.py")
    kube.apply_file("examples/validator.yaml")


def validator(kube: Kube, path: str) -> Object:
    """Send a GET to the validator from its own pod: `/effects`, `/faults?mode=500`."""
    script = f"import urllib.request as u; print(u.urlopen('http://localhost:8080{path}').read().decode())"
    answer: Object = json.loads(kube.execute("deploy/validator", "python", "-c", script))
    return answer
