"""The condition LedgerReady."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from intake_operator.decide.health.finding import Finding
from intake_operator.decide.ledger_ready import ledger_ready
from intake_operator.model.engine_status import EngineStatus
from intake_operator.model.observed import DatabaseState, Observed
from intake_operator.reasons import LedgerReadyReason, Problem

type Make[T] = Callable[..., T]

ALL = ["batch", "outcomes", "void", "receipts"]


def found(engine_status: Make[EngineStatus], *offers: list[str]) -> Observed:
    """What is observed when each bridge has found one of these offers."""
    workers = [
        {"worker": "w", "batchSize": 100, "health": {"ledger": {"state": "ok", "offers": each}}} for each in offers
    ]
    return replace(Observed(), database=DatabaseState(status=engine_status(workers=workers)))


@pytest.mark.parametrize(
    ("offers", "reason", "words"),
    [
        ([ALL], LedgerReadyReason.FULL, ["whole batches"]),
        ([ALL, ALL], LedgerReadyReason.FULL, ["whole batches"]),
        ([["outcomes", "void"]], LedgerReadyReason.WEAKER, ["no shop.finalizes(jsonb)", "row by row"]),
        ([["void"]], LedgerReadyReason.WEAKER, ["row by row", "shop.finalize(jsonb) returns void"]),
        ([ALL, ["batch", "outcomes"]], LedgerReadyReason.WEAKER, ["no void_claim(jsonb)"]),
        (
            [["batch", "outcomes", "void"], ALL],
            LedgerReadyReason.WEAKER,
            ["no receipts", "no order number"],
        ),
    ],
)
def test_what_a_ledger_does_not_offer_is_in_the_message(
    spec: Make[Any],
    engine_status: Make[EngineStatus],
    offers: list[list[str]],
    reason: LedgerReadyReason,
    words: list[str],
) -> None:
    target = spec(commitTarget={"postgres": {"secretRef": {"name": "l"}, "function": "shop.finalize"}}).commit_target
    value, actual, message = ledger_ready(target, found(engine_status, *offers), ())
    assert (value, actual) == (True, reason)
    assert all(word in message for word in words)


def test_a_webhook_is_weaker(spec: Make[Any], engine_status: Make[EngineStatus]) -> None:
    target = spec(commitTarget={"webhook": {"url": "https://c"}}).commit_target
    value, reason, message = ledger_ready(target, found(engine_status, ["outcomes"]), ())
    assert (value, reason) == (True, LedgerReadyReason.WEAKER)
    assert "a webhook" in message


def test_a_problem_of_the_ledger_is_the_reason_and_without_bridges_the_status_is_unknown(
    spec: Make[Any], engine_status: Make[EngineStatus]
) -> None:
    target = spec().commit_target
    down = (Finding(Problem.VALIDATOR_DOWN, "other"), Finding(Problem.LEDGER_DOWN, "gone"))
    assert ledger_ready(target, found(engine_status, ALL), down) == (False, Problem.LEDGER_DOWN, "gone")
    assert ledger_ready(target, found(engine_status), ())[:2] == (None, LedgerReadyReason.NOT_LOOKED_AT)
    assert ledger_ready(target, Observed(), ())[:2] == (None, LedgerReadyReason.NOT_LOOKED_AT)
