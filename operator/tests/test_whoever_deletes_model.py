"""Any order of deletions, crashes and edits: Hypothesis makes them up, and nothing acknowledged is lost.

The suite runs the same few examples every time. For as many others as there is time for:

    .venv/bin/pytest operator/tests/test_whoever_deletes_model.py --hypothesis-profile long
"""

import logging
import os

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from world.machine import Machine

from tests.profiles import chosen


def test_i11_i1_nothing_acknowledged_is_lost_whoever_deletes(caplog: pytest.LogCaptureFixture) -> None:
    suite = settings(max_examples=150, stateful_step_count=16)
    long = settings(max_examples=5000, stateful_step_count=50)
    caplog.set_level(logging.ERROR, "intake_operator")  # thousands of passes, many of which are cut off
    wanted = chosen(suite, long)
    if "INTAKE_MUTANT" in os.environ:  # that it fails is enough; what fails need not be made small
        wanted = settings(wanted, phases=[Phase.generate])
    run_state_machine_as_test(Machine, settings=wanted)
