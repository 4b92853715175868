"""The lines that a comparison of two checkouts prints."""

from bench.common.figures import Measurement, Sample
from bench.compare import lines


def measured(label: str, *cpu_us: float) -> Measurement:
    samples = [Sample(1000 / each, 0, 0, 0, cpu_us=each, other_load=0.1) for each in cpu_us]
    return Measurement("claim", label, 0, 0, samples)


def test_a_figure_is_compared_round_by_round_with_before_and_with_itself() -> None:
    runs = {"before": measured("before", 10, 20), "now": measured("now", 11, 22), "now again": measured("now", 11, 44)}
    title, rate, server, other_load = lines("claim", runs)
    assert title == "\nclaim: 2 rounds, median (least to greatest)"
    assert "now / before 0.909 (0.909 to 0.909)   now again / now 0.750 (0.500 to 1.000)" in rate
    assert server.startswith("  server CPU       15.0 ->       16.5   now / before 1.100 (1.100 to 1.100)")
    assert other_load == "  load of other processes, at most 0.10"


def test_a_figure_that_was_not_measured_has_no_line() -> None:
    runs = {label: measured(label, 10) for label in ("before", "now", "now again")}
    assert not any("WAL" in line or "bridge CPU" in line for line in lines("claim", runs))
