"""How many examples Hypothesis tries: in the suite few and always the same, with the profile `long` many others.

The conftests import this module, because pytest reads the option before it imports the test modules.
"""

from hypothesis import HealthCheck, Phase, settings

_SHARED = settings(
    deadline=None,
    database=None,
    print_blob=False,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)
settings.register_profile("long", _SHARED, print_blob=True)
# For tests without settings of their own. Hypothesis' default deadline of 200 ms fails on a slow machine.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def chosen(suite: settings, long: settings) -> settings:
    """The settings for the profile in force: `suite` or `long`."""
    if settings.get_current_profile_name() == "long":
        return settings(
            settings.get_profile("long"), max_examples=long.max_examples, stateful_step_count=long.stateful_step_count
        )
    return settings(
        _SHARED,
        max_examples=suite.max_examples,
        stateful_step_count=suite.stateful_step_count,
        derandomize=True,
    )
