"""Broken operators that say that nothing is wrong, or tell a person the wrong thing to do."""

from typing import Final

OBSERVED, BRIDGES = "test_observed_pods.py", "test_health_bridges.py"

HEALTH: Final = {
    "only the database's own container looked at": (
        "decide.health.pods",
        "    return [*pods.init_containers(pod), *pods.containers(pod)]",
        "    return pods.containers(pod)",
        "test_a_database_that_does_not_run_is_reported_with_its_reason",
        OBSERVED,
    ),
    "refused bridges read as well": (
        "decide.health.workloads",
        'condition["type"] == "ReplicaFailure" and condition["status"] == "True"',
        'condition["type"] == "ReplicaFailure" and condition["status"] == "False"',
        "test_bridges_that_are_refused_are_reported_with_the_quotas_own_words",
        OBSERVED,
    ),
    "a teardown that hangs reads as well": (
        "decide.health.findings",
        "    if stage is Stage.REMOVE:\n",
        "    if False:\n",
        "test_a_teardown_that_hangs_on_another_object_says_so_once_no_pod_needs_it",
        OBSERVED,
    ),
    "told to give up the only copy of the claims": (
        "decide.health.pods",
        "    elif database and data_is_here and stage in {Stage.SERVE, Stage.DRAIN}:\n",
        "    elif False:\n",
        "test_nobody_is_told_to_give_up_a_node_that_has_the_only_copy_of_the_claims",
        OBSERVED,
    ),
    "broken pod evicted though it is the data": (
        "decide.desired",
        "            evict_broken=facts.settled or (facts.stage is Stage.DRAIN and has_volume),",
        "            evict_broken=facts.settled or facts.stage is Stage.DRAIN,",
        "test_a_broken_database_may_be_evicted_after_the_close_if_it_has_a_volume",
        OBSERVED,
    ),
    "ready while nothing is committed": (
        "decide.conditions",
        "    if stopping := next((each for each in facts.findings if each.stops), None):",
        "    if stopping := next((each for each in facts.findings if False), None):",
        "test_a_ledger_that_refuses_everything_and_is_not_down_is_not_ready",
        BRIDGES,
    ),
    "all failures of one bridge taken for most of all": (
        "decide.health.bridges",
        "    if failed < FEWEST_FAILURES or 2 * failed <= tried:",
        "    if failed < FEWEST_FAILURES:",
        "test_failures_of_a_few_claims_are_those_claims_own",
        BRIDGES,
    ),
    "old counts told as new ones": (
        "decide.memory",
        "    return known, f\" (as of {event.status.get('countedAt')}: DB1 does not answer)\"",
        '    return known, ""',
        "test_dead_letters_that_cannot_be_counted_have_the_time_of_the_last_count",
        BRIDGES,
    ),
}
