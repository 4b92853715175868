"""Any order of steps: Hypothesis makes them up, a model says what must come of each.

The suite runs the same few examples every time. For as many others as there is time for:

    uv run pytest tests/sql/test_state_machine.py --hypothesis-profile long
"""

from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from tests.sql.machine.bridges import Bridges
from tests.sql.machine.lengths import SUITE


def test_i1_i2_i6_i7_hold_after_every_step(uri: str) -> None:
    long = settings.get_current_profile_name() == "long"

    class Machine(Bridges):
        def __init__(self) -> None:
            super().__init__(uri)

    run_state_machine_as_test(Machine, settings=settings.get_profile("long") if long else SUITE)
