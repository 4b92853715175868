"""python -m tests.mutants: run every mutant against the test that must catch it, and print which were caught.

There are three catalogues: of the SQL, of the bridge and of the operator. All tests include the mutants; this command
runs them alone. Exit code 1 if one survives.
"""

import runpy
import sys
from collections import defaultdict

import pytest

from tests.postgres import REPOSITORY
from tests.sql.mutants import catalogue

# The folders of these two are not packages.
OTHERS = ("bridge/tests/faults/mutants.py", "operator/tests/world/mutants.py")
CATALOGUES = [catalogue.MUTANTS, *(runpy.run_path(str(REPOSITORY / path))["MUTANTS"] for path in OTHERS)]
CAUGHT_BY = {name: mutant.caught_by for mutants in CATALOGUES for name, mutant in mutants.items()}
assert len(CAUGHT_BY) == sum(len(mutants) for mutants in CATALOGUES), "two mutants of one name"


class Verdicts:
    """Which mutants were caught: a mutant must fail its test with every parameter."""

    def __init__(self) -> None:
        self.mutant_of: dict[str, str] = {}
        self.caught: dict[str, list[bool]] = defaultdict(list)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            mark = item.get_closest_marker("mutant")
            assert mark is not None
            self.mutant_of[item.nodeid] = mark.args[0]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A mutant that fails in setup was not caught: it could not be installed.
        if report.when == "call" or report.failed:
            self.caught[self.mutant_of[report.nodeid]].append(report.when == "call" and report.skipped)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for name, test in CAUGHT_BY.items():
            verdict = "SURVIVED" if name in self.survivors() else "caught"
            terminalreporter.write_line(f"{verdict:8}  {name:45}  {test}")

    def survivors(self) -> list[str]:
        """Mutants whose test passed or did not run."""
        return [name for name in CAUGHT_BY if not all(self.caught[name] or [False])]


if __name__ == "__main__":  # the operator's mutants run in processes that import this module
    verdicts = Verdicts()
    where = ["tests/sql", "bridge/tests/faults", "operator/tests/test_operator_mutants.py"]
    arguments = [*where, "-m", "mutant", "-q", "--no-header", "-r", "fE", *sys.argv[1:]]
    status = pytest.main(arguments, plugins=[verdicts])
    sys.exit(status or bool(verdicts.survivors()))
