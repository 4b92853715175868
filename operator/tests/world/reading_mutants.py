"""Broken operators that read: ghosts, stores that lag, counts that hide a condition."""

from typing import Final

READING: Final = {
    "ghost that stays after a list": (
        "kube.store",
        "        gone = [key for key in self._objects if key not in found]\n",
        "        gone: list[Key] = []\n",
        "test_a_new_list_leaves_no_ghost",
        "test_store.py",
    ),
    "ghost of an answer that came late": (
        "kube.store",
        "        if not self.listed or version <= self.version or (known",
        "        if not self.listed or (known",
        "test_an_own_answer_that_comes_after_the_deletion_makes_no_ghost",
        "test_store.py",
    ),
    "own answer lost": (
        "kube.store",
        "if known is None or _version(known) < version else []",
        "if True else []",
        "test_an_own_answer_is_not_overwritten_by_what_came_before_it",
        "test_store.py",
    ),
    "after 410 the watch goes on": (
        "kube.watches",
        "                current = current and error.status in BUSY and life.failures < PATIENCE\n",
        "                pass\n",
        "test_after_410_a_new_list_leaves_no_ghost",
        "test_watches.py",
    ),
    "passes before the first list": (
        "reconcile",
        "        if not self.observer.cluster.knows(key[0]):\n",
        "        if False:\n",
        "test_nothing_is_decided_before_all_is_listed",
        "test_stale_reads.py",
    ),
    "stale store gives an event up": (
        "decide.needs",
        "    return stage_of(event, observed, now) in {Stage.DRAIN, Stage.REMOVE} or memory",
        "    return memory",
        "test_i11_an_event_is_not_given_up_by_an_annotation_that_was_taken_back",
        "test_stale_reads.py",
    ),
    "stale Secret removes DB1's pod": (
        "decide.needs",
        "RemoveFinalizer, ReplaceDatabasePod, Seal",
        "RemoveFinalizer, Seal",
        "test_i11_a_pod_is_not_replaced_because_of_a_password_that_was_changed_since",
        "test_stale_reads.py",
    ),
    "stale store seeds": (
        "decide.needs",
        "    first = not was_claimable(event, observed)\n",
        "    first = False\n",
        "test_i1_no_slot_is_seeded_by_what_the_store_says_of_other_events",
        "test_stale_reads.py",
    ),
    "Secret made without a password": (
        "kube.apply",
        "        if existing:\n            # What",
        "        if False:\n            # What",
        "test_a_secret_that_is_gone_is_not_made_without_a_password_and_comes_back_with_one",
        "test_stale_reads.py",
    ),
    "counts hide a condition": (
        "decide.status",
        "    if before == after or _without_counts(before) != _without_counts(after):\n",
        "    if before == after:\n",
        "test_what_is_not_a_count_is_told_at_once",
        "test_written.py",
    ),
    "counts written with every pass": (
        "decide.status",
        "< COUNTS_EVERY",
        "< timedelta()",
        "test_an_open_event_costs_thirty_requests_a_minute_in_a_rush",
        "test_request_budget.py",
    ),
    "slots seeded by what the ledger said before": (
        "ledger.pools",
        """        if live:
            return await _ask(event, ledger)
""",
        "",
        "test_i1_what_the_ledger_said_while_another_event_sold_the_pool_counts_for_nothing",
        "test_pool.py",
    ),
    "what the ledger said of a pool in use remembered": (
        "ledger.pools",
        """            self._accounts.forget(event.uid)
            return found
""",
        "            return found\n",
        "test_i1_what_the_ledger_said_while_another_event_sold_the_pool_counts_for_nothing",
        "test_pool.py",
    ),
    "pool asked of a store that lags": (
        "ledger.pools",
        "self._live if live else self._cluster",
        "self._cluster",
        "test_i1_what_seeds_asks_the_api_server_and_not_the_store",
        "test_pool.py",
    ),
}
