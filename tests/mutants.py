"""python -m tests.mutants: run every mutant against the test that must catch it, and say which did.

Three catalogues, of SQL, of the bridge and of the operator. They run with the rest of the tests too; this is the way to
see them alone. Fails if one survives.
"""

import runpy
import sys
from collections import defaultdict

import pytest

from tests.postgres import REPOSITORY
from tests.sql.mutants import catalogue

# The tests of bridge and operator are no packages.
OTHERS = ("bridge/tests/faults/mutants.py", "operator/tests/world/mutants.py")
CATALOGUES = [catalogue.MUTANTS, *(runpy.run_path(str(REPOSITORY / path))["MUTANTS"] for path in OTHERS)]
CAUGHT_BY = {name: mutant.caught_by for mutants in CATALOGUES for name, mutant in mutants.items()}
assert len(CAUGHT_BY) == sum(len(mutants) for mutants in CATALOGUES), "two mutants of one name"


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


if __name__ == "__main__":  # the operator's mutants run in processes that import this module again
    verdicts = Verdicts()
    where = ["tests/sql", "bridge/tests/faults", "operator/tests/test_operator_mutants.py"]
    arguments = [*where, "-m", "mutant", "-q", "--no-header", "-r", "fE", *sys.argv[1:]]
    status = pytest.main(arguments, plugins=[verdicts])
    sys.exit(status or bool(verdicts.survivors()))
