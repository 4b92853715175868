"""The fault points: every step has one, and a bridge without FAULTS has none. The matrix shows that each one acts."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from fault_points import Action, Fault, Position, Step, parse_faults
from faulty_bridge import wrapped
from intake_bridge.ports import Ledger, Queue, TokenBucket, Validator, Wrap
from sale import Sale, log_lines

# They move no claim: the first checks a connection, the second closes it.
HARMLESS = {"check", "close"}
FAULTY = {"module": "faulty_bridge", "PYTHONPATH": str(Path(__file__).parent)}


def _methods(port: type[Any]) -> set[str]:
    return {name for name, _ in inspect.getmembers(port, inspect.iscoroutinefunction)}


def test_every_method_of_a_port_that_moves_a_claim_or_a_token_is_a_step() -> None:
    assert set(Step) == set[str]().union(*map(_methods, [Queue, TokenBucket, Validator, Ledger])) - HARMLESS


def test_faults_are_read_as_they_are_written() -> None:
    text = "commit:after:kill, read_batch:before:lose:3"
    faults = (
        Fault(Step.COMMIT, Position.AFTER, Action.KILL),
        Fault(Step.READ_BATCH, Position.BEFORE, Action.LOSE, 3),
    )
    assert parse_faults(text) == faults == parse_faults(",".join(map(str, faults)))
    assert parse_faults(" ") == ()


def test_without_faults_the_ports_are_as_they_were() -> None:
    port: Any = object()
    for wrap in (Wrap(), wrapped("")):
        assert wrap.queue(port) is wrap.token_bucket(port) is wrap.dependencies(port) is port


@pytest.mark.parametrize(
    "text", ["1", "true", "commit", "commit:after", "commit:after:die", "sell:after:kill", "commit:between:kill",
             "commit:after:kill:0", "commit:after:kill:x", "commit:after:kill:1:1", "commit:after:kill,"],
)  # fmt: skip
def test_a_fault_that_is_unknown_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="unknown fault"):
        wrapped(text)


async def test_a_process_with_an_unknown_fault_does_not_start(sale: Sale) -> None:
    async with sale.process(**FAULTY, FAULTS="commit:after:nap") as process:
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert b"unknown fault 'commit:after:nap'" in errors


async def test_a_process_kills_itself_at_the_point_that_is_named(sale: Sale) -> None:
    await sale.claim(3)
    async with sale.process(**FAULTY, FAULTS="commit:after:kill") as process:
        _, errors = await process.communicate()
    assert process.returncode == -9
    assert log_lines(errors)[-1]["message"] == "fault: kill after commit"
    assert len(await sale.sales()) == len(await sale.queue()) == 3


async def test_the_bridge_of_the_image_knows_no_faults(sale: Sale) -> None:
    await sale.claim(3)
    async with sale.process(FAULTS="commit:after:kill") as process:
        await sale.until_drained()
        process.terminate()
        await process.communicate()
    assert process.returncode == 0
