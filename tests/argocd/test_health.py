"""Argo CD's own Lua gives the answers of health_test.yaml, too; `make test` asks another Lua."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.argocd.processes import HEALTH_CHECK, Programs
from tests.e2e.kube import REPOSITORY

FOLDER = REPOSITORY / "docs/argocd/resource_customizations/intake-engine.io/IntakeEvent"
CASES = yaml.safe_load((FOLDER / "health_test.yaml").read_text(encoding="utf-8"))["tests"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: Path(case["inputPath"]).stem)
def test_argo_cd_sees_the_same_health(case: dict[str, Any]) -> None:
    settings = ("admin", "settings", "resource-overrides", "health", "--argocd-cm-path", str(HEALTH_CHECK))
    argocd = Programs.found().folder / "bin/argocd"
    done = subprocess.run([argocd, *settings, FOLDER / case["inputPath"]], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = case["healthStatus"]
    # "Pending deletion" comes from Argo CD before it asks a check, which this command does not do.
    if wanted["message"] != "Pending deletion":
        assert done.stdout.strip() == f"STATUS: {wanted['status']}\nMESSAGE: {wanted['message']}"
