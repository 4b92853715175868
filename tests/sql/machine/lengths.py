"""How long the state machine runs: in the suite, and when somebody has time."""

from hypothesis import HealthCheck, Phase, settings

SHARED = settings(
    deadline=None,
    database=None,
    print_blob=False,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)
SUITE = settings(SHARED, max_examples=30, stateful_step_count=40, derandomize=True)
LONG = settings(SHARED, max_examples=5000, stateful_step_count=80, print_blob=True)
