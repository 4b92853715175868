"""Any order of steps: Hypothesis makes them up, a model says what must come of each.

The suite runs the same few examples every time. For as many others as there is time for:

    uv run pytest tests/sql/test_state_machine.py --hypothesis-profile long
"""

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.profiles import chosen
from tests.sql.machine.bridges import Bridges


def test_i1_i2_i6_i7_hold_after_every_step(uri: str) -> None:
    suite = settings(max_examples=30, stateful_step_count=40)
    long = settings(max_examples=5000, stateful_step_count=80)

    class Machine(Bridges):
        def __init__(self) -> None:
            super().__init__(uri)

    run_state_machine_as_test(Machine, settings=chosen(suite, long))
