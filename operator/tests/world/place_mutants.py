"""Broken rules of where pods run: what they break, the test that must fail on it, and its file."""

from typing import Final

PLACES_TESTS: Final = "test_places.py"

PLACES: Final = {
    "a DB1 that misses a probe in the rush is restarted for a changed default": (
        "decide.database_pod",
        "    if outdated and not pods.is_ready(pod) and not pods.has_started(pod):",
        "    if outdated and not pods.is_ready(pod):",
        "test_a_db1_that_has_started_and_is_too_busy_for_its_probe_is_left_alone_in_a_sale",
        PLACES_TESTS,
    ),
    "a DB1 that no node takes is left alone in a sale": (
        "model.pods",
        "    return bool(states) and all(",
        "    return all(",
        "test_a_pod_that_no_node_took_is_replaced_also_in_a_sale",
        PLACES_TESTS,
    ),
    "a label of the event hides its pod from the operator": (
        "children.common",
        '    meta: Manifest = {"labels": (settings.pod_labels or {}) | own}',
        '    meta: Manifest = {"labels": own | (settings.pod_labels or {})}',
        "test_the_operator_s_labels_win_whoever_says_otherwise",
        PLACES_TESTS,
    ),
    "the chart wins over the event": (
        "model.pod_settings",
        "        return defaults.model_copy(update=said)",
        "        return PodSettings(**(said | defaults.model_dump(exclude_none=True)))",
        "test_the_event_wins_over_the_chart_field_by_field",
        PLACES_TESTS,
    ),
    "DB1 gets another user than its data": (
        "children.database",
        "    if existing and identity:",
        "    if existing and not identity:",
        "test_a_db1_that_may_have_claims_keeps_its_user_and_one_without_gets_the_new_one",
        PLACES_TESTS,
    ),
}
