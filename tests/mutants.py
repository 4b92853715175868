"""python -m tests.mutants: run every mutant against the test that must catch it, and say which did.

Two catalogues, of SQL and of the bridge. They run with the rest of the tests too; this is the way to see them alone.
Fails if one survives.
"""

import runpy
import sys
from collections import defaultdict

import pytest

from tests.postgres import REPOSITORY
from tests.sql.mutants import catalogue

# The bridge's tests are no package.
BRIDGE = runpy.run_path(str(REPOSITORY / "bridge/tests/faults/mutants.py"))
CAUGHT_BY = {name: mutant.caught_by for name, mutant in (catalogue.MUTANTS | BRIDGE["MUTANTS"]).items()}
assert len(CAUGHT_BY) == len(catalogue.MUTANTS) + len(BRIDGE["MUTANTS"]), "two mutants of one name"


class Verdicts:
    """Which mutants were caught: each must fail its test in all of its parametrizations."""

    def __init__(self) -> None:
        self.mutant_of: dict[str, str] = {}
        self.caught: dict[str, list[bool]] = defaultdict(list)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            mark = item.get_closest_marker("mutant")
            assert mark is not None
            self.mutant_of[item.nodeid] = mark.args[0]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A mutant that cannot even be installed fails in setup: that is not being caught.
        if report.when == "call" or report.failed:
            self.caught[self.mutant_of[report.nodeid]].append(report.when == "call" and report.skipped)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for name, test in CAUGHT_BY.items():
            verdict = "SURVIVED" if name in self.survivors() else "caught"
            terminalreporter.write_line(f"{verdict:8}  {name:45}  {test}")

    def survivors(self) -> list[str]:
        """Mutants that a test let pass, or that none was run on."""
        return [name for name in CAUGHT_BY if not all(self.caught[name] or [False])]


verdicts = Verdicts()
arguments = ["tests/sql", "bridge/tests/faults", "-m", "mutant", "-q", "--no-header", "-r", "fE", *sys.argv[1:]]
status = pytest.main(arguments, plugins=[verdicts])
sys.exit(status or bool(verdicts.survivors()))
