"""python -m tests.argocd [pytest's arguments]: the tests with a real Argo CD beside our own node.

Argo CD installs the operator, as the Application of one_application.py. The other tests run side by side with it; most
of their time is waiting. Those marked `alone` come last, because they take the operator away. In the end nothing is
left but the CRD of the events.
"""

import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import pytest

from tests.argocd import figures, one_application, processes
from tests.e2e import namespaces, release
from tests.e2e.kube import Kube, eventually

HERE: Final = str(Path(__file__).parent)
SIDE_BY_SIDE: Final = ("-m", "not alone", "--numprocesses", "4", "--dist", "loadfile")
ONE_BY_ONE: Final = ("-m", "alone")
AWAY_SECONDS: Final = 120.0


def main(arguments: list[str]) -> int:
    """Run both parts, and return the worse of their exit codes."""
    if os.environ.get("INTAKE_CLUSTER_KIND") != "node":
        raise SystemExit("Argo CD runs beside our own node alone: INTAKE_CLUSTER_KIND=node make e2e-argocd")
    kube = Kube.connect()
    if release.is_installed(kube):
        _say("taking the operator away: Argo CD installs it anew")
        release.remove(kube)
        eventually(lambda: kube.find("namespace", release.NAMESPACE) is None, AWAY_SECONDS, "the operator is gone")
    with tempfile.TemporaryDirectory(prefix="intake-argocd-") as folder:
        state = Path(folder)
        os.environ["INTAKE_ARGOCD_STATE"] = folder
        code = _run(kube, state, arguments)
        if code:
            shutil.copytree(state, artefacts := _artefacts(), ignore=shutil.ignore_patterns("repositories", "app"))
            _say(f"logs of Argo CD: {artefacts}")
        print((state / "seen.txt").read_text(encoding="utf-8") if (state / "seen.txt").exists() else "")
    return code


def _run(kube: Kube, state: Path, arguments: list[str]) -> int:
    _say("starting Argo CD")
    with processes.running(kube, state):
        try:
            _say("Argo CD installs the operator")
            with figures.timed(state, "operator, ledger and open event in one Application: from nothing to Healthy"):
                one_application.install(kube, state)
            codes = {int(pytest.main([HERE, *SIDE_BY_SIDE, *arguments]))}
            if int(pytest.ExitCode.INTERRUPTED) not in codes:
                codes.add(int(pytest.main([HERE, *ONE_BY_ONE, *arguments])))
        finally:
            _say("taking everything away")
            _take_away(kube, state)
    # A selection may leave one of the parts without a test, but not both.
    nothing = int(pytest.ExitCode.NO_TESTS_COLLECTED)
    return max(codes - {nothing}, default=nothing)


def _take_away(kube: Kube, state: Path) -> None:
    made = one_application.application(kube, state)
    sales = kube.within(one_application.NAMESPACE)
    if made.exists():
        # The event while the operator is there.
        made.change(syncPolicy=None)
        namespaces.abandon_events_and_delete(sales)
        made.delete()
        eventually(lambda: not made.exists(), AWAY_SECONDS, "Argo CD has taken the operator away")
    for name in (one_application.NAMESPACE, release.NAMESPACE):
        kube.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")


def _artefacts() -> Path:
    folder = os.environ.get("INTAKE_ARTEFACTS") or Path(tempfile.gettempdir()) / "intake-e2e"
    return Path(folder) / f"argocd-{int(time.time())}"


def _say(line: str) -> None:
    print(f"argocd: {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
