"""Verdicts and page of the bridge's benchmark, made from given results."""

import pytest

from bench.bridge.goals import verdicts
from bench.bridge.page import page
from bench.bridge.runs import steady
from bench.common.figures import Measurement, Sample, busiest
from bench.common.results import Results


@pytest.fixture
def results() -> Results:
    some = Results("2026-01-01", quick=False, machine={"cores": "2"}, settings={"fsync": "on"})
    for part, variant, clients, slots, rate in (
        ("drain", "ledger", 1, 100, 1000.0),
        ("drain", "bridge_1", 1, 100, 400.0),
        ("drain", "naive", 1, 100, 8.0),
        ("drain", "bridge_1_flush", 1, 100, 300.0),
        ("drain", "naive_flush", 1, 100, 10.0),
        ("calls", "aiohttp", 400, 0, 1000.0),
        ("calls", "ours", 400, 0, 700.0),
        ("validation", "single", 1, 100, 100.0),
        ("validation", "batch", 1, 100, 150.0),
        ("two", "slow_1", 1, 100, 100.0),
        ("two", "slow_2", 1, 100, 170.0),
        ("rate_limit", "limit", 2, 0, 100.0),
        ("rate_limit", "mean", 2, 0, 96.0),
        ("rate_limit", "busiest", 2, 0, 130.0),
        ("read", "read", 1, 1000, 100.0),
        ("read", "read", 1, 100_000, 90.0),
        ("backlog", "read", 1, 1_000_000, 20.0),
    ):
        sample = Sample(rate, 0.0, 0.0, 0.0)
        some.measurements.append(Measurement(part, variant, clients, slots, [sample]))
    return some


def test_each_goal_has_its_verdict(results: Results) -> None:
    assert [each.words for each in verdicts(results)] == [
        "met",
        "met",
        "**missed by 25%**",
        "met",
        "**missed by 25%**",
        "met",
        "**missed by 21%**",
        "met",
        "met",
        "**missed by 150%**",
    ]


def test_a_bound_that_must_hold_in_every_round_is_compared_with_the_worst_one(results: Results) -> None:
    for each in results.measurements:
        rates = (90.0, 90.0, 150.0) if each.variant == "busiest" else (100.0,) * 3
        each.samples = [Sample(rate, 0.0, 0.0, 0.0) for rate in rates]
    (verdict,) = (each for each in verdicts(results) if "busiest" in each.goal)
    assert verdict.found is not None
    assert verdict.found.middle == 1.5


def test_the_page_has_the_results_and_the_notes(results: Results) -> None:
    text = page(results, "What was tried.")
    assert "| 1,000,000 waiting | 50,000.0" in text
    assert text.endswith("What was tried.\n")


def test_the_page_without_results_says_not_measured() -> None:
    empty = Results("2026-01-01", quick=True)
    assert {each.words for each in verdicts(empty)} == {"not measured"}
    assert "not measured" in page(empty, "")


def test_the_busiest_second_begins_anywhere() -> None:
    assert busiest([0.0, 0.9, 1.0, 1.8, 1.85, 3.0], 1.0) == 4
    assert busiest([0.0, 1.0, 2.0], 1.0) == 1
    assert busiest([], 1.0) == 0


def test_a_steady_rate_leaves_out_the_start() -> None:
    slow_start = [0.0, 5.0, *(5 + n / 10 for n in range(1, 9))]
    assert steady(slow_start) == pytest.approx(10)
