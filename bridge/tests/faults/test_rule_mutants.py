"""Every broken rule of the bridge fails the test that is named for it, without a database or a worker."""

import subprocess
import sys
from pathlib import Path

import pytest
from mutants import MUTANTS

fails = pytest.mark.xfail(strict=True, raises=AssertionError, reason="a mutant is caught")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=name, marks=[pytest.mark.mutant(name), fails])
        for name, mutant in MUTANTS.items()
        if mutant.file
    ],
)
def test_a_broken_rule_is_caught(name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("broken_rule.py")), name],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in {0, 1}:
        raise RuntimeError(done.stdout[-4000:] + done.stderr[-4000:])
    assert done.returncode == 0, done.stdout[-4000:]
