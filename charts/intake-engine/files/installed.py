"""What `helm test` runs in a pod: is the operator ready, and does the API server serve IntakeEvents?"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

API_SERVER = "https://kubernetes.default.svc"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
# Seconds. `helm install` without --wait does not wait for the operator.
PATIENCE = 60


def get(path: str) -> dict:
    """An object of the API server."""
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"}
    request = urllib.request.Request(API_SERVER + path, headers=headers)  # noqa: S310 -- https
    tls = ssl.create_default_context(cafile=ACCOUNT / "ca.crt")
    with urllib.request.urlopen(request, context=tls, timeout=10) as response:  # noqa: S310 -- https
        return json.load(response)


def operator_problem() -> str:
    """Why the operator is not ready; empty if it is."""
    name, namespace = os.environ["DEPLOYMENT"], os.environ["NAMESPACE"]
    found = get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
    status = found.get("status", {})
    if status.get("observedGeneration", 0) >= found["metadata"]["generation"] and status.get("readyReplicas"):
        return ""
    return f"Deployment {name} has no ready pod: see `kubectl -n {namespace} describe pods` and its logs"


def crd_problem() -> str:
    """Why IntakeEvents cannot be made; empty if they can."""
    try:
        served = get("/apis/intake-engine.io/v1alpha1")["resources"]
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        served = []
    if any(resource["name"] == "intakeevents" for resource in served):
        return ""
    return "the API server does not serve intakeevents.intake-engine.io/v1alpha1: apply crds/intakeevents.yaml"


def main() -> None:
    """Wait until all is well; exit 1 with what is not."""
    end = time.monotonic() + PATIENCE
    for name, problem in (("operator ready", operator_problem), ("IntakeEvents served", crd_problem)):
        while True:
            try:
                found = problem()
            except OSError as error:  # URLError and HTTPError are.
                found = f"the API server: {error}"
            if not found:
                print(f"ok: {name}", flush=True)
                break
            if time.monotonic() > end:
                sys.exit(f"FAILED: {found}")
            time.sleep(1)


main()
