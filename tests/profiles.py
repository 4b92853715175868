"""How much Hypothesis tries: the same few examples each time in the suite, many others under the profile `long`.

Imported by the conftests, because the option is read before any test module is.
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
# For tests that ask for nothing in particular: Hypothesis would give each example 200 ms, whatever the machine.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def chosen(suite: settings, long: settings) -> settings:
    """The numbers of one of the two, for whichever was asked for."""
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
