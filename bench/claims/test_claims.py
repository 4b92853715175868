"""Figures, verdicts, page and plots, made from given results."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench.claims import pgbench, plot, redis_claim
from bench.claims.goals import verdicts
from bench.claims.page import page
from bench.common.figures import Measurement, Sample, Spread, percentile, ratio, spread
from bench.common.goals import Verdict
from bench.common.results import Rebuild, Results, Trace


def measured(
    part: str, variant: str, *rates: float, clients: int = 32, slots: int = 1000, p99: float = 1
) -> Measurement:
    return Measurement(part, variant, clients, slots, [Sample(rate, 1, p99, 9) for rate in rates])


@pytest.mark.parametrize(("share", "found"), [(0.5, 50), (0.99, 99), (1.0, 100), (0.001, 1)])
def test_a_percentile_is_one_of_the_values(share: float, found: float) -> None:
    assert percentile(list(range(1, 101)), share) == found


def test_a_ratio_is_taken_round_by_round() -> None:
    # The machine was twice as fast in the second round, for both.
    assert ratio(measured("p", "a", 50, 100), measured("p", "b", 100, 200)) == Spread(0.5, 0.5, 0.5)


def test_the_warm_up_is_left_out() -> None:
    output = "number of transactions actually processed: 10000\ntps = 2500.0 (without initial connection time)\n"
    progress = "progress: 1.0 s, 1000.0 tps, lat 8 ms stddev 1, 0 failed\nprogress: 2.0 s, 3000.0 tps, lat 3 ms\n"
    assert pgbench.read_summary(output, progress, 1) == (10000, [(1.0, 1000.0), (2.0, 3000.0)], 3000.0)
    assert pgbench.read_summary(output, progress, 2) == (10000, [(1.0, 1000.0), (2.0, 3000.0)], 3000.0)
    log = ["0 1 7000 0 100 500000", "0 2 3000 0 101 499999", "1 1 2000 0 101 500000"]
    assert pgbench.read_log(log, 1) == ([2.0], [1.0])


def test_redis_figures_are_read_from_the_last_line() -> None:
    head = '"test","rps","p50_latency_ms","p99_latency_ms","max_latency_ms"'
    found = redis_claim.read_csv(f'{head}\n"EVALSHA a,b","5000.5","0.7","3.5","9"\n')
    assert found == Sample(5000.5, 0.7, 3.5, 9)


@pytest.mark.parametrize(
    ("found", "bound", "at_least", "aim", "words"),
    [
        (0.60, 0.55, True, 0.65, "met"),
        (0.70, 0.55, True, 0.65, "met, and the aim"),
        (0.44, 0.55, True, None, "**missed by 20%**"),
        (2.0, 3, False, None, "met"),
        (3.3, 3, False, None, "**missed by 10%**"),
    ],
)
def test_a_verdict_says_by_how_much(found: float, bound: float, at_least: bool, aim: float | None, words: str) -> None:
    assert Verdict("", "", spread([found]), bound, at_least=at_least, aim=aim).words == words


@pytest.fixture
def results() -> Results:
    some = Results("2026-01-01", quick=False, machine={"cores": "2"}, settings={"fsync": "on"}, notes=["Noted."])
    some.measurements = [
        measured("throughput", "insert", 1000, 1100),
        measured("throughput", "claim", 600, 781),
        measured("throughput", "skip_locked", 100, 100),
        measured("batches", "insert_100", 9000),
        measured("batches", "batch_100", 4500),
        measured("sold_out", "select1", 9000, slots=0),
        measured("sold_out", "sold_out", 4500, slots=1000),
        measured("sold_out", "sold_out", 4000, slots=10_000),
        measured("open_loop", "insert", 500, p99=2),
        measured("open_loop", "claim", 500, p99=8),
        measured("crowd", "claim", 600),
        measured("crowd", "claim", 540, clients=2000),
        measured("redis", "redis_always", 5000),
    ]
    some.traces = [Trace("claim", 1000, 32, 0.5, [100, 600, 600, 4500, 4500])]
    some.rebuilds = [Rebuild(1000, 500, 2.0, 1.0, 3.0)]
    return some


def test_each_goal_has_a_verdict(results: Results) -> None:
    found = {each.goal: (each.found.middle if each.found else None, each.words) for each in verdicts(results)}
    assert found == {
        "single claim, every feature / bare durable INSERT, 32 clients": (pytest.approx(0.655), "met, and the aim"),
        "single claim, every feature / bare durable INSERT, 128 clients": (None, "not measured"),
        "single claim / SKIP LOCKED + pgmq.send, 32 clients": (pytest.approx(6.905), "met"),
        "single claim / SKIP LOCKED + pgmq.send, 128 clients": (None, "not measured"),
        "claim_batch of 100 / bare INSERT of 100 rows, 32 clients": (0.5, "met"),
        "sold-out answer / SELECT 1, 1,000 slots, 32 clients": (0.5, "met, and the aim"),
        "sold-out answer / SELECT 1, 10,000 slots, 32 clients": (pytest.approx(0.444, abs=0.001), "met"),
        "sold-out answers at 10,000 slots / at 1,000, 32 clients": (
            pytest.approx(0.889, abs=0.001),
            "**missed by 1%**",
        ),
        "claims, 2,000 clients through a pooler / 32 clients direct": (0.9, "met"),
        "open loop at half the closed-loop rate: p99 / that of the bare INSERT, 32 clients": (4.0, "**missed by 33%**"),
        "open loop at half the closed-loop rate: p99 / that of the bare INSERT, 128 clients": (None, "not measured"),
        "kill -9 to selling again, 1,000 slots, 500 sold / (2 x fresh seed + crash recovery)": (0.8, "met"),
    }


def test_the_page_has_the_results_and_the_notes(results: Results) -> None:
    text = page(results, "## What was tried\n")
    assert "| cores | 2 |" in text
    assert (
        "| single claim, every feature / bare durable INSERT, 32 clients | >= 0.55, aim 0.65 | 0.66 (0.60 to 0.71) |"
        in text
    )
    assert "| 1,000 | 500 | 2.0 | 1.0 | 3.0 |" in text
    assert "- Noted." in text
    assert text.endswith("## What was tried\n")


def test_the_plots_are_well_formed(results: Results) -> None:
    for drawn in (plot.bars(results), plot.lines(results.traces)):
        assert ET.fromstring(drawn).tag.endswith("svg")


def test_results_are_read_as_they_were_written(results: Results, tmp_path: Path) -> None:
    results.write(tmp_path / "kept" / "results.json")
    assert Results.read(tmp_path / "kept" / "results.json") == results
