"""The points themselves: every step has one, and none is on by accident. That each acts is for the matrix to show."""

import inspect
import logging
from typing import Any

import pytest
from intake_bridge.faults import Action, Fault, Faults, Position, Step, parse_faults
from intake_bridge.ports import Ledger, Meter, Queue, Validator
from intake_bridge.settings import load
from pydantic import ValidationError
from scene import Scene, log_lines

# They move no claim: the first looks at a connection, the second drops it.
HARMLESS = {"check", "close"}
ENVIRONMENT = {"INTAKE_DATABASE_URI": "postgresql://x", "INTAKE_POOL": "drop"}


def _methods(port: type[Any]) -> set[str]:
    return {name for name, _ in inspect.getmembers(port, inspect.iscoroutinefunction)}


def test_every_method_of_a_port_that_moves_a_claim_or_a_token_is_a_step() -> None:
    assert set(Step) == set[str]().union(*map(_methods, [Queue, Meter, Validator, Ledger])) - HARMLESS


def test_faults_are_read_as_they_are_written() -> None:
    text = "commit:after:kill, read_batch:before:lose:3"
    faults = (
        Fault(Step.COMMIT, Position.AFTER, Action.KILL),
        Fault(Step.READ_BATCH, Position.BEFORE, Action.LOSE, 3),
    )
    assert parse_faults(text) == faults == parse_faults(",".join(map(str, faults)))
    assert parse_faults(" ") == ()


def test_without_faults_the_ports_are_as_they_were(caplog: pytest.LogCaptureFixture) -> None:
    queue: Any = object()
    assert Faults(()).queue(queue) is queue
    assert Faults(()).targets(queue) is queue
    assert not caplog.records


async def test_a_worker_has_no_faults_unless_it_is_told_and_says_so_when_it_has(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings, _ = await load(ENVIRONMENT)
    assert settings.faults == ()
    settings, _ = await load(ENVIRONMENT | {"INTAKE_FAULTS": "void:before:stop"})
    Faults(settings.faults)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "void:before:stop:1" in record.message


@pytest.mark.parametrize(
    "text", ["1", "true", "commit", "commit:after", "commit:after:die", "sell:after:kill", "commit:between:kill",
             "commit:after:kill:0", "commit:after:kill:x", "commit:after:kill:1:1", "commit:after:kill,"],
)  # fmt: skip
async def test_a_fault_that_is_not_known_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValidationError, match="unknown fault"):
        await load(ENVIRONMENT | {"INTAKE_FAULTS": text})


async def test_a_process_with_an_unknown_fault_does_not_start(scene: Scene) -> None:
    async with scene.process(INTAKE_FAULTS="commit:after:nap") as process:
        _, errors = await process.communicate()
    assert process.returncode == 2
    assert b"unknown fault 'commit:after:nap'" in errors


async def test_a_process_kills_itself_where_it_is_told(scene: Scene) -> None:
    await scene.claim(3)
    async with scene.process(INTAKE_FAULTS="commit:after:kill") as process:
        _, errors = await process.communicate()
    assert process.returncode == -9
    assert log_lines(errors)[-1]["message"] == "fault: kill after commit"
    assert len(await scene.sales()) == len(await scene.queue()) == 3
