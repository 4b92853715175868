"""Runs one test on a broken operator, in a process that has not imported the operator yet."""

import io
import multiprocessing
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from .mutants import MUTANTS, install

TESTS = Path(__file__).parent.parent
# Modules that take seconds to import, imported once for all mutants; none of the operator.
HEAVY = ["pytest", "hypothesis.stateful", "pydantic", "psycopg", "kubernetes.aio.client", "prometheus_client"]

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([*HEAVY, "world.mutants"])


class Outcomes:
    """Whether the test failed, and each time by an assertion."""

    def __init__(self) -> None:
        self.caught: list[bool] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]):
        if call.excinfo is not None:
            self.caught.append(call.when == "call" and call.excinfo.errisinstance(AssertionError))
        return (yield)


def run(name: str) -> None:
    """Raise AssertionError if the mutant is caught, RuntimeError if it breaks in any other way than by a rule."""
    here, there = _forks.Pipe(duplex=False)
    process = _forks.Process(target=_run, args=(name, there))
    process.start()
    there.close()
    failed, caught, output = here.recv()
    process.join()
    if failed and not caught:
        raise RuntimeError(output)
    assert not failed, output


def _run(name: str, answer: Connection) -> None:
    os.environ["INTAKE_MUTANT"] = name
    os.chdir(TESTS.parent.parent)
    sys.path.insert(0, str(TESTS))
    install(name)
    outcomes, output = Outcomes(), io.StringIO()
    test = f"{TESTS / MUTANTS[name].file}"
    arguments = ["-q", "-x", "-p", "no:cacheprovider", "-k", MUTANTS[name].caught_by, test]
    with redirect_stdout(output), redirect_stderr(output):
        status = pytest.main(arguments, plugins=[outcomes])
    caught = status == pytest.ExitCode.TESTS_FAILED and bool(outcomes.caught) and all(outcomes.caught)
    answer.send((status != pytest.ExitCode.OK, caught, output.getvalue()[-4000:]))
