"""Any order of deletions, crashes and edits: Hypothesis makes them up, and nothing acknowledged is lost.

The suite runs the same few examples every time. For as many others as there is time for:

    .venv/bin/pytest operator/tests/test_whoever_deletes_model.py --hypothesis-profile long
"""

import itertools
import logging
import os
import random

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from world.machine import AT_FIRST, Machine

from tests.profiles import chosen

SINGLES = [(what,) for what in sorted(AT_FIRST)]
PAIRS = list(itertools.permutations(sorted(AT_FIRST), 2))


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of passes, many of which are cut off."""
    caplog.set_level(logging.ERROR, "intake_operator")


def test_i11_i1_nothing_acknowledged_is_lost_whoever_deletes() -> None:
    suite = settings(max_examples=60, stateful_step_count=16)
    long = settings(max_examples=5000, stateful_step_count=50)
    wanted = chosen(suite, long)
    if "INTAKE_MUTANT" in os.environ:  # that it fails is enough; what fails need not be made small
        wanted = settings(wanted, phases=[Phase.generate])
    run_state_machine_as_test(Machine, settings=wanted)


@pytest.mark.parametrize("protected", [True, False])
def test_i11_one_thing_or_two_in_the_midst_of_a_sale_lose_nothing(protected: bool) -> None:
    """Hypothesis prefers long rows of few kinds; these are spread evenly, and under `long` they are all."""
    long = settings.get_current_profile_name() == "long"
    pairs = PAIRS if long else random.Random(7).sample(PAIRS, 24)
    for number, what in enumerate([*SINGLES, *pairs]):
        machine = Machine()
        try:
            ephemeral, keep, deleted, checkout = number % 3 == 2, 10 * (number % 2), number % 2 == 0, number % 4 > 1
            machine.begin(protected, ephemeral, keep, 0, "selling", deleted, checkout, list(what))
            machine.look()
            machine.end()
        except AssertionError as error:
            raise AssertionError(f"{', then '.join(what)} (number {number}): {error}") from error
        finally:
            machine.world.runner.close()
